// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/engine"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// world is a datastore and a host, as a random walk changes them.
type world struct {
	*rand.Rand
	host    hostendpoint.Host
	objects map[hostendpoint.ID]hostendpoint.Object
	pool    []hostendpoint.Object
}

func newWorld(seed uint64, u *universes) *world {
	return &world{
		Rand: rand.New(rand.NewPCG(seed, 1)), host: u.cases[seed%uint64(len(u.cases))].Host,
		objects: map[hostendpoint.ID]hostendpoint.Object{}, pool: u.pool,
	}
}

// universes are random cases, and the objects of all of them. Names are few, so that an object often replaces another.
type universes struct {
	cases []*policytest.Case
	pool  []hostendpoint.Object
}

func makeUniverses(n int) *universes {
	u := &universes{}
	r := rand.New(rand.NewPCG(7, 7))
	for seed := range uint64(n) {
		c := policytest.Generate(seed, policytest.Size{Packets: 1})
		u.cases = append(u.cases, c)
		for o := range c.Resources.All() {
			spoil(r, o)
			u.pool = append(u.pool, o)
		}
	}
	return u
}

// resources returns the present objects in a random order.
func (w *world) resources() hostendpoint.Resources {
	ids := slices.SortedFunc(maps.Keys(w.objects), func(a, b hostendpoint.ID) int { return strings.Compare(a.String(), b.String()) })
	w.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	var r hostendpoint.Resources
	for _, id := range ids {
		r.Add(w.objects[id])
	}
	return r
}

// edit makes one change.
func (w *world) edit() engine.Change {
	switch n := w.IntN(100); {
	case n < 12:
		w.editHost()
		return engine.SetHost(w.host)
	case n < 30 && len(w.objects) > 0:
		ids := slices.SortedFunc(maps.Keys(w.objects), func(a, b hostendpoint.ID) int { return strings.Compare(a.String(), b.String()) })
		id := ids[w.IntN(len(ids))]
		delete(w.objects, id)
		return engine.Delete(id)
	case n < 33:
		return engine.Delete(hostendpoint.ID{Kind: hostendpoint.KindTier, Name: "nobody"})
	}
	o := w.pool[w.IntN(len(w.pool))]
	w.objects[o.ID().Stored()] = o
	return engine.Upsert(o)
}

// spoil makes an object one of those that the generator does not make: wrong, or from a file.
func spoil(w *rand.Rand, o hostendpoint.Object) {
	var source *field.Source
	if w.IntN(3) == 0 {
		source = field.NewSource(field.Pos{File: "f.yaml", Line: 1 + w.IntN(3)}, map[string]int{"spec.ingress": 9})
	}
	odd := w.IntN(5) == 0
	rule := func(rs []hostendpoint.Rule) {
		if len(rs) == 0 {
			return
		}
		r := &rs[w.IntN(len(rs))]
		switch w.IntN(3) {
		case 0:
			r.Action = "Perhaps"
		case 1:
			r.Source.Services = &hostendpoint.ServiceMatch{Name: "s", Namespace: "ns1"}
		default:
			r.Source.Selector = "role == 'nobody'"
		}
	}
	switch o := o.(type) {
	case *hostendpoint.HostEndpoint:
		o.Source = source
		if odd {
			o.Spec.InterfaceName = []string{"*", "", "cali1", "lo", "eth0"}[w.IntN(5)]
			o.Spec.Node = []string{"host-a", "host-b"}[w.IntN(2)]
		}
	case *hostendpoint.GlobalNetworkPolicy:
		o.Source = source
		if odd {
			switch w.IntN(3) {
			case 0:
				o.Spec.Selector = "(("
			case 1:
				o.Metadata.Name = hostendpoint.BackendPolicyName(o.Metadata.Name)
			default:
				rule(o.Spec.Ingress)
			}
		}
	case *hostendpoint.NetworkPolicy:
		o.Source = source
		if odd {
			rule(o.Spec.Egress)
		}
	case *hostendpoint.Profile:
		o.Source = source
		if odd {
			if w.IntN(4) == 0 {
				o.Metadata.Name = hostendpoint.DefaultAllowProfileName
			}
			rule(o.Spec.Ingress)
		}
	case *hostendpoint.Tier:
		o.Source = source
	}
}

