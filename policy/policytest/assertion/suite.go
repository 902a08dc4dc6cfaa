// SPDX-License-Identifier: Apache-2.0

package assertion

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	"github.com/hostpolicy/hostpolicy/selector"
)

// maxPackets bounds what one test may come to.
const maxPackets = 200_000

// maxFailures is how many packets of a test Result lists.
const maxFailures = 10

// Suite knows the hosts of a cluster and answers tests about them. It is immutable and safe for concurrent use.
type Suite struct {
	hosts     map[string]*host
	endpoints []*endpoint // sorted by name
	sets      map[string][]netip.Prefix
	owners    map[netip.Addr]place // addresses that exactly one host has
	rules     []Rule               // that some host enforces, sorted
}

// host is one host with its policy.
type host struct {
	fleet.Host
	eval     *eval.Evaluator
	snapshot *policy.Snapshot
	dnat     []policytest.DNAT
	governs  map[string]bool // interfaces that have an endpoint of their own
}

// endpoint is a host endpoint that tests may name.
type endpoint struct {
	obj    *hostendpoint.HostEndpoint
	labels selector.MapLabels
}

// place is where traffic begins or ends.
type place struct {
	addr        netip.Addr
	node, iface string    // "" for an address outside
	who         string    // for people
	endpoint    *endpoint // nil for an address
	chosen      bool      // by a selector
}

