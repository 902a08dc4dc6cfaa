// SPDX-License-Identifier: Apache-2.0

package ir_test

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// equal compares programs: empty and nil slices are the same.
var equal = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})}

var families = []inet.Family{inet.IPv4, inet.IPv6}

func prefixGen() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		var a netip.Addr
		if rapid.Bool().Draw(t, "v4") {
			a = netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "b")})
		} else {
			b := [16]byte{0: 0xfd, 15: rapid.Byte().Draw(t, "b")}
			a = netip.AddrFrom16(b)
		}
		return netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked()
	})
}

var nameGen = rapid.OneOf(
	rapid.SampledFrom([]string{"eth0", "eth1", "lo", "cali", "a b", `q"`, "x*", "0x1", "by", "->", "a|b", "a,b", "é", "\x01"}),
	rapid.StringMatching(`[a-zA-Z0-9_.:@=*"\\-]{1,15}`),
)

func originGen() *rapid.Generator[flow.Origin] {
	name := rapid.StringMatching(`[a-z0-9]([-a-z0-9.]{0,5}[a-z0-9])?`)
	return rapid.Custom(func(t *rapid.T) flow.Origin {
		o := flow.Origin{
			Kind:  flow.OriginKind(rapid.IntRange(int(flow.OriginPolicy), int(flow.OriginNoEndpoint)).Draw(t, "kind")),
			Stage: flow.Stage(rapid.IntRange(0, 3).Draw(t, "stage")),
		}
		dir := flow.Direction(rapid.IntRange(0, 1).Draw(t, "dir"))
		switch o.Kind {
		case flow.OriginPolicy:
			o.Tier, o.Name, o.Dir, o.Index = name.Draw(t, "tier"), name.Draw(t, "name"), dir, rapid.IntRange(0, 99).Draw(t, "i")
		case flow.OriginProfile:
			o.Name, o.Dir, o.Index = name.Draw(t, "name"), dir, rapid.IntRange(0, 99).Draw(t, "i")
		case flow.OriginTier:
			o.Tier, o.Dir = name.Draw(t, "tier"), dir
		case flow.OriginDefault:
			o.Name, o.Dir = name.Draw(t, "name"), dir
		case flow.OriginProfileMissing:
			o.Name = name.Draw(t, "name")
		case flow.OriginFailsafe:
			o.Dir, o.Protocol, o.Port = dir, inet.Protocol(rapid.Byte().Draw(t, "proto")), rapid.Uint16().Draw(t, "port")
		}
		return o
	})
}

// programGen makes valid canonical programs with members. They hold no block of an endpoint.
func programGen() *rapid.Generator[*ir.Program] {
	return rapid.Custom(func(t *rapid.T) *ir.Program {
		p := &ir.Program{}
		for i := range rapid.IntRange(0, 2).Draw(t, "sets") {
			p.Sets = append(p.Sets, ir.SetDecl{
				ID:   ir.SetID(fmt.Sprintf("s:%d", i)),
				Kind: ir.SetKind(rapid.IntRange(1, 2).Draw(t, "kind")),
				Note: rapid.SampledFrom([]string{"", "all()", `a == "b"`, "line\nbreak"}).Draw(t, "note"),
			})
		}
		ids := rapid.SliceOfNDistinct(rapid.OneOf(
			rapid.StringMatching(`[a-z0-9/%._-]{1,8}`), rapid.SampledFrom([]string{`q"`, "a b", "by", "if", "=", "\n"}),
		), 1, 6, rapid.ID[string]).Draw(t, "ids")
		origins := rapid.SliceOfNDistinct(originGen(), 1, 6, rapid.ID[flow.Origin]).Draw(t, "origins")
		p.Origins = origins
		origin := func() ir.OriginID { return ir.OriginID(rapid.IntRange(1, len(origins)).Draw(t, "origin")) }
		for i, id := range ids {
			b := ir.Block{ID: ir.BlockID(id)}
			for range rapid.IntRange(0, 4).Draw(t, "steps") {
				b.Steps = append(b.Steps, stepOf(t, p, ids[i+1:], origin))
			}
			p.Blocks = append(p.Blocks, b)
		}
		for _, h := range flow.Hooks {
			if !rapid.Bool().Draw(t, "entry") {
				continue
			}
			e := ir.Entry{Hook: h, Block: ir.BlockID(rapid.SampledFrom(ids).Draw(t, "block"))}
			if rapid.Bool().Draw(t, "always") {
				e.Always = ir.BlockID(rapid.SampledFrom(ids).Draw(t, "block"))
			}
			if rapid.Bool().Draw(t, "default") {
				e.Default = ir.Pass
			}
			e.NoTrack = h.Stage() == flow.StageUntracked && rapid.Bool().Draw(t, "notrack")
			if h == flow.UntrackedIn {
				e.Settles = flow.HooksOf(flow.PreDNAT, flow.NormalIn, flow.ForwardIn)
			}
			p.Entries = append(p.Entries, e)
		}
		return ir.Canonical(p)
	})
}

