// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	rn "github.com/hostpolicy/hostpolicy/render/nftables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

func parse(t testing.TB, text string) (*ir.Program, ir.Members) {
	t.Helper()
	p, m, err := ir.Parse(text)
	require.NoError(t, err)
	require.NoError(t, ir.Validate(p, m))
	return p, m
}

const simple = `entry normal-in hook/normal-in
set s:a prefixes "has(a)"

block hook/normal-in
  rule src=@s:a protocol=udp dport=7,9 -> allow by policy:t/p/ingress[0]
  rule protocol=udp dport=8 -> deny by policy:t/p/ingress[1]
  rule iif!=lo -> pass by no-verdict
members s:a
  10.0.0.1
  127.0.0.1
`

// requireNoDrift checks that the kernel has what was applied.
func requireNoDrift(t testing.TB, b *nftables.Backend) {
	t.Helper()
	st, err := b.Observe(context.Background())
	require.NoError(t, err)
	require.True(t, st.Present)
	require.Empty(t, st.Drift)
}

// TestTextAndNetlinkAreTwoPrintsOfOneRuleset loads random rulesets both ways. Nft must list them alike, and the backend
// must see no difference, though nft chose the bytes.
func TestTextAndNetlinkAreTwoPrintsOfOneRuleset(t *testing.T) {
	t.Parallel()
	ns, ns2 := newNetns(t), newNetns(t)
	n := uint64(40)
	if testing.Short() {
		n = 8
	}
	for seed := range n {
		p, m := rendertest.Program(seed, rendertest.Size{})
		o := rn.Options{Events: rn.Events(seed % 3), Counters: seed%2 == 0, DenyAction: render.DenyAction(seed / 2 % 2), Linear: seed%5 != 0, LogGroup: uint16(seed), SnapLen: uint32(seed % 3 * 64)}
		b := newBackend(t, nftables.Options{NetNS: ns.fd(), Render: o})
		_, err := b.Apply(t.Context(), p, m)
		require.NoError(t, err, "seed %d\n%s", seed, p)
		o.Caps.ConcatRanges = true
		r, err := rn.Render(p, m, o)
		require.NoError(t, err)
		byNetlink := listing(ns.nft(t, "", "-n", "list", "ruleset"))
		ns2.nft(t, r.String())
		require.Equal(t, listing(ns2.nft(t, "", "-n", "list", "ruleset")), byNetlink, "seed %d", seed)
		requireNoDrift(t, b)
		ns.nft(t, r.String())
		requireNoDrift(t, b)
	}
}

var counted = regexp.MustCompile(`packets \d+ bytes \d+`)

// listing returns a listing without counters, and with elements in the order of their text: that of hashes is random.
func listing(s string) string {
	return counted.ReplaceAllString(sets.ReplaceAllStringFunc(s, func(s string) string {
		es := strings.Split(strings.Trim(s, "{} \n"), ",")
		for i := range es {
			es[i] = strings.TrimSpace(es[i])
		}
		return "{ " + strings.Join(sorted(es), ", ") + " }"
	}), "packets 0 bytes 0")
}

var sets = regexp.MustCompile(`\{ [^{}]* \}`)

// TestLoadingOverChangesEqualsLoadingFresh applies random programs and members one after the other.
func TestLoadingOverChangesEqualsLoadingFresh(t *testing.T) {
	t.Parallel()
	ns, fresh := newNetns(t), newNetns(t)
	o := nftables.Options{NetNS: ns.fd(), Render: rn.Options{Linear: true}}
	b := newBackend(t, o)
	n := uint64(30)
	if testing.Short() {
		n = 6
	}
	generation := uint64(0)
	for seed := range n {
		p, m := rendertest.Program(seed/3, rendertest.Size{}) // the same program three times, with other members
		for i := range m.Sets {
			if seed%3 > 0 {
				m.Sets[i].Elements = rendertest.Elements(seed*7+uint64(i), p.Sets[i].Kind)
			}
		}
		r, err := b.Apply(t.Context(), p, m)
		require.NoError(t, err, "seed %d", seed)
		generation++
		require.Equal(t, generation, r.Generation)
		requireNoDrift(t, b)
		again, err := b.Apply(t.Context(), p, m)
		require.NoError(t, err)
		generation++
		require.Zero(t, again.Changes, "seed %d", seed)
		require.Equal(t, r.Fingerprint, again.Fingerprint)

		o.NetNS = fresh.fd()
		f, err := newBackend(t, o).Apply(t.Context(), p, m)
		require.NoError(t, err)
		require.Equal(t, f.Fingerprint, r.Fingerprint)
		require.Equal(t, sortedChains(fresh.nft(t, "", "list", "ruleset")), sortedChains(ns.nft(t, "", "list", "ruleset")), "seed %d", seed)
	}
}

