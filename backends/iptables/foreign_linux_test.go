// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	renderer "github.com/hostpolicy/hostpolicy/render/iptables"
)

// foreignTables are all tables that iptables knows.
var foreignTables = []string{"raw", "mangle", "nat", "filter", "security"}

// foreignRules are rules of one table in the shapes of other software: chains in the order of their first use, and in
// every rule what it counted.
type foreignRules struct {
	six    bool
	chains []string // but those of the kernel
	rules  []string
}

func (f *foreignRules) chain(names ...string) {
	for _, n := range names {
		if !slices.Contains(f.chains, n) {
			f.chains = append(f.chains, n)
		}
	}
}

// rule adds a rule.
func (f *foreignRules) rule(format string, args ...any) {
	n := len(f.rules)
	f.rules = append(f.rules, fmt.Sprintf("[%d:%d] -A %s", n%7*n, n%7*n*60, fmt.Sprintf(format, args...)))
}

// addr returns the i-th address of the family.
func (f *foreignRules) addr(i int) string {
	if f.six {
		return fmt.Sprintf("fd00:a::%x", i)
	}
	return fmt.Sprintf("10.96.%d.%d", i>>8, i&255)
}

// restore returns the input of iptables-restore for at least count rules.
func (f *foreignRules) restore(table string, count int) string {
	for i := 0; len(f.rules) < count; i++ {
		f.fill(table, i)
	}
	var b strings.Builder
	b.WriteString("*" + table + "\n")
	for _, c := range f.chains {
		b.WriteString(":" + c + " - [0:0]\n")
	}
	b.WriteString(strings.Join(f.rules, "\n") + "\nCOMMIT\n")
	return b.String()
}

