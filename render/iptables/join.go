// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// join returns the tests of both; false if one rule cannot hold them. It may write behind the end of a.
func join(a []Test, c alt) ([]Test, bool) {
	n := len(a)
next:
	for _, t := range c {
		r := rank(t)
		for i, u := range a {
			if rank(u) != r || r >= 7 { // modules may occur more than once
				if hasEqual(u) && u == t {
					continue next
				}
				continue
			}
			if u == t {
				continue next
			}
			switch t := t.(type) {
			case Protocol:
				u := u.(Protocol)
				switch {
				case t.Not && !u.Not && t.Number != u.Number:
					continue next // u says more
				case !t.Not && u.Not && t.Number != u.Number:
					a = append(a[:i:i], a[i+1:]...)
					a = append(a, t)
					continue next
				}
			case InIface:
				if u := u.(InIface); within(t.Name, t.Prefix, t.Not, u.Name, u.Prefix, u.Not) {
					a = append(append(a[:i:i], a[i+1:]...), t)
					continue next
				} else if within(u.Name, u.Prefix, u.Not, t.Name, t.Prefix, t.Not) {
					continue next
				}
			case OutIface:
				if u := u.(OutIface); within(t.Name, t.Prefix, t.Not, u.Name, u.Prefix, u.Not) {
					a = append(append(a[:i:i], a[i+1:]...), t)
					continue next
				} else if within(u.Name, u.Prefix, u.Not, t.Name, t.Prefix, t.Not) {
					continue next
				}
			case SourcePort:
				t2 := MultiPort{Source: true, Ranges: []inet.PortRange{t.Ports}, Not: t.Not}
				a = append(a, t2)
				continue next
			case DestinationPort:
				t2 := MultiPort{Ranges: []inet.PortRange{t.Ports}, Not: t.Not}
				a = append(a, t2)
				continue next
			}
			return a[:n:n], false
		}
		a = append(a, t)
	}
	return a, true
}

// within reports whether all names of the first pattern are names of the second; false if a negation is in it.
func within(name string, prefix, not bool, of string, ofPrefix, ofNot bool) bool {
	if not || ofNot {
		return false
	}
	return name == of && !(prefix && !ofPrefix) || ofPrefix && strings.HasPrefix(name, of)
}

// hasEqual reports whether == works on the test.
func hasEqual(t Test) bool {
	_, ok := t.(MultiPort)
	return !ok
}

// bySets returns a with the tests for addresses replaced by tests for sets, of which a rule can hold many.
func (b *builder) bySets(a alt) alt {
	out := slices.Clone(a)
	for i, t := range out {
		switch t := t.(type) {
		case Source:
			out[i] = InSet{Set: b.constSet([]netip.Prefix{t.Prefix}).name, Source: true, Not: t.Not}
		case Destination:
			out[i] = InSet{Set: b.constSet([]netip.Prefix{t.Prefix}).name, Not: t.Not}
		}
	}
	return out
}

// contradict reports whether no packet satisfies both, if that is easy to see: they name two protocols or two messages.
func contradict(a, c []Test) bool {
	for _, t := range a {
		for _, u := range c {
			switch p := t.(type) {
			case Protocol:
				q, ok := u.(Protocol)
				if ok && (!p.Not && !q.Not && p.Number != q.Number || p.Not != q.Not && p.Number == q.Number) {
					return true
				}
			case ICMP:
				switch q := u.(type) {
				case ICMP:
					if !p.Not && !q.Not && (p.Type != q.Type || !p.AnyCode && !q.AnyCode && p.Code != q.Code) {
						return true
					}
				case Bytes: // of another type
					return true
				}
			case Bytes:
				if _, ok := u.(ICMP); ok {
					return true
				}
			case InIface:
				if q, ok := u.(InIface); ok && apart(p.Name, p.Prefix, p.Not, q.Name, q.Prefix, q.Not) {
					return true
				}
			case OutIface:
				if q, ok := u.(OutIface); ok && apart(p.Name, p.Prefix, p.Not, q.Name, q.Prefix, q.Not) {
					return true
				}
			}
		}
	}
	return false
}

// apart reports whether no name is in both patterns.
func apart(n string, prefix, not bool, m string, mPrefix, mNot bool) bool {
	switch {
	case not && mNot:
		return false
	case not:
		return within(m, mPrefix, false, n, prefix, false)
	case mNot:
		return within(n, prefix, false, m, mPrefix, false)
	}
	return !within(n, prefix, false, m, mPrefix, false) && !within(m, mPrefix, false, n, prefix, false)
}

// sortTests sorts tests as iptables-save prints them; few tests, nearly sorted.
func sortTests(ts []Test) {
	for i := 1; i < len(ts); i++ {
		for j := i; j > 0 && rank(ts[j]) < rank(ts[j-1]); j-- {
			ts[j], ts[j-1] = ts[j-1], ts[j]
		}
	}
}
