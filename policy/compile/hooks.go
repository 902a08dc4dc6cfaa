// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// entries adds the entries of all hooks at which something can be asked, and what they lead to. Traffic of the host's own
// workloads is told apart even where there is no endpoint, so that the answer names the true reason.
func (c *compiler) entries() {
	for _, h := range flow.Hooks {
		specific, wildcard := c.scope(h)
		if len(specific) == 0 && wildcard == nil && (h.Stage() != flow.StageNormal || len(c.workloads) == 0) {
			continue
		}
		e := c.entry(h)
		if e.Always != "" {
			c.block(e.Always, []ir.Step{c.workload(ir.InIface)})
		}
		c.block(e.Block, c.dispatch(h, specific, wildcard))
		c.prog.Entries = append(c.prog.Entries, e)
	}
}

// entry returns the entry of a hook at which something can be asked.
func (c *compiler) entry(h flow.Hook) ir.Entry {
	e := ir.Entry{Hook: h, Block: blockID("hook", h.String())}
	switch h {
	case flow.UntrackedIn:
		e.NoTrack, e.Settles = true, flow.HooksOf(flow.PreDNAT, flow.NormalIn, flow.ForwardIn)
	case flow.UntrackedOut:
		e.NoTrack, e.Settles = true, flow.HooksOf(flow.NormalOut)
	case flow.PreDNAT:
		e.Settles = flow.HooksOf(flow.NormalIn, flow.ForwardIn)
	case flow.NormalIn:
		// Calico: INPUT leaves for the workload's rules before it looks at the accept mark, so that what pre-DNAT
		// policy allowed is not allowed yet. Ref: felix/rules/static.go, filterInputChain.
		if len(c.workloads) > 0 {
			e.Always = blockID("workload", h.String())
		}
	}
	return e
}

// scope returns the endpoints that take part at a hook: those with interfaces of their own, and the wildcard that takes
// every other interface.
//
// Calico: an interface whose endpoint has no pre-DNAT policy falls to the wildcard's; normal and forward policy of the
// wildcard never reach an interface that has an endpoint; untracked policy of the wildcard is not applied at all.
// Ref: felix/dataplane/linux/endpoint_mgr.go, resolveHostEndpoints.
func (c *compiler) scope(h flow.Hook) ([]*policy.Endpoint, *policy.Endpoint) {
	w := c.s.Wildcard
	if w != nil && !takesPart(w, h, true) {
		w = nil
	}
	return c.sortedByName(func(ep *policy.Endpoint) bool { return takesPart(ep, h, false) }), w
}

// takesPart reports whether an endpoint has something to say at a hook.
func takesPart(ep *policy.Endpoint, h flow.Hook, wildcard bool) bool {
	switch h.Stage() {
	case flow.StageUntracked:
		// An endpoint whose untracked policies all govern the other direction has nothing to say here.
		return !wildcard && slices.ContainsFunc(ep.Untracked, func(t policy.TierPolicies) bool { return len(policiesOf(t, h)) > 0 })
	case flow.StagePreDNAT:
		return len(ep.PreDNAT) > 0
	}
	return true
}

// dispatch returns the steps that find the endpoint which governs the packet's interface.
func (c *compiler) dispatch(h flow.Hook, specific []*policy.Endpoint, wildcard *policy.Endpoint) []ir.Step {
	var cases []dispatchCase
	owner := map[string]string{}
	for _, ep := range specific {
		id := c.endpoint(ep, h)
		for _, name := range ep.Interfaces {
			v, ok := ir.Name(name)
			if other, taken := owner[name]; taken || !ok {
				c.errorf(object(ep), "", ep.Pos, "cannot govern the interface %q (taken by %q)", name, other)
				continue
			}
			owner[name] = ep.Name
			cases = append(cases, dispatchCase{v, id})
		}
	}
	var other ir.BlockID
	if wildcard != nil {
		other = c.endpoint(wildcard, h)
	}
	return c.dispatchSteps(h, cases, other)
}

// dispatchCase is an interface with the block of the endpoint that governs it.
type dispatchCase struct {
	name  ir.Value
	block ir.BlockID
}

// dispatchSteps returns the steps that find the block of the packet's interface. Wildcard is the block for all
// interfaces without one of their own; "" if there is none.
func (c *compiler) dispatchSteps(h flow.Hook, cases []dispatchCase, wildcard ir.BlockID) []ir.Step {
	iface := directed(h, ir.InIface, ir.OutIface)
	var steps []ir.Step
	if h == flow.NormalOut && len(c.workloads) > 0 {
		// Calico: OUTPUT looks at the accept mark first, so this rule, unlike that of NormalIn, is an ordinary one.
		steps = append(steps, c.workload(iface))
	}
	if len(cases) > 0 {
		sw := ir.Switch{Key: []ir.Field{iface}, Cases: make([]ir.Case, len(cases))}
		keys := make([]ir.Interval, len(cases))
		for i, x := range cases {
			keys[i] = ir.Exactly(x.name)
			sw.Cases[i] = ir.Case{Key: keys[i : i+1 : i+1], Then: ir.Target{Block: x.block}}
		}
		steps = append(steps, sw)
	}
	if wildcard != "" {
		call := ir.Call{Block: wildcard}
		if c.config.ExemptLoopback {
			call.Match = ir.Match{{ir.InNames{Field: iface, Names: []ir.NamePattern{{Name: "lo"}}, Not: true}}}
		}
		steps = append(steps, call)
	}
	return steps
}

// workloadNames returns the patterns of the interfaces that belong to workloads.
func (c *compiler) workloadNames() []ir.NamePattern {
	var names []ir.NamePattern
	for _, p := range c.config.WorkloadInterfacePrefixes {
		if _, ok := ir.Name(p); !ok {
			c.errorf("Config", "WorkloadInterfacePrefixes", field.Pos{}, "%q is not the beginning of an interface name", p)
			continue
		}
		names = append(names, ir.NamePattern{Name: p, Prefix: true})
	}
	slices.SortFunc(names, ir.CompareNames)
	return slices.Compact(names)
}

// workload returns the rule that leaves traffic between the host and its own workloads alone.
// Ref: felix/rules/static.go, filterInputChain and filterOutputChain.
func (c *compiler) workload(iface ir.Field) ir.Step {
	return ir.Rule{
		Match:  ir.Match{{ir.InNames{Field: iface, Names: c.workloads}}},
		Then:   ir.Pass,
		Origin: c.origin(flow.Origin{Kind: flow.OriginWorkload}),
	}
}

func object(ep *policy.Endpoint) string {
	return hostendpoint.KindHostEndpoint + "(" + ep.Name + ")"
}
