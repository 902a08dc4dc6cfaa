// SPDX-License-Identifier: Apache-2.0

package policytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Size bounds what Generate makes. The zero value is small.
type Size struct {
	Policies int // at most; 0 means 6
	Rules    int // at most, in one direction of one policy; 0 means 4
	Packets  int // at most, chosen at random; 0 means all of the small universe
}

// Generate returns a random case: valid resources that use most of what the model has, and packets without verdict. It
// is a pure function of seed and size. The universe is small, so that rules meet packets: few addresses, ports and
// names, and three kinds of host. What is right is for another implementation to say.
func Generate(seed uint64, size Size) *Case {
	if size.Policies == 0 {
		size.Policies = 6
	}
	if size.Rules == 0 {
		size.Rules = 4
	}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x686f7374)), size: size}
	c := &Case{Name: "generated-" + strconv.FormatUint(seed, 10), Comment: fmt.Sprintf("Random resources and packets, seed %d.\n", seed), Forwarding: true}
	g.host(c)
	c.Config = g.config()
	c.Resources.Add(g.resources()...)
	c.Packets = g.packets(c)
	return c
}

type generator struct {
	*rand.Rand
	size Size
}

// pick returns one of xs.
func pick[T any](g *generator, xs ...T) T { return xs[g.IntN(len(xs))] }

// chance is true n times out of a hundred.
func (g *generator) chance(n int) bool { return g.IntN(100) < n }

// some returns between lo and hi of xs, without repetition, in a random order.
func some[T any](g *generator, lo, hi int, xs ...T) []T {
	n := min(lo+g.IntN(hi-lo+1), len(xs))
	out := make([]T, 0, n)
	for _, i := range g.Perm(len(xs))[:n] {
		out = append(out, xs[i])
	}
	return out
}

// The universe.
var (
	universePorts  = []uint16{22, 53, 80, 8080}
	universeNets4  = []string{"10.9.0.0/24", "10.9.0.2/32", "10.9.0.1/32", "10.8.0.2/32", "10.8.0.0/24", "10.65.0.2/32", "10.0.0.0/8", "0.0.0.0/0", "10.9.0.0/31", "192.0.2.0/24"}
	universeNets6  = []string{"fd00:9::/64", "fd00:9::2/128", "fd00:9::1/128", "fd00:8::2/128", "fd00:8::/64", "fd00:65::2/128", "fd00::/16", "::/0", "2001:db8::/32"}
	universeNotAll = func(n string) bool { return n == "0.0.0.0/0" || n == "::/0" }
)

func (g *generator) host(c *Case) {
	p := netip.MustParsePrefix
	eth0 := hostendpoint.Interface{Name: "eth0", Addresses: []netip.Prefix{p("10.9.0.1/24"), p("fd00:9::1/64")}}
	eth1 := hostendpoint.Interface{Name: "eth1", Addresses: []netip.Prefix{p("10.8.0.1/24"), p("fd00:8::1/64")}}
	cali := hostendpoint.Interface{Name: "cali1"}
	c.Host = hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{eth0, eth1, cali}}
	a := netip.MustParseAddrPort
	switch g.IntN(3) {
	case 0:
		c.DNAT = []DNAT{
			{Protocol: inet.TCP, To: a("10.9.0.1:8080"), Becomes: a("10.8.0.2:80")},
			{Protocol: inet.TCP, To: a("10.9.0.1:53"), Becomes: a("10.9.0.1:80")},
			{Protocol: inet.UDP, To: a("10.8.0.9:80"), Becomes: a("10.9.0.2:8080")},
			{Protocol: inet.TCP, To: a("[fd00:9::1]:8080"), Becomes: a("[fd00:8::2]:80")},
			{Protocol: inet.SCTP, To: a("[fd00:8::9]:80"), Becomes: a("[fd00:65::2]:22")},
		}
	case 1:
		c.Host.Interfaces = append(c.Host.Interfaces, hostendpoint.Interface{Name: "eth10", Addresses: []netip.Prefix{p("10.7.0.1/24")}})
	}
}

