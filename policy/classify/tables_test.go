// SPDX-License-Identifier: Apache-2.0

package classify_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// reading runs the block of an entry from nothing but what Tables exports, as the documentation of the package says.
// Packets meet only the hook of their path that does not translate anything.
func reading(t *classify.Tables, e classify.Entry, p *flow.Packet) (ir.Outcome, ir.OriginID) {
	at := 0
	switch e.Block.Field {
	case ir.InIface:
		at = t.InterfaceClass(p.In)
	case ir.OutIface:
		at = t.InterfaceClass("")
	}
	state := classify.NoState
	if p.State <= flow.Untracked {
		state = int(p.State)
	}
	l := t.Lists[e.Block.Lists[at][state]]
	if l.Decided {
		return l.Actions[0].Outcome, l.Actions[0].Origin
	}
	if len(l.Actions) == 0 {
		return ir.Undecided, 0
	}
	m := t.Matchers[l.Matcher]
	for i := 0; i < len(l.Actions); {
		if !slices.ContainsFunc(m.Dims, func(d classify.Dimension) bool {
			return d.Rows.Row(classOf(t, &d, p))[i/64]&(1<<(i%64)) == 0
		}) {
			if a := l.Actions[i]; a.Outcome != ir.Undecided {
				return a.Outcome, a.Origin
			} else {
				i = int(a.Next)
				continue
			}
		}
		i++
	}
	return ir.Undecided, 0
}

func classOf(t *classify.Tables, d *classify.Dimension, p *flow.Packet) uint32 {
	hasPorts := p.Protocol.HasPorts() || p.Protocol == inet.UDPLite
	switch d.Axis {
	case classify.L4:
		n := uint32(p.Family())<<24 | uint32(p.Protocol)<<16
		if p.Family() == inet.IPv4 && p.Protocol == inet.ICMP || p.Family() == inet.IPv6 && p.Protocol == inet.ICMPv6 {
			n |= uint32(p.ICMPType)<<8 | uint32(p.ICMPCode)
		}
		if hasPorts {
			n |= uint32(p.DstPort)
		}
		return d.ClassOf(ir.Value{12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
	case classify.SrcAddr:
		return d.ClassOf(ir.Addr(p.Src))
	case classify.DstAddr:
		return d.ClassOf(ir.Addr(p.Dst))
	case classify.InIface:
		return d.ByInterface[t.InterfaceClass(p.In)]
	case classify.OutIface:
		return d.ByInterface[t.InterfaceClass("")]
	}
	if !hasPorts {
		return d.Absent
	}
	addr, port := p.Src, p.SrcPort
	switch d.Axis {
	case classify.SrcPort:
		return d.ClassOf(ir.Number(p.SrcPort))
	case classify.DstEndpoint:
		addr, port = p.Dst, p.DstPort
	}
	for _, x := range d.Points {
		if x.Addr == addr.Unmap().WithZone("") && x.Protocol == p.Protocol && x.Port == port {
			return x.Class
		}
	}
	return d.Absent
}

func TestTablesHoldAllThatAnExecutorNeeds(t *testing.T) {
	for seed := range uint64(150) {
		s := randomly(seed)
		p, m := program(s, 4, 6)
		p.Entries = []ir.Entry{{Hook: flow.NormalIn, Block: p.Blocks[len(p.Blocks)-1].ID}}
		x := newPair(t, p, m)
		tables := x.c.Tables()
		for range 100 {
			pk := packet(s)
			if pk.Path != flow.Input || pk.NATDst.IsValid() || !pk.Src.IsValid() || !pk.Dst.IsValid() {
				continue
			}
			outcome, by := reading(tables, tables.Entries[0], pk)
			want := x.in.Explain(pk).Hooks[0]
			require.Equal(t, want.Outcome, outcome, "%+v\n%s%s", *pk, p, m)
			require.Equal(t, want.By, p.Origin(by))
		}
	}
}

func TestTablesDependOnNothingButTheProgram(t *testing.T) {
	rules, _ := mixed(200, 1)
	p, m := hostWith(t, rules)
	long := randomly(9)
	long.long = true
	q, n := program(long, 2, 60)
	for range 3 {
		a, err := classify.Build(p, m)
		require.NoError(t, err)
		b, err := classify.Build(p, m)
		require.NoError(t, err)
		require.Equal(t, a, b)
		c, err := classify.Build(q, n)
		require.NoError(t, err)
		d, err := classify.Build(q, n)
		require.NoError(t, err)
		require.Equal(t, c, d)
	}
}

func TestEqualListsAreOne(t *testing.T) {
	text := "entry normal-in hook\n" +
		"block hook\n  switch iif\n    case a -> call endpoint/x\n    case b -> call endpoint/y\n    case c -> call endpoint/x\n" +
		"block endpoint/x\n  call tier\n  rule -> deny by default:x/ingress\n" +
		"block endpoint/y\n  call tier\n  rule -> deny by default:y/ingress\n" +
		"block tier\n  rule dport=80 -> allow by policy:t/p/ingress[0]\n"
	p, m, err := ir.Parse(text)
	require.NoError(t, err)
	tables, err := classify.Build(ir.Canonical(p), m)
	require.NoError(t, err)
	stats := tables.Stats()
	require.Equal(t, 3, stats.Lists, "one for each endpoint, and one for all other interfaces")
	require.Equal(t, 1, stats.Matchers, "the endpoints match alike")
	require.Equal(t, 2, stats.Rules)
	require.NotEqual(t, tables.InterfaceClass("a"), tables.InterfaceClass("z"))
	d := tables.Entries[0].Block
	require.Equal(t, ir.InIface, d.Field)
	require.Len(t, d.Lists, tables.InterfaceClasses())
	require.Equal(t, d.Lists[tables.InterfaceClass("a")], d.Lists[tables.InterfaceClass("c")])
	require.NotEqual(t, d.Lists[tables.InterfaceClass("a")], d.Lists[tables.InterfaceClass("b")])
}

// A tier that passes at its end costs no rule: the search goes there anyway.
func TestStepsThatLeadNowhereElseAreLeftOut(t *testing.T) {
	text := "entry normal-in e\n" +
		"block e\n  call t resume pass\n  rule dport=80 -> allow by policy:t/p/ingress[0]\n" +
		"block t\n  rule sport=1 -> pass by policy:t/p/ingress[1]\n  rule sport=2 -> deny by policy:t/p/ingress[2]\n  rule -> pass by tier:t/ingress\n"
	p, m, err := ir.Parse(text)
	require.NoError(t, err)
	tables, err := classify.Build(p, m)
	require.NoError(t, err)
	require.Equal(t, []string{"0 next 2", "2 next 0", "1 next 0"}, actionTexts(tables.Lists[0].Actions))
}

func actionTexts(as []classify.Action) []string {
	var out []string
	for _, a := range as {
		out = append(out, fmt.Sprintf("%d next %d", a.Outcome, a.Next))
	}
	return out
}

func TestAxisText(t *testing.T) {
	seen := map[string]bool{}
	for a := classify.L4; a <= classify.DstEndpoint; a++ {
		require.NotEqual(t, "unknown axis", a.String())
		require.False(t, seen[a.String()])
		seen[a.String()] = true
	}
	require.Equal(t, "unknown axis", classify.Axis(0).String())
	require.Equal(t, "unknown axis", (classify.DstEndpoint + 1).String())
}
