// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// damper holds back what goes. It is pure: time is an argument.
type damper struct {
	debounce time.Duration
	told     []Link // sorted by name
	missing  map[gone]time.Time
}

// gone is an interface, or an address of one, that was told and is not there.
type gone struct {
	link string
	addr netip.Prefix // the zero value is the interface itself
}

// see takes in what there is now, and returns what to tell: what there is, with what has not been away for long enough.
// Later is when that may change although nothing else does; zero if it may not.
func (d *damper) see(now []Link, t time.Time) (tell []Link, later time.Time) {
	missing := map[gone]time.Time{}
	keep := func(g gone) bool {
		since, ok := d.missing[g]
		if !ok {
			since = t
		}
		end := since.Add(d.debounce)
		if d.debounce <= 0 || !t.Before(end) {
			return false
		}
		missing[g] = since
		if later.IsZero() || end.Before(later) {
			later = end
		}
		return true
	}
	tell = slices.Clone(now)
	for _, was := range d.told {
		i, ok := find(tell, was.Name)
		if !ok {
			// The same interface under another name is told at once, or it would be there twice.
			renamed := slices.ContainsFunc(now, func(l Link) bool { return l.Index == was.Index })
			if !renamed && keep(gone{link: was.Name}) {
				was.Up = false
				was.Addresses = slices.DeleteFunc(slices.Clone(was.Addresses), func(a netip.Prefix) bool { return elsewhere(now, was.Name, a) })
				tell = slices.Insert(tell, i, was)
			}
			continue
		}
		for _, a := range was.Addresses {
			if slices.ContainsFunc(tell[i].Addresses, func(b netip.Prefix) bool { return a.Addr() == b.Addr() }) {
				continue
			}
			// An address that moved is not one that may come back.
			if !elsewhere(now, was.Name, a) && keep(gone{was.Name, a}) {
				tell[i].Addresses = slices.Concat(tell[i].Addresses, []netip.Prefix{a})
				slices.SortFunc(tell[i].Addresses, netip.Prefix.Compare)
			}
		}
	}
	d.missing, d.told = missing, tell
	return tell, later
}

func find(links []Link, name string) (int, bool) {
	return slices.BinarySearchFunc(links, name, func(l Link, n string) int { return strings.Compare(l.Name, n) })
}

// elsewhere reports whether another interface has the address.
func elsewhere(links []Link, name string, a netip.Prefix) bool {
	return slices.ContainsFunc(links, func(l Link) bool {
		return l.Name != name && slices.ContainsFunc(l.Addresses, func(b netip.Prefix) bool { return a.Addr() == b.Addr() })
	})
}

func equal(a, b []Link) bool {
	return slices.EqualFunc(a, b, func(x, y Link) bool {
		return x.Index == y.Index && x.Name == y.Name && slices.Equal(x.Addresses, y.Addresses)
	})
}
