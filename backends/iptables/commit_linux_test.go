// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// generated returns a program of rules that ask three sets, each either to allow or to deny.
func generated(t *rapid.T, name string) *ir.Program {
	p := &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}}
	b := ir.Block{ID: "b"}
	for i := range 3 {
		id := ir.SetID(fmt.Sprintf("s:%d", i))
		p.Sets = append(p.Sets, ir.SetDecl{ID: id, Kind: ir.SetOfPrefixes})
		opens := rapid.Bool().Draw(t, name+" opens")
		for range rapid.IntRange(0, 2).Draw(t, name+" rules") {
			not := rapid.Bool().Draw(t, name+" not")
			then := ir.Deny
			if opens != not {
				then = ir.Allow
			}
			p.Origins = append(p.Origins, flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p", Index: len(p.Origins)})
			b.Steps = append(b.Steps, ir.Rule{
				Match: ir.Match{{ir.InSet{Fields: []ir.Field{ir.SrcAddr}, Set: id, Not: not}}}, Then: then, Origin: ir.OriginID(len(p.Origins)),
			})
		}
	}
	if len(b.Steps) > 0 {
		i := rapid.IntRange(0, len(b.Steps)-1).Draw(t, "rotate")
		b.Steps = append(b.Steps[i:], b.Steps[:i]...)
	}
	p.Origins = append(p.Origins, flow.Origin{Kind: flow.OriginTier, Tier: "t"})
	b.Steps = append(b.Steps, ir.Rule{Then: ir.Deny, Origin: ir.OriginID(len(p.Origins))})
	p.Blocks = []ir.Block{b}
	return p
}

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }

const addresses = 4

func members(t *rapid.T, name string) ir.Members {
	var m ir.Members
	for i := range 3 {
		s := ir.SetMembers{ID: ir.SetID(fmt.Sprintf("s:%d", i))}
		for j := range addresses {
			if rapid.Bool().Draw(t, name) {
				s.Elements = append(s.Elements, ir.Element{Prefix: netip.PrefixFrom(addr(j), 32)})
			}
		}
		m.Sets = append(m.Sets, s)
	}
	return m
}

// allowed returns which addresses a program lets in.
func allowed(t *rapid.T, p *ir.Program, m ir.Members) (out [addresses]bool) {
	in, err := ir.NewInterpreter(p, m)
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		v, _ := in.Verdict(&flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.UDP, Src: addr(i), Dst: addr(9)})
		out[i] = v == flow.Allow
	}
	return out
}

// TestNoOrderOfMembersLetsAnythingIn stops a change of members and rules at every point: nothing is let in that neither
// the old nor the new state lets in.
func TestNoOrderOfMembersLetsAnythingIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, m, n := generated(t, "old"), members(t, "old members"), members(t, "new members")
		q := p
		if rapid.Bool().Draw(t, "rules change") {
			q = generated(t, "new")
		}
		old, err := render.Render(p, m, render.Options{})
		if err != nil {
			t.Fatal(err)
		}
		rules, err := render.Render(q, n, render.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range rules.Sets {
			if x, ok := old.Set(s.Name); ok && x.Use != s.Use {
				return // a set that changes its meaning has no safe order
			}
		}
		c := &commit{Backend: &Backend{families: []inet.Family{inet.IPv4}}, rules: rules}
		early, late := c.sets(old.Sets, nil, p == q)

		before, after := allowed(t, p, m), allowed(t, q, n)
		now := slices.Clone(m.Sets)
		for i := range now {
			name := "hp-4" + string(now[i].ID)
			if _, ok := old.Set(name); !ok {
				now[i].Elements = n.Sets[i].Elements // new, and filled before anything else
			}
		}
		check := func(p *ir.Program, at string) {
			got := allowed(t, p, ir.Members{Sets: now})
			for i := range got {
				if got[i] && !before[i] && !after[i] {
					t.Fatalf("%s: %s is let in", at, addr(i))
				}
			}
		}
		do := func(o elementOp) {
			for i := range now {
				if o.set.ID != now[i].ID {
					continue
				}
				es := slices.Clone(now[i].Elements)
				j, found := slices.BinarySearchFunc(es, o.e, ir.CompareElements)
				switch {
				case o.add && !found:
					es = slices.Insert(es, j, o.e)
				case !o.add && found:
					es = slices.Delete(es, j, j+1)
				}
				now[i].Elements = es
			}
		}
		for _, o := range early {
			do(o)
			check(p, "before the rules change")
		}
		check(q, "behind the change of the rules")
		for _, o := range late {
			do(o)
			check(q, "behind the change of the rules")
		}
		if got := allowed(t, q, ir.Members{Sets: now}); got != after {
			t.Fatalf("%v is allowed in the end instead of %v", got, after)
		}
	})
}

