// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/effective"
)

// peer is what an endpoint or network set contributes to sets.
type peer struct {
	addrs []netip.Prefix
	ports []peerPort
}

type peerPort struct {
	name     string
	protocol inet.Protocol
	port     uint16
}

// netset is a network set of either kind.
type netset struct {
	peer
	static []Problem
}

// endpointPeer reads the addresses and ports of a host endpoint. What cannot be read is left out; validation has
// reported it. Calico: without expectedIPs an endpoint contributes nothing, whatever addresses its interface has.
func endpointPeer(h *hostendpoint.HostEndpoint) peer {
	var p peer
	for _, s := range h.Spec.ExpectedIPs {
		if a, err := inet.ParseAddr(s); err == nil {
			p.addrs = append(p.addrs, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, x := range h.Spec.Ports {
		// Deviation: in Calico a numeric protocol makes the endpoint vanish.
		if n, ok := x.Protocol.IP(); ok && n.HasPorts() && x.Port != 0 {
			p.ports = append(p.ports, peerPort{x.Name, n, x.Port})
		}
	}
	return p
}

func netPeer(nets []string) peer {
	var p peer
	for _, s := range nets {
		if n, err := inet.ParsePrefix(s); err == nil {
			p.addrs = append(p.addrs, n.Masked())
		}
	}
	return p
}

func (rs *Resolver) putNetworkSet(key string, o hostendpoint.Object, labels map[string]string, parents []string, nets []string) {
	n := rs.netsets[key]
	if n == nil {
		n = &netset{}
		rs.netsets[key] = n
	}
	n.static = rs.problems.replace(n.static, rs.check(o))
	rs.setPeer(key, &n.peer, netPeer(nets), nil)
	changes := rs.index.PutEndpoint(key, labels, parents...)
	rs.setNumber(key, nil, &n.peer)
	rs.matchAny(changes)
}

func (rs *Resolver) deleteNetworkSet(key string) {
	n := rs.netsets[key]
	if n == nil {
		return
	}
	i, _ := rs.index.Number(key)
	rs.matchAny(rs.index.DeleteEndpoint(key))
	rs.peers[i] = peerOf{}
	n.static = rs.problems.replace(n.static, nil)
	delete(rs.netsets, key)
}

// setsOf visits the sets that select what the index has under a key.
func (rs *Resolver) setsOf(key string) iter.Seq[*set] {
	return func(yield func(*set) bool) {
		for _, name := range rs.index.Selectors(key) {
			if x := rs.sets[name]; x != nil && !yield(x) {
				return
			}
		}
	}
}

// setPeer gives p, which the index has under key, the addresses and ports of now. H is the endpoint that p is of; nil for
// a network set.
func (rs *Resolver) setPeer(key string, p *peer, now peer, h *hep) {
	if slices.Equal(p.addrs, now.addrs) && slices.Equal(p.ports, now.ports) {
		return
	}
	old := *p
	p.addrs, p.ports = now.addrs, now.ports
	for x := range rs.setsOf(key) {
		rs.contribute(x, p, 1)
		rs.contribute(x, &old, -1)
	}
	if h != nil {
		rs.touchHep(h)
	}
}

// set is a set that rules in use name.
type set struct {
	effective.SetSpec
	refs     int
	owners   map[*boundPolicy]int // policies among those who name it, and how often
	members  map[Member]int32     // and how many contribute each
	loopback int                  // how many members overlap loopback addresses
	empty    bool                 // as the owners know it
	value    *Set                 // nil if it is out of date

	indexed bool // it was put into the index
	dirty   bool
	changed bool
	known   bool            // it was there at the last Commit
	touched map[Member]bool // since then, if it was, and whether the member was there
}

func (rs *Resolver) touchSet(x *set) {
	if !x.dirty {
		x.dirty = true
		rs.dirtySets = append(rs.dirtySets, x)
	}
}

func (rs *Resolver) changeSet(x *set) {
	x.value = nil
	if !x.changed {
		x.changed = true
		rs.changedSets = append(rs.changedSets, x)
	}
}

// declare adds references to sets, which a policy or (if owner is nil) a profile makes.
func (rs *Resolver) declare(specs []setSource, owner *boundPolicy) {
	for i := range specs {
		id := specs[i].ID
		x := rs.sets[id]
		if x == nil {
			x = &set{SetSpec: specs[i].SetSpec, owners: map[*boundPolicy]int{}, members: map[Member]int32{}}
			rs.sets[id] = x
		}
		if x.refs == 0 {
			rs.touchSet(x)
			rs.changeSet(x)
		}
		x.refs++
		if owner != nil {
			if x.owners[owner]++; x.owners[owner] == 1 {
				rs.touchPolicy(owner)
			}
		}
	}
}

func (rs *Resolver) undeclare(specs []setSource, owner *boundPolicy) {
	for i := range specs {
		x := rs.sets[specs[i].ID]
		x.refs--
		if owner != nil {
			if x.owners[owner]--; x.owners[owner] == 0 {
				delete(x.owners, owner)
			}
		}
		if x.refs == 0 {
			rs.touchSet(x)
			rs.changeSet(x)
		}
	}
}

// settleSet computes the members of a set that is new, and forgets those of one that nobody names any more.
// Ref: felix/labelindex/named_port_index.go.
func (rs *Resolver) settleSet(x *set) {
	x.dirty = false
	if x.Kind == effective.Selector || x.Kind == effective.NamedPort {
		switch {
		case x.refs > 0 && !x.indexed:
			x.indexed = true
			changes := rs.index.PutSelector(x.ID, x.Selector)
			if len(x.members) == 0 && len(changes) > 8 {
				x.members = make(map[Member]int32, len(changes))
			}
			rs.matchAny(changes)
		case x.refs == 0 && x.indexed:
			x.indexed = false
			rs.matchAny(rs.index.DeleteSelector(x.ID))
		}
	}
	if empty := len(x.members) == 0; empty != x.empty {
		x.empty = empty
		for p := range x.owners {
			rs.touchPolicy(p)
		}
	}
}

// matchSet notes that a set begins or ceases to select a peer. H is the endpoint that it is of; nil for a network set.
func (rs *Resolver) matchSet(x *set, p *peer, h *hep, match bool) {
	n := int32(1)
	if !match {
		n = -1
	}
	rs.contribute(x, p, n)
	if h != nil && len(p.addrs) == 0 {
		rs.touchHep(h)
	}
}

// wouldFill reports whether the peer would contribute to a set that selects it, if it had an address.
func (p *peer) wouldFill(x *set) bool {
	return x.Kind == effective.Selector || slices.ContainsFunc(p.ports, func(q peerPort) bool {
		return q.name == x.PortName && q.protocol == x.Protocol
	})
}

// contribute adds what p contributes to x, or takes it away.
func (rs *Resolver) contribute(x *set, p *peer, n int32) {
	if x.Kind == effective.Selector {
		for _, a := range p.addrs {
			rs.count(x, Member{Prefix: a}, n)
		}
		return
	}
	for _, port := range p.ports {
		if port.name != x.PortName || port.protocol != x.Protocol {
			continue
		}
		for _, a := range p.addrs {
			rs.count(x, Member{Prefix: a, Protocol: port.protocol, Port: port.port}, n)
		}
	}
}

func (rs *Resolver) count(x *set, m Member, n int32) {
	before := x.members[m]
	now := before + n
	if now > 0 {
		x.members[m] = now
	} else {
		delete(x.members, m)
	}
	if (before > 0) == (now > 0) {
		return
	}
	if x.known {
		if x.touched == nil {
			x.touched = map[Member]bool{}
		}
		if _, ok := x.touched[m]; !ok {
			x.touched[m] = before > 0
		}
	}
	rs.changeSet(x)
	if (len(x.members) == 0) != x.empty {
		rs.touchSet(x)
	}
	if isLoopback(m.Prefix) {
		x.loopback += int(now) - int(before)
		rs.dirtyLoopback = true
	}
}

// get returns the set as Snapshots have it.
func (x *set) get() *Set {
	if x.value == nil {
		s := &Set{ID: x.ID, PortName: x.PortName, Ports: x.Kind.HasPorts()}
		if x.Kind == effective.Selector || x.Kind == effective.NamedPort {
			s.Selector = x.Selector.String()
		}
		if len(x.members) > 0 {
			s.Members = slices.AppendSeq(make([]Member, 0, len(x.members)), maps.Keys(x.members))
			slices.SortFunc(s.Members, compareMembers)
		}
		x.value = s
	}
	return x.value
}

func compareMembers(a, b Member) int {
	if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}
