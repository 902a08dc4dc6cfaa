// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/nftables"
)

// terms says for every term, field and negation what it is at a hook where all is known (f, forward-in), and at one where
// the field may be absent: u is untracked-in, o is normal-out, i is normal-in. Rules that share a verdict are separated
// by " / "; "never" is no rule and "always" a rule without tests.
var terms = []struct{ hooks, term, want string }{
	{"fuoi", "sport=80", "meta l4proto { tcp, udp, sctp, udplite } th sport 80"},
	{"fuoi", "sport!=80", "meta l4proto { tcp, udp, sctp, udplite } th sport != 80 / meta l4proto != { tcp, udp, sctp, udplite }"},
	{"fuoi", "dport=80,443,1000-2000", "meta l4proto { tcp, udp, sctp, udplite } th dport { 80, 443, 1000-2000 }"},
	{"fuoi", "dport!=80,443", "meta l4proto { tcp, udp, sctp, udplite } th dport != { 80, 443 } / meta l4proto != { tcp, udp, sctp, udplite }"},
	{"f", "dport=0-65535", "meta l4proto { tcp, udp, sctp, udplite }"},
	{"f", "dport!=0-65535", "meta l4proto != { tcp, udp, sctp, udplite }"},
	{"f", "protocol=tcp dport=80", "meta l4proto tcp th dport 80"},
	{"f", "protocol=tcp dport!=80", "meta l4proto tcp th dport != 80"},
	{"f", "protocol=icmp dport=80", "never"},
	{"f", "protocol=icmp dport!=80", "meta l4proto icmp"},
	{"f", "dport=80 sport=90", "meta l4proto { tcp, udp, sctp, udplite } th dport 80 th sport 90"},

	{"fuoi", "src=10.0.0.0/8", "meta nfproto ipv4 ip saddr 10.0.0.0/8"},
	{"f", "dst=10.0.0.0/8", "meta nfproto ipv4 ip daddr 10.0.0.0/8"},
	{"fuoi", "src!=10.0.0.0/8", "meta nfproto ipv4 ip saddr != 10.0.0.0/8 / meta nfproto ipv6"},
	{"fuoi", "dst=10.0.0.1,192.168.0.0/16,2001:db8::/32", "meta nfproto ipv4 ip daddr { 10.0.0.1, 192.168.0.0/16 } / meta nfproto ipv6 ip6 daddr 2001:db8::/32"},
	{"fuoi", "dst!=10.0.0.1,2001:db8::/32", "meta nfproto ipv4 ip daddr != 10.0.0.1 / meta nfproto ipv6 ip6 daddr != 2001:db8::/32"},
	{"f", "src=0.0.0.0/0", "meta nfproto ipv4"},
	{"f", "src!=0.0.0.0/0", "meta nfproto ipv6"},
	{"f", "src=0.0.0.0/0,::/0", "meta nfproto ipv4 / meta nfproto ipv6"},
	{"f", "src!=0.0.0.0/0,::/0", "never"},
	{"f", "family=6 src!=10.0.0.0/8", "meta nfproto ipv6"},

	{"f", "iif=eth0", `iifname "eth0"`},
	{"f", "iif!=eth0", `iifname != "eth0"`},
	{"f", "iif=cali*,eth0,eth1", `iifname { "eth0", "eth1" } / iifname "cali*"`},
	{"f", "iif!=cali*,eth0,eth1", `iifname != { "eth0", "eth1" } iifname != "cali*"`},
	{"f", "oif=cali*", `oifname "cali*"`},
	{"f", "oif=cali*,cali1", `oifname "cali*"`},
	{"f", "oif!=eth0", `oifname != "eth0"`},
	{"o", "iif=eth0", "never"},
	{"o", "iif!=eth0", "always"},
	{"ui", "oif=eth0", "never"},
	{"ui", "oif!=eth0", "always"},

	{"fuoi", "family=4", "meta nfproto ipv4"},
	{"fuoi", "family!=4", "meta nfproto ipv6"},
	{"fuoi", "family=4,6", "always"},
	{"fuoi", "protocol=tcp", "meta l4proto tcp"},
	{"fuoi", "protocol!=tcp", "meta l4proto != tcp"},
	{"f", "protocol=1-4,tcp", "meta l4proto { 1-4, tcp }"},
	{"f", "protocol=tcp protocol!=tcp", "never"},
	{"fuoi", "icmp-type=8", "meta nfproto ipv4 meta l4proto icmp icmp type 8 / meta nfproto ipv6 meta l4proto icmpv6 icmpv6 type 8"},
	{"fuoi", "icmp-type!=8", "meta nfproto ipv4 meta l4proto icmp icmp type != 8 / meta nfproto ipv4 meta l4proto != icmp / meta nfproto ipv6 meta l4proto icmpv6 icmpv6 type != 8 / meta nfproto ipv6 meta l4proto != icmpv6"},
	{"fuoi", "icmp-code=1,3", "meta nfproto ipv4 meta l4proto icmp icmp code { 1, 3 } / meta nfproto ipv6 meta l4proto icmpv6 icmpv6 code { 1, 3 }"},
	{"fuoi", "icmp-code!=1", "meta nfproto ipv4 meta l4proto icmp icmp code != 1 / meta nfproto ipv4 meta l4proto != icmp / meta nfproto ipv6 meta l4proto icmpv6 icmpv6 code != 1 / meta nfproto ipv6 meta l4proto != icmpv6"},
	// A type with a code, and the negation of the pair: neither, in Calico's nftables mode.
	{"f", "family=4 protocol=icmp icmp-type=3 icmp-code=4", "meta nfproto ipv4 meta l4proto icmp icmp type 3 icmp code 4"},
	{"f", "family=4 protocol=icmp icmp-type!=3|icmp-code!=4", "meta nfproto ipv4 meta l4proto icmp icmp type != 3 / meta nfproto ipv4 meta l4proto icmp icmp code != 4"},
	{"f", "icmp-type=0-255", "meta nfproto ipv4 meta l4proto icmp / meta nfproto ipv6 meta l4proto icmpv6"},
	{"foi", "state=new,related", "ct state new,related"},
	{"foi", "state!=new,related", "ct state established,invalid,untracked"},
	{"foi", "state=new,established,related,invalid,untracked", "always"},
	{"u", "state=new", "never"},
	{"u", "state!=new", "always"},

	{"fuoi", "src=@s:x", "meta nfproto ipv4 ip saddr @a4.s.x / meta nfproto ipv6 ip6 saddr @v6.s.x"},
	{"f", "dst=@s:x", "meta nfproto ipv4 ip daddr @a4.s.x / meta nfproto ipv6 ip6 daddr @v6.s.x"},
	{"f", "family=4 src!=@s:x", "meta nfproto ipv4 ip saddr != @a4.s.x"},
	{"fuoi", "dst!=@s:x", "meta nfproto ipv4 ip daddr != @a4.s.x / meta nfproto ipv6 ip6 daddr != @v6.s.x"},
	{"fuoi", "src.protocol.sport=@n:x", "meta nfproto ipv4 meta l4proto { tcp, udp, sctp, udplite } ip saddr . meta l4proto . th sport @v4.n.x / meta nfproto ipv6 meta l4proto { tcp, udp, sctp, udplite } ip6 saddr . meta l4proto . th sport @v6.n.x"},
	{"f", "family=6 src.protocol.sport!=@n:x", "meta nfproto ipv6 meta l4proto { tcp, udp, sctp, udplite } ip6 saddr . meta l4proto . th sport != @v6.n.x / meta nfproto ipv6 meta l4proto != { tcp, udp, sctp, udplite }"},
	{"f", "family=6 protocol=tcp dst.protocol.dport=@n:x", "meta nfproto ipv6 meta l4proto tcp ip6 daddr . meta l4proto . th dport @v6.n.x"},
	{"f", "family=4 dst.protocol.dport!=@n:x", "meta nfproto ipv4 meta l4proto { tcp, udp, sctp, udplite } ip daddr . meta l4proto . th dport != @v4.n.x / meta nfproto ipv4 meta l4proto != { tcp, udp, sctp, udplite }"},
	{"f", "family=4 protocol=tcp dport=80|dst.protocol.dport=@n:x", "meta nfproto ipv4 meta l4proto tcp th dport 80 / meta nfproto ipv4 meta l4proto tcp ip daddr . meta l4proto . th dport @v4.n.x"},
	// Terms that exclude one another are no rule.
	{"f", "family=4 sport=80|protocol=icmp dport=80|protocol=udp", "meta nfproto ipv4 meta l4proto { tcp, udp, sctp, udplite } th sport 80 th dport 80 / meta nfproto ipv4 meta l4proto udp th sport 80"},
	{"f", "false", "never"},
}

