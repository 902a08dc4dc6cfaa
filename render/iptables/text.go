// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"net/netip"
	"strconv"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

var tableNames = [...]string{Raw: "raw", Mangle: "mangle", Filter: "filter"}

// String returns the name of the table.
func (n TableName) String() string {
	if n == 0 || int(n) >= len(tableNames) {
		return "table(" + strconv.Itoa(int(n)) + ")"
	}
	return tableNames[n]
}

// String returns the text of the whole ruleset: first the sets as "ipset restore" reads them, then the tables of each
// family as "iptables-restore --noflush" reads them, under headings that are comments to both. It is canonical: equal
// rulesets have equal text. Rules are written as iptables-save prints them.
func (r *Ruleset) String() string { return string(r.AppendText(nil)) }

// AppendText appends what String returns.
func (r *Ruleset) AppendText(b []byte) []byte {
	b = append(b, "# ipset\n"...)
	for i := range r.Sets {
		b = r.Sets[i].AppendText(b, r.Sets[i].Name)
	}
	var family inet.Family
	for i := range r.Tables {
		t := &r.Tables[i]
		if t.Family != family {
			family = t.Family
			b = append(b, "# "...)
			b = append(b, toolOf(family)...)
			b = append(b, '\n')
		}
		b = t.AppendText(b, r.Insert)
	}
	return b
}

func toolOf(f inet.Family) string {
	if f == inet.IPv4 {
		return "iptables"
	}
	return "ip6tables"
}

// AppendText appends the lines that put the table into a kernel in which there is nothing of the instance.
func (t *Table) AppendText(b []byte, insert InsertMode) []byte {
	b = append(b, '*')
	b = append(b, t.Name.String()...)
	b = append(b, '\n')
	for i := range t.Hooks {
		b = AppendChainDecl(b, t.Hooks[i].Chain)
	}
	for i := range t.Chains {
		b = AppendChainDecl(b, t.Chains[i].Name)
	}
	for i := range t.Hooks {
		b = append(b, "-A "...)
		b = append(b, t.Hooks[i].Chain...)
		b = append(b, " -g "...)
		b = append(b, t.Hooks[i].Root...)
		b = append(b, '\n')
	}
	for i := range t.Chains {
		b = t.Chains[i].AppendText(b)
	}
	for i := range t.Hooks {
		b = t.Hooks[i].AppendJump(b, insert)
	}
	return append(b, "COMMIT\n"...)
}

// AppendChainDecl appends the line that makes a chain, or makes it empty.
func AppendChainDecl(b []byte, name string) []byte {
	b = append(b, ':')
	b = append(b, name...)
	return append(b, " - [0:0]\n"...)
}

// AppendJump appends the line that adds the jump to the kernel's chain.
func (h *Hook) AppendJump(b []byte, insert InsertMode) []byte {
	b = append(b, "-A "...)
	if insert == Insert {
		b[len(b)-2] = 'I'
	}
	b = append(b, h.Kernel...)
	b = append(b, ' ')
	b = h.AppendJumpBody(b)
	return append(b, '\n')
}

// JumpComment begins the comment of the rules by which the kernel's chains jump to ours, of every instance.
const JumpComment = "hostpolicy host endpoints"

// AppendJumpBody appends the rule that jumps, without the chain in which it stands.
func (h *Hook) AppendJumpBody(b []byte) []byte {
	b = append(b, `-m comment --comment "`...)
	b = append(b, JumpComment...)
	b = append(b, `" -j `...)
	return append(b, h.Chain...)
}

// AppendText appends the lines that add the rules of the chain.
func (c *Chain) AppendText(b []byte) []byte {
	text := c.Bodies()
	for len(text) > 0 {
		b = append(b, "-A "...)
		b = append(b, c.Name...)
		b = append(b, ' ')
		n := 0
		for text[n] != '\n' { // no body holds a newline, and each ends with one
			n++
		}
		b = append(b, text[:n+1]...)
		text = text[n+1:]
	}
	return b
}

func appendBodies(b []byte, rules []Rule) []byte {
	for i := range rules {
		b = rules[i].AppendText(b)
		b = append(b, '\n')
	}
	return b
}

// String returns the rule as iptables-save prints it, without the chain.
func (r Rule) String() string { return string(r.AppendText(nil)) }