func stepOf(t *rapid.T, p *ir.Program, below []string, origin func() ir.OriginID) ir.Step {
	resume := ir.OutcomeSet(rapid.IntRange(0, 15).Draw(t, "resume"))
	switch k := rapid.IntRange(0, 3).Draw(t, "step"); {
	case k == 0 && len(below) > 0:
		c := ir.Call{Block: ir.BlockID(rapid.SampledFrom(below).Draw(t, "callee")), Resume: resume}
		if rapid.Bool().Draw(t, "if") {
			c.Match = ir.Match{clauseOf(t, p)}
		}
		return c
	case k == 1:
		return switchOf(t, below, origin, resume)
	}
	r := ir.Rule{Then: ir.Outcome(rapid.IntRange(0, 3).Draw(t, "then")), Origin: origin()}
	for range rapid.IntRange(0, 3).Draw(t, "clauses") {
		r.Match = append(r.Match, clauseOf(t, p))
	}
	if rapid.Bool().Draw(t, "log") {
		r.Do = []ir.Effect{ir.Log}
	}
	return r
}

func switchOf(t *rapid.T, below []string, origin func() ir.OriginID, resume ir.OutcomeSet) ir.Step {
	fields := []ir.Field{ir.InIface, ir.OutIface, ir.Family, ir.Protocol, ir.SrcAddr, ir.DstAddr, ir.SrcPort, ir.DstPort, ir.ICMPType, ir.ICMPCode, ir.State}
	s := ir.Switch{Resume: resume, Key: rapid.SliceOfNDistinct(rapid.SampledFrom(fields), 1, 3, rapid.ID[ir.Field]).Draw(t, "key")}
	for range rapid.IntRange(0, 4).Draw(t, "cases") {
		c := ir.Case{}
		for _, f := range s.Key {
			c.Key = append(c.Key, intervalOf(t, f))
		}
		if slices.ContainsFunc(s.Cases, func(o ir.Case) bool { return overlapping(o, c) }) {
			continue
		}
		if len(below) > 0 && rapid.Bool().Draw(t, "to block") {
			c.Then.Block = ir.BlockID(rapid.SampledFrom(below).Draw(t, "callee"))
		} else {
			c.Then.Outcome, c.Origin = ir.Outcome(rapid.IntRange(1, 3).Draw(t, "then")), origin()
		}
		s.Cases = append(s.Cases, c)
	}
	return s
}

func overlapping(a, b ir.Case) bool {
	for i := range a.Key {
		if a.Key[i].Lo.Compare(b.Key[i].Hi) > 0 || b.Key[i].Lo.Compare(a.Key[i].Hi) > 0 {
			return false
		}
	}
	return true
}

func intervalOf(t *rapid.T, f ir.Field) ir.Interval {
	if rapid.IntRange(0, 5).Draw(t, "all") == 0 {
		return f.Domain()
	}
	switch f {
	case ir.InIface, ir.OutIface:
		name := nameGen.Draw(t, "name")
		if rapid.Bool().Draw(t, "prefix") {
			i, _ := ir.NamePrefix(name)
			return i
		}
		v, _ := ir.Name(name)
		return ir.Exactly(v)
	case ir.SrcAddr, ir.DstAddr:
		p, q := prefixGen().Draw(t, "prefix"), prefixGen().Draw(t, "prefix")
		is := ir.AddrPrefix(p)
		if rapid.Bool().Draw(t, "range") {
			a, b := ir.Addr(p.Addr()), ir.Addr(q.Addr())
			if a.Compare(b) <= 0 {
				return ir.Interval{Lo: a, Hi: b}
			}
		}
		return rapid.SampledFrom(is).Draw(t, "interval")
	case ir.Family:
		return ir.Exactly(ir.Number(rapid.SampledFrom(families).Draw(t, "family")))
	}
	last, _ := f.Domain().Hi.Number()
	lo := rapid.Uint16Range(0, last).Draw(t, "lo")
	return ir.Interval{Lo: ir.Number(lo), Hi: ir.Number(rapid.Uint16Range(lo, last).Draw(t, "hi"))}
}

func clauseOf(t *rapid.T, p *ir.Program) ir.Clause {
	c := ir.Clause{}
	for range rapid.IntRange(0, 3).Draw(t, "terms") {
		c = append(c, termOf(t, p))
	}
	return c
}