// New prepares tests of the given resources on the given hosts; see fleet.Hosts. The error is that of fleet.Each.
func New(r hostendpoint.Resources, hosts []fleet.Host) (*Suite, error) {
	s := &Suite{hosts: make(map[string]*host, len(hosts)), sets: map[string][]netip.Prefix{}, owners: map[netip.Addr]place{}}
	rules := map[flow.Origin]Rule{}
	err := fleet.Each(r, hosts, func(fh fleet.Host, snap *policy.Snapshot) error {
		h := &host{Host: fh, eval: eval.New(snap), snapshot: snap, governs: map[string]bool{}}
		for _, d := range fh.DNAT {
			h.dnat = append(h.dnat, policytest.DNAT(d))
		}
		for _, ep := range snap.Endpoints {
			for _, i := range ep.Interfaces {
				h.governs[i] = true
			}
		}
		collectRules(rules, snap)
		s.hosts[fh.Node] = h
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, r := range rules {
		s.rules = append(s.rules, r)
	}
	slices.SortFunc(s.rules, compareRules)
	s.own(hosts)
	profiles := map[string]map[string]string{}
	for _, p := range r.Profiles {
		if p != nil {
			profiles[p.Metadata.Name] = p.Spec.LabelsToApply
		}
	}
	seen := map[string]bool{}
	for _, o := range r.HostEndpoints {
		if o == nil || seen[o.Metadata.Name] {
			continue
		}
		seen[o.Metadata.Name] = true
		var parents []map[string]string
		for _, p := range o.Spec.Profiles {
			parents = append(parents, profiles[p])
		}
		s.endpoints = append(s.endpoints, &endpoint{obj: o, labels: selector.Inherit(o.Metadata.Labels, parents...)})
	}
	slices.SortFunc(s.endpoints, func(a, b *endpoint) int { return strings.Compare(a.obj.Metadata.Name, b.obj.Metadata.Name) })
	for _, o := range r.GlobalNetworkSets {
		if o != nil {
			s.sets[o.Metadata.Name] = prefixes(o.Spec.Nets)
		}
	}
	for _, o := range r.NetworkSets {
		if o != nil {
			s.sets[o.Metadata.Namespace+"/"+o.Metadata.Name] = prefixes(o.Spec.Nets)
		}
	}
	return s, nil
}

// prefixes reads the nets of a set. What is not one was reported by validation.
func prefixes(texts []string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(texts))
	for _, t := range texts {
		if p, err := inet.ParsePrefix(t); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// own finds out which host has which address. Addresses that several have (on lo, of a virtual router, link-local ones)
// belong to none.
func (s *Suite) own(hosts []fleet.Host) {
	shared := map[netip.Addr]bool{}
	for _, h := range hosts {
		for _, i := range h.Interfaces {
			for _, p := range i.Addresses {
				a := p.Addr().Unmap()
				if o, ok := s.owners[a]; ok && o.node != h.Node || a.IsLoopback() {
					shared[a] = true
				}
				s.owners[a] = place{addr: a, node: h.Node, iface: i.Name, who: a.String()}
			}
		}
	}
	for a := range shared {
		delete(s.owners, a)
	}
}

// Run runs tests. The error is that of the context; what is wrong with a test is in its Result.
func (s *Suite) Run(ctx context.Context, tests []manifest.Test) (*Report, error) {
	rep := &Report{Results: make([]Result, 0, len(tests))}
	hits := map[flow.Origin]int{}
	for i := range tests {
		r, err := s.run(ctx, &tests[i], hits)
		if err != nil {
			return nil, err
		}
		rep.Results = append(rep.Results, r)
		rep.Packets += r.Packets
		if !r.OK() {
			rep.Failed++
		}
	}
	rep.Rules = slices.Clone(s.rules)
	for i := range rep.Rules {
		rep.Rules[i].Packets = hits[rep.Rules[i].Origin.ID()]
	}
	return rep, nil
}

// run runs one test, and counts what its packets matched.
func (s *Suite) run(ctx context.Context, t *manifest.Test, hits map[flow.Origin]int) (Result, error) {
	r := Result{Name: testName(t), Test: t}
	trips, err := s.expand(t)
	if err != nil {
		r.Err = err
		return r, nil
	}
	want, err := flow.ParseVerdict(t.Expect)
	if err != nil {
		r.Err = testError(t, "expect", t.Expect, err.Error())
		return r, nil
	}
	if err := checkOrigin(t.By); err != nil {
		r.Err = testError(t, "by", t.By, err.Error())
		return r, nil
	}
	for n, trip := range trips {
		if n%256 == 0 {
			if err := ctx.Err(); err != nil {
				return Result{}, err
			}
		}
		got := s.judge(trip, hits)
		r.Packets++
		if got.verdict == want && (t.By == "" || slices.ContainsFunc(got.by, func(o flow.Origin) bool { return isOrigin(t.By, o) })) {
			continue
		}
		r.Failed++
		if len(r.Failures) < maxFailures {
			r.Failures = append(r.Failures, got.failure(trip))
		}
	}
	return r, nil
}

// trip is one packet on its way from host to host: one hop for each host that is asked.
type trip struct {
	from, to string
	hops     []hop
}

type hop struct {
	host   *host
	packet policytest.Packet
}

// outcome is what becomes of a trip.
type outcome struct {
	verdict flow.Verdict
	by      []flow.Origin // of a denial the one that denied; otherwise all that were asked
	at      *hop          // where the last of them decided
}

func (s *Suite) judge(t trip, hits map[flow.Origin]int) outcome {
	out := outcome{verdict: flow.Allow}
	for i := range t.hops {
		h := &t.hops[i]
		d := h.host.eval.Explain(&h.packet.Packet)
		for _, step := range d.Trace {
			if k := step.Origin.Kind; step.Matched && (k == flow.OriginPolicy || k == flow.OriginProfile) {
				o := step.Origin.ID()
				o.Stage = flow.StageNormal
				hits[o]++
			}
		}
		switch d.Verdict {
		case flow.Deny:
			return outcome{flow.Deny, []flow.Origin{d.By}, h}
		case flow.None:
			out.verdict = flow.None
		}
		out.by, out.at = append(out.by, d.By), h
	}
	return out
}

func (o *outcome) failure(t trip) Failure {
	f := Failure{From: t.from, To: t.to, Node: o.at.host.Node, Packet: policytest.FormatPacket(&o.at.packet.Packet), Verdict: o.verdict}
	if n := len(o.by); n > 0 {
		f.By = o.by[n-1]
	}
	return f
}
