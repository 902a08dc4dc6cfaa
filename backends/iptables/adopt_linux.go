// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// Adopt takes p with the members m for what an earlier process applied under the same Options, and changes nothing in
// the kernel. The State says how far that is true.
func (b *Backend) Adopt(ctx context.Context, p *ir.Program, m ir.Members) (backends.State, error) {
	rules, err := render.Render(p, m, b.opts.Render)
	if err != nil {
		return backends.State{}, err
	}
	b.mu.Lock()
	b.last, b.suspect = &applied{p, rules}, true // the next Apply looks closely
	b.mu.Unlock()
	return b.Observe(ctx)
}
