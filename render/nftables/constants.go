// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
)

// maxAnonymous is how many lists may stand in the rules themselves, where people read them. The kernel looks at every
// set of the table when it makes one, and at every change of the transaction when an anonymous one is put to use.
const maxAnonymous = 100

// list is a list of values that some rules test for.
type list struct {
	name string
	uses int
}

// settleSets drops the sets of members that no rule asks for in the end, and makes lists of values sets with names if
// there are many lists: those that more than one rule tests for, and all if many are left.
func (b *builder) settleSets() {
	type use struct {
		at   *Expr
		list *list
	}
	var uses []use
	lists, asked := map[string]*list{}, make(map[string]bool, len(b.sets))
	var key []byte
	for _, c := range b.chains {
		for i := range c.Rules {
			for n, e := range c.Rules[i].Exprs {
				if s, ok := e.(InSet); ok {
					asked[s.Set] = true
				} else if k, ok := listKey(key[:0], e); ok {
					key = k
					l := lists[string(k)]
					if l == nil {
						l = &list{}
						lists[string(k)] = l
					}
					l.uses++
					uses = append(uses, use{&c.Rules[i].Exprs[n], l})
				}
			}
		}
	}
	// Terms that turned out to be impossible together left sets behind.
	b.sets = slices.DeleteFunc(b.sets, func(s Set) bool { return !asked[s.Name] })
	if len(uses) <= maxAnonymous {
		return
	}
	left := 0
	for _, l := range lists {
		if l.uses == 1 {
			left++
		}
	}
	for _, u := range uses {
		if u.list.uses == 1 && left <= maxAnonymous {
			continue
		}
		values, keys, not := constant(*u.at)
		if values == nil {
			continue // rules share their tests
		}
		if u.list.name == "" {
			key, _ = listKey(key[:0], *u.at)
			sum := sha256.Sum256(key)
			u.list.name = listKinds[keys[0]] + hex.EncodeToString(sum[:8])
			b.sets = append(b.sets, Set{Name: u.list.name, Values: values})
		}
		*u.at = InSet{keys, u.list.name, not}
	}
}

// listKinds are the beginnings of the names of lists, by what they hold.
var listKinds = [...]string{
	InIface: "iface.", OutIface: "iface.", Protocol: "proto.", Src4: "net4.", Dst4: "net4.", Src6: "net6.", Dst6: "net6.",
	SrcPort: "port.", DstPort: "port.", ICMPType: "type4.", ICMPCode: "code4.", ICMPv6Type: "type6.", ICMPv6Code: "code6.",
}

// listKey appends what tells the list that e tests for from others; false if e tests for no list.
func listKey(b []byte, e Expr) ([]byte, bool) {
	if !IsList(e) {
		return b, false
	}
	switch e := e.(type) {
	case InNumbers:
		b = append(b, listKinds[e.Key]...)
		for _, w := range e.Mask {
			b = binary.BigEndian.AppendUint64(b, w)
		}
		return b, true
	case InPorts:
		b = append(b, listKinds[e.Key]...)
		for _, r := range e.Ranges {
			b = append(b, byte(r.Min>>8), byte(r.Min), byte(r.Max>>8), byte(r.Max))
		}
		return b, true
	case InPrefixes:
		b = append(b, listKinds[e.Key]...)
		for _, p := range e.Prefixes {
			a := p.Addr().As16()
			b = append(append(b, a[:]...), byte(p.Bits()))
		}
		return b, true
	case InNames:
		b = append(b, listKinds[e.Key]...)
		for _, n := range e.Names {
			b = append(append(b, n...), 0)
		}
		return b, true
	}
	return b, false
}

var oneKey = [...][]Key{
	InIface: {InIface}, OutIface: {OutIface}, Protocol: {Protocol}, Src4: {Src4}, Dst4: {Dst4}, Src6: {Src6}, Dst6: {Dst6},
	SrcPort: {SrcPort}, DstPort: {DstPort}, ICMPType: {ICMPType}, ICMPCode: {ICMPCode}, ICMPv6Type: {ICMPv6Type}, ICMPv6Code: {ICMPv6Code},
}

// constant takes a test for a list apart. The list is the same for both directions.
func constant(e Expr) (values Expr, keys []Key, not bool) {
	switch e := e.(type) {
	case InNumbers:
		keys, not = oneKey[e.Key], e.Not
		e.Not = false
		return e, keys, not
	case InPorts:
		keys, not = oneKey[e.Key], e.Not
		e.Key, e.Not = SrcPort, false
		return e, keys, not
	case InPrefixes:
		keys, not = oneKey[e.Key], e.Not
		switch e.Key {
		case Dst4:
			e.Key = Src4
		case Dst6:
			e.Key = Src6
		}
		e.Not = false
		return e, keys, not
	case InNames:
		keys, not = oneKey[e.Key], e.Not
		e.Key, e.Not = InIface, false
		return e, keys, not
	}
	return nil, nil, false
}
