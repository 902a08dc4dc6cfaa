// SPDX-License-Identifier: Apache-2.0

package policytest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
)

// Format writes a case as Parse reads it, packets in columns. A packet without verdict is written without one, which
// Parse refuses: somebody has to say what is right.
func Format(c *Case) ([]byte, error) {
	a := &txtar.Archive{Comment: []byte(c.Comment)}
	add := func(name, data string) { a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(data)}) }

	var objects []hostendpoint.Object
	for o := range c.Resources.All() {
		objects = append(objects, o)
	}
	res, err := manifest.Marshal(objects...)
	if err != nil {
		return nil, err
	}
	add("resources.yaml", string(res))
	add("host.yaml", formatHost(c))
	add("packets", formatPackets(c.Packets))
	if c.IR != "" {
		add("ir", c.IR)
	}
	if c.Errors != nil {
		add("errors", strings.Join(append(slices.Clone(c.Errors), ""), "\n"))
	}
	if c.Unsupported != nil {
		var b strings.Builder
		for _, r := range slices.Sorted(maps.Keys(c.Unsupported)) {
			fmt.Fprintf(&b, "%s: %s\n", r, c.Unsupported[r])
		}
		add("unsupported", b.String())
	}
	return txtar.Format(a), nil
}

func formatPackets(ps []Packet) string {
	rows := make([][]string, len(ps))
	widths := [3]int{}
	for i := range ps {
		p := &ps[i]
		words := strings.SplitN(FormatPacket(&p.Packet), " ", 3)
		row := []string{words[0] + " " + words[1], words[2]}
		if p.Asked {
			row = append(row, p.Want.String())
			if by := p.By.String(); by != "" {
				row = append(row, by)
			}
		}
		for j := 0; j < len(row)-1; j++ {
			widths[j] = max(widths[j], len(row[j]))
		}
		rows[i] = row
	}
	b := bytes.NewBufferString("# path  packet  verdict  by\n")
	for _, row := range rows {
		for j, cell := range row {
			if j < len(row)-1 {
				cell += strings.Repeat(" ", widths[j]-len(cell)+2)
			}
			b.WriteString(cell)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func formatHost(c *Case) string {
	var b strings.Builder
	fmt.Fprintf(&b, "node: %s\ninterfaces:\n", strconv.Quote(c.Host.Node))
	for _, i := range c.Host.Interfaces {
		addrs := make([]string, len(i.Addresses))
		for j, a := range i.Addresses {
			addrs[j] = strconv.Quote(a.String())
		}
		fmt.Fprintf(&b, "  - {name: %s, addresses: [%s]}\n", strconv.Quote(i.Name), strings.Join(addrs, ", "))
	}
	if ps := c.Config.WorkloadInterfacePrefixes; ps != nil {
		quoted := make([]string, len(ps))
		for i, p := range ps {
			quoted[i] = strconv.Quote(p)
		}
		fmt.Fprintf(&b, "workloadInterfacePrefixes: [%s]\n", strings.Join(quoted, ", "))
	}
	if c.Forwarding {
		b.WriteString("forwarding: true\n")
	}
	if len(c.DNAT) > 0 {
		b.WriteString("dnat:\n")
		for _, d := range c.DNAT {
			fmt.Fprintf(&b, "  - {protocol: %s, to: %q, becomes: %q}\n", d.Protocol, d.To.String(), d.Becomes.String())
		}
	}
	if s := formatConfig(&c.Config); s != "" {
		b.WriteString("config:\n" + s)
	}
	return b.String()
}

func formatConfig(c *policy.Config) string {
	var b, f strings.Builder
	list := func(name string, ps []policy.FailsafePort) {
		if ps == nil {
			return
		}
		fmt.Fprintf(&f, "    %s: [", name)
		for i, p := range ps {
			if i > 0 {
				f.WriteString(", ")
			}
			fmt.Fprintf(&f, "{protocol: %s, port: %d", p.Protocol, p.Port)
			if p.Net.IsValid() {
				fmt.Fprintf(&f, ", net: %q", p.Net.String())
			}
			f.WriteString("}")
		}
		f.WriteString("]\n")
	}
	list("inbound", c.Failsafes.Inbound)
	list("outbound", c.Failsafes.Outbound)
	if c.Failsafes.NeighborDiscovery == policy.Off {
		f.WriteString("    neighborDiscovery: false\n")
	}
	if f.Len() > 0 {
		b.WriteString("  failsafes:\n" + f.String())
	}
	if c.AllowAction == policy.Return {
		b.WriteString("  allowAction: Return\n")
	}
	if c.DenyAction == policy.Reject {
		b.WriteString("  denyAction: Reject\n")
	}
	for _, x := range []struct {
		name string
		set  bool
	}{
		{"disableConntrackInvalidCheck", c.DisableConntrackInvalidCheck}, {"ignoreHTTP", c.IgnoreHTTP}, {"exemptLoopback", c.ExemptLoopback},
	} {
		if x.set {
			fmt.Fprintf(&b, "  %s: true\n", x.name)
		}
	}
	return b.String()
}
