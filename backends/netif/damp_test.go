// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func parse(s string) []Link {
	var out []Link
	for _, f := range strings.Fields(s) {
		name, addrs, _ := strings.Cut(f, "=")
		name, index, _ := strings.Cut(name, "#")
		l := Link{Name: name}
		fmt.Sscan(index, &l.Index)
		for _, a := range strings.Split(addrs, ",") {
			if a != "" {
				l.Addresses = append(l.Addresses, netip.MustParsePrefix(a+"/24"))
			}
		}
		out = append(out, l)
	}
	return out
}

func format(links []Link) string {
	var out []string
	for _, l := range links {
		var addrs []string
		for _, a := range l.Addresses {
			addrs = append(addrs, a.Addr().String())
		}
		out = append(out, fmt.Sprintf("%s#%d=%s", l.Name, l.Index, strings.Join(addrs, ",")))
	}
	return strings.Join(out, " ")
}

func TestDamper(t *testing.T) {
	type step struct {
		at        int // milliseconds
		now, tell string
	}
	for name, steps := range map[string][]step{
		"what comes is told at once": {{0, "a#1=", "a#1="}, {1, "a#1=10.0.0.1 b#2=", "a#1=10.0.0.1 b#2="}},
		"an address that goes is told later": {
			{0, "a#1=10.0.0.1,10.0.0.2", "a#1=10.0.0.1,10.0.0.2"}, {1, "a#1=10.0.0.1", "a#1=10.0.0.1,10.0.0.2"},
			{100, "a#1=10.0.0.1", "a#1=10.0.0.1,10.0.0.2"}, {101, "a#1=10.0.0.1", "a#1=10.0.0.1"},
		},
		"one that comes back was never gone": {
			{0, "a#1=10.0.0.1", "a#1=10.0.0.1"}, {1, "a#1=", "a#1=10.0.0.1"}, {50, "a#1=10.0.0.1", "a#1=10.0.0.1"},
			{60, "a#1=", "a#1=10.0.0.1"}, {150, "a#1=", "a#1=10.0.0.1"}, {160, "a#1=", "a#1="},
		},
		"an interface that goes is told later":                {{0, "a#1=10.0.0.1 b#2=", "a#1=10.0.0.1 b#2="}, {1, "b#2=", "a#1=10.0.0.1 b#2="}, {101, "b#2=", "b#2="}},
		"a rename is told at once":                            {{0, "a#1=10.0.0.1", "a#1=10.0.0.1"}, {1, "b#1=10.0.0.1", "b#1=10.0.0.1"}},
		"names that change places":                            {{0, "a#1=10.0.0.1 b#2=10.0.0.2", "a#1=10.0.0.1 b#2=10.0.0.2"}, {1, "a#2=10.0.0.2 b#1=10.0.0.1", "a#2=10.0.0.2 b#1=10.0.0.1"}},
		"an address that moves is told at once":               {{0, "a#1=10.0.0.1 b#2=", "a#1=10.0.0.1 b#2="}, {1, "a#1= b#2=10.0.0.1", "a#1= b#2=10.0.0.1"}},
		"the address of an interface that went moves at once": {{0, "a#1=10.0.0.1", "a#1=10.0.0.1"}, {1, "b#2=10.0.0.1", "a#1= b#2=10.0.0.1"}, {101, "b#2=10.0.0.1", "b#2=10.0.0.1"}},
		"an interface made anew":                              {{0, "a#1=10.0.0.1", "a#1=10.0.0.1"}, {1, "", "a#1=10.0.0.1"}, {2, "a#7=", "a#7=10.0.0.1"}, {102, "a#7=", "a#7="}},
	} {
		t.Run(name, func(t *testing.T) {
			d := damper{debounce: 100 * time.Millisecond}
			for _, s := range steps {
				tell, later := d.see(parse(s.now), time.UnixMilli(int64(s.at)))
				require.Equal(t, s.tell, format(tell), "at %d ms", s.at)
				require.Equal(t, s.now != s.tell, !later.IsZero(), "at %d ms", s.at)
			}
		})
	}
}

// Whatever happened, what stays is told in the end, and nothing that is there is ever left out.
func TestDamperProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := damper{debounce: 100 * time.Millisecond}
		at := int64(0)
		links := rapid.Custom(func(rt *rapid.T) []Link {
			var out []Link
			for _, name := range []string{"a", "b", "c"} {
				if rapid.Bool().Draw(rt, "there") {
					l := Link{Name: name, Index: rapid.IntRange(1, 4).Draw(rt, "index")*10 + len(out)}
					for i := range 3 {
						if rapid.Bool().Draw(rt, "has") {
							l.Addresses = append(l.Addresses, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 24))
						}
					}
					out = append(out, l)
				}
			}
			return out
		})
		var now []Link
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			at += rapid.Int64Range(0, 120).Draw(rt, "pause")
			now = links.Draw(rt, "now")
			tell, _ := d.see(slices.Clone(now), time.UnixMilli(at))
			require.True(rt, slices.IsSortedFunc(tell, func(a, b Link) int { return strings.Compare(a.Name, b.Name) }))
			for _, l := range now {
				i, ok := find(tell, l.Name)
				require.True(rt, ok)
				require.Equal(rt, l.Index, tell[i].Index)
				require.Subset(rt, tell[i].Addresses, l.Addresses)
			}
		}
		d.see(slices.Clone(now), time.UnixMilli(at))
		tell, later := d.see(slices.Clone(now), time.UnixMilli(at+100))
		require.Equal(rt, format(now), format(tell))
		require.Zero(rt, later)
	})
}
