// SPDX-License-Identifier: Apache-2.0

package picture

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// boxText is a box in columns for people.
type boxText struct {
	where, what, from, to, when string
}

// textOf writes a box in columns.
func textOf(b *analyze.Box) boxText {
	var t boxText
	iface := func(n analyze.Names) string {
		if n == nil {
			return "any interface"
		}
		return n.String()
	}
	switch b.Path {
	case flow.Output:
		t.where = "out " + iface(b.Out)
	case flow.Forward:
		t.where = "forward " + iface(b.In) + " → " + iface(b.Out)
	default:
		t.where = "in " + iface(b.In)
	}
	t.what = protocolsText(b.Protocols)
	if b.ICMP != nil {
		t.what += " " + icmpRanges(b.ICMP)
	}
	if b.DstPorts.Len() < 1<<16 {
		t.what += " " + portsText(b.DstPorts)
	}
	t.from, t.to = addrsText(b.Src), addrsText(b.Dst)
	if b.SrcPorts.Len() < 1<<16 {
		t.from += " port " + portsText(b.SrcPorts)
	}
	switch b.NAT {
	case analyze.Untranslated:
		t.to += ", not translated"
	case analyze.Translated:
		t.to += ", translated from " + addrsText(b.PreDst)
		if b.PreDstPorts.Len() < 1<<16 {
			t.to += " port " + portsText(b.PreDstPorts)
		}
	}
	t.when = statesText(b.States)
	return t
}

// BoxText returns a box on one line, such as "in eth0: tcp 443 from 203.0.113.0/24 to any IPv4 (new)".
func BoxText(b *analyze.Box) string {
	t := textOf(b)
	s := t.where + ": " + t.what + " from " + t.from + " to " + t.to
	if t.when != "" {
		s += " (" + t.when + ")"
	}
	return s
}

// Brief returns the packets of a change on one line: the largest box without what goes without saying, and how many more
// there are. "in eth0: tcp 443 from 203.0.113.0/24".
func Brief(c *analyze.Change) string {
	if len(c.Boxes) == 0 {
		return ""
	}
	b := &c.Boxes[0]
	t := textOf(b)
	s := t.where + ": " + t.what
	if t.from != "anywhere" {
		s += " from " + t.from
	}
	to := b.Dst.Family(inet.IPv4).Equal(inet.AllAddrs(inet.IPv4)) || b.Dst.Family(inet.IPv6).Equal(inet.AllAddrs(inet.IPv6))
	if !to || b.NAT != analyze.AnyNAT {
		s += " to " + t.to
	}
	if t.when != "" && !b.States.Has(flow.New) {
		s += " (" + t.when + ")"
	}
	if n := len(c.Boxes) - 1; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}

// most is how many ranges a column lists.
const most = 4

func shortList(list []string) string {
	if len(list) > most+1 {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, ", ")
}

func addrsText(s inet.PrefixSet) string {
	all4, all6 := inet.AllAddrs(inet.IPv4), inet.AllAddrs(inet.IPv6)
	four, six := s.Family(inet.IPv4), s.Family(inet.IPv6)
	var parts []string
	switch {
	case four.Equal(all4) && six.Equal(all6):
		return "anywhere"
	case s.IsEmpty():
		return "nowhere"
	}
	for _, f := range []struct {
		name     string
		set, all inet.PrefixSet
	}{{"IPv4", four, all4}, {"IPv6", six, all6}} {
		if f.set.IsEmpty() {
			continue
		}
		own, rest := prefixTexts(f.set.Prefixes()), prefixTexts(f.all.Minus(f.set).Prefixes())
		around, holes := hull(f.set.Prefixes())
		switch {
		case len(rest) == 0:
			parts = append(parts, "any "+f.name)
		case len(rest) < len(own) && len(rest) <= len(holes)+1:
			parts = append(parts, "any "+f.name+" but "+shortList(rest))
		case len(holes)+1 < len(own):
			parts = append(parts, around.String()+" but "+shortList(prefixTexts(holes)))
		default:
			parts = append(parts, shortList(own))
		}
	}
	return strings.Join(parts, ", ")
}

// hull returns the smallest prefix that holds prefixes of one family, of which there is one, and what of it they do not hold.
func hull(ps []netip.Prefix) (around netip.Prefix, holes []netip.Prefix) {
	around = ps[0]
	for _, p := range ps[1:] {
		for !around.Contains(p.Addr()) || p.Bits() < around.Bits() {
			around = netip.PrefixFrom(around.Addr(), around.Bits()-1).Masked()
		}
	}
	whole, _ := inet.NewPrefixSet(around)
	set, _ := inet.NewPrefixSet(ps...)
	return around, whole.Minus(set).Prefixes()
}

func prefixTexts(ps []netip.Prefix) []string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.String()
		if p.IsSingleIP() {
			out[i] = p.Addr().String()
		}
	}
	return out
}

func portsText(s inet.PortSet) string {
	texts := func(s inet.PortSet) []string {
		var out []string
		for _, r := range s.Ranges() {
			if r.Min == r.Max {
				out = append(out, r.String())
			} else {
				out = append(out, fmt.Sprintf("%d-%d", r.Min, r.Max))
			}
		}
		return out
	}
	own, rest := texts(s), texts(s.Complement())
	if len(rest) > 0 && len(rest) < len(own) {
		return "any but " + shortList(rest)
	}
	return shortList(own)
}

func protocolsText(m ir.Mask) string {
	n := 0
	for _, w := range m {
		n += bits.OnesCount64(w)
	}
	list := func(want bool) string {
		var out []string
		for p := range 256 {
			if m.Has(uint8(p)) == want {
				if s := inet.Protocol(p).String(); s[0] > '9' {
					out = append(out, s)
				} else {
					out = append(out, "protocol "+s)
				}
			}
		}
		return shortList(out)
	}
	switch {
	case n == 256:
		return "any protocol"
	case n > 128:
		return "any protocol but " + list(false)
	}
	return list(true)
}

func icmpRanges(rs []analyze.ICMPRange) string {
	var out []string
	for _, r := range rs {
		switch lo, hi := r.Min>>8, r.Max>>8; {
		case lo == hi && r.Min&0xff == 0 && r.Max&0xff == 0xff:
			out = append(out, fmt.Sprintf("type %d", lo))
		case r.Min&0xff == 0 && r.Max&0xff == 0xff:
			out = append(out, fmt.Sprintf("types %d-%d", lo, hi))
		case r.Min == r.Max:
			out = append(out, fmt.Sprintf("type %d code %d", lo, r.Min&0xff))
		default:
			out = append(out, fmt.Sprintf("%d/%d to %d/%d", lo, r.Min&0xff, hi, r.Max&0xff))
		}
	}
	return shortList(out)
}

// statesText returns "" for what goes without saying: all states, or those that policy is asked in.
func statesText(s analyze.States) string {
	if s == analyze.AllStates {
		return ""
	}
	var out []string
	for c := flow.New; c <= flow.Untracked; c++ {
		if s.Has(c) {
			out = append(out, c.String())
		}
	}
	return strings.Join(out, ", ")
}
