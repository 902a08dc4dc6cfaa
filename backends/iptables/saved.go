// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// saved is what iptables-save prints of the tables that concern us, for one family.
type saved map[render.TableName]*savedTable

// savedTable is one table: our chains, and the chains of the kernel.
type savedTable struct {
	kernel map[string][]string    // rules by chain
	chains map[string][]savedRule // ours
	other  int                    // rules and chains of others
	hidden bool                   // iptables cannot show it
}

// savedRule is a rule with what it counted.
type savedRule struct {
	text           string // without the chain
	packets, bytes uint64
}

func (s saved) table(n render.TableName) *savedTable {
	t := s[n]
	if t == nil {
		t = &savedTable{kernel: map[string][]string{}, chains: map[string][]savedRule{}}
		s[n] = t
	}
	return t
}

// tableNames are the tables that concern us.
var tableNames = map[string]render.TableName{"raw": render.Raw, "mangle": render.Mangle, "filter": render.Filter}

// hiddenTable is what iptables-nft-save says instead of showing a table that has rules which only nftables knows.
// Ref: iptables, nft_is_table_compatible.
var hiddenTable = regexp.MustCompile("^# Table `(\\w+)' is incompatible")

// parseSaved reads the output of iptables-save, with counters or without. Other says how many rules and chains that are
// not the kernel's own there are in all tables that are not ours.
func parseSaved(data []byte, prefix string) (s saved, other int, err error) {
	s = saved{}
	var t *savedTable
	line := 0
	text := string(data) // one allocation for all rules
	for len(text) > 0 {
		l, rest, _ := strings.Cut(text, "\n")
		text = rest
		line++
		if l == "" || l[0] == '#' {
			if m := hiddenTable.FindStringSubmatch(l); m != nil {
				other++
				if n, ok := tableNames[m[1]]; ok {
					s.table(n).hidden = true
				}
			}
			continue
		}
		bad := func() (saved, int, error) {
			return nil, 0, fmt.Errorf("iptables: line %d of iptables-save is not understood: %q", line, l)
		}
		switch {
		case l[0] == '*':
			if n, ok := tableNames[l[1:]]; ok {
				t = s.table(n)
			} else {
				t = &savedTable{kernel: map[string][]string{}, chains: map[string][]savedRule{}}
			}
		case l == "COMMIT":
			if t == nil {
				return bad()
			}
			other += t.other
			t = nil
		case l[0] == ':':
			name, policy, ok := strings.Cut(l[1:], " ")
			if t == nil || !ok {
				return bad()
			}
			switch {
			case !strings.HasPrefix(policy, "-"):
				t.kernel[name] = nil
			case render.OwnsChain(prefix, name):
				t.chains[name] = nil
			default:
				t.other++
			}
		default:
			r := savedRule{}
			if l[0] == '[' {
				c, rest, ok := strings.Cut(l[1:], "] ")
				p, b, ok2 := strings.Cut(c, ":")
				var err1, err2 error
				r.packets, err1 = strconv.ParseUint(p, 10, 64)
				r.bytes, err2 = strconv.ParseUint(b, 10, 64)
				if !ok || !ok2 || err1 != nil || err2 != nil {
					return bad()
				}
				l = rest
			}
			body, ok := strings.CutPrefix(l, "-A ")
			if t == nil || !ok {
				return bad()
			}
			name, rule, _ := strings.Cut(body, " ")
			r.text = rule
			if rs, ours := t.chains[name]; ours {
				t.chains[name] = append(rs, r)
				continue
			}
			if rs, ok := t.kernel[name]; ok {
				t.kernel[name] = append(rs, rule)
				if isJump(rule, prefix+name) {
					continue
				}
			}
			t.other++
		}
	}
	if t != nil {
		return nil, 0, fmt.Errorf("iptables: the output of iptables-save ends in the middle of a table")
	}
	return s, other, nil
}

