// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// protocolNames are the names that Calico accepts, in this case only.
var protocolNames = [...]string{"TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"}

const (
	nameICMP   = "ICMP"
	nameICMPv6 = "ICMPv6"
	nameTCP    = "TCP"
)

func (c *checker) rules(path string, rules []Rule) {
	for i := range rules {
		// Paths are what checking a rule costs most, and nobody needs those of a rule without faults.
		before := len(c.faults)
		c.blind = true
		c.rule("", &rules[i])
		c.blind = false
		if len(c.faults) > before {
			clear(c.faults[before:])
			c.faults = c.faults[:before]
			c.rule(path+"["+strconv.Itoa(i)+"]", &rules[i])
		}
	}
}

func (c *checker) rule(path string, r *Rule) {
	switch r.Action {
	case Allow, Deny, Log, Pass:
	case "":
		c.add(unusable, field.ErrRequired, c.at(path, ".action"), "", "an action is required: Allow, Deny, Log or Pass")
	default:
		c.add(unusable, field.ErrInvalid, c.at(path, ".action"), string(r.Action), "must be Allow, Deny, Log or Pass")
	}
	if v := r.IPVersion; v != nil && *v != 4 && *v != 6 {
		c.add(unusable, field.ErrInvalid, c.at(path, ".ipVersion"), strconv.Itoa(*v), "must be 4 or 6")
	}
	if r.Protocol != nil {
		c.protocol(c.at(path, ".protocol"), r.Protocol)
	}
	if r.NotProtocol != nil {
		c.protocol(c.at(path, ".notProtocol"), r.NotProtocol)
	}
	if r.ICMP != nil {
		c.icmp(c.at(path, ".icmp"), r.ICMP)
	}
	if r.NotICMP != nil {
		c.icmp(c.at(path, ".notICMP"), r.NotICMP)
	}
	// Calico: the numbers 1 and 58 do not count here, although they do in all other places.
	if r.ICMP != nil && !hasName(r.Protocol, nameICMP, nameICMPv6) {
		c.add(tolerated, field.ErrRequired, c.at(path, ".protocol"), protocolText(r.Protocol), "must be ICMP or ICMPv6, by name, in a rule with icmp")
	}
	if r.NotICMP != nil && !hasName(r.Protocol, nameICMP, nameICMPv6) {
		// Deviation: works as written.
		c.add(advice, field.ErrRequired, c.at(path, ".notICMP"), "", "Calico cannot program notICMP without protocol ICMP or ICMPv6, and then programs no rules at all")
	}
	if r.Protocol != nil && r.NotProtocol != nil {
		// Deviation: works as written.
		c.add(advice, field.ErrForbidden, c.at(path, ".notProtocol"), r.NotProtocol.String(), "Calico cannot program notProtocol beside protocol, and then programs no rules at all")
	}
	c.icmpFamily(path, r.IPVersion, r.Protocol)
	c.icmpFamily(path, r.IPVersion, r.NotProtocol)

	c.entity(c.at(path, ".source"), &r.Source, r.Protocol)
	c.entity(c.at(path, ".destination"), &r.Destination, r.Protocol)
	c.families(path, r)
	if s := r.Destination.Services; s != nil && len(r.Destination.Ports)+len(r.Destination.NotPorts) > 0 {
		c.add(tolerated, field.ErrForbidden, c.at(path, ".destination.services"), s.Name, "services bring their own ports: ports and notPorts are not allowed beside them")
	}
	if r.HTTP != nil {
		c.http(path, r)
	}
	if r.Metadata != nil {
		c.annotations(c.at(path, ".metadata.annotations"), r.Metadata.Annotations)
	}
}

func hasName(p *Protocol, names ...string) bool { return p != nil && slices.Contains(names, p.Name) }

func protocolText(p *Protocol) string {
	if p == nil {
		return ""
	}
	return p.String()
}

func (c *checker) protocol(path string, p *Protocol) {
	if *p == (Protocol{}) {
		c.add(unusable, field.ErrInvalid, path, "0", "must be a name or a number from 1 to 255")
		return
	}
	c.protocolName(path, *p)
}

// protocolName checks a protocol that is not the number 0.
func (c *checker) protocolName(path string, p Protocol) {
	if p.Name == "" || slices.Contains(protocolNames[:], p.Name) {
		return
	}
	for _, n := range protocolNames {
		if strings.EqualFold(n, p.Name) {
			c.add(tolerated, field.ErrInvalid, path, p.Name, "protocol names are written in this case: %s", n)
			return
		}
	}
	c.add(unusable, field.ErrInvalid, path, p.Name, "must be one of %s, or a number from 1 to 255", strings.Join(protocolNames[:], ", "))
}

