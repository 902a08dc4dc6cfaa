// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

var (
	_ backends.Adopter = (*Backend)(nil)
	_ backends.Checker = (*Backend)(nil)
)

// Adopt takes p with the members m for what an earlier process applied under the same Options, and changes nothing in
// the kernel. The State says how far that is true. The next Apply looks at what the kernel has, and changes only what
// differs.
func (b *Backend) Adopt(ctx context.Context, p *ir.Program, m ir.Members) (backends.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return backends.State{}, err
	}
	rules, err := render.Render(p, m, b.opts.Render)
	if err != nil {
		return backends.State{}, err
	}
	before := b.last
	b.last = &applied{program: p, rules: rules}
	st, err := b.observe(ctx)
	if err != nil {
		b.last = before
		return backends.State{}, err
	}
	b.suspect = true
	return st, nil
}

// Check implements backends.Checker.
func (b *Backend) Check(p *ir.Program, m ir.Members) error {
	_, err := render.Render(p, m, b.opts.Render)
	return err
}
