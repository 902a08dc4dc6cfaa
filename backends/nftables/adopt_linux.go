// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"context"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

var (
	_ backends.Adopter        = (*Backend)(nil)
	_ backends.Checker        = (*Backend)(nil)
	_ backends.MembersApplier = (*Backend)(nil)
)

// Adopt takes p with the members m for what an earlier process applied under the same Options, and changes nothing in
// the kernel. The State says how far that is true. Where the kernel has exactly this, the next Apply sends only what
// differs from it; otherwise it replaces the table.
func (b *Backend) Adopt(ctx context.Context, p *ir.Program, m ir.Members) (backends.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return backends.State{}, err
	}
	rules, err := b.renderer.Render(p, m, b.opts.Render)
	if err != nil {
		return backends.State{}, err
	}
	kernel := b.generation(ctx) // changes from here on are noticed
	got, err := b.read(ctx, "observe", true)
	if err != nil {
		return backends.State{}, err
	}
	before := b.last
	b.take(p, rules, m, kernel)
	st := backends.State{Present: got != nil, Generation: b.gens, Fingerprint: render.Fingerprint(b.last.structure, b.last.sum)}
	if st.Drift, err = b.compare(got, true); err != nil {
		b.last = before
		return backends.State{}, err
	}
	if b.last.suspect = len(st.Drift) > 0; b.last.suspect {
		b.log.Warn("the kernel does not have what was to be adopted", "table", b.opts.Render.Table, "differences", len(st.Drift))
	}
	return st, nil
}

// Check implements backends.Checker.
func (b *Backend) Check(p *ir.Program, m ir.Members) error {
	_, err := render.Render(p, m, b.opts.Render)
	return err
}