// AppendText appends what String returns.
func (r *Rule) AppendText(b []byte) []byte {
	for i, t := range r.Tests {
		var before Test
		if i > 0 {
			before = r.Tests[i-1]
		}
		b = appendTest(b, t, before)
		b = append(b, ' ')
	}
	if r.Comment != "" {
		b = append(b, `-m comment --comment "`...)
		b = append(b, r.Comment...)
		b = append(b, `" `...)
	}
	return appendTarget(b, r.Target)
}

// appendTest appends a test; before is the one in front of it.
func appendTest(b []byte, t, before Test) []byte {
	switch t := t.(type) {
	case Source:
		return appendPrefix(appendNot(b, t.Not), "-s ", t.Prefix)
	case Destination:
		return appendPrefix(appendNot(b, t.Not), "-d ", t.Prefix)
	case InIface:
		return appendIface(appendNot(b, t.Not), "-i ", t.Name, t.Prefix)
	case OutIface:
		return appendIface(appendNot(b, t.Not), "-o ", t.Name, t.Prefix)
	case Protocol:
		b = append(appendNot(b, t.Not), "-p "...)
		return appendProtocol(b, t.Number)
	case SourcePort:
		b = appendModule(b, t.Protocol)
		b = append(appendNot(b, t.Not), "--sport "...)
		return appendPorts(b, t.Ports)
	case DestinationPort:
		if _, ok := before.(SourcePort); !ok {
			b = appendModule(b, t.Protocol)
		}
		b = append(appendNot(b, t.Not), "--dport "...)
		return appendPorts(b, t.Ports)
	case MultiPort:
		b = appendNot(append(b, "-m multiport "...), t.Not)
		if t.Source {
			b = append(b, "--sports "...)
		} else {
			b = append(b, "--dports "...)
		}
		for i, r := range t.Ranges {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendPorts(b, r)
		}
		return b
	case ICMP:
		option := "--icmp-type "
		if t.Family == inet.IPv4 {
			b = append(b, "-m icmp "...)
		} else {
			b, option = append(b, "-m icmp6 "...), "--icmpv6-type "
		}
		b = append(appendNot(b, t.Not), option...)
		b = strconv.AppendUint(b, uint64(t.Type), 10)
		if !t.AnyCode {
			b = append(b, '/')
			b = strconv.AppendUint(b, uint64(t.Code), 10)
		}
		return b
	case Bytes:
		b = append(b, `-m u32 --u32 "`...)
		b = append(b, t.Expr...)
		return append(b, '"')
	case State:
		b = append(b, "-m conntrack --ctstate "...)
		first := true
		for _, s := range stateNames {
			if t.States.Has(uint8(s.state)) {
				if !first {
					b = append(b, ',')
				}
				first = false
				b = append(b, s.word...)
			}
		}
		return b
	case Translated:
		return append(b, "-m conntrack --ctstate DNAT"...)
	case Mark:
		b = appendHex(append(b, "-m mark --mark "...), t.Value)
		return appendHex(append(b, '/'), t.Mask)
	case InSet:
		b = appendNot(append(b, "-m set "...), t.Not)
		b = append(b, "--match-set "...)
		b = append(b, t.Set...)
		direction := " dst"
		if t.Source {
			direction = " src"
		}
		b = append(b, direction...)
		if t.Port {
			b = append(b, ',')
			b = append(b, direction[1:]...)
		}
		return b
	}
	return append(b, "--unknown-test"...)
}

// appendTarget appends the target.
func appendTarget(b []byte, t Target) []byte {
	switch t := t.(type) {
	case Verdict:
		switch t.Op {
		case Drop:
			return append(b, "-j DROP"...)
		case Accept:
			return append(b, "-j ACCEPT"...)
		case Return:
			return append(b, "-j RETURN"...)
		case Jump:
			return append(append(b, "-j "...), t.Chain...)
		case Goto:
			return append(append(b, "-g "...), t.Chain...)
		}
	case SetMark:
		b = appendHex(append(b, "-j MARK --set-xmark "...), t.Value)
		return appendHex(append(b, '/'), t.Mask)
	case Log:
		b = append(b, `-j NFLOG --nflog-prefix "`...)
		b = append(b, t.Prefix...)
		b = append(b, '"')
		if t.Group != 0 {
			b = append(b, " --nflog-group "...)
			b = strconv.AppendUint(b, uint64(t.Group), 10)
		}
		if t.Size != 0 {
			b = append(b, " --nflog-size "...)
			b = strconv.AppendUint(b, uint64(t.Size), 10)
		}
		return b
	case Untrack:
		return append(b, "-j CT --notrack"...)
	case Reject:
		switch {
		case t.Reset:
			return append(b, "-j REJECT --reject-with tcp-reset"...)
		case t.Family == inet.IPv4:
			return append(b, "-j REJECT --reject-with icmp-admin-prohibited"...)
		}
		return append(b, "-j REJECT --reject-with icmp6-adm-prohibited"...)
	}
	return append(b, "-j UNKNOWN"...)
}

