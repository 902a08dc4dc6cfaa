// SPDX-License-Identifier: Apache-2.0

package picture

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
)

// RuleText returns what a rule matches in few words, such as "tcp from role == 'web' to port 443"; "everything" for a
// rule without criteria. Sets gives what sets are called by their IDs; see SetNames.
func RuleText(r *policy.Rule, sets map[string]string) string {
	if r.Never != "" {
		return "nothing: " + r.Never
	}
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	implied := r.Protocol != nil && (*r.Protocol == inet.ICMP && r.Family == inet.IPv4 || *r.Protocol == inet.ICMPv6 && r.Family == inet.IPv6)
	if r.Family != 0 && !implied {
		add("IPv%s", r.Family)
	}
	if r.Protocol != nil {
		add("%s", r.Protocol)
	}
	if r.NotProtocol != nil {
		add("not %s", r.NotProtocol)
	}
	if r.ICMP != nil {
		add("type %s", icmpText(r.ICMP))
	}
	if r.NotICMP != nil {
		add("not type %s", icmpText(r.NotICMP))
	}
	if s := sideText(&r.Source, sets); s != "" {
		add("from %s", s)
	}
	if s := sideText(&r.Dest, sets); s != "" {
		add("to %s", s)
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, " ")
}

// SetNames returns what the sets of a snapshot are called, by their IDs: the selector, or the name of the port and whose
// it is.
func SetNames(s *policy.Snapshot) map[string]string {
	out := make(map[string]string, len(s.Sets))
	for _, x := range s.Sets {
		switch {
		case x.PortName != "" && x.Selector == "all()":
			out[x.ID] = x.PortName
		case x.PortName != "":
			out[x.ID] = x.PortName + " of " + x.Selector
		default:
			out[x.ID] = x.Selector
		}
	}
	return out
}

func icmpText(i *policy.ICMP) string {
	switch {
	case i.Type == nil:
		return "any"
	case i.Code == nil:
		return fmt.Sprint(*i.Type)
	}
	return fmt.Sprintf("%d code %d", *i.Type, *i.Code)
}

func sideText(s *policy.Side, sets map[string]string) string {
	var parts []string
	named := func(ids []string) []string {
		out := make([]string, len(ids))
		for i, id := range ids {
			if out[i] = sets[id]; out[i] == "" {
				out[i] = id
			}
		}
		return out
	}
	nets := func(ps []netip.Prefix) string {
		out := make([]string, len(ps))
		for i, p := range ps {
			out[i] = p.String()
			if p.IsSingleIP() {
				out[i] = p.Addr().String()
			}
		}
		return strings.Join(out, ", ")
	}
	if len(s.Nets) > 0 {
		parts = append(parts, nets(s.Nets))
	}
	if len(s.Sets) > 0 {
		parts = append(parts, strings.Join(named(s.Sets), " and "))
	}
	if len(s.NotNets) > 0 {
		parts = append(parts, "not "+nets(s.NotNets))
	}
	if len(s.NotSets) > 0 {
		parts = append(parts, "not ("+strings.Join(named(s.NotSets), " or ")+")")
	}
	var ports []string
	for _, p := range s.Ports {
		ports = append(ports, p.String())
	}
	ports = append(ports, named(s.NamedPorts)...)
	if len(ports) > 0 {
		parts = append(parts, portWord(s.Ports, s.NamedPorts)+strings.Join(ports, ", "))
	}
	ports = nil
	for _, p := range s.NotPorts {
		ports = append(ports, p.String())
	}
	ports = append(ports, named(s.NotNamedPorts)...)
	if len(ports) > 0 {
		parts = append(parts, "not "+portWord(s.NotPorts, s.NotNamedPorts)+strings.Join(ports, ", "))
	}
	return strings.Join(parts, " ")
}

func portWord(ranges []inet.PortRange, names []string) string {
	if len(ranges)+len(names) == 1 && (len(names) == 1 || ranges[0].Min == ranges[0].Max) {
		return "port "
	}
	return "ports "
}
