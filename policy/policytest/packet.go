// SPDX-License-Identifier: Apache-2.0

package policytest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// ErrPacket is what errors of ParsePacket wrap.
var ErrPacket = errors.New("not a packet line")

// Packet is one line of a case: a packet, and what must become of it.
type Packet struct {
	flow.Packet
	Line int    // in the case file, from 1; 0 if it was not read from a file
	Text string // the line as written, without comment; "" if it was not read

	Asked bool         // the line names a verdict; without it Want means nothing
	Want  flow.Verdict // what the host must do
	By    flow.Origin  // what must have decided; the zero value leaves it open
}

// String returns the whole line in canonical form.
func (p *Packet) String() string {
	s := FormatPacket(&p.Packet)
	if p.Asked {
		s += "  " + p.Want.String()
		if p.By != (flow.Origin{}) {
			s += "  " + p.By.String()
		}
	}
	return s
}

// DNAT is one rule of the host's own destination NAT: what is sent to To over Protocol goes to Becomes.
type DNAT = manifest.DNAT

// ParsePacket reads one line of the form
//
//	PATH PACKET [STATE] [VERDICT [BY]]
//
// as the package documentation explains it. Text after a # is ignored. Host and dnat fill in what the line does not
// say: NATDst, RouteOut and DstLocal. A packet of IPv6 neighbour or multicast listener discovery is untracked unless
// the line says otherwise, as it is in the kernel. The error wraps ErrPacket.
func ParsePacket(line string, host hostendpoint.Host, dnat []DNAT) (Packet, error) {
	text, _, _ := strings.Cut(line, "#")
	text = strings.TrimSpace(text)
	p := packetParser{words: strings.Fields(text)}
	pkt := Packet{Text: text}
	if err := p.parse(&pkt); err != nil {
		return Packet{}, fmt.Errorf("%w: %w", ErrPacket, err)
	}
	complete(&pkt.Packet, host, dnat)
	return pkt, nil
}

// packetParser takes the words of a line one by one.
type packetParser struct{ words []string }

