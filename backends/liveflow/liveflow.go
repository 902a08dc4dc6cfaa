// SPDX-License-Identifier: Apache-2.0

// Package liveflow looks at the flows that are under way through a host before its policy changes, and takes care of
// them afterwards.
//
// Policy decides on the first packet of a flow; what is established goes on, whatever changes. So a policy that locks
// its author out is noticed when the session ends. Check says it beforehand: which flows a new program would cut, which
// ones could not be made again, and by which rule. Flows come from the kernel's table of connections and, since a host
// without stateful rules has none, from its sockets.
package liveflow

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// ErrUnavailable is what functions return where the kernel tells nothing, or not to us.
var ErrUnavailable = errors.New("live flows are not available")

// Flow is a flow that is under way. Its first packet was sent by Tuple.Src.
type Flow struct {
	Path    flow.Path      `json:"-"`
	In      string         `json:"in,omitempty"`  // where its first packet arrived, by today's routes
	Out     string         `json:"out,omitempty"` // where that left, by today's routes
	Tuple   flow.Tuple     `json:"tuple"`         // as the sender of the first packet wrote it
	NATDst  netip.AddrPort `json:"natDst,omitzero"`
	Tracked bool           `json:"tracked"` // the kernel's table of connections has it
	// Answered says that both sides have sent something, or may have, as far as a socket tells. Guards protect no other
	// flows: what nobody answers is not under way, and may be what is denied already.
	Answered bool   `json:"answered"`
	Process  string `json:"process,omitempty"`

	routeOut string
	dstLocal bool
	strict   bool   // connection tracking takes its packets for invalid once it does not know the flow
	entry    *entry // nil unless Tracked
}

// Packet returns a packet of the flow in the direction of the first one, in a state.
func (f *Flow) Packet(s flow.ConnState) flow.Packet {
	return flow.Packet{
		Path: f.Path, In: f.In, Out: f.Out, Protocol: f.Tuple.Protocol, Src: f.Tuple.Src, Dst: f.Tuple.Dst,
		SrcPort: f.Tuple.SrcPort, DstPort: f.Tuple.DstPort, ICMPType: f.Tuple.ICMPType, ICMPCode: f.Tuple.ICMPCode,
		State: s, NATDst: f.NATDst, RouteOut: f.routeOut, DstLocal: f.dstLocal,
	}
}

// Answer returns a packet of the other direction, in a state.
func (f *Flow) Answer(s flow.ConnState) flow.Packet {
	p := flow.Packet{
		In: f.Out, Out: f.In, Protocol: f.Tuple.Protocol, Src: f.Tuple.Dst, Dst: f.Tuple.Src,
		SrcPort: f.Tuple.DstPort, DstPort: f.Tuple.SrcPort, ICMPType: f.Tuple.ICMPType, ICMPCode: f.Tuple.ICMPCode, State: s,
	}
	if f.NATDst.IsValid() {
		p.Src, p.SrcPort = f.NATDst.Addr(), f.NATDst.Port()
	}
	switch f.Path {
	case flow.Input, flow.Local:
		p.Path, p.In = flow.Output, ""
	case flow.Output:
		p.Path, p.Out = flow.Input, ""
	default:
		p.Path = f.Path
	}
	return p
}

// Judge says what a program does with packets: *ir.Interpreter and *classify.Classifier do.
type Judge interface {
	Verdict(*flow.Packet) (flow.Verdict, flow.Origin)
}

// Fate says what becomes of flows that are under way when a program is applied. The zero value is Keep.
type Fate uint8

// The fates.
const (
	Keep      Fate = iota // what is established goes on, as in Calico
	CutDenied             // what the new program would not let begin, ends
	CutAll                // every flow must be let in anew
)

var fateNames = [...]string{Keep: "keep", CutDenied: "cut-denied", CutAll: "cut-all"}

// String returns "keep", "cut-denied" or "cut-all".
func (f Fate) String() string {
	if int(f) < len(fateNames) {
		return fateNames[f]
	}
	return fmt.Sprintf("fate(%d)", f)
}

// ParseFate reads what Fate.String writes.
func ParseFate(s string) (Fate, error) {
	if i := slices.Index(fateNames[:], s); i >= 0 {
		return Fate(i), nil
	}
	return 0, fmt.Errorf("unknown fate of flows %q: want one of %s", s, strings.Join(fateNames[:], ", "))
}

