// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Each resolves resources for one host after the other and calls do with each result. It stops at the first error, of
// do or of a host that makes no sense. A host costs little more than its own endpoints: what is the same for all is
// resolved once. Do may keep the snapshots.
func Each(r hostendpoint.Resources, hosts []Host, do func(Host, *policy.Snapshot) error) error {
	var rs *policy.Resolver
	var config policy.Config // of rs, as it was given
	for _, h := range hosts {
		if rs == nil || !sameConfig(config, h.Config) {
			var err error
			if rs, err = policy.NewResolver(h.Host, h.Config); err != nil {
				return err
			}
			config = h.Config
			rs.Load(r)
		} else if err := rs.SetHost(h.Host); err != nil {
			return err
		}
		if err := do(h, rs.Snapshot()); err != nil {
			return err
		}
	}
	return nil
}

func sameConfig(a, b policy.Config) bool {
	sameList := func(x, y []policy.FailsafePort) bool { return (x == nil) == (y == nil) && slices.Equal(x, y) }
	return sameList(a.Failsafes.Inbound, b.Failsafes.Inbound) && sameList(a.Failsafes.Outbound, b.Failsafes.Outbound) &&
		(a.WorkloadInterfacePrefixes == nil) == (b.WorkloadInterfacePrefixes == nil) && slices.Equal(a.WorkloadInterfacePrefixes, b.WorkloadInterfacePrefixes) &&
		a.Failsafes.NeighborDiscovery == b.Failsafes.NeighborDiscovery && a.AllowAction == b.AllowAction && a.DenyAction == b.DenyAction &&
		a.DisableConntrackInvalidCheck == b.DisableConntrackInvalidCheck && a.IgnoreHTTP == b.IgnoreHTTP && a.ExemptLoopback == b.ExemptLoopback
}

// Group is the hosts of a fleet that enforce the same: the same rules on interfaces of the same names. The names of
// their endpoints may differ.
type Group struct {
	Nodes []string // sorted
	// Of the first node.
	Host     Host
	Snapshot *policy.Snapshot
	Program  *ir.Program
	Members  ir.Members
	// Fingerprint identifies program, members and configuration, in which endpoints go by the names of their interfaces.
	// Groups of different resources enforce the same if it is equal.
	Fingerprint ir.Fingerprint
}

// Groups finds out which hosts enforce the same. The result is sorted: the largest group first, then by first node.
// The error is that of Each or of compile.Compile.
func Groups(r hostendpoint.Resources, hosts []Host) ([]*Group, error) {
	var out []*Group
	byShape := map[string]*Group{}
	byPrint := map[ir.Fingerprint]*Group{}
	err := Each(r, hosts, func(h Host, s *policy.Snapshot) error {
		key := shape(s)
		g := byShape[key]
		if g == nil {
			g = &Group{Host: h, Snapshot: s}
			if err := g.compile(); err != nil {
				return fmt.Errorf("node %s: %w", h.Node, err)
			}
			if same := byPrint[g.Fingerprint]; same != nil {
				g = same
			} else {
				byPrint[g.Fingerprint] = g
				out = append(out, g)
			}
			byShape[key] = g
		}
		g.Nodes = append(g.Nodes, h.Node)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, g := range out {
		slices.Sort(g.Nodes)
	}
	slices.SortFunc(out, func(a, b *Group) int {
		return cmp.Or(cmp.Compare(len(b.Nodes), len(a.Nodes)), strings.Compare(a.Nodes[0], b.Nodes[0]))
	})
	return out, nil
}

func (g *Group) compile() error {
	var err error
	if g.Program, g.Members, err = compile.Compile(g.Snapshot); err != nil {
		return err
	}
	p, m, err := compile.Compile(anonymous(g.Snapshot))
	if err != nil {
		return err
	}
	h := sha256.New()
	for _, f := range []ir.Fingerprint{p.Fingerprint(), m.Fingerprint()} {
		h.Write(f[:])
	}
	fmt.Fprintf(h, "%+v", g.Snapshot.Config) // what renderers read of it
	h.Sum(g.Fingerprint[:0])
	return nil
}

// anonymous returns s with endpoints that are called after their interfaces.
func anonymous(s *policy.Snapshot) *policy.Snapshot {
	out := *s
	out.Endpoints = make([]*policy.Endpoint, len(s.Endpoints))
	for i, ep := range s.Endpoints {
		out.Endpoints[i] = renamed(ep)
	}
	slices.SortFunc(out.Endpoints, func(a, b *policy.Endpoint) int { return strings.Compare(a.Name, b.Name) })
	if s.Wildcard != nil {
		out.Wildcard = renamed(s.Wildcard)
	}
	return &out
}

func renamed(ep *policy.Endpoint) *policy.Endpoint {
	x := *ep
	x.Name = interfaces(ep)
	return &x
}

func interfaces(ep *policy.Endpoint) string {
	if len(ep.Interfaces) == 0 {
		return hostendpoint.AllInterfaces
	}
	return strings.Join(ep.Interfaces, ",")
}

// shape says by name what a host asks on each interface. For the same resources, hosts of one shape enforce the same.
func shape(s *policy.Snapshot) string {
	eps := make([]string, 0, len(s.Endpoints)+1)
	for _, ep := range s.Endpoints {
		eps = append(eps, endpointShape(ep))
	}
	slices.Sort(eps)
	if s.Wildcard != nil {
		eps = append(eps, endpointShape(s.Wildcard))
	}
	return fmt.Sprintf("%+v\n%s", s.Config, strings.Join(eps, "\n"))
}

func endpointShape(ep *policy.Endpoint) string {
	var b strings.Builder
	b.WriteString(interfaces(ep))
	for _, stage := range [][]policy.TierPolicies{ep.Untracked, ep.PreDNAT, ep.Normal, ep.Forward} {
		b.WriteString(" |")
		for _, t := range stage {
			b.WriteString(" tier " + t.Tier.Name)
			for _, list := range [][]*policy.Policy{t.Ingress, t.Egress} {
				b.WriteString(" :")
				for _, p := range list {
					b.WriteString(" " + p.Kind + " " + p.Name)
				}
			}
		}
	}
	b.WriteString(" |")
	for _, p := range ep.Profiles {
		b.WriteString(" " + p.Name)
	}
	return b.String()
}