func (g *generator) config() policy.Config {
	var c policy.Config
	if g.chance(60) {
		return c
	}
	if g.chance(30) {
		c.Failsafes.Inbound = []policy.FailsafePort{}
		if g.chance(60) {
			c.Failsafes.Inbound = append(c.Failsafes.Inbound,
				policy.FailsafePort{Protocol: inet.TCP, Port: 80, Net: netip.MustParsePrefix(pick(g, "10.9.0.0/24", "fd00:9::2/128"))},
				policy.FailsafePort{Protocol: inet.UDP, Port: 22})
		}
	}
	if g.chance(30) {
		c.Failsafes.Outbound = []policy.FailsafePort{{Protocol: inet.TCP, Port: 8080}, {Protocol: inet.UDP, Port: 80, Net: netip.MustParsePrefix("10.8.0.0/24")}}
	}
	if g.chance(30) {
		c.Failsafes.NeighborDiscovery = policy.Off
	}
	c.DisableConntrackInvalidCheck = g.chance(30)
	c.ExemptLoopback = g.chance(30)
	c.IgnoreHTTP = g.chance(30)
	return c
}

func (g *generator) labels() map[string]string {
	l := map[string]string{}
	if g.chance(70) {
		l["role"] = pick(g, "web", "db")
	}
	if g.chance(60) {
		l["env"] = pick(g, "prod", "dev")
	}
	if g.chance(8) {
		l["projectcalico.org/namespace"] = "ns1"
	}
	return l
}

func (g *generator) selector() string {
	return pick(g, "", "all()", "has(role)", "!has(env)", "role == 'web'", "role == 'db'", "role != 'web'", "env in {'prod', 'x'}",
		"env not in {'dev'}", "role == 'web' && env == 'prod'", "role == 'db' || has(env)", "role starts with 'w'", "env == 'none'")
}

// subject returns a selector for the endpoints of a policy; most select most of them.
func (g *generator) subject() string {
	if g.chance(50) {
		return pick(g, "", "all()", "!has(nothing)")
	}
	return g.selector()
}

func (g *generator) order() *float64 {
	if g.chance(30) {
		return nil
	}
	o := pick(g, -1.0, 1, 1, 2, 3.5, 1000000)
	return &o
}

func (g *generator) resources() []hostendpoint.Object {
	var out []hostendpoint.Object
	tiers := some(g, 0, 2, "ta", "tb", "zz")
	for _, name := range tiers {
		t := &hostendpoint.Tier{}
		t.Metadata.Name, t.Spec.Order = name, g.order()
		if g.chance(40) {
			a := pick(g, hostendpoint.Deny, hostendpoint.Pass)
			t.Spec.DefaultAction = &a
		}
		out = append(out, t)
	}
	if g.chance(20) {
		t := &hostendpoint.Tier{}
		order, action := 1000000.0, hostendpoint.Pass
		t.Metadata.Name, t.Spec.Order, t.Spec.DefaultAction = "default", &order, &action
		out = append(out, t)
	}
	for i, name := range some(g, 0, 3, "pa", "pb", "pc") {
		p := &hostendpoint.Profile{}
		p.Metadata.Name = name
		p.Spec.Ingress, p.Spec.Egress = g.rules(false), g.rules(true)
		if i == 0 && g.chance(40) {
			p.Spec.LabelsToApply = map[string]string{"role": "web", "tier": "x"}
		}
		out = append(out, p)
	}
	out = append(out, g.endpoints()...)
	for i := range g.IntN(3) {
		s := &hostendpoint.GlobalNetworkSet{}
		s.Metadata.Name, s.Metadata.Labels = "s"+strconv.Itoa(i), g.labels()
		delete(s.Metadata.Labels, "projectcalico.org/namespace")
		s.Spec.Nets = append(some(g, 0, 2, universeNets4...), some(g, 0, 2, universeNets6...)...)
		out = append(out, s)
	}
	if g.chance(20) {
		s := &hostendpoint.NetworkSet{}
		s.Metadata.Name, s.Metadata.Namespace, s.Metadata.Labels = "n", "ns1", map[string]string{"role": "db"}
		s.Spec.Nets = some(g, 1, 2, universeNets4...)
		out = append(out, s)
	}
	tiers = append(tiers, "default", "default", "ghost")
	for i := range 1 + g.IntN(g.size.Policies) {
		out = append(out, g.policy(string(rune('a'+i)), pick(g, tiers...)))
	}
	return out
}