// TestFailedLines finds what the tools complain about.
func TestFailedLines(t *testing.T) {
	o := flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p"}
	s := &script{text: []byte("*filter\n:a - [0:0]\n-A a -j DROP\nCOMMIT\n"), origins: []lineOrigin{{3, &o}}}
	for message, want := range map[string]string{
		"iptables-restore v1.8.9 (legacy): unknown option\nError occurred at line: 3\nTry":  "-A a -j DROP",
		"iptables-nft-restore v1.8.9 (nf_tables): \nline 2: CHAIN_ADD failed (File exists)": ":a - [0:0]",
		"ipset v7.17: Error in line 1: Set cannot be created":                               "*filter",
		"iptables-restore: line 4 failed":                                                   "COMMIT",
		"iptables-restore: line 9 failed":                                                   "",
		"something else":                                                                    "",
	} {
		line, by := s.failed(message)
		require.Equal(t, want, line, message)
		require.Equal(t, strings.Contains(want, "DROP"), by == o, message)
	}
}

func TestParsers(t *testing.T) {
	const text = `# Generated
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -j DOCKER
COMMIT
*filter
:INPUT DROP [1:2]
:hp-INPUT - [0:0]
:hp-x-INPUT - [0:0]
[3:4] -A INPUT -p tcp -j ACCEPT
[5:6] -A INPUT -m comment --comment "hostpolicy host endpoints" -j hp-INPUT
[7:8] -A hp-INPUT -g hp-a-aaaaaaaaaaaa
COMMIT
`
	s, other, err := parseSaved([]byte(text), "hp-")
	require.NoError(t, err)
	require.Equal(t, 4, other, "DOCKER and its rule, hp-x-INPUT, the rule for TCP")
	f := s.table(render.Filter)
	require.Equal(t, []string{"-p tcp -j ACCEPT", `-m comment --comment "hostpolicy host endpoints" -j hp-INPUT`}, f.kernel["INPUT"])
	require.Equal(t, map[string][]savedRule{"hp-INPUT": {{"-g hp-a-aaaaaaaaaaaa", 7, 8}}}, f.chains)
	for _, bad := range []string{"-A INPUT -j DROP\n", "*filter\n:INPUT DROP [0:0]\n", "*filter\n[1:x] -A INPUT -j DROP\nCOMMIT\n", "*filter\nnonsense\nCOMMIT\n", "COMMIT\n", "*filter\n:x\nCOMMIT\n"} {
		_, _, err := parseSaved([]byte(bad), "hp-")
		require.Error(t, err, bad)
	}
	require.True(t, savedRule{text: "-s 1.2.3.4/32 -p ah -j DROP"}.same("-s 1.2.3.4/32 -p 51 -j DROP"))
	require.True(t, savedRule{text: "-p esp -j DROP"}.same("-p 50 -j DROP"))
	require.False(t, savedRule{text: "-p esp -j DROP"}.same("-p 51 -j DROP"))

	rs, err := parseListed([]byte("-N a\n-A a -p udp -m comment --comment \"x -c 9 9\" -c 3 4 -j NFLOG --nflog-prefix \"y -c 7 7 z\"\n"))
	require.NoError(t, err)
	require.Len(t, rs, 1)
	require.Equal(t, [2]uint64{3, 4}, [2]uint64{rs[0].packets, rs[0].bytes})
	_, err = parseListed([]byte("-A a -p udp -j DROP\n"))
	require.Error(t, err)

	sets, err := parseSavedSets([]byte("create hp-4x hash:net,port family inet hashsize 1024 maxelem 7 bucketsize 12 initval 0x1\nadd hp-4x 10.0.0.1,tcp:80\nadd hp-4x 10.0.0.0/8,tcp:80\nadd hp-4x 10.0.0.1,icmp:echo-request\ncreate other hash:ip\nadd other 1.2.3.4\n"), "hp-")
	require.NoError(t, err)
	require.Len(t, sets, 1)
	x := sets["hp-4x"]
	require.Equal(t, 7, x.max)
	require.Equal(t, []string{"10.0.0.1,icmp:echo-request"}, x.odd)
	require.Len(t, x.elements, 2)
	for _, bad := range []string{"nonsense\n", "add hp-4x 10.0.0.1\n", "create\n"} {
		_, err := parseSavedSets([]byte(bad), "hp-")
		require.Error(t, err, bad)
	}
}

func FuzzParsers(f *testing.F) {
	f.Add([]byte("*filter\n:INPUT ACCEPT [0:0]\n:hp-INPUT - [0:0]\n[1:2] -A INPUT -p esp -j hp-INPUT\nCOMMIT\n"))
	f.Add([]byte("create hp-4x hash:net family inet maxelem 7\nadd hp-4x 10.0.0.0/8\n"))
	f.Add([]byte("-A a -c 1 2 -j DROP\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, _, err := parseSaved(b, "hp-"); err == nil {
			for _, fam := range []inet.Family{inet.IPv4, inet.IPv6} {
				p := newPlan(fam, &render.Ruleset{Prefix: "hp-", Marks: render.Marks{Generation: 2}}, s)
				_, _, _ = p.finish(), p.change(), append(p.garbage(false), p.garbage(true)...)
			}
		}
		_, _ = parseSavedSets(b, "hp-")
		_, _ = parseListed(b)
	})
}