// sortedChains returns a listing with its objects sorted: the kernel lists them in the order in which they came.
func sortedChains(s string) string {
	return strings.Join(sorted(strings.Split(strings.TrimPrefix(strings.ReplaceAll(listing(s), "\n\n\t", "\n\t"), "table inet hostpolicy {\n\tcomment \"hostpolicy\"\n"), "\n\t}\n")), "\n")
}

func sorted(s []string) []string {
	for i := 1; i < len(s); i++ {
		for j := i; j > 0 && s[j] < s[j-1]; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
	return s
}

// TestChangesAreSentAndNothingElse checks that the second Apply leaves alone what stays: handles and counters.
func TestChangesAreSentAndNothingElse(t *testing.T) {
	t.Parallel()
	ns := newNetns(t)
	b := newBackend(t, nftables.Options{NetNS: ns.fd(), Render: rn.Options{Linear: true}})
	p, m := parse(t, simple)
	_, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	before := ns.nft(t, "", "-a", "list", "chain", "inet", "hostpolicy", "normal-in")

	q, m := parse(t, strings.Replace(simple, "dport=8 -> deny", "dport=88 -> deny", 1))
	r, err := b.Apply(t.Context(), q, m)
	require.NoError(t, err)
	require.Equal(t, 2, r.Changes) // one rule goes, one comes
	after := strings.Split(ns.nft(t, "", "-a", "list", "chain", "inet", "hostpolicy", "normal-in"), "\n")
	changed := 0
	for i, line := range strings.Split(before, "\n") {
		if line != after[i] {
			changed++
			require.Contains(t, line, "dport 8 ")
			require.Contains(t, after[i], "dport 88 ")
		}
	}
	require.Equal(t, 1, changed)
	requireNoDrift(t, b)

	// Members alone: elements alone.
	m.Sets[0].Elements = m.Sets[0].Elements[1:]
	r, err = b.Apply(t.Context(), q, m)
	require.NoError(t, err)
	require.Equal(t, 1, r.Changes)
	requireNoDrift(t, b)
}

func TestMembersThatBecomePrefixes(t *testing.T) {
	t.Parallel()
	b := newBackend(t, nftables.Options{Render: rn.Options{Linear: true}})
	p, m := parse(t, simple)
	_, err := b.ApplyMembers(t.Context(), ir.MembersChanges{{ID: "s:a"}})
	require.ErrorIs(t, err, nftables.ErrNotApplied)
	first, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	wide := ir.Element{Prefix: netip.MustParsePrefix("10.0.0.0/8")}
	r, err := b.ApplyMembers(t.Context(), ir.MembersChanges{{ID: "s:a", Added: []ir.Element{wide}}, {ID: "s:unknown", Added: []ir.Element{wide}}})
	require.NoError(t, err)
	require.NotEqual(t, first.Fingerprint, r.Fingerprint)
	requireNoDrift(t, b)
	r, err = b.ApplyMembers(t.Context(), ir.MembersChanges{{ID: "s:a", Removed: []ir.Element{wide}}})
	require.NoError(t, err)
	require.Equal(t, first.Fingerprint, r.Fingerprint)
	requireNoDrift(t, b)
	// The members that Apply was given first are the ones again.
	r, err = b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	require.Zero(t, r.Changes)
}

func TestApplyMembersEqualsApply(t *testing.T) {
	t.Parallel()
	b, c := newBackend(t, nftables.Options{}), newBackend(t, nftables.Options{})
	p, m := rendertest.Program(3, rendertest.Size{})
	_, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	for seed := range uint64(20) {
		n := ir.Members{}
		for i, s := range p.Sets {
			n.Sets = append(n.Sets, ir.SetMembers{ID: s.ID, Elements: rendertest.Elements(seed*5+uint64(i), s.Kind)})
		}
		r, err := b.ApplyMembers(t.Context(), ir.DiffMembers(m, n))
		require.NoError(t, err)
		m = n
		f, err := c.Apply(t.Context(), p, m)
		require.NoError(t, err)
		require.Equal(t, f.Fingerprint, r.Fingerprint)
		requireNoDrift(t, b)
	}
}

// TestTwoInstancesLiveSideBySide also looks after Teardown and a table of somebody else.
func TestTwoInstancesLiveSideBySide(t *testing.T) {
	t.Parallel()
	ns := newNetns(t)
	ns.nft(t, "table inet other {\n chain c {\n type filter hook input priority 5\n counter\n }\n}\n")
	other := ns.nft(t, "", "list", "table", "inet", "other")
	a := newBackend(t, nftables.Options{NetNS: ns.fd()})
	b := newBackend(t, nftables.Options{NetNS: ns.fd(), Render: rn.Options{Table: "second", Mark: 4}})
	p, m := rendertest.Program(1, rendertest.Size{})
	q, n := rendertest.Program(2, rendertest.Size{})
	_, err := a.Apply(t.Context(), p, m)
	require.NoError(t, err)
	_, err = b.Apply(t.Context(), q, n)
	require.NoError(t, err)
	requireNoDrift(t, a)
	requireNoDrift(t, b)

	// Another process takes over, and tears down.
	c := newBackend(t, nftables.Options{NetNS: ns.fd()})
	st, err := c.Observe(t.Context())
	require.NoError(t, err)
	require.Equal(t, backends.State{Present: true}, st)
	_, err = c.Apply(t.Context(), q, n)
	require.NoError(t, err)
	requireNoDrift(t, c)
	require.NoError(t, c.Teardown(t.Context()))
	require.NoError(t, c.Teardown(t.Context()), "nothing to tear down")
	st, err = c.Observe(t.Context())
	require.NoError(t, err)
	require.Equal(t, backends.State{}, st)
	requireNoDrift(t, b)
	require.NoError(t, b.Teardown(t.Context()))
	require.Equal(t, other, ns.nft(t, "", "list", "ruleset"))
}

func TestContextsThatEnded(t *testing.T) {
	t.Parallel()
	b := newBackend(t, nftables.Options{})
	p, m := parse(t, simple)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Apply(ctx, p, m)
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Observe(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Counters(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, b.Teardown(ctx), context.Canceled)
	st, err := b.Observe(t.Context())
	require.NoError(t, err)
	require.False(t, st.Present)
}

func TestWhatCannotBeExpressedChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBackend(t, nftables.Options{})
	p, m := parse(t, simple)
	_, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	q, n := parse(t, "entry forward-in a\nblock a\n  rule iif=\"a\\\"b\" -> allow by policy:t/p/ingress[3]\n")
	_, err = b.Apply(t.Context(), q, n)
	var u *render.UnsupportedError
	require.True(t, errors.As(err, &u))
	require.Equal(t, "policy:t/p/ingress[3]", u.Origin.String())
	requireNoDrift(t, b)
}

// TestCounters sends packets and reads what each rule counted, also through a later process.
func TestCounters(t *testing.T) {
	t.Parallel()
	ns := newNetns(t)
	o := nftables.Options{NetNS: ns.fd(), Render: rn.Options{Counters: true, Linear: true}}
	b := newBackend(t, o)
	cs, err := b.Counters(t.Context())
	require.NoError(t, err)
	require.Empty(t, cs)
	p, m := parse(t, simple)
	_, err = b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	ns.up(t, "lo")
	send := func(port, n int) {
		ns.do(t, func() {
			c, err := net.ListenPacket("udp4", "127.0.0.1:0")
			require.NoError(t, err)
			defer c.Close()
			for range n {
				_, err := c.WriteTo([]byte("four"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
				require.NoError(t, err)
			}
		})
	}
	send(7, 3)
	send(8, 2)
	send(10, 1)
	for _, b := range []*nftables.Backend{b, newBackend(t, o)} {
		cs, err = b.Counters(t.Context())
		require.NoError(t, err)
		got := map[string][2]uint64{}
		for _, c := range cs {
			got[c.Origin.String()] = [2]uint64{c.Packets, c.Bytes}
		}
		require.Equal(t, map[string][2]uint64{"policy:t/p/ingress[0]": {3, 96}, "policy:t/p/ingress[1]": {2, 64}, "no-verdict": {0, 0}}, got)
	}
}

func TestReadsAreOfTheSameNamespace(t *testing.T) {
	t.Parallel()
	p, m := parse(t, simple)
	a, b := newBackend(t, nftables.Options{}), newBackend(t, nftables.Options{})
	_, err := a.Apply(t.Context(), p, m)
	require.NoError(t, err)
	st, err := b.Observe(t.Context())
	require.NoError(t, err)
	require.False(t, st.Present)
}