func (c *checker) icmp(path string, f *ICMPFields) {
	if t := f.Type; t != nil && (*t < 0 || *t > 254) {
		c.add(unusable, field.ErrInvalid, path+".type", strconv.Itoa(*t), "must be from 0 to 254")
	}
	if n := f.Code; n != nil {
		if *n < 0 || *n > 255 {
			c.add(unusable, field.ErrInvalid, path+".code", strconv.Itoa(*n), "must be from 0 to 255")
		}
		if f.Type == nil {
			c.add(unusable, field.ErrRequired, path+".type", "", "a code needs a type")
		}
	}
}

func (c *checker) icmpFamily(path string, version *int, p *Protocol) {
	if version == nil {
		return
	}
	if hasName(p, nameICMP) && *version != 4 || hasName(p, nameICMPv6) && *version != 6 {
		c.add(tolerated, field.ErrInvalid, path+".ipVersion", strconv.Itoa(*version), "does not fit protocol %s", p)
	}
}

func (c *checker) entity(path string, e *EntityRule, protocol *Protocol) {
	// Most criteria are not there, and then nobody needs their paths.
	if len(e.Ports) > 0 {
		c.ports(c.at(path, ".ports"), e.Ports, protocol)
	}
	if len(e.NotPorts) > 0 {
		c.ports(c.at(path, ".notPorts"), e.NotPorts, protocol)
	}
	if e.Selector != "" {
		c.selector(c.at(path, ".selector"), e.Selector)
		c.noGlobal(c.at(path, ".selector"), e.Selector)
	}
	if e.NotSelector != "" {
		c.selector(c.at(path, ".notSelector"), e.NotSelector)
	}
	if text := e.NamespaceSelector; text != "" {
		// Calico 3.29 crashes on a namespaceSelector that does not parse.
		if s, ok := c.selector(c.at(path, ".namespaceSelector"), text); ok && combinesGlobal(s.String()) {
			c.add(tolerated, field.ErrForbidden, c.at(path, ".namespaceSelector"), text, "global() cannot be combined with other criteria")
		}
	}
	if a := e.ServiceAccounts; a != nil {
		c.selector(c.at(path, ".serviceAccounts.selector"), a.Selector)
	}
	if e.Services != nil {
		c.services(path, e)
	}
}

// combinesGlobal looks for global() beside an operator in canonical text, inside strings too. Calico: "!global()" and
// "all() && !global()" are not found.
func combinesGlobal(canonical string) bool {
	for _, s := range [...]string{"&& global()", "|| global()", "global() &&", "global() ||"} {
		if strings.Contains(canonical, s) {
			return true
		}
	}
	return false
}

func (c *checker) ports(path string, ports []Port, protocol *Protocol) {
	if protocol == nil {
		c.add(unusable, field.ErrRequired, path, "", "a rule with ports must have protocol TCP, UDP or SCTP")
	} else if n, ok := protocol.IP(); !ok || !n.HasPorts() {
		c.add(unusable, field.ErrInvalid, path, "", "protocol %s has no ports: a rule with ports must have protocol TCP, UDP or SCTP", protocol)
	}
	for i, p := range ports {
		at := func() string { return path + "[" + strconv.Itoa(i) + "]" }
		switch {
		case p.Name != "" && !isPortName(p.Name):
			c.add(tolerated, field.ErrInvalid, at(), p.Name, "a port is a number, a range such as 80:90, or a name of 1 to 15 lower-case letters, digits and single hyphens with at least one letter")
		case p.Name != "" && (p.Min != 0 || p.Max != 0):
			c.add(unusable, field.ErrInvalid, at(), p.Name, "a port cannot have a name and a number")
		case p.Name == "" && p.Min > p.Max:
			c.add(unusable, field.ErrInvalid, at(), fmt.Sprintf("%d:%d", p.Min, p.Max), "the range ends before it begins")
		case p.Name == "" && p.Min == 0:
			c.add(tolerated, field.ErrInvalid, at(), p.String(), "ports are from 1 to 65535")
		}
	}
}

