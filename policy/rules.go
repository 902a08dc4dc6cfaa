// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/effective"
)

// ruleTranslator turns the rules of one object into Rules and collects the sets that they name.
type ruleTranslator struct {
	ignoreHTTP bool
	object     string
	source     *field.Source
	namespace  string
	reader     effective.Reader
	specs      []setSource
	problems   []Problem
}

// rulePath is the path of a rule. It becomes text only where somebody reads it: most rules have nothing to report.
type rulePath struct {
	list  string // "spec.ingress" or "spec.egress"
	index int
}

func (p rulePath) String() string { return p.list + "[" + strconv.Itoa(p.index) + "]" }

// pos returns the position of what stands at p and the rest of a path, if positions are known at all.
func (p rulePath) pos(s *field.Source, rest string) field.Pos {
	if s == nil {
		return field.Pos{}
	}
	return s.At(p.String() + rest)
}

// setSource is a set that some rule names.
type setSource struct {
	effective.SetSpec
	rule   rulePath
	side   string // ".source" or ".destination"
	source *field.Source
}

// path returns the path of the side that names the set.
func (x *setSource) path() string { return x.rule.String() + x.side }

func (x *setSource) pos() field.Pos { return x.rule.pos(x.source, x.side) }

func (t *ruleTranslator) add(sev Severity, code string, at rulePath, rest, message string) {
	t.problems = append(t.problems, Problem{Severity: sev, Code: code, Object: t.object, Path: at.String() + rest, Pos: at.pos(t.source, rest), Message: message})
}

func (t *ruleTranslator) rules(list string, in []hostendpoint.Rule) []Rule {
	out := make([]Rule, len(in))
	for i := range in {
		p := rulePath{list, i}
		specs := len(t.specs)
		r, err := t.rule(p, &in[i])
		if err != nil {
			// Fail closed: nobody can say what the rule was meant to let through.
			t.specs = t.specs[:specs]
			t.add(Error, "bad-rule", p, "", "the rule denies everything that reaches it: "+err.Error())
			r = Rule{Action: hostendpoint.Deny}
		}
		r.Index, r.Pos = i, p.pos(t.source, "")
		out[i] = r
	}
	return out
}

func (t *ruleTranslator) rule(path rulePath, in *hostendpoint.Rule) (Rule, error) {
	r := Rule{Action: in.Action}
	switch in.Action {
	case hostendpoint.Allow, hostendpoint.Deny, hostendpoint.Log, hostendpoint.Pass:
	default:
		return r, fmt.Errorf("unknown action %q", in.Action)
	}
	if in.HTTP != nil && len(in.HTTP.Methods)+len(in.HTTP.Paths) > 0 {
		if t.ignoreHTTP || in.Action == hostendpoint.Deny { // as if it had none is the stricter reading of a deny
			t.add(Warning, "http-ignored", path, ".http", "HTTP criteria are ignored: the rule matches more than it says")
		} else {
			r.Never = "a host endpoint cannot see HTTP"
			t.add(Error, "http-criteria", path, ".http", "the rule never matches on a host endpoint: nothing there sees HTTP")
		}
	}
	if v := in.IPVersion; v != nil {
		if *v != 4 && *v != 6 {
			return r, fmt.Errorf("ipVersion %d is neither 4 nor 6", *v)
		}
		r.Family = inet.Family(*v)
	}
	var err error
	if r.Protocol, err = protocol(in.Protocol); err != nil {
		return r, fmt.Errorf("protocol: %w", err)
	}
	if r.NotProtocol, err = protocol(in.NotProtocol); err != nil {
		return r, fmt.Errorf("notProtocol: %w", err)
	}
	if r.Family == 0 && in.Protocol != nil && in.Protocol.Name != "" {
		// Calico: only the names imply a family, the numbers 1 and 58 do not. Ref: felix/calc/rule_convert.go.
		switch *r.Protocol {
		case inet.ICMP:
			r.Family = inet.IPv4
		case inet.ICMPv6:
			r.Family = inet.IPv6
		}
	}
	if r.ICMP, err = icmp(in.ICMP); err != nil {
		return r, fmt.Errorf("icmp: %w", err)
	}
	if r.NotICMP, err = icmp(in.NotICMP); err != nil {
		return r, fmt.Errorf("notICMP: %w", err)
	}
	src, dst, err := t.reader.RuleSets(t.namespace, in)
	if err != nil {
		return r, err
	}
	if r.Source, err = t.side(path, ".source", &in.Source, src); err != nil {
		return r, fmt.Errorf("source.%w", err)
	}
	if r.Dest, err = t.side(path, ".destination", &in.Destination, dst); err != nil {
		return r, fmt.Errorf("destination.%w", err)
	}
	if in.Destination.Services != nil && len(in.Destination.Ports) > 0 && r.Never == "" {
		// Calico: validation refuses this, and a stored rule asks for both. A Side can only ask for one of them.
		r.Never = "services bring their own ports, and ports are not allowed beside them"
	}
	if ports := len(in.Source.Ports) + len(in.Source.NotPorts) + len(in.Destination.Ports) + len(in.Destination.NotPorts); ports > 0 && (r.Protocol == nil || !r.Protocol.HasPorts()) {
		return r, fmt.Errorf("ports need a protocol that has them")
	}
	return r, nil
}