func appendNot(b []byte, not bool) []byte {
	if not {
		return append(b, "! "...)
	}
	return b
}

func appendPrefix(b []byte, option string, p netip.Prefix) []byte {
	return p.AppendTo(append(b, option...))
}

func appendIface(b []byte, option, name string, prefix bool) []byte {
	b = append(append(b, option...), name...)
	if prefix {
		b = append(b, '+')
	}
	return b
}

// appendProtocol writes names where every system agrees about them.
func appendProtocol(b []byte, n inet.Protocol) []byte {
	switch n {
	case inet.TCP:
		return append(b, "tcp"...)
	case inet.UDP:
		return append(b, "udp"...)
	case inet.ICMP:
		return append(b, "icmp"...)
	case inet.ICMPv6:
		return append(b, "ipv6-icmp"...)
	case inet.SCTP:
		return append(b, "sctp"...)
	case inet.UDPLite:
		return append(b, "udplite"...)
	}
	return strconv.AppendUint(b, uint64(n), 10)
}

func appendModule(b []byte, n inet.Protocol) []byte {
	if n == inet.TCP {
		return append(b, "-m tcp "...)
	}
	return append(b, "-m udp "...)
}

func appendPorts(b []byte, r inet.PortRange) []byte {
	b = strconv.AppendUint(b, uint64(r.Min), 10)
	if r.Min != r.Max {
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(r.Max), 10)
	}
	return b
}

func appendHex(b []byte, n uint32) []byte {
	return strconv.AppendUint(append(b, "0x"...), uint64(n), 16)
}

// AppendText appends the lines that make a set of the given name and fill it.
func (s *Set) AppendText(b []byte, name string) []byte {
	b = s.AppendCreate(b, name)
	for _, e := range s.Elements {
		b = s.AppendElement(b, "add", name, e)
	}
	return b
}

// AppendCreate appends the line that makes a set. The kernel takes no address 0 into a set of the type hash:ip,port.
func (s *Set) AppendCreate(b []byte, name string) []byte {
	b = append(b, "create "...)
	b = append(b, name...)
	if s.Kind == ir.SetOfPrefixes {
		b = append(b, " hash:net"...)
	} else {
		b = append(b, " hash:net,port"...)
	}
	if s.Family == inet.IPv4 {
		b = append(b, " family inet"...)
	} else {
		b = append(b, " family inet6"...)
	}
	b = append(b, " maxelem "...)
	b = strconv.AppendInt(b, int64(s.Max), 10)
	return append(b, '\n')
}

// AppendElement appends the line that adds ("add") or removes ("del") an element.
func (s *Set) AppendElement(b []byte, command, name string, e ir.Element) []byte {
	b = append(b, command...)
	b = append(b, ' ')
	b = append(b, name...)
	b = append(b, ' ')
	return append(s.AppendMember(b, e), '\n')
}

// AppendMember appends an element as "ipset save" prints it.
func (s *Set) AppendMember(b []byte, e ir.Element) []byte {
	if e.Prefix.IsSingleIP() {
		b = e.Prefix.Addr().AppendTo(b)
	} else {
		b = e.Prefix.AppendTo(b)
	}
	if s.Kind == ir.SetOfPrefixes {
		return b
	}
	b = append(b, ',')
	b = appendProtocol(b, e.Protocol)
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(e.Port), 10)
}

// Bodies returns the rules of the chain without its name, each with a newline at its end. It must not be changed.
func (c *Chain) Bodies() []byte {
	if c.text == nil {
		return appendBodies(nil, c.Rules)
	}
	return c.text
}