func (g *generator) endpoints() []hostendpoint.Object {
	var out []hostendpoint.Object
	add := func(name, node, iface string, ips ...string) {
		h := &hostendpoint.HostEndpoint{}
		h.Metadata.Name, h.Metadata.Labels = name, g.labels()
		h.Spec = hostendpoint.HostEndpointSpec{
			Node: node, InterfaceName: iface, ExpectedIPs: ips,
			Profiles: some(g, 0, 2, "pa", "pb", "pc", "projectcalico-default-allow", "nowhere"),
		}
		tcp := pick(g, hostendpoint.Protocol{Name: "TCP"}, hostendpoint.Protocol{Number: 6})
		h.Spec.Ports = some(g, 0, 3,
			hostendpoint.EndpointPort{Name: "web", Protocol: tcp, Port: pick(g, uint16(80), 8080)},
			hostendpoint.EndpointPort{Name: "dns", Protocol: hostendpoint.Protocol{Name: "UDP"}, Port: 53},
			hostendpoint.EndpointPort{Name: "sig", Protocol: hostendpoint.Protocol{Name: "SCTP"}, Port: 80})
		out = append(out, h)
	}
	names := some(g, 3, 3, "h1", "h2", "h3")
	if g.chance(85) {
		if g.chance(70) {
			add(names[0], "host-a", "eth0", some(g, 0, 2, "10.9.0.1", "fd00:9::1", "10.9.0.2")...)
		} else {
			add(names[0], "host-a", "", some(g, 1, 2, "10.9.0.1", "fd00:9::1")...)
		}
	}
	if g.chance(50) {
		add(names[1], "host-a", "eth1", some(g, 0, 2, "10.8.0.1", "fd00:8::1")...)
	}
	if g.chance(55) {
		add(names[2], "host-a", "*", some(g, 0, 2, "10.9.0.1", "10.8.0.1", "fd00:8::1")...)
	}
	if g.chance(60) {
		add("peer-a", "host-b", "eth0", some(g, 1, 3, "10.9.0.2", "fd00:9::2", "10.8.0.2")...)
	}
	if g.chance(40) {
		add("peer-b", "host-c", "*", some(g, 1, 2, "10.8.0.2", "fd00:8::2", "10.65.0.2")...)
	}
	return out
}

func (g *generator) policy(name, tier string) hostendpoint.Object {
	if tier != "default" {
		name = tier + "." + name
	}
	if g.chance(10) {
		p := &hostendpoint.NetworkPolicy{}
		p.Metadata.Name, p.Metadata.Namespace = name, "ns1"
		p.Spec = hostendpoint.NetworkPolicySpec{
			Tier: tier, Order: g.order(), Selector: g.subject(), Types: g.types(),
			Ingress: g.rules(false), Egress: g.rules(true),
		}
		return p
	}
	p := &hostendpoint.GlobalNetworkPolicy{}
	p.Metadata.Name = name
	s := &p.Spec
	s.Tier, s.Order, s.Selector, s.Types = tier, g.order(), g.subject(), g.types()
	s.Ingress, s.Egress = g.rules(false), g.rules(true)
	switch n := g.IntN(100); {
	case n < 12:
		s.DoNotTrack, s.ApplyOnForward = true, true
	case n < 26:
		s.PreDNAT, s.ApplyOnForward = true, true
		s.Egress = nil
		s.Types = pick(g, nil, []hostendpoint.PolicyType{hostendpoint.PolicyTypeIngress})
	case n < 55:
		s.ApplyOnForward = true
	}
	if g.chance(5) {
		s.NamespaceSelector = pick(g, "env == 'prod'", "env != 'prod'", "all()")
	}
	return p
}

func (g *generator) types() []hostendpoint.PolicyType {
	in, out := hostendpoint.PolicyTypeIngress, hostendpoint.PolicyTypeEgress
	return pick(g, nil, nil, []hostendpoint.PolicyType{in}, []hostendpoint.PolicyType{out}, []hostendpoint.PolicyType{in, out}, []hostendpoint.PolicyType{out, in})
}

func (g *generator) rules(egress bool) []hostendpoint.Rule {
	if g.chance(15) {
		return nil
	}
	var out []hostendpoint.Rule
	for range g.IntN(g.size.Rules + 1) {
		out = append(out, g.rule(egress))
	}
	return out
}