func (t *ruleTranslator) side(path rulePath, name string, in *hostendpoint.EntityRule, sets effective.SideSets) (Side, error) {
	var s Side
	var err error
	if s.Nets, err = prefixes(in.Nets); err != nil {
		return s, fmt.Errorf("nets: %w", err)
	}
	if s.NotNets, err = prefixes(in.NotNets); err != nil {
		return s, fmt.Errorf("notNets: %w", err)
	}
	if s.Ports, err = ranges(in.Ports); err != nil {
		return s, fmt.Errorf("ports: %w", err)
	}
	if s.NotPorts, err = ranges(in.NotPorts); err != nil {
		return s, fmt.Errorf("notPorts: %w", err)
	}
	ids := func(specs []effective.SetSpec) []string {
		var out []string
		for _, x := range specs {
			t.specs = append(t.specs, setSource{SetSpec: x, rule: path, side: name, source: t.source})
			out = append(out, x.ID)
		}
		return out
	}
	s.Sets = ids(sets.Sets)
	s.NotSets = ids(sets.NotSets)
	// A service excludes ports, so its set can stand in their place.
	s.NamedPorts = append(ids(sets.NamedPorts), ids(sets.Services)...)
	s.NotNamedPorts = ids(sets.NotNamedPorts)
	return s, nil
}

func protocol(p *hostendpoint.Protocol) (*inet.Protocol, error) {
	if p == nil {
		return nil, nil
	}
	n, ok := p.IP()
	if !ok || n == 0 {
		return nil, fmt.Errorf("unknown protocol %v", *p)
	}
	return &n, nil
}

// icmp translates ICMP criteria; without a type there are none.
func icmp(in *hostendpoint.ICMPFields) (*ICMP, error) {
	if in == nil || in.Type == nil && in.Code == nil {
		return nil, nil
	}
	number := func(what string, v *int) (*uint8, error) {
		if v == nil {
			return nil, nil
		}
		if *v < 0 || *v > 255 {
			return nil, fmt.Errorf("%s %d is out of range", what, *v)
		}
		n := uint8(*v)
		return &n, nil
	}
	if in.Type == nil {
		return nil, fmt.Errorf("a code needs a type")
	}
	t, err := number("type", in.Type)
	if err != nil {
		return nil, err
	}
	c, err := number("code", in.Code)
	if err != nil {
		return nil, err
	}
	return &ICMP{Type: t, Code: c}, nil
}

func prefixes(in []string) ([]netip.Prefix, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]netip.Prefix, len(in))
	for i, s := range in {
		p, err := inet.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		out[i] = p
	}
	return out, nil
}

func ranges(in []hostendpoint.Port) ([]inet.PortRange, error) {
	var out []inet.PortRange
	for _, p := range in {
		if p.Name != "" {
			continue // a set; see effective.RuleSets
		}
		if p.Min == 0 || p.Min > p.Max {
			return nil, fmt.Errorf("%v is not a range of ports", p)
		}
		out = append(out, inet.PortRange{Min: p.Min, Max: p.Max})
	}
	return out, nil
}