// Effect is what a new program means for a flow.
type Effect uint8

// The effects.
const (
	Bars Effect = iota + 1 // it goes on, and could not be made again
	Cuts                   // it ends at once
)

// String returns "bars" or "cuts".
func (e Effect) String() string {
	switch e {
	case Bars:
		return "bars"
	case Cuts:
		return "cuts"
	}
	return fmt.Sprintf("effect(%d)", e)
}

// MarshalText returns the effect's String.
func (e Effect) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// Finding is a flow that a new program does something to.
type Finding struct {
	Flow   Flow        `json:"flow"`
	Effect Effect      `json:"effect"`
	By     flow.Origin `json:"by"`               // the rule that denies
	Answer bool        `json:"answer,omitempty"` // it denies the packets that come back
	Guard  string      `json:"guard,omitempty"`  // the name of the guard that protects the flow; "" if none does
}

// String returns "cuts tcp 10.9.0.2:40000 > 10.9.0.1:22 (sshd) by policy:default/web/ingress[0] at web.yaml:12".
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", f.Effect, f.Flow.Tuple)
	if f.Flow.Process != "" {
		fmt.Fprintf(&b, " (%s)", f.Flow.Process)
	}
	if f.Guard != "" {
		fmt.Fprintf(&b, " guarded as %s,", f.Guard)
	}
	fmt.Fprintf(&b, " by %s", f.By)
	if p := f.By.Pos.String(); p != "" {
		b.WriteString(" at " + p)
	}
	return b.String()
}

// Guard protects flows that are answered: a program that cuts or bars one of them is not applied unless that is forced. All criteria that
// are given must hold; one without any protects every flow.
type Guard struct {
	Name     string           // "ssh"; for people
	Protocol inet.Protocol    // 0 is any
	Local    []inet.PortRange // ports of this host; nil is any
	Remote   []inet.PortRange // ports of the other side; nil is any
	Nets     []netip.Prefix   // the other side; nil is any
	Process  string           // the name of a process that has the socket; "" is any
	Tuple    flow.Tuple       // exactly this flow, in either direction; the zero value is any
}

// DefaultGuards protect what keeps a host in reach of its administrators and of its datastore: sessions of ssh, and
// connections to name servers, to etcd, to Calico's Typha and to a Kubernetes API server at the usual ports.
func DefaultGuards() []Guard {
	one := func(p ...uint16) (r []inet.PortRange) {
		for _, x := range p {
			r = append(r, inet.PortRange{Min: x, Max: x})
		}
		return r
	}
	return []Guard{
		{Name: "ssh", Protocol: inet.TCP, Local: one(22)},
		{Name: "ssh", Protocol: inet.TCP, Process: "sshd"},
		{Name: "ssh", Protocol: inet.TCP, Process: "sshd-session"},
		{Name: "dns", Protocol: inet.UDP, Remote: one(53)},
		{Name: "dns", Protocol: inet.TCP, Remote: one(53)},
		{Name: "datastore", Protocol: inet.TCP, Remote: one(2379, 2380, 5473)},
		{Name: "api-server", Protocol: inet.TCP, Remote: one(6443)},
	}
}

// protects reports whether g protects f. Forwarded flows have no side that is this host's: only guards that name a
// tuple, nets or nothing protect them.
func (g *Guard) protects(f *Flow) bool {
	t := f.Tuple
	if f.NATDst.IsValid() {
		t.Dst, t.DstPort = f.NATDst.Addr(), f.NATDst.Port()
	}
	remote, remotePort, localPort := t.Src, t.SrcPort, t.DstPort
	if f.Path == flow.Output {
		remote, remotePort, localPort = t.Dst, t.DstPort, t.SrcPort
	}
	in := func(rs []inet.PortRange, p uint16) bool {
		return rs == nil || f.Path != flow.Forward && slices.ContainsFunc(rs, func(r inet.PortRange) bool { return r.Contains(p) })
	}
	net := g.Nets == nil || slices.ContainsFunc(g.Nets, func(p netip.Prefix) bool {
		return p.Contains(remote) || f.Path == flow.Forward && p.Contains(t.Dst)
	})
	return f.Answered && net && (g.Protocol == 0 || g.Protocol == t.Protocol) && in(g.Local, localPort) && in(g.Remote, remotePort) &&
		(g.Process == "" || g.Process == f.Process) &&
		(g.Tuple == flow.Tuple{} || g.Tuple == f.Tuple || g.Tuple == reverse(f.Tuple))
}