func (p *packetParser) next(want string) (string, error) {
	if len(p.words) == 0 {
		return "", fmt.Errorf("the line ends where it needs %s", want)
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w, nil
}

func (p *packetParser) parse(pkt *Packet) error {
	for _, part := range []func(*Packet) error{p.path, p.packet, p.state, p.verdict} {
		if err := part(pkt); err != nil {
			return err
		}
	}
	if len(p.words) > 0 {
		return fmt.Errorf("unexpected %q at the end", p.words[0])
	}
	return nil
}

func (p *packetParser) path(pkt *Packet) error {
	w, err := p.next("a path: input, output, forward or local")
	if err != nil {
		return err
	}
	if pkt.Path, err = flow.ParsePath(w); err != nil {
		return err
	}
	iface, err := p.next("an interface")
	if err != nil {
		return err
	}
	in, out, two := strings.Cut(iface, ">")
	if two != (pkt.Path == flow.Forward) || in == "" || two && out == "" {
		return fmt.Errorf("interface %q: want IN>OUT for forward and one name for the others", iface)
	}
	switch pkt.Path {
	case flow.Output:
		pkt.Out = in
	default:
		pkt.In, pkt.Out = in, out
	}
	return nil
}

func (p *packetParser) packet(pkt *Packet) error {
	proto, err := p.next("a protocol")
	if err != nil {
		return err
	}
	switch proto {
	case "tcp", "udp", "sctp", "udplite":
		pkt.Protocol, _ = inet.ParseProtocol(proto)
		return p.ends(pkt, func(s string) (netip.Addr, uint16, error) {
			ap, err := netip.ParseAddrPort(s)
			return ap.Addr(), ap.Port(), err
		})
	case "icmp", "icmp6":
		pkt.Protocol, _ = inet.ParseProtocol(proto)
		tc, err := p.next("TYPE/CODE")
		if err != nil {
			return err
		}
		t, c, ok := strings.Cut(tc, "/")
		typ, err1 := strconv.ParseUint(t, 10, 8)
		code, err2 := strconv.ParseUint(c, 10, 8)
		if !ok || err1 != nil || err2 != nil {
			return fmt.Errorf("%q: want TYPE/CODE, two numbers up to 255", tc)
		}
		pkt.ICMPType, pkt.ICMPCode = uint8(typ), uint8(code)
	case "proto":
		n, err := p.next("a protocol number")
		if err != nil {
			return err
		}
		num, err := strconv.ParseUint(n, 10, 8)
		if err != nil {
			return fmt.Errorf("protocol %q: want a number up to 255", n)
		}
		pkt.Protocol = inet.Protocol(num)
		if pkt.Protocol.HasPorts() || pkt.Protocol == inet.UDPLite {
			return fmt.Errorf("protocol %d has ports: write %s", num, pkt.Protocol)
		}
	default:
		return fmt.Errorf("protocol %q: want tcp, udp, sctp, udplite, icmp, icmp6 or proto N", proto)
	}
	if err := p.ends(pkt, func(s string) (netip.Addr, uint16, error) {
		a, err := netip.ParseAddr(s)
		return a, 0, err
	}); err != nil {
		return err
	}
	icmp := pkt.Protocol == icmpOf(pkt.Family())
	switch {
	case proto == "proto" && icmp:
		return fmt.Errorf("protocol %d has types: write %s", pkt.Protocol, pkt.Protocol)
	case proto != "proto" && !icmp:
		return fmt.Errorf("%s over IPv%s: write proto %d", proto, pkt.Family(), pkt.Protocol)
	}
	return nil
}

// ends reads SRC > DST.
func (p *packetParser) ends(pkt *Packet, parse func(string) (netip.Addr, uint16, error)) error {
	src, err := p.next("a source")
	if err != nil {
		return err
	}
	arrow, err := p.next(">")
	if err != nil {
		return err
	}
	if arrow != ">" {
		return fmt.Errorf("%q: want > between source and destination", arrow)
	}
	dst, err := p.next("a destination")
	if err != nil {
		return err
	}
	if pkt.Src, pkt.SrcPort, err = parse(src); err != nil {
		return err
	}
	if pkt.Dst, pkt.DstPort, err = parse(dst); err != nil {
		return err
	}
	switch {
	case pkt.Src.Is4() != pkt.Dst.Is4():
		return fmt.Errorf("%s and %s are of two families", src, dst)
	case pkt.Src.Is4In6() || pkt.Dst.Is4In6():
		return fmt.Errorf("%s > %s: an IPv4-mapped address is never on a packet", src, dst)
	case pkt.Src.Zone() != "" || pkt.Dst.Zone() != "":
		return fmt.Errorf("%s > %s: a zone is not part of a packet", src, dst)
	}
	return nil
}

func (p *packetParser) state(pkt *Packet) error {
	pkt.State = naturalState(&pkt.Packet)
	if len(p.words) > 0 {
		if st, err := flow.ParseConnState(p.words[0]); err == nil {
			pkt.State = st
			p.words = p.words[1:]
		}
	}
	return nil
}

func (p *packetParser) verdict(pkt *Packet) error {
	if len(p.words) == 0 {
		return nil
	}
	w, err := p.next("a verdict")
	if err != nil {
		return err
	}
	if pkt.Want, err = flow.ParseVerdict(w); err != nil {
		return err
	}
	pkt.Asked = true
	if len(p.words) == 0 {
		return nil
	}
	if w, err = p.next("an origin"); err != nil {
		return err
	}
	pkt.By, err = flow.ParseOrigin(w)
	return err
}

// FormatPacket returns "PATH PACKET [STATE]", which ParsePacket reads back as the same packet (for the same host and
// DNAT table). The state is left out where it goes without saying.
func FormatPacket(p *flow.Packet) string {
	var b strings.Builder
	b.WriteString(p.Path.String())
	b.WriteByte(' ')
	switch p.Path {
	case flow.Output:
		b.WriteString(p.Out)
	case flow.Forward:
		b.WriteString(p.In + ">" + p.Out)
	default:
		b.WriteString(p.In)
	}
	b.WriteByte(' ')
	b.WriteString(p.Tuple().String())
	if p.State != naturalState(p) {
		b.WriteString(" " + p.State.String())
	}
	return b.String()
}

func icmpOf(f inet.Family) inet.Protocol {
	if f == inet.IPv4 {
		return inet.ICMP
	}
	return inet.ICMPv6
}

// naturalState is the state of a packet that no other preceded. Connection tracking never looks at neighbour and
// multicast listener discovery. Ref: net/netfilter/nf_conntrack_proto_icmpv6.c, noct_valid_new.
func naturalState(p *flow.Packet) flow.ConnState {
	if p.Protocol == inet.ICMPv6 && p.Family() == inet.IPv6 && (130 <= p.ICMPType && p.ICMPType <= 136 || p.ICMPType == 143) {
		return flow.Untracked
	}
	return flow.New
}

// complete fills in what the host does to the packet.
func complete(p *flow.Packet, host hostendpoint.Host, dnat []DNAT) {
	p.NATDst, p.RouteOut, p.DstLocal = netip.AddrPort{}, "", false
	if p.State == flow.Invalid || p.State == flow.Untracked {
		return // NAT happens to flows, and these belong to none
	}
	i := slices.IndexFunc(dnat, func(d DNAT) bool {
		return d.Protocol == p.Protocol && d.To == netip.AddrPortFrom(p.Dst, p.DstPort)
	})
	if i < 0 {
		return
	}
	p.NATDst = dnat[i].Becomes
	p.DstLocal = isLocal(p.Dst, host)
	if p.Path == flow.Output {
		if out := RouteOut(p.Dst, host); out != p.Out {
			p.RouteOut = out
		}
	}
}

// RouteOut returns the interface to which a host sends what goes to dst, as far as the networks on its interfaces
// tell: lo for its own addresses, else the interface of the longest network that contains dst, else "".
func RouteOut(dst netip.Addr, host hostendpoint.Host) string {
	if isLocal(dst, host) {
		return "lo"
	}
	var out string
	best := -1
	for _, i := range host.Interfaces {
		for _, a := range i.Addresses {
			if n := a.Masked(); n.Contains(dst) && n.Bits() > best {
				out, best = i.Name, n.Bits()
			}
		}
	}
	return out
}

// isLocal reports whether a is an address of the host itself.
func isLocal(a netip.Addr, host hostendpoint.Host) bool {
	return a.IsLoopback() || slices.ContainsFunc(host.Interfaces, func(i hostendpoint.Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
	})
}