var hookOf = map[rune]string{'f': "forward-in", 'u': "untracked-in", 'o': "normal-out", 'i': "normal-in"}

func TestTerms(t *testing.T) {
	tried := map[string]bool{}
	for _, c := range terms {
		for _, h := range c.hooks {
			t.Run(fmt.Sprintf("%s at %s", c.term, hookOf[h]), func(t *testing.T) {
				text := fmt.Sprintf("entry %s hook/x\nset n:x endpoints\nset s:x prefixes\nblock hook/x\n  rule %s -> allow by policy:t/p/ingress[0]\nmembers n:x\nmembers s:x\n  10.0.0.1\n  fd00::/16\n", hookOf[h], c.term)
				p, m, err := ir.Parse(text)
				require.NoError(t, err)
				require.NoError(t, ir.Validate(p, m))
				r, err := nftables.Render(p, m, nftables.Options{Linear: true})
				require.NoError(t, err)
				require.Equal(t, c.want, ruleTests(r, hookOf[h]))
				for _, clause := range p.Blocks[0].Steps[0].(ir.Rule).Match {
					for _, term := range clause {
						for _, k := range termKeys(term) {
							tried[k] = true
						}
					}
				}
			})
		}
	}
	for _, k := range allTermKeys() {
		require.True(t, tried[k], "%s is not tried", k)
	}
}

