// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	renderer "github.com/hostpolicy/hostpolicy/render/iptables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// TestForeignRulesStayAsTheyAre applies, changes a hundred times and tears down beside five hundred rules of somebody
// else in every table: neither they nor what they counted may change.
func TestForeignRulesStayAsTheyAre(t *testing.T) {
	changes := 12
	if *full {
		changes = 100
	}
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			n := newNetns(t)
			n.foreign(t, v, 500)
			before := n.saved(t, v, "")
			rules := 0
			for _, l := range before {
				if strings.HasPrefix(l, "[") {
					rules++
				}
			}
			require.GreaterOrEqual(t, rules, 500*2*len(foreignTables))
			b := newBackend(t, iptables.Options{NetNS: n.fd()})
			require.Equal(t, v, b.Variant(), "Auto")
			for i := range changes {
				p, m := rendertest.Program(uint64(i%9), rendertest.Size{Levels: 2})
				_, err := b.Apply(t.Context(), p, m)
				require.NoError(t, err)
				if i%10 == 0 || i == changes-1 {
					st, err := b.Observe(t.Context())
					require.NoError(t, err)
					require.Empty(t, st.Drift)
					require.Equal(t, before, n.saved(t, v, "hp-"), "change %d", i)
				}
			}
			require.NoError(t, b.Teardown(t.Context()))
			require.Equal(t, before, n.saved(t, v, ""))
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.False(t, st.Present)
			require.Empty(t, st.Drift)
			require.NoError(t, b.Teardown(t.Context()), "twice")
		})
	}
}

// TestTwoInstances run side by side: what one does is not seen by the other.
func TestTwoInstances(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			n := newNetns(t)
			one := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v})
			two := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v, Render: renderer.Options{Prefix: "hp2-", MarkMask: 0xff0000}})
			for i := range uint64(4) {
				for j, b := range []*iptables.Backend{one, two} {
					p, m := rendertest.Program(i*2+uint64(j), rendertest.Size{Levels: 2})
					_, err := b.Apply(t.Context(), p, m)
					require.NoError(t, err)
				}
				for _, b := range []*iptables.Backend{one, two} {
					st, err := b.Observe(t.Context())
					require.NoError(t, err)
					require.Empty(t, st.Drift)
				}
			}
			require.NoError(t, one.Teardown(t.Context()))
			st, err := two.Observe(t.Context())
			require.NoError(t, err)
			require.Empty(t, st.Drift)
			require.NoError(t, two.Teardown(t.Context()))
			require.NotContains(t, strings.Join(n.saved(t, v, ""), "\n"), "hp")
		})
	}
}

// TestWhatCustomRulesSee is the table in the documentation of the renderer. A custom rule before ours and one behind
// count what they see of a packet that is allowed, one that a failsafe lets in, and one without verdict; of a denied one,
// the rule behind sees nothing in any case.
func TestWhatCustomRulesSee(t *testing.T) {
	type sees struct{ allowed, failsafe, none, denied bool }
	all := sees{true, true, true, true}
	for _, tt := range []struct {
		insert         renderer.InsertMode
		allow          renderer.AllowAction
		before, behind sees
	}{
		{renderer.Insert, renderer.AllowAccept, sees{}, sees{none: true}},
		{renderer.Insert, renderer.AllowReturn, sees{}, sees{allowed: true, none: true}},
		{renderer.Append, renderer.AllowAccept, all, sees{}},
		{renderer.Append, renderer.AllowReturn, all, sees{}},
	} {
		for _, v := range variants {
			t.Run(fmt.Sprintf("insert=%d/allow=%d/%s", tt.insert, tt.allow, v), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				// There before us, so that it ends up behind the jump if that is inserted, and before it if it is appended.
				custom := ""
				for _, port := range []int{1001, 68, 1002, 1003} {
					custom += fmt.Sprintf("-A INPUT -p udp -m udp --dport %d -m comment --comment custom\n", port)
				}
				w.host.run(t, "*filter\n"+custom+"COMMIT\n", "iptables-"+v.String()+"-restore", "--noflush")
				b := newBackend(t, iptables.Options{NetNS: w.host.fd(), Variant: v, Render: renderer.Options{Insert: tt.insert, AllowAction: tt.allow}})
				p, m := compiled(t, ingress("in", "order: 1", "{action: Allow, protocol: UDP, destination: {ports: [1001]}}"))
				// What has no verdict: nothing governs packets to this port.
				blocks := slices.Clone(p.Blocks)
				for i := range blocks {
					if blocks[i].ID == "hook/normal-in" {
						pass := ir.Rule{Match: ir.Match{{ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: 1003, Max: 1003}}}}}, Then: ir.Pass, Origin: 1}
						blocks[i].Steps = append([]ir.Step{pass}, blocks[i].Steps...)
					}
				}
				q := *p
				q.Blocks = blocks
				_, err := b.Apply(t.Context(), &q, m)
				require.NoError(t, err)
				allowed, failsafe, denied := w.host.listen(t, hostAddr+":1001"), w.host.listen(t, hostAddr+":68"), w.host.listen(t, hostAddr+":1002")
				require.True(t, w.arrives(t, allowed))
				require.True(t, w.arrives(t, failsafe))
				require.False(t, w.arrives(t, denied))
				require.True(t, w.arrives(t, w.host.listen(t, hostAddr+":1003")))
				out := w.host.run(t, "", "iptables-"+v.String()+"-save", "-c", "-t", "filter")
				count := func(what string) bool {
					for l := range strings.Lines(out) {
						if strings.Contains(l, "--comment custom") && strings.Contains(l, what) {
							return !strings.HasPrefix(l, "[0:")
						}
					}
					t.Fatalf("no rule %s in\n%s", what, out)
					return false
				}
				got := sees{count("--dport 1001 "), count("--dport 68 "), count("--dport 1003 "), count("--dport 1002 ")}
				want := tt.behind
				if tt.insert == renderer.Append {
					want = tt.before
				}
				require.Equal(t, want, got)
			})
		}
	}
}