func reverse(t flow.Tuple) flow.Tuple {
	t.Src, t.Dst, t.SrcPort, t.DstPort = t.Dst, t.Src, t.DstPort, t.SrcPort
	return t
}

// Check returns what a new program would do to flows, what is guarded first, and the worst first. It is pure.
//
// A flow that is tracked goes on unless the program denies its packets before connection tracking; with CutDenied and
// CutAll it has to be let in anew, like one that is not tracked, which begins for connection tracking with its next
// packet, or is invalid to it where net.netfilter.nf_conntrack_tcp_loose is 0.
func Check(flows []Flow, j Judge, fate Fate, guards []Guard) []Finding {
	var out []Finding
	for i := range flows {
		if f, ok := check(&flows[i], j, fate); ok {
			for _, g := range guards {
				if g.protects(&f.Flow) {
					f.Guard = g.Name
					if f.Guard == "" {
						f.Guard = "guard"
					}
					break
				}
			}
			out = append(out, f)
		}
	}
	rank := func(f Finding) int {
		n := 2 * int(f.Effect)
		if f.Guard != "" {
			n += 100
		}
		return -n
	}
	slices.SortStableFunc(out, func(a, b Finding) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a.Flow.Tuple.String(), b.Flow.Tuple.String())
	})
	return out
}

func check(f *Flow, j Judge, fate Fate) (Finding, bool) {
	denies := func(p flow.Packet) (flow.Origin, bool) {
		v, by := j.Verdict(&p)
		return by, v == flow.Deny
	}
	if f.Tracked {
		for _, answer := range []bool{false, true} {
			p := f.Packet(flow.Established)
			if answer {
				p = f.Answer(flow.Established)
			}
			if by, no := deniesLoop(denies, p); no {
				return Finding{Flow: *f, Effect: Cuts, By: by, Answer: answer}, true
			}
		}
	}
	anew := !f.Tracked || fate != Keep
	state, effect := flow.New, Bars
	if anew {
		effect = Cuts
	}
	if anew && f.strict && (fate == CutAll || !f.Tracked) {
		state = flow.Invalid
	}
	by, no := deniesLoop(denies, f.Packet(state))
	if !no {
		return Finding{}, false
	}
	return Finding{Flow: *f, Effect: effect, By: by}, true
}

// deniesLoop asks for a packet; what a host sends to itself is asked for leaving and for arriving.
func deniesLoop(denies func(flow.Packet) (flow.Origin, bool), p flow.Packet) (flow.Origin, bool) {
	by, no := denies(p)
	if no || p.Path != flow.Output || p.Out != "lo" {
		return by, no
	}
	p.Path, p.In, p.Out = flow.Input, "lo", ""
	return denies(p)
}

// ErrLockout is what errors wrap that say that a program would cut guarded flows.
var ErrLockout = errors.New("the change would cut off what is guarded")

// LockoutError says which guarded flows a program would cut or bar.
type LockoutError struct{ Findings []Finding } // those that are guarded; at least one

// maxShown is how many flows the text of an error names.
const maxShown = 10

// Error implements error.
func (e *LockoutError) Error() string {
	var b strings.Builder
	s := "s"
	if len(e.Findings) == 1 {
		s = ""
	}
	fmt.Fprintf(&b, "%v: %d flow%s", ErrLockout, len(e.Findings), s)
	for i, f := range e.Findings {
		if i == maxShown {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Findings)-i)
			break
		}
		b.WriteString("\n  " + f.String())
	}
	return b.String()
}

// Unwrap returns ErrLockout.
func (e *LockoutError) Unwrap() error { return ErrLockout }

// Lockout returns a *LockoutError if some of the findings are guarded, else nil.
func Lockout(fs []Finding) error {
	var e LockoutError
	for _, f := range fs {
		if f.Guard != "" {
			e.Findings = append(e.Findings, f)
		}
	}
	if e.Findings == nil {
		return nil
	}
	return &e
}