// parseListed reads the output of "iptables -v -S" for one chain.
func parseListed(data []byte) ([]savedRule, error) {
	var out []savedRule
	for l := range strings.Lines(string(data)) {
		l = strings.TrimSuffix(l, "\n")
		body, ok := strings.CutPrefix(l, "-A ")
		if !ok {
			continue
		}
		_, rule, _ := strings.Cut(body, " ")
		i := -1
		for at := 0; ; { // the counters, and no text between quotes
			j := strings.Index(rule[at:], "-c ")
			if j < 0 {
				break
			}
			if at += j; strings.Count(rule[:at], `"`)%2 == 0 {
				i = at
			}
			at++
		}
		words := strings.SplitN(rule[max(i, 0):], " ", 4)
		bad := fmt.Errorf("iptables: the rule %q has no counters", l)
		if i < 0 || len(words) < 3 {
			return nil, bad
		}
		r := savedRule{text: rule}
		var err1, err2 error
		r.packets, err1 = strconv.ParseUint(words[1], 10, 64)
		r.bytes, err2 = strconv.ParseUint(words[2], 10, 64)
		if err1 != nil || err2 != nil {
			return nil, bad
		}
		out = append(out, r)
	}
	return out, nil
}

// isJump reports whether a rule jumps to the chain.
func isJump(rule, chain string) bool {
	rest, ok := strings.CutSuffix(rule, chain)
	return ok && (strings.HasSuffix(rest, "-j ") || strings.HasSuffix(rest, "-g "))
}

// isInstance reports whether a rule of a kernel's chain is the jump of some instance.
func isInstance(rule string) bool {
	return strings.HasPrefix(rule, `-m comment --comment "`+render.JumpComment+`" -j `)
}

// same reports whether the kernel's rules are those of a chain.
func (s savedRule) same(want string) bool {
	return s.text == want || plainProtocol(s.text) == plainProtocol(want)
}

// equalRules reports whether the kernel has exactly the rules in text, which has one in each line.
func equalRules(got []savedRule, want [][]byte) bool {
	if len(got) != len(want) {
		return false
	}
	for i, w := range want {
		if got[i].text != string(w) && !got[i].same(string(w)) {
			return false
		}
	}
	return true
}

// plainProtocol returns a rule with the name of its protocol replaced by its number: iptables-save writes the name that
// /etc/protocols has.
func plainProtocol(rule string) string {
	i := strings.Index(rule, "-p ")
	if i < 0 || i > 0 && rule[i-1] != ' ' {
		return rule
	}
	name, rest, _ := strings.Cut(rule[i+3:], " ")
	if n, ok := protocols[name]; ok {
		return rule[:i+3] + strconv.Itoa(n) + " " + rest
	}
	return rule[:i+3] + name + " " + rest
}

// protocols are the names that iptables-save may print. Ref: Debian netbase, /etc/protocols; IANA protocol-numbers.
var protocols = map[string]int{
	"icmp": 1, "igmp": 2, "ggp": 3, "ipencap": 4, "ipv4": 4, "st": 5, "tcp": 6, "cbt": 7, "egp": 8, "igp": 9, "pup": 12, "udp": 17,
	"hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "dccp": 33, "xtp": 36, "ddp": 37, "idpr-cmtp": 38, "ipv6": 41,
	"ipv6-route": 43, "ipv6-frag": 44, "idrp": 45, "rsvp": 46, "gre": 47, "esp": 50, "ipv6-crypt": 50, "ah": 51, "ipv6-auth": 51,
	"skip": 57, "ipv6-icmp": 58, "icmpv6": 58, "icmp6": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "rspf": 73, "cphb": 73, "vmtp": 81,
	"eigrp": 88, "ospf": 89, "ospfigp": 89, "ax.25": 93, "ipip": 94, "etherip": 97, "encap": 98, "pim": 103, "ipcomp": 108,
	"vrrp": 112, "l2tp": 115, "isis": 124, "sctp": 132, "fc": 133, "mobility-header": 135, "ipv6-mh": 135, "mh": 135, "udplite": 136,
	"mpls-in-ip": 137, "manet": 138, "hip": 139, "shim6": 140, "wesp": 141, "rohc": 142, "ethernet": 143,
}

// bodies returns the rules of a chain, as lines.
func bodies(c *render.Chain) [][]byte {
	text := c.Bodies()
	lines := make([][]byte, 0, len(c.Rules))
	for len(text) > 0 {
		i := bytes.IndexByte(text, '\n')
		lines = append(lines, text[:i])
		text = text[i+1:]
	}
	return lines
}
