// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

var _ backends.Booter = (*Backend)(nil)

// Boot implements backends.Booter: a shell script that fills a kernel in which there is nothing of ours. Where there is
// something it fails, and changes nothing but sets that nobody uses.
func (b *Backend) Boot(p *ir.Program, m ir.Members) ([]byte, error) {
	r, err := render.Render(p, m, b.opts.Render)
	if err != nil {
		return nil, err
	}
	const end = "END_OF_RULES"
	out := []byte("#!/bin/sh\nset -e\n")
	section := func(command string, write func([]byte) []byte) {
		out = fmt.Appendf(out, "%s <<'%s'\n", command, end)
		out = write(out)
		out = fmt.Appendf(out, "%s\n", end)
	}
	if len(r.Sets) > 0 {
		section("ipset restore", func(out []byte) []byte {
			for i := range r.Sets {
				out = r.Sets[i].AppendText(out, r.Sets[i].Name)
			}
			return out
		})
	}
	for _, f := range b.families {
		tool := "iptables-"
		if f == inet.IPv6 {
			tool = "ip6tables-"
		}
		section(tool+b.tools.variant.String()+"-restore --noflush --wait", func(out []byte) []byte {
			for i := range r.Tables {
				if r.Tables[i].Family == f {
					out = r.Tables[i].AppendText(out, r.Insert)
				}
			}
			return out
		})
	}
	return out, nil
}