func termOf(t *rapid.T, p *ir.Program) ir.Term {
	not := rapid.Bool().Draw(t, "not")
	switch k := rapid.IntRange(0, 4).Draw(t, "term"); {
	case k == 0 && len(p.Sets) > 0:
		s := rapid.SampledFrom(p.Sets).Draw(t, "set")
		fields := rapid.SampledFrom([][]ir.Field{{ir.SrcAddr}, {ir.DstAddr}}).Draw(t, "fields")
		if s.Kind == ir.SetOfEndpoints {
			fields = rapid.SampledFrom([][]ir.Field{{ir.SrcAddr, ir.Protocol, ir.SrcPort}, {ir.DstAddr, ir.Protocol, ir.DstPort}}).Draw(t, "fields")
		}
		return ir.InSet{Fields: fields, Set: s.ID, Not: not}
	case k == 1:
		ps := ir.MergePrefixes(rapid.SliceOfN(prefixGen(), 1, 4).Draw(t, "prefixes"))
		return ir.InPrefixes{Field: rapid.SampledFrom([]ir.Field{ir.SrcAddr, ir.DstAddr}).Draw(t, "field"), Prefixes: ps, Not: not}
	case k == 2:
		var ns []ir.NamePattern
		for range rapid.IntRange(1, 3).Draw(t, "names") {
			ns = append(ns, ir.NamePattern{Name: nameGen.Draw(t, "name"), Prefix: rapid.Bool().Draw(t, "prefix")})
		}
		slices.SortFunc(ns, ir.CompareNames)
		return ir.InNames{Field: rapid.SampledFrom([]ir.Field{ir.InIface, ir.OutIface}).Draw(t, "field"), Names: slices.Compact(ns), Not: not}
	case k == 3:
		var rs []inet.PortRange
		for range rapid.IntRange(1, 3).Draw(t, "ranges") {
			lo := rapid.Uint16().Draw(t, "lo")
			rs = append(rs, inet.PortRange{Min: lo, Max: rapid.Uint16Min(lo).Draw(t, "hi")})
		}
		return ir.InPorts{Field: rapid.SampledFrom([]ir.Field{ir.SrcPort, ir.DstPort}).Draw(t, "field"), Ranges: ir.MergePorts(rs), Not: not}
	}
	f := rapid.SampledFrom([]ir.Field{ir.Family, ir.Protocol, ir.ICMPType, ir.ICMPCode, ir.State}).Draw(t, "field")
	vals := rapid.SliceOfN(rapid.Byte(), 1, 6).Draw(t, "values")
	for i := range vals {
		switch f {
		case ir.Family:
			vals[i] = uint8(families[vals[i]%2])
		case ir.State:
			vals[i] %= 5
		}
	}
	return ir.InMask{Field: f, Mask: ir.MaskOf(vals...), Not: not}
}

// membersOf fills the sets of p.
func membersOf(t *rapid.T, p *ir.Program) ir.Members {
	var m ir.Members
	for _, d := range p.Sets {
		s := ir.SetMembers{ID: d.ID}
		for range rapid.IntRange(0, 5).Draw(t, "elements") {
			e := ir.Element{Prefix: prefixGen().Draw(t, "prefix")}
			if d.Kind == ir.SetOfEndpoints {
				e.Prefix = netip.PrefixFrom(e.Prefix.Addr(), e.Prefix.Addr().BitLen())
				e.Protocol = rapid.SampledFrom([]inet.Protocol{inet.TCP, inet.UDP, inet.SCTP}).Draw(t, "protocol")
				e.Port = rapid.Uint16Range(1, 100).Draw(t, "port")
			}
			s.Elements = append(s.Elements, e)
		}
		m.Sets = append(m.Sets, s)
	}
	return m.Canonical()
}

// packetGen makes packets that generated programs can tell apart.
func packetGen() *rapid.Generator[*flow.Packet] {
	return rapid.Custom(func(t *rapid.T) *flow.Packet {
		p := &flow.Packet{
			Path:     flow.Path(rapid.IntRange(1, 4).Draw(t, "path")),
			Protocol: rapid.SampledFrom([]inet.Protocol{inet.TCP, inet.UDP, inet.ICMP, inet.ICMPv6, 253}).Draw(t, "protocol"),
			State:    flow.ConnState(rapid.IntRange(0, 4).Draw(t, "state")),
		}
		if p.Path != flow.Output {
			p.In = nameGen.Draw(t, "in")
		}
		if p.Path == flow.Output || p.Path == flow.Forward {
			p.Out = nameGen.Draw(t, "out")
		}
		a := func(v4 bool) netip.Addr {
			b := rapid.Byte().Draw(t, "byte")
			if v4 {
				return netip.AddrFrom4([4]byte{10, 0, 0, b})
			}
			return netip.AddrFrom16([16]byte{0: 0xfd, 15: b})
		}
		v4 := rapid.Bool().Draw(t, "v4")
		p.Src, p.Dst = a(v4), a(v4)
		if p.Protocol.HasPorts() {
			p.SrcPort, p.DstPort = rapid.Uint16Range(0, 100).Draw(t, "sport"), rapid.Uint16Range(0, 100).Draw(t, "dport")
			if rapid.IntRange(0, 3).Draw(t, "nat") == 0 {
				p.NATDst = netip.AddrPortFrom(a(v4), rapid.Uint16Range(0, 100).Draw(t, "nat port"))
				p.DstLocal = rapid.Bool().Draw(t, "local")
			}
		}
		if p.Protocol == inet.ICMP || p.Protocol == inet.ICMPv6 {
			p.ICMPType, p.ICMPCode = rapid.Byte().Draw(t, "type"), rapid.Byte().Draw(t, "code")
		}
		return p
	})
}
