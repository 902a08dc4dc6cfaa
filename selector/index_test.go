// SPDX-License-Identifier: Apache-2.0

package selector_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/selector"
)

func ExampleIndex() {
	var x selector.Index
	web, err := selector.Parse("role == 'web' && env != 'test'")
	if err != nil {
		panic(err)
	}
	x.PutSelector("allow-web", web)
	fmt.Println(x.PutEndpoint("host1", map[string]string{"role": "web"}, "kns.prod"))
	fmt.Println(x.PutParent("kns.prod", map[string]string{"env": "test"}))
	fmt.Println(x.PutEndpoint("host1", map[string]string{"role": "web", "env": "prod"}, "kns.prod"))
	fmt.Println(x.Endpoints("allow-web"))
	// Output:
	// [{allow-web host1 true 0}]
	// [{allow-web host1 false 0}]
	// [{allow-web host1 true 0}]
	// [host1]
}

// indexModel is the oracle: it keeps the contents and matches everything against everything.
type indexModel struct {
	selectors map[string]selector.Selector
	local     map[string]bool // selectors that are
	endpoints map[string]modelEndpoint
	parents   map[string]map[string]string
}

type modelEndpoint struct {
	labels  map[string]string
	parents []string
	local   bool
}

func (m *indexModel) matches() map[selector.Change]bool {
	out := map[selector.Change]bool{}
	for name, ep := range m.endpoints {
		var inherited []map[string]string
		for _, p := range ep.parents {
			inherited = append(inherited, m.parents[p])
		}
		labels := selector.Inherit(ep.labels, inherited...)
		for id, s := range m.selectors {
			if (ep.local || !m.local[id]) && s.Matches(labels) {
				out[selector.Change{Selector: id, Endpoint: name, Match: true}] = true
			}
		}
	}
	return out
}