func (g *generator) rule(egress bool) hostendpoint.Rule {
	r := hostendpoint.Rule{Action: pick(g, hostendpoint.Allow, hostendpoint.Allow, hostendpoint.Allow, hostendpoint.Deny, hostendpoint.Deny,
		hostendpoint.Pass, hostendpoint.Log)}
	name := func(s string) *hostendpoint.Protocol { return &hostendpoint.Protocol{Name: s} }
	family := pick(g, 0, 0, 4, 6)
	if family != 0 && g.chance(30) {
		f := family
		r.IPVersion = &f
	}
	switch n := g.IntN(100); {
	case n < 50:
		r.Protocol = pick(g, name("TCP"), name("TCP"), name("UDP"), name("SCTP"), &hostendpoint.Protocol{Number: 6})
	case n < 58 && family != 6:
		r.Protocol, family = name("ICMP"), 4
	case n < 66 && family != 4:
		r.Protocol, family = name("ICMPv6"), 6
	case n < 70:
		r.Protocol = pick(g, &hostendpoint.Protocol{Number: 1}, &hostendpoint.Protocol{Number: 58}, name("UDPLite"))
	}
	if r.Protocol != nil && (r.Protocol.Name == "ICMP" || r.Protocol.Name == "ICMPv6") && g.chance(60) {
		r.ICMP = g.icmp()
	}
	if g.chance(6) {
		r.NotICMP = g.icmp()
	}
	if g.chance(10) {
		not := pick(g, name("TCP"), name("UDP"), name("ICMP"), name("ICMPv6"))
		if r.IPVersion == nil || not.Name != "ICMP" && not.Name != "ICMPv6" {
			r.NotProtocol = not
		}
	}
	ports := r.Protocol != nil && (r.Protocol.Name == "TCP" || r.Protocol.Name == "UDP" || r.Protocol.Name == "SCTP" || r.Protocol.Number == 6)
	r.Source, r.Destination = g.side(family, ports), g.side(family, ports)
	// Destinations have more to say about ports, sources about addresses.
	if g.chance(50) {
		r.Source.Ports, r.Source.NotPorts = nil, nil
	}
	if g.chance(2) && !egress && r.Action == hostendpoint.Allow && r.Protocol != nil && r.Protocol.Name == "TCP" {
		r.HTTP = &hostendpoint.HTTPMatch{Methods: []string{"GET"}}
	}
	return r
}

func (g *generator) icmp() *hostendpoint.ICMPFields {
	i := &hostendpoint.ICMPFields{}
	t := pick(g, 8, 13, 0, 128, 139, 135)
	i.Type = &t
	if g.chance(40) {
		c := pick(g, 0, 1)
		i.Code = &c
	}
	return i
}

func (g *generator) side(family int, ports bool) hostendpoint.EntityRule {
	var e hostendpoint.EntityRule
	nets := slices.Clone(universeNets4)
	if family == 6 {
		nets = slices.Clone(universeNets6)
	}
	if family != 0 {
		if g.chance(30) {
			e.Nets = some(g, 1, 3, nets...)
		}
		if g.chance(12) {
			e.NotNets = some(g, 1, 2, slices.DeleteFunc(nets, universeNotAll)...)
		}
	}
	if g.chance(15) {
		e.Selector = g.selector()
	}
	if g.chance(8) {
		e.NotSelector = g.selector()
	}
	if g.chance(3) {
		e.NamespaceSelector = pick(g, "global()", "env == 'prod'", "all()")
	}
	if ports {
		if g.chance(40) {
			e.Ports = some(g, 1, 3, g.ports()...)
		}
		if g.chance(10) {
			e.NotPorts = some(g, 1, 2, g.ports()...)
		}
	}
	return e
}

func (g *generator) ports() []hostendpoint.Port {
	return []hostendpoint.Port{
		{Min: 22, Max: 22}, {Min: 53, Max: 53}, {Min: 80, Max: 80}, {Min: 8080, Max: 8080}, {Min: 50, Max: 100}, {Min: 1, Max: 65535},
		{Min: 40000, Max: 40000}, {Min: 81, Max: 8080}, {Name: "web"}, {Name: "dns"}, {Name: "sig"}, {Name: "nope"},
	}
}

