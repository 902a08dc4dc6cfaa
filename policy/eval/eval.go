// SPDX-License-Identifier: Apache-2.0

// Package eval is the reference evaluator: a reading of Calico's semantics that is meant to be read. It answers what
// happens to a packet, and why. It knows nothing of the IR: policy/compile reads the same Snapshot on its own, and the
// two are compared packet by packet.
package eval

import (
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Evaluator answers for one Snapshot. It is immutable and safe for concurrent use. The zero value is not useful; it
// denies everything.
type Evaluator struct {
	s       *policy.Snapshot
	byIface map[string]*policy.Endpoint
	sets    map[string]*memberSet
}

// New returns an Evaluator for s, which must not change afterwards. A nil s denies everything.
func New(s *policy.Snapshot) *Evaluator {
	e := &Evaluator{s: s}
	if s == nil {
		return e
	}
	e.byIface = map[string]*policy.Endpoint{}
	for _, ep := range s.Endpoints {
		for _, i := range ep.Interfaces {
			e.byIface[i] = ep
		}
	}
	e.sets = make(map[string]*memberSet, len(s.Sets))
	for _, set := range s.Sets {
		e.sets[set.ID] = newMemberSet(set.Members)
	}
	return e
}

// Verdict says what the host does with p. A packet that makes no sense (an unknown path, addresses of two families) is
// denied.
func (e *Evaluator) Verdict(p *flow.Packet) flow.Verdict {
	return e.decide(p, nil).Verdict
}

// Decide is Verdict with the Origin that decided. The Origin is zero for a packet that makes no sense.
func (e *Evaluator) Decide(p *flow.Packet) (flow.Verdict, flow.Origin) {
	d := e.decide(p, nil)
	return d.Verdict, d.By
}

// Explain is Verdict with everything that was asked on the way. It is the same traversal with a recorder, so the two
// cannot disagree.
func (e *Evaluator) Explain(p *flow.Packet) Decision {
	r := &recorder{}
	d := e.decide(p, r)
	d.Trace = r.steps
	return d
}

// outcome is what one hook says of a packet.
type outcome uint8

const (
	undecided outcome = iota // nothing governs the interface at this hook
	allowed
	denied
	noVerdict // asked, and no opinion
)

// decide follows the packet through its hooks. Ref: felix/rules/static.go; the accept mark of Calico is the variable
// accepted here.
func (e *Evaluator) decide(p *flow.Packet, rec *recorder) Decision {
	if e.s == nil || !sane(p) {
		return Decision{}
	}
	w := walk{e: e, rec: rec, p: p}

	arriving := p.Path != flow.Output
	var accepted *flow.Origin
	if arriving {
		for _, h := range []flow.Hook{flow.UntrackedIn, flow.PreDNAT} {
			out, by := w.ask(h, p.In)
			switch out {
			case denied:
				return Decision{Verdict: flow.Deny, By: by}
			case allowed:
				accepted = &by
				if h == flow.UntrackedIn {
					w.untracked = true
				}
			}
			if accepted != nil {
				break
			}
		}
	}

	path := p.Path
	if path == flow.Forward && w.untracked && p.NATDst.IsValid() && p.DstLocal {
		// Without connection tracking there is no NAT: the packet goes to the address that is written on it.
		path = flow.Input
	}

	switch path {
	case flow.Input, flow.Local:
		// Calico: what comes from a workload meets the workload's own rules, accepted before NAT or not.
		if accepted != nil && !e.isWorkload(p.In) {
			return Decision{Verdict: flow.Allow, By: *accepted}
		}
		return w.final(w.ask(flow.NormalIn, p.In))

	case flow.Forward:
		if accepted == nil {
			out, by := w.ask(flow.ForwardIn, p.In)
			switch out {
			case denied:
				return Decision{Verdict: flow.Deny, By: by}
			case allowed:
				accepted = &by
			case noVerdict:
				w.noVerdict = true
			}
		}
		// The side it leaves by is asked whatever the side it came from said.
		out, by := w.ask(flow.ForwardOut, p.Out)
		switch {
		case out == denied:
			return Decision{Verdict: flow.Deny, By: by}
		case out == allowed:
			// Both sides accept; the one that had the last word is named.
			return Decision{Verdict: flow.Allow, By: by}
		case out == noVerdict:
			// Calico: the egress chain clears the accept mark before it asks.
			return Decision{Verdict: flow.None, By: flow.Origin{Kind: flow.OriginNoVerdict}}
		case accepted != nil:
			return Decision{Verdict: flow.Allow, By: *accepted}
		}
		return w.final(undecided, flow.Origin{})

	case flow.Output:
		routed := p.Out
		if p.RouteOut != "" {
			routed = p.RouteOut
		}
		switch out, by := w.ask(flow.UntrackedOut, routed); out {
		case denied:
			return Decision{Verdict: flow.Deny, By: by}
		case allowed:
			return Decision{Verdict: flow.Allow, By: by}
		}
		return w.final(w.ask(flow.NormalOut, p.Out))
	}
	return Decision{}
}

// sane reports whether p is a packet at all.
func sane(p *flow.Packet) bool {
	if p == nil || !p.Src.IsValid() || !p.Dst.IsValid() || p.Src.Is4() != p.Dst.Is4() || p.Src.Is4In6() || p.Dst.Is4In6() || p.State > flow.Untracked {
		return false
	}
	if p.NATDst.IsValid() && p.NATDst.Addr().Is4() != p.Dst.Is4() {
		return false
	}
	switch p.Path {
	case flow.Input, flow.Local:
		return p.In != ""
	case flow.Forward:
		return p.In != "" && p.Out != ""
	case flow.Output:
		return p.Out != ""
	}
	return false
}

// walk is one packet on its way.
type walk struct {
	e         *Evaluator
	rec       *recorder
	p         *flow.Packet
	untracked bool // let in untracked: no NAT, no state
	noVerdict bool // a side was asked and had no opinion
}

// final turns the outcome of the last hook into a Decision.
func (w *walk) final(out outcome, by flow.Origin) Decision {
	switch out {
	case allowed:
		return Decision{Verdict: flow.Allow, By: by}
	case denied:
		return Decision{Verdict: flow.Deny, By: by}
	case noVerdict:
		return Decision{Verdict: flow.None, By: by}
	}
	if w.noVerdict {
		return Decision{Verdict: flow.None, By: flow.Origin{Kind: flow.OriginNoVerdict}}
	}
	return Decision{Verdict: flow.None, By: flow.Origin{Kind: flow.OriginNoEndpoint}}
}

// ask asks the endpoint that governs iface at hook h.
func (w *walk) ask(h flow.Hook, iface string) (outcome, flow.Origin) {
	if h.Stage() == flow.StageNormal && w.e.isWorkload(iface) {
		by := flow.Origin{Kind: flow.OriginWorkload}
		w.rec.note(h, "", by, "traffic between the host and its own workloads is not policed here")
		return noVerdict, by
	}
	ep := w.e.governs(h.Stage(), iface)
	if ep == nil {
		w.rec.note(h, "", flow.Origin{Kind: flow.OriginNoEndpoint}, "no endpoint governs "+iface+" at this hook")
		return undecided, flow.Origin{}
	}
	s := stage{w: w, h: h, ep: ep, v: w.view(h)}
	return s.run()
}

// governs returns the endpoint that a stage asks for an interface. Ref: felix/dataplane/linux/endpoint_mgr.go,
// resolveHostEndpoints.
func (e *Evaluator) governs(st flow.Stage, iface string) *policy.Endpoint {
	own := e.byIface[iface]
	all := e.s.Wildcard
	if iface == "lo" && e.s.Config.ExemptLoopback {
		all = nil
	}
	switch st {
	case flow.StageUntracked:
		// Deviation from the page would be to apply it to all interfaces: the page says that is unsupported.
		if own != nil && len(own.Untracked) > 0 {
			return own
		}
		return nil
	case flow.StagePreDNAT:
		// Calico: an interface whose endpoint has no pre-DNAT policy falls to the all-interfaces endpoint.
		if own != nil && len(own.PreDNAT) > 0 {
			return own
		}
		if all != nil && len(all.PreDNAT) > 0 {
			return all
		}
		return nil
	}
	if own != nil {
		return own
	}
	return all
}

// isWorkload reports whether iface belongs to a workload.
func (e *Evaluator) isWorkload(iface string) bool {
	return slices.ContainsFunc(e.s.Config.WorkloadInterfacePrefixes, func(p string) bool { return strings.HasPrefix(iface, p) })
}

// view returns the packet as hook h sees it.
func (w *walk) view(h flow.Hook) view {
	p := w.p
	v := view{
		family: p.Family(), protocol: p.Protocol, src: p.Src, dst: p.Dst,
		srcPort: p.SrcPort, dstPort: p.DstPort, state: p.State,
	}
	if w.untracked {
		v.state = flow.Untracked
	}
	behindNAT := h == flow.NormalIn || h == flow.NormalOut || h == flow.ForwardIn || h == flow.ForwardOut
	if behindNAT && !w.untracked && p.NATDst.IsValid() {
		v.dst = p.NATDst.Addr()
		if v.hasPorts() {
			v.dstPort = p.NATDst.Port()
		}
	}
	if v.isICMP() {
		v.icmpType, v.icmpCode = p.ICMPType, p.ICMPCode
	}
	return v
}

func (v *view) hasPorts() bool {
	return v.protocol.HasPorts() || v.protocol == inet.UDPLite
}

// isICMP reports whether the packet is a control message of its own family.
func (v *view) isICMP() bool {
	return v.family == inet.IPv4 && v.protocol == inet.ICMP || v.family == inet.IPv6 && v.protocol == inet.ICMPv6
}