func TestIndexEqualsFromScratch(t *testing.T) {
	names := func(prefix string) *rapid.Generator[string] {
		return rapid.Map(rapid.IntRange(0, 4), func(i int) string { return fmt.Sprint(prefix, i) })
	}
	rapid.Check(t, func(t *rapid.T) {
		var (
			x     selector.Index
			model = indexModel{
				map[string]selector.Selector{}, map[string]bool{}, map[string]modelEndpoint{}, map[string]map[string]string{},
			}
			sum     = map[selector.Change]bool{}
			numbers = map[string]int{}
		)
		for range rapid.IntRange(1, 40).Draw(t, "edits") {
			var changes []selector.Change
			switch rapid.IntRange(0, 7).Draw(t, "edit") {
			case 0, 1:
				id := names("s").Draw(t, "selector")
				s := genTree(3).Draw(t, "tree").selector(t)
				if rapid.IntRange(0, 20).Draw(t, "zero") == 0 {
					s = selector.Selector{}
				}
				model.selectors[id], model.local[id] = s, rapid.Bool().Draw(t, "local")
				if model.local[id] {
					changes = x.PutLocalSelector(id, s)
				} else {
					changes = x.PutSelector(id, s)
				}
			case 2:
				id := names("s").Draw(t, "selector")
				delete(model.selectors, id)
				changes = x.DeleteSelector(id)
			case 3, 4:
				name, labels := names("e").Draw(t, "endpoint"), genLabels().Draw(t, "labels")
				parents := rapid.SliceOfN(names("p"), 0, 3).Draw(t, "parents")
				local := rapid.Bool().Draw(t, "local")
				model.endpoints[name] = modelEndpoint{maps.Clone(labels), slices.Clone(parents), local}
				if local {
					changes = x.PutLocalEndpoint(name, labels, parents...)
				} else {
					changes = x.PutEndpoint(name, labels, parents...)
				}
				clear(labels) // the index must not have kept it
			case 5:
				name := names("e").Draw(t, "endpoint")
				delete(model.endpoints, name)
				changes = x.DeleteEndpoint(name)
			case 6:
				name, labels := names("p").Draw(t, "parent"), genLabels().Draw(t, "labels")
				model.parents[name] = maps.Clone(labels)
				changes = x.PutParent(name, labels)
				clear(labels)
			case 7:
				name := names("p").Draw(t, "parent")
				delete(model.parents, name)
				changes = x.DeleteParent(name)
			}
			require.True(t, slices.IsSortedFunc(changes, func(a, b selector.Change) int {
				return slices.Compare([]string{a.Selector, a.Endpoint}, []string{b.Selector, b.Endpoint})
			}), changes)
			for _, c := range changes {
				on := selector.Change{Selector: c.Selector, Endpoint: c.Endpoint, Match: true}
				if n, ok := numbers[c.Endpoint]; ok {
					require.Equal(t, n, c.Number, "an endpoint keeps its number to its last change")
				}
				if n, ok := x.Number(c.Endpoint); ok {
					require.Equal(t, n, c.Number)
				}
				require.NotEqual(t, c.Match, sum[on], "%v changes nothing", c)
				if c.Match {
					sum[on] = true
				} else {
					delete(sum, on)
				}
			}
			want := model.matches()
			require.Empty(t, cmp.Diff(want, sum))

			was := maps.Clone(numbers)
			clear(numbers)
			taken := map[int]bool{}
			for ep := range model.endpoints {
				n, ok := x.Number(ep)
				require.True(t, ok)
				require.False(t, taken[n], "two endpoints have number %d", n)
				require.Less(t, n, 5, "numbers are used again")
				if old, ok := was[ep]; ok {
					require.Equal(t, old, n)
				}
				taken[n], numbers[ep] = true, n
			}

			byQuery := map[selector.Change]bool{}
			for id, s := range model.selectors {
				var some, not0 bool
				for c := range want {
					some = some || c.Selector == id
					not0 = not0 || c.Selector == id && numbers[c.Endpoint] != 0
				}
				if !model.local[id] {
					_, found := x.Find(s, func(int) bool { return true })
					require.Equal(t, some, found)
					n, found := x.Find(s, func(n int) bool { return n != 0 })
					require.Equal(t, not0, found)
					require.Equal(t, found, n != 0)
				}
				list := x.Endpoints(id)
				require.True(t, slices.IsSorted(list))
				for _, ep := range list {
					byQuery[selector.Change{Selector: id, Endpoint: ep, Match: true}] = true
					require.Contains(t, x.Selectors(ep), id)
				}
			}
			require.Empty(t, cmp.Diff(want, byQuery))
			n := 0
			for ep := range model.endpoints {
				list := x.Selectors(ep)
				require.True(t, slices.IsSorted(list))
				n += len(list)
			}
			require.Equal(t, len(want), n)
		}
		// Nothing may be left behind.
		for id := range model.selectors {
			x.DeleteSelector(id)
		}
		for ep := range model.endpoints {
			x.DeleteEndpoint(ep)
		}
		for p := range model.parents {
			x.DeleteParent(p)
		}
		require.True(t, selector.IndexIsEmpty(&x))
	})
}

func TestIndexUnknownNames(t *testing.T) {
	var x selector.Index
	require.Empty(t, x.DeleteSelector("s"))
	require.Empty(t, x.DeleteEndpoint("e"))
	require.Empty(t, x.DeleteParent("p"))
	require.Empty(t, x.Endpoints("s"))
	require.Empty(t, x.Selectors("e"))
	_, ok := x.Labels("e")
	require.False(t, ok)
	x.PutEndpoint("e", map[string]string{"a": "1"}, "p")
	x.PutParent("p", map[string]string{"a": "2", "b": "2"})
	labels, ok := x.Labels("e")
	require.True(t, ok)
	require.Equal(t, selector.MapLabels{"a": "1", "b": "2"}, labels)
}

// The order in which things arrive is of no consequence, and neither is the order of Go's maps.
func TestIndexIsDeterministic(t *testing.T) {
	b := newIndexWorkload(t, 200, 50)
	var want []selector.Change
	for round := range 10 {
		var x selector.Index
		for i, s := range b.selectors {
			x.PutSelector(b.ids[i], s)
		}
		for i := range b.endpoints {
			x.PutEndpoint(b.names[i], nil, "parent")
		}
		require.Empty(t, x.Endpoints(b.ids[0]))
		got := x.PutParent("parent", b.endpoints[3])
		require.NotEmpty(t, got)
		if round == 0 {
			want = got
		}
		require.Equal(t, want, got)
	}
}