func (c *checker) services(path string, e *EntityRule) {
	s := e.Services
	if s.Name == "" {
		c.add(unusable, field.ErrRequired, path+".services.name", "", "the name of the service is required")
	}
	c.subdomain(path+".services.name", s.Name)
	c.subdomain(path+".services.namespace", s.Namespace)
	for _, f := range [...]struct {
		name string
		set  bool
	}{
		{"namespaceSelector", e.NamespaceSelector != ""}, {"selector", e.Selector != ""}, {"notSelector", e.NotSelector != ""},
		{"serviceAccounts", e.ServiceAccounts != nil}, {"nets", len(e.Nets) > 0}, {"notNets", len(e.NotNets) > 0},
	} {
		if f.set {
			c.add(tolerated, field.ErrForbidden, path+"."+f.name, "", "not allowed beside services")
		}
	}
}

// families checks all CIDRs of a rule: their syntax, and that they are of one family, which is that of ipVersion.
func (c *checker) families(path string, r *Rule) {
	var first inet.Family
	var firstPath string
	for _, l := range [...]struct {
		name string
		nets []string
		not  bool
	}{
		{".source.nets", r.Source.Nets, false}, {".source.notNets", r.Source.NotNets, true},
		{".destination.nets", r.Destination.Nets, false}, {".destination.notNets", r.Destination.NotNets, true},
	} {
		for i, text := range l.nets {
			at := ""
			if !c.blind {
				at = path + l.name + "[" + strconv.Itoa(i) + "]"
			}
			p, ok := c.ruleNet(at, text)
			if !ok {
				continue
			}
			family := inet.FamilyOf(p.Addr())
			if v := r.IPVersion; v != nil && *v != int(family) && (*v == 4 || *v == 6) {
				c.add(tolerated, field.ErrInvalid, at, text, "ipVersion is %d", *v)
			}
			if first == 0 {
				first, firstPath = family, at
			} else if family != first {
				c.add(tolerated, field.ErrInvalid, at, text, "a rule cannot have both IPv4 and IPv6 CIDRs, and %s is IPv%s", firstPath, first)
			}
			if l.not && p.Bits() == 0 {
				// Calico: other spellings of 0.0.0.0/0 pass.
				g := tolerated
				if family == inet.IPv4 && text != "0.0.0.0/0" {
					g = advice
				}
				c.add(g, field.ErrInvalid, at, text, "excludes every address: the rule can never match")
			}
		}
	}
}

// ruleNet reports a net of a rule that is not a CIDR without host bits. It returns the prefix if it can be used.
func (c *checker) ruleNet(path, text string) (netip.Prefix, bool) {
	n, err := inet.ParseNet(text)
	switch {
	case err != nil:
		c.add(unusable, field.ErrInvalid, path, text, "%s", netReason(text, err))
		return netip.Prefix{}, false
	case n.Bare:
		c.add(tolerated, field.ErrInvalid, path, text, "must be a CIDR: %s", n.Prefix)
	case n.HostBits:
		c.add(tolerated, field.ErrInvalid, path, text, "has host bits set; did you mean %s?", n.Prefix)
	}
	return n.Prefix, true
}

// netReason explains an error of inet.ParseNet without repeating the text.
func netReason(text string, err error) string {
	switch {
	case text == "":
		return "an empty CIDR is not allowed"
	case isMapped(err):
		return "an IPv4-mapped CIDR shorter than /96 holds addresses of both families; write two CIDRs"
	}
	return "must be a CIDR such as 10.0.0.0/8 or 2001:db8::/32"
}

func (c *checker) http(path string, r *Rule) {
	h := r.HTTP
	if r.Protocol != nil && !hasName(r.Protocol, nameTCP) {
		c.add(tolerated, field.ErrInvalid, path+".protocol", r.Protocol.String(), "must be TCP, by name, in a rule with http")
	}
	if r.Action != Allow {
		c.add(tolerated, field.ErrForbidden, path+".http", "", "only Allow rules can have HTTP criteria")
	}
	for i, m := range h.Methods {
		if slices.Index(h.Methods, m) < i {
			c.add(tolerated, field.ErrDuplicate, fmt.Sprintf("%s.http.methods[%d]", path, i), m, "given more than once")
		}
	}
	for i, p := range h.Paths {
		at := fmt.Sprintf("%s.http.paths[%d]", path, i)
		if (p.Exact == "") == (p.Prefix == "") {
			c.add(tolerated, field.ErrInvalid, at, "", "exactly one of exact and prefix is required")
			continue
		}
		if text := p.Exact + p.Prefix; !strings.HasPrefix(text, "/") || strings.ContainsAny(text, " ?#") {
			c.add(tolerated, field.ErrInvalid, at, text, "a path begins with / and contains no space, ? or #")
		}
	}
}