// TestRejectAnswers sends a reset in the table filter.
func TestRejectAnswers(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			b := newBackend(t, iptables.Options{NetNS: w.host.fd(), Variant: v, Render: renderer.Options{DenyAction: render.Reject}})
			p, m := compiled(t, ingress("in", "order: 1", "{action: Allow, protocol: TCP, destination: {ports: [1001]}}"))
			_, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			w.host.serve(t, hostAddr+":1001")
			w.host.serve(t, hostAddr+":1002")
			require.NoError(t, w.peer.connect(peerAddr, hostAddr+":1001"))
			require.ErrorIs(t, w.peer.connect(peerAddr, hostAddr+":1002"), errRefused)
		})
	}
}

// TestDriftIsSeenAndRepaired changes everything that can be changed.
func TestDriftIsSeenAndRepaired(t *testing.T) {
	p, m := compiled(t,
		ingress("in", "order: 1", "{action: Allow, protocol: UDP, source: {nets: [10.1.0.0/16, 10.3.0.0/16]}, destination: {ports: [1001]}}", "{action: Deny}"),
		ingress("pre", "preDNAT: true\n  applyOnForward: true", "{action: Deny, protocol: UDP, destination: {ports: [7]}}"))
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			n := newNetns(t)
			b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v})
			_, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			tool := "iptables-" + v.String()
			find := func(prefix string) string {
				for l := range strings.Lines(n.run(t, "", tool+"-save", "-t", "filter")) {
					if name, ok := strings.CutPrefix(l, ":"+prefix); ok {
						name, _, _ = strings.Cut(name, " ")
						return prefix + name
					}
				}
				t.Fatal("no chain " + prefix)
				return ""
			}
			set := ""
			for l := range strings.Lines(n.run(t, "", "ipset", "list", "-n")) {
				if strings.HasPrefix(l, "hp-4=") {
					set = strings.TrimSpace(l)
				}
			}
			for _, tt := range []struct {
				name string
				do   [][]string
				kind backends.DriftKind
			}{
				{"the jump is gone", [][]string{{tool, "-D", "INPUT", "1"}}, backends.DriftMissing},
				{"a rule stands before the jump", [][]string{{tool, "-I", "INPUT", "-p", "udp", "-j", "ACCEPT"}}, backends.DriftChanged},
				{"the jump is there twice", [][]string{{tool, "-A", "INPUT", "-j", "hp-INPUT"}}, backends.DriftUnknown},
				{"a rule is gone", [][]string{{tool, "-D", find("hp-hep_eth0"), "1"}}, backends.DriftMissing},
				{"a rule is more", [][]string{{tool, "-I", find("hp-hep_eth0"), "-j", "ACCEPT"}}, backends.DriftChanged},
				{"the fixed chain is empty", [][]string{{tool, "-F", "hp-INPUT"}}, backends.DriftMissing},
				{"a chain is more", [][]string{{tool, "-N", "hp-web-aaaaaaaaaaaa"}}, backends.DriftUnknown},
				{"a table is empty", [][]string{{tool, "-t", "mangle", "-F"}, {tool, "-t", "mangle", "-X"}}, backends.DriftMissing},
				{"an element is gone", [][]string{{"ipset", "del", set, "10.1.0.0/16"}}, backends.DriftMissing},
				{"an element is more", [][]string{{"ipset", "add", set, "10.2.0.0/16"}}, backends.DriftUnknown},
				{"a set is more", [][]string{{"ipset", "create", "hp-4s:foreign", "hash:net"}}, backends.DriftUnknown},
			} {
				for _, c := range tt.do {
					n.run(t, "", c...)
				}
				st, err := b.Observe(t.Context())
				require.NoError(t, err)
				require.True(t, st.Present)
				require.True(t, slices.ContainsFunc(st.Drift, func(d backends.Drift) bool { return d.Kind == tt.kind }), "%s: %+v", tt.name, st.Drift)
				_, err = b.Apply(t.Context(), p, m)
				require.NoError(t, err, tt.name)
				st, err = b.Observe(t.Context())
				require.NoError(t, err)
				require.Empty(t, st.Drift, tt.name)
			}
			r, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			require.Zero(t, r.Changes)

			// Another process looks at what is there and changes nothing.
			c := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v})
			r, err = c.Apply(t.Context(), p, m)
			require.NoError(t, err)
			require.Zero(t, r.Changes)
			c = newBackend(t, iptables.Options{NetNS: n.fd()})
			st, err := c.Adopt(t.Context(), p, m)
			require.NoError(t, err)
			require.Empty(t, st.Drift)
			require.Equal(t, r.Fingerprint, st.Fingerprint)
		})
	}
}