func (w *world) editHost() {
	h := hostendpoint.Host{Node: w.host.Node, Interfaces: slices.Clone(w.host.Interfaces)}
	if w.IntN(8) == 0 {
		h.Node = []string{"host-a", "host-a", "host-b"}[w.IntN(3)]
	}
	address := func() netip.Prefix {
		return netip.MustParsePrefix([]string{"10.9.0.1/24", "fd00:9::1/64", "10.8.0.1/24", "10.9.0.2/24", "fd00:8::1/64"}[w.IntN(5)])
	}
	switch n := len(h.Interfaces); {
	case n > 0 && w.IntN(3) == 0:
		i := w.IntN(n)
		h.Interfaces = slices.Delete(h.Interfaces, i, i+1)
	case n > 0 && w.IntN(2) == 0:
		i := w.IntN(n)
		h.Interfaces[i].Addresses = []netip.Prefix{address(), address()}
	default:
		name := []string{"eth0", "eth1", "eth10", "cali1", "lo"}[w.IntN(5)]
		if !slices.ContainsFunc(h.Interfaces, func(i hostendpoint.Interface) bool { return i.Name == name }) {
			h.Interfaces = append(h.Interfaces, hostendpoint.Interface{Name: name, Addresses: []netip.Prefix{address()}})
		}
	}
	w.host = h
}

// mirror is what somebody knows who saw nothing but Deltas.
type mirror struct {
	entries  map[string]string
	blocks   map[ir.BlockID]string
	sets     map[ir.SetID]string
	members  map[ir.SetID]map[ir.Element]bool
	problems map[policy.Problem]bool
}

func newMirror() *mirror {
	return &mirror{map[string]string{}, map[ir.BlockID]string{}, map[ir.SetID]string{}, map[ir.SetID]map[ir.Element]bool{}, map[policy.Problem]bool{}}
}

// apply takes a Delta in, and complains about one that says more than what changed.
func (m *mirror) apply(t *testing.T, e *engine.Engine, d *engine.Delta) {
	for _, x := range d.Entries {
		require.NotContains(t, m.entries, x.Hook.String())
		m.entries[x.Hook.String()] = x.String()
	}
	for _, h := range d.RemovedEntries {
		require.Contains(t, m.entries, h.String())
		delete(m.entries, h.String())
	}
	for _, b := range d.RemovedBlocks {
		require.Contains(t, m.blocks, b)
		delete(m.blocks, b)
	}
	f := e.Fragment(d.Blocks...)
	require.Len(t, f.Blocks, len(d.Blocks))
	for _, b := range f.Blocks {
		text := (&ir.Program{Blocks: []ir.Block{b}, Origins: f.Origins}).String()
		require.NotEqual(t, m.blocks[b.ID], text, "unchanged")
		m.blocks[b.ID] = text
	}
	for _, b := range e.Fragment(d.Moved...).Blocks {
		require.Contains(t, m.blocks, b.ID)
	}
	for _, s := range d.Sets {
		require.NotContains(t, m.sets, s.ID)
		m.sets[s.ID], m.members[s.ID] = s.String(), map[ir.Element]bool{}
	}
	for _, s := range d.RemovedSets {
		require.Contains(t, m.sets, s)
		delete(m.sets, s)
		delete(m.members, s)
	}
	for _, c := range d.Members {
		for _, x := range c.Added {
			require.False(t, m.members[c.ID][x])
			m.members[c.ID][x] = true
		}
		for _, x := range c.Removed {
			require.True(t, m.members[c.ID][x])
			delete(m.members[c.ID], x)
		}
	}
	for _, p := range d.Raised {
		require.False(t, m.problems[p])
		m.problems[p] = true
	}
	for _, p := range d.Solved {
		require.True(t, m.problems[p])
		delete(m.problems, p)
	}
}

