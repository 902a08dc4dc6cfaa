// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

var _ backends.Booter = (*Backend)(nil)

// Boot implements backends.Booter: a script for nft, which replaces the table in one transaction.
func (b *Backend) Boot(p *ir.Program, m ir.Members) ([]byte, error) {
	r, err := render.Render(p, m, b.opts.Render)
	if err != nil {
		return nil, err
	}
	return r.AppendText([]byte("#!/usr/sbin/nft -f\n")), nil
}