// packets returns the packets of the universe, or a choice of them.
func (g *generator) packets(c *Case) []Packet {
	type link struct {
		path     flow.Path
		in, out  string
		src, dst []string
	}
	links := []link{
		{flow.Input, "eth0", "", []string{"10.9.0.2", "fd00:9::2"}, []string{"10.9.0.1", "fd00:9::1", "10.8.0.1"}},
		{flow.Input, "eth1", "", []string{"10.8.0.2", "fd00:8::2"}, []string{"10.8.0.1", "fd00:8::1"}},
		{flow.Input, "lo", "", []string{"127.0.0.1", "::1"}, []string{"127.0.0.1", "::1"}},
		{flow.Output, "", "eth0", []string{"10.9.0.1", "fd00:9::1"}, []string{"10.9.0.2", "fd00:9::2", "10.8.0.9"}},
		{flow.Output, "", "eth1", []string{"10.8.0.1", "fd00:8::1"}, []string{"10.8.0.2", "fd00:8::2", "10.9.0.1"}},
		{flow.Output, "", "cali1", []string{"10.9.0.1", "fd00:9::1"}, []string{"10.65.0.2", "fd00:65::2", "fd00:8::9"}},
		{flow.Output, "", "lo", []string{"127.0.0.1", "::1"}, []string{"127.0.0.1", "::1"}},
		{flow.Forward, "eth0", "eth1", []string{"10.9.0.2", "fd00:9::2"}, []string{"10.8.0.2", "fd00:8::2", "10.9.0.1", "fd00:9::1"}},
		{flow.Forward, "eth1", "eth0", []string{"10.8.0.2", "fd00:8::2"}, []string{"10.9.0.2", "fd00:9::2"}},
		{flow.Forward, "eth0", "cali1", []string{"10.9.0.2", "fd00:9::2"}, []string{"10.65.0.2", "fd00:65::2"}},
		{flow.Forward, "cali1", "eth0", []string{"10.65.0.2", "fd00:65::2"}, []string{"10.9.0.2", "fd00:9::2"}},
		{flow.Local, "cali1", "", []string{"10.65.0.2", "fd00:65::2"}, []string{"10.9.0.1", "fd00:9::1", "10.8.0.1"}},
	}
	var out []Packet
	for _, l := range links {
		for _, s := range l.src {
			for _, d := range l.dst {
				src, dst := netip.MustParseAddr(s), netip.MustParseAddr(d)
				if src.Is4() != dst.Is4() {
					continue
				}
				for _, p := range shapes(src.Is4()) {
					p.Path, p.In, p.Out, p.Src, p.Dst = l.path, l.in, l.out, src, dst
					complete(&p, c.Host, c.DNAT)
					if goesAsSaid(&p, c.Host) {
						out = append(out, Packet{Packet: p})
					}
				}
			}
		}
	}
	if n := g.size.Packets; n > 0 && n < len(out) {
		g.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		out = slices.Clip(out[:n])
	}
	for i := range out {
		out[i].Text = FormatPacket(&out[i].Packet)
	}
	return out
}

// shapes returns what can be behind the addresses: every protocol, port and state that the kernel can have.
func shapes(v4 bool) []flow.Packet {
	var out []flow.Packet
	for _, proto := range []inet.Protocol{inet.TCP, inet.UDP, inet.SCTP} {
		for _, sport := range []uint16{40000, 80, 53} {
			for _, dport := range universePorts {
				for _, st := range []flow.ConnState{flow.New, flow.Established, flow.Invalid, flow.Related} {
					if st != flow.New && (sport != 40000 || proto == inet.SCTP && st != flow.Established) {
						continue
					}
					out = append(out, flow.Packet{Protocol: proto, SrcPort: sport, DstPort: dport, State: st})
				}
			}
		}
	}
	icmp, types := inet.ICMP, []uint8{8, 13}
	if !v4 {
		icmp, types = inet.ICMPv6, []uint8{128, 139, 135, 143}
	}
	for _, t := range types {
		p := flow.Packet{Protocol: icmp, ICMPType: t}
		if !v4 && (t == 135 || t == 143) {
			p.State = flow.Untracked
		}
		out = append(out, p)
	}
	reply := uint8(0)
	if !v4 {
		reply = 129
	}
	out = append(out, flow.Packet{Protocol: icmp, ICMPType: reply, State: flow.Established}, flow.Packet{Protocol: icmp, ICMPType: reply, State: flow.Invalid})
	return append(out, flow.Packet{Protocol: inet.UDPLite, SrcPort: 40000, DstPort: 80}, flow.Packet{Protocol: 253})
}

// goesAsSaid reports whether the routes of the host, and its NAT, send p the way that it claims.
func goesAsSaid(p *flow.Packet, h hostendpoint.Host) bool {
	dst := p.Dst
	if p.NATDst.IsValid() {
		dst = p.NATDst.Addr()
	}
	local := isLocal(dst, h)
	switch p.Path {
	case flow.Input, flow.Local:
		return local
	case flow.Forward:
		if local {
			return false
		}
	case flow.Output:
		if local {
			return p.Out == "lo"
		}
	}
	if out := RouteOut(dst, h); out != "" {
		return out == p.Out
	}
	return p.Out == "cali1" // the route to a workload is made for it
}