// fill adds the i-th service of kube-proxy, container of Docker and port of a zone of firewalld.
func (f *foreignRules) fill(table string, i int) {
	a, all := f.addr(i), "0.0.0.0/0"
	if f.six {
		all = "::/0"
	}
	svc, sep := fmt.Sprintf("KUBE-SVC-%016X", i*7919), fmt.Sprintf("KUBE-SEP-%016X", i*104729)
	switch table {
	case "raw":
		if i == 0 {
			f.chain("PREROUTING_direct", "PREROUTING_ZONES", "PRE_public", "PRE_public_allow", "OUTPUT_direct")
			f.rule("PREROUTING -j PREROUTING_direct")
			f.rule("PREROUTING -j PREROUTING_ZONES")
			f.rule("PREROUTING_ZONES -i eth+ -g PRE_public")
			f.rule("PRE_public -j PRE_public_allow")
			f.rule("OUTPUT -j OUTPUT_direct")
		}
		f.rule("PREROUTING -d %s ! -i docker0 -j DROP", a)
		f.rule("PRE_public_allow -p udp -m udp --dport %d -j CT --notrack", 20000+i)
		f.rule("OUTPUT_direct -p tcp -m tcp --sport %d -m comment --comment \"jump to hp-OUTPUT? no\" -j RETURN", 20000+i)
	case "mangle":
		if i == 0 {
			f.chain("KUBE-PROXY-CANARY", "KUBE-KUBELET-CANARY", "PREROUTING_direct", "PRE_public", "FORWARD_direct", "POST_public")
			f.rule("PREROUTING -j PREROUTING_direct")
			f.rule("PREROUTING -i eth0 -g PRE_public")
			f.rule("FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu")
			f.rule("POSTROUTING -o eth0 -j POST_public")
		}
		f.rule("PRE_public -p tcp -m tcp --dport %d -j MARK --set-xmark 0x%x/0xffff", 20000+i, i)
		f.rule("FORWARD_direct -s %s -m mark --mark 0x%x/0xffff -j ACCEPT", a, i)
		f.rule("POST_public -d %s -m dscp --dscp 0x%02x -j RETURN", a, i%63)
	case "nat":
		if i == 0 {
			f.chain("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "DOCKER", "POST_public_allow")
			f.rule("PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES")
			f.rule("PREROUTING -m addrtype --dst-type LOCAL -j DOCKER")
			f.rule("OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES")
			f.rule("POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING")
			f.rule("KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN")
			f.rule("KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0")
			f.rule("KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully")
			f.rule("KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000")
			f.rule("POST_public_allow ! -o lo -j MASQUERADE")
		}
		f.chain(svc, sep)
		to := f.addr(0x1000 + i)
		f.rule("KUBE-SERVICES -d %s -p tcp -m comment --comment \"default/svc-%d:http cluster IP\" -m tcp --dport 80 -j %s", a, i, svc)
		f.rule("%s -m comment --comment \"default/svc-%d:http -> %s:8080\" -m statistic --mode random --probability 0.33333333349 -j %s", svc, i, to, sep)
		f.rule("%s -s %s -m comment --comment \"default/svc-%d:http\" -j KUBE-MARK-MASQ", sep, to, i)
		target := to
		if f.six {
			target = "[" + target + "]"
		}
		f.rule("%s -p tcp -m comment --comment \"default/svc-%d:http\" -m tcp -j DNAT --to-destination %s:8080", sep, i, target)
		f.rule("DOCKER ! -i docker0 -p tcp -m tcp --dport %d -j DNAT --to-destination %s:80", 30000+i, target)
	case "filter":
		if i == 0 {
			f.chain("KUBE-FIREWALL", "KUBE-FORWARD", "KUBE-SERVICES", "DOCKER", "DOCKER-USER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2",
				"INPUT_ZONES", "IN_public", "IN_public_allow", "hpx-INPUT", "hp-custom")
			f.rule("INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-FIREWALL")
			f.rule("INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT")
			f.rule("INPUT -j INPUT_ZONES")
			f.rule("INPUT -m conntrack --ctstate INVALID -j LOG --log-prefix \"STATE_INVALID_DROP: \"")
			f.rule("INPUT -j hpx-INPUT")
			f.rule("FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD")
			f.rule("FORWARD -j DOCKER-USER")
			f.rule("FORWARD -j DOCKER-ISOLATION-STAGE-1")
			f.rule("FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
			f.rule("OUTPUT -j KUBE-FIREWALL")
			f.rule("KUBE-FIREWALL ! -s %s -d %s -m comment --comment \"block incoming localnet connections\" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP", a, a)
			f.rule("KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT")
			f.rule("DOCKER-USER -j RETURN")
			f.rule("DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2")
			f.rule("INPUT_ZONES -i eth0 -g IN_public")
			f.rule("IN_public -j IN_public_allow")
			f.rule("IN_public -m set --match-set %s src -j DROP", map[bool]string{false: "firewalld4", true: "firewalld6"}[f.six])
			f.rule("hp-custom -m comment --comment \"looks like ours and is not\" -j hpx-INPUT")
		}
		f.rule("IN_public_allow -p tcp -m tcp --dport %d -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT", 20000+i)
		f.rule("IN_public_allow -s %s -p udp -m multiport --dports %d,%d:%d -m limit --limit 5/min -j ACCEPT", a, 100+i, 2000+i, 3000+i)
		f.rule("DOCKER -d %s ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT", a)
		f.rule("KUBE-SERVICES -d %s -p tcp -m comment --comment \"default/svc-%d:http has no endpoints\" -m tcp --dport 80 -j REJECT", a, i)
	default:
		if i == 0 {
			f.chain("INPUT_direct", "OUTPUT_direct")
			f.rule("INPUT -j INPUT_direct")
			f.rule("OUTPUT -j OUTPUT_direct")
		}
		f.rule("INPUT_direct -s %s -p tcp -m tcp --dport %d -j ACCEPT", a, 1000+i)
		f.rule("OUTPUT_direct -d %s -p tcp -m tcp --sport %d -j RETURN", all, 1000+i)
	}
}

// foreign puts at least count rules of somebody else into every table, and a few sets.
func (n netns) foreign(t testing.TB, v iptables.Variant, count int) {
	t.Helper()
	n.run(t, "create foreign hash:ip\nadd foreign 10.0.0.1\ncreate hp-x hash:ip\ncreate hpx-4s:a hash:net\n"+
		"create KUBE-CLUSTER-IP hash:ip,port\nadd KUBE-CLUSTER-IP 10.96.0.1,tcp:443\n"+
		"create firewalld4 hash:net\nadd firewalld4 192.0.2.0/24\ncreate firewalld6 hash:net family inet6\nadd firewalld6 2001:db8::/32\n", "ipset", "restore")
	for _, tool := range []string{"iptables", "ip6tables"} {
		for _, table := range foreignTables {
			f := &foreignRules{six: tool == "ip6tables"}
			n.run(t, f.restore(table, count), tool+"-"+v.String()+"-restore", "--noflush", "--counters")
		}
	}
}

// saved returns what iptables-save and ipset print, with what rules counted, without comments and what the chains of the
// kernel counted, and without what belongs to the instance with the given prefix; "" leaves everything in.
func (n netns) saved(t testing.TB, v iptables.Variant, prefix string) []string {
	t.Helper()
	out := n.run(t, "", "iptables-"+v.String()+"-save", "-c") + n.run(t, "", "ip6tables-"+v.String()+"-save", "-c") + n.run(t, "", "ipset", "save")
	var lines []string
	for l := range strings.Lines(out) {
		l = strings.TrimSpace(l)
		words := strings.Fields(l)
		name := ""
		switch {
		case strings.HasPrefix(l, ":"):
			name = words[0][1:]
			l = words[0] + " " + words[1]
		case strings.HasPrefix(l, "["):
			name = words[2]
		case len(words) > 1:
			name = words[1]
		}
		if strings.HasPrefix(l, "#") || prefix != "" && (renderer.OwnsChain(prefix, name) || renderer.OwnsSet(prefix, name) || strings.HasSuffix(l, " -j "+prefix+name)) {
			continue
		}
		lines = append(lines, l)
	}
	return lines
}
