// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/nftables"
)

var _ backends.Booter = (*Backend)(nil)

// bootTable ends the name of the table that enforces until there are programs.
const bootTable = "-boot"

// Boot implements backends.Booter: a script for nft. Nothing of BPF outlives the kernel, so that the same program is a
// table of nftables until the first Apply, which takes that away.
func (b *Backend) Boot(p *ir.Program, m ir.Members) ([]byte, error) {
	r, err := nftables.Render(p, m, nftables.Options{Table: b.opts.Table + bootTable})
	if err != nil {
		return nil, err
	}
	return r.AppendText([]byte("#!/usr/sbin/nft -f\n")), nil
}

// unboot takes the table of early boot away, once.
func (b *Backend) unboot() error {
	if b.unbooted {
		return nil
	}
	if err := removeTables(b.ns, b.opts.Table+bootTable); err != nil {
		return err
	}
	b.unbooted = true
	return nil
}