// text is what the mirror shows, in the form of that of a program.
func (m *mirror) text() string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(m.entries)) {
		lines = append(lines, m.entries[k])
	}
	for _, k := range slices.Sorted(maps.Keys(m.sets)) {
		lines = append(lines, m.sets[k])
		for _, e := range slices.SortedFunc(maps.Keys(m.members[k]), ir.CompareElements) {
			lines = append(lines, "  "+e.String())
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m.blocks)) {
		lines = append(lines, m.blocks[k])
	}
	return strings.Join(lines, "\n")
}

func mirrorOf(p *ir.Program, ms ir.Members, problems []policy.Problem) *mirror {
	m := newMirror()
	for _, e := range p.Entries {
		m.entries[e.Hook.String()] = e.String()
	}
	for _, b := range p.Blocks {
		m.blocks[b.ID] = (&ir.Program{Blocks: []ir.Block{b}, Origins: p.Origins}).String()
	}
	for _, s := range p.Sets {
		m.sets[s.ID], m.members[s.ID] = s.String(), map[ir.Element]bool{}
		for _, e := range ms.Set(s.ID) {
			m.members[s.ID][e] = true
		}
	}
	for _, p := range problems {
		m.problems[p] = true
	}
	return m
}

var snapshots = cmp.Options{
	cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}),
}

// walk makes random edits, some of them together, and compares with everything from scratch after each step.
func walk(t *testing.T, u *universes, seed uint64, steps int) {
	w := newWorld(seed, u)
	config := u.cases[seed%uint64(len(u.cases))].Config
	e, err := engine.New(w.host, engine.Options{Config: config})
	require.NoError(t, err)
	m := newMirror()
	for step := range steps {
		var changes []engine.Change
		for range 1 + w.IntN(3)*w.IntN(4) {
			changes = append(changes, w.edit())
		}
		s, err := policy.Resolve(w.resources(), w.host, config)
		require.NoError(t, err)
		p, ms, fresh := compile.Compile(s)

		d, err := e.Apply(changes...)
		where := fmt.Sprintf("seed %d step %d", seed, step)
		if fresh != nil {
			require.EqualError(t, err, fresh.Error(), where)
			_, err = e.Program()
			require.EqualError(t, err, fresh.Error(), where)
			continue
		}
		require.NoError(t, err, where)
		m.apply(t, e, &d)
		want := mirrorOf(p, ms, s.Problems)
		if a, b := want.text(), m.text(); a != b {
			t.Fatalf("%s: %s", where, cmp.Diff(a, b))
		}
		if !maps.Equal(want.problems, m.problems) {
			t.Fatalf("%s: problems: %s", where, cmp.Diff(want.problems, m.problems))
		}
		if step%4 != 3 && step != steps-1 {
			continue // what follows shows little that the mirror does not
		}
		got, err := e.Program()
		require.NoError(t, err, where)
		if got.Fingerprint() != p.Fingerprint() {
			t.Fatalf("%s: %s", where, ir.Diff(p, got))
		}
		require.Equal(t, p.Origins, got.Origins, where)
		require.Equal(t, ms.Fingerprint(), e.Members().Fingerprint(), where)
		if got := e.Snapshot(); !reflect.DeepEqual(s, got) { // which is much faster
			if diff := cmp.Diff(s, got, snapshots); diff != "" {
				t.Fatalf("%s: %s", where, diff)
			}
		}
	}
}

// The state depends on resources and host, never on the path taken. The idea is felix's, calc/calc_graph_fv_test.go.
func TestAnyWayToTheSameResourcesEndsInTheSameState(t *testing.T) {
	const sequences, steps = 500, 20
	u := makeUniverses(100)
	for seed := range uint64(sequences) {
		walk(t, u, seed, steps)
		if t.Failed() {
			return
		}
	}
}