// ruleTests returns the tests of the rules that decide in the chain of a hook.
func ruleTests(r *nftables.Ruleset, hook string) string {
	var out []string
	c, _ := r.Chain(hook)
	for _, rule := range c.Rules {
		if rule.Origin == nil {
			continue
		}
		s, _, _ := strings.Cut(rule.String(), "accept comment")
		if s = strings.TrimSpace(s); s == "" {
			s = "always"
		}
		out = append(out, s)
	}
	if out == nil {
		return "never"
	}
	return strings.Join(out, " / ")
}

func termKeys(t ir.Term) []string {
	switch t := t.(type) {
	case ir.InPorts:
		return []string{fmt.Sprint("ports ", t.Field, t.Not)}
	case ir.InPrefixes:
		return []string{fmt.Sprint("prefixes ", t.Field, t.Not)}
	case ir.InNames:
		return []string{fmt.Sprint("names ", t.Field, t.Not)}
	case ir.InMask:
		return []string{fmt.Sprint("mask ", t.Field, t.Not)}
	case ir.InSet:
		return []string{fmt.Sprint("set ", t.Fields, t.Not)}
	}
	return []string{fmt.Sprintf("unknown %T", t)}
}

func allTermKeys() (keys []string) {
	for _, not := range []bool{false, true} {
		for _, f := range []ir.Field{ir.SrcPort, ir.DstPort} {
			keys = append(keys, fmt.Sprint("ports ", f, not))
		}
		for _, f := range []ir.Field{ir.SrcAddr, ir.DstAddr} {
			keys = append(keys, fmt.Sprint("prefixes ", f, not), fmt.Sprint("set ", []ir.Field{f}, not))
		}
		for _, f := range []ir.Field{ir.InIface, ir.OutIface} {
			keys = append(keys, fmt.Sprint("names ", f, not))
		}
		for _, f := range []ir.Field{ir.Family, ir.Protocol, ir.ICMPType, ir.ICMPCode, ir.State} {
			keys = append(keys, fmt.Sprint("mask ", f, not))
		}
		keys = append(keys, fmt.Sprint("set ", []ir.Field{ir.SrcAddr, ir.Protocol, ir.SrcPort}, not), fmt.Sprint("set ", []ir.Field{ir.DstAddr, ir.Protocol, ir.DstPort}, not))
	}
	return keys
}