// TestCountersOutliveTheirRules counts packets of a rule whose chain is replaced.
func TestCountersOutliveTheirRules(t *testing.T) {
	in := func(extra string) (*ir.Program, ir.Members) {
		return compiled(t, ingress("in", "order: 1", "{action: Allow, protocol: UDP, destination: {ports: [1001]}}", "{action: Deny, protocol: UDP, destination: {ports: ["+extra+"]}}"))
	}
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			to, other := w.host.listen(t, hostAddr+":1001"), w.host.listen(t, hostAddr+":1002")
			b := newBackend(t, iptables.Options{NetNS: w.host.fd(), Variant: v})
			sent := uint64(0)
			for i := range 4 {
				p, m := in(fmt.Sprint(1002 + i%2))
				_, err := b.Apply(t.Context(), p, m)
				require.NoError(t, err)
				require.True(t, w.arrives(t, to))
				require.False(t, w.arrives(t, other))
				sent++
				cs, err := b.Counters(t.Context())
				require.NoError(t, err)
				got := map[string]uint64{}
				for _, c := range cs {
					got[c.Origin.String()] = c.Packets
				}
				require.Equal(t, sent, got["policy:default/in/ingress[0]"], "%v", got)
				require.Equal(t, sent/2+sent%2, got["policy:default/in/ingress[1]"], "%v", got)
			}
		})
	}
}

// TestVariants are found out, and never guessed.
func TestVariants(t *testing.T) {
	p, m := compiled(t)
	none := newNetns(t)
	b := newBackend(t, iptables.Options{NetNS: none.fd()})
	require.Equal(t, iptables.NFT, b.Variant(), "what iptables is here")
	_, err := os.Stat("/proc/net/ip_tables_names")
	require.NoError(t, err)
	require.Empty(t, strings.TrimSpace(none.run(t, "", "cat", "/proc/net/ip_tables_names")), "a probe must not make tables")

	both := newNetns(t)
	for _, v := range variants {
		both.run(t, "", "iptables-"+v.String(), "-A", "INPUT", "-p", "udp", "-j", "ACCEPT")
	}
	_, err = iptables.New(iptables.Options{NetNS: both.fd()})
	var ae *iptables.AmbiguousError
	require.ErrorAs(t, err, &ae)
	require.Equal(t, iptables.AmbiguousError{NFT: 1, Legacy: 1}, *ae)
	b = newBackend(t, iptables.Options{NetNS: both.fd(), Variant: iptables.Legacy})
	_, err = b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	require.Equal(t, iptables.Legacy, newBackend(t, iptables.Options{NetNS: both.fd()}).Variant(), "where our chains are")
	_, err = iptables.New(iptables.Options{NetNS: both.fd(), Variant: iptables.NFT})
	var ce *iptables.ConflictError
	require.ErrorAs(t, err, &ce)

	_, err = iptables.New(iptables.Options{Variant: 3})
	require.Error(t, err)
	_, err = iptables.New(iptables.Options{Render: renderer.Options{MarkMask: 1}})
	require.Error(t, err)
}

// TestErrorsNameTheRule refuses a set that exists with another type, which no rule can then ask.
func TestErrorsNameTheRule(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			n := newNetns(t)
			b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v})
			p, m, err := ir.Parse(`entry normal-in hook/normal-in
set s:x prefixes

block hook/normal-in
  rule src=@s:x -> deny by policy:default/web/ingress[0]
members s:x
  10.0.0.0/8
`)
			require.NoError(t, err)
			n.run(t, "", "ipset", "create", "hp-4s:x", "bitmap:port", "range", "0-10")
			_, err = b.Apply(t.Context(), p, m)
			var e *iptables.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, "ipset", e.Tool)
			require.Contains(t, e.Line, "swap")
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.NotContains(t, fmt.Sprint(st.Drift), "jump", "nothing was applied, nothing is enforced")

			n.run(t, "", "ipset", "destroy", "hp-4s:x")
			// One of the right type and of another size makes way.
			n.run(t, "", "ipset", "create", "hp-4s:x", "hash:net", "maxelem", "7")
			_, err = b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			st, err = b.Observe(t.Context())
			require.NoError(t, err)
			require.Empty(t, st.Drift)
		})
	}
}