type indexWorkload struct {
	names     []string
	endpoints []map[string]string
	ids       []string
	selectors []selector.Selector
}

// newIndexWorkload makes endpoints with eight labels and selectors as policies have them.
func newIndexWorkload(t testing.TB, endpoints, selectors int) indexWorkload {
	var w indexWorkload
	for i := range endpoints {
		w.names = append(w.names, fmt.Sprintf("endpoint-%05d", i))
		l := map[string]string{
			"app":    fmt.Sprintf("app-%d", i%100),
			"env":    fmt.Sprintf("env-%d", i/100%4),
			"zone":   fmt.Sprintf("zone-%d", i%16),
			"team":   fmt.Sprintf("team-%d", i%50),
			"rack":   fmt.Sprintf("rack-%d", i/40),
			"os":     "linux",
			"region": fmt.Sprintf("region-%d", i%3),
			"tier":   fmt.Sprintf("tier-%d", i%5),
		}
		w.endpoints = append(w.endpoints, l)
	}
	for i := range selectors {
		w.ids = append(w.ids, fmt.Sprintf("selector-%04d", i))
		var text string
		switch i % 10 {
		case 0, 1, 2, 3, 4:
			text = fmt.Sprintf("app == 'app-%d'", i/10)
		case 5:
			text = fmt.Sprintf("app in {'app-%d', 'app-%d'} && os == 'linux'", i/10, (i/10+17)%100)
		case 6:
			text = fmt.Sprintf("team == 'team-%d' && env != 'env-0'", i/10%50)
		case 7:
			text = fmt.Sprintf("rack == 'rack-%d' || rack == 'rack-%d'", i%250, i/2%250)
		case 8:
			text = fmt.Sprintf("has(app) && app == 'app-%d' && !(env == 'env-1')", i/10)
		case 9:
			text = fmt.Sprintf("team in {'team-%d'} && zone starts with 'zone-1'", i/10%50)
		}
		w.selectors = append(w.selectors, mustParse(t, text))
	}
	return w
}

func (w indexWorkload) fill(x *selector.Index) (changes int) {
	for i, s := range w.selectors {
		changes += len(x.PutSelector(w.ids[i], s))
	}
	for i, l := range w.endpoints {
		changes += len(x.PutEndpoint(w.names[i], l))
	}
	return changes
}

func BenchmarkIndexFill(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		w := newIndexWorkload(b, n, 1000)
		b.Run(fmt.Sprintf("endpoints=%d/selectors=1000", n), func(b *testing.B) {
			b.ReportAllocs()
			matches := 0
			for b.Loop() {
				var x selector.Index
				matches = w.fill(&x)
			}
			b.ReportMetric(float64(matches), "matches")
		})
	}
}

func BenchmarkIndexLabelChange(b *testing.B) {
	w := newIndexWorkload(b, 10000, 1000)
	var x selector.Index
	w.fill(&x)
	for _, label := range []string{"app", "zone", "unused"} {
		var versions [2]map[string]string
		for i := range versions {
			versions[i] = maps.Clone(w.endpoints[77])
			versions[i][label] = fmt.Sprint(label, "-", 3+i)
		}
		b.Run("endpoints=10000/selectors=1000/label="+label, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x.PutEndpoint(w.names[77], versions[i%2])
			}
		})
	}
}

func BenchmarkIndexSelectorChange(b *testing.B) {
	w := newIndexWorkload(b, 10000, 1000)
	var x selector.Index
	w.fill(&x)
	one, other := mustParse(b, "app == 'app-1'"), mustParse(b, "app == 'app-2' && has(os)")
	b.Run("endpoints=10000/selectors=1000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			x.PutSelector(w.ids[0], one)
			x.PutSelector(w.ids[0], other)
		}
	})
}
