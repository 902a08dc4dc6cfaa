// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// counts are the counters of origins, by ID.
type counts map[flow.Origin]backends.Counter

// add adds what rules counted that name their origin in the comment. Known are origins by their key, for comments that
// do not hold their whole text.
func (c counts) add(rules []savedRule, known map[flow.RuleKey]flow.Origin) {
	for _, r := range rules {
		o, ok := originOf(r.text, known)
		if !ok {
			continue
		}
		x := c[o.ID()]
		x.Origin = o
		x.Packets += r.packets
		x.Bytes += r.bytes
		c[o.ID()] = x
	}
}

func (c counts) addAll(d counts) {
	for id, y := range d {
		x := c[id]
		x.Origin = y.Origin
		x.Packets += y.Packets
		x.Bytes += y.Bytes
		c[id] = x
	}
}

// sorted returns the counters, sorted by origin text.
func (c counts) sorted() []backends.Counter {
	type named struct {
		text string
		c    backends.Counter
	}
	list := make([]named, 0, len(c))
	for _, x := range c {
		list = append(list, named{x.Origin.String(), x})
	}
	slices.SortFunc(list, func(a, b named) int { return strings.Compare(a.text, b.text) })
	out := make([]backends.Counter, len(list))
	for i, x := range list {
		out[i] = x.c
	}
	return out
}

// originOf returns the origin that a rule names in its comment.
func originOf(rule string, known map[flow.RuleKey]flow.Origin) (flow.Origin, bool) {
	const before = `-m comment --comment "`
	i := strings.Index(rule, before)
	if i < 0 {
		return flow.Origin{}, false
	}
	comment, _, ok := strings.Cut(rule[i+len(before):], `"`)
	if !ok {
		return flow.Origin{}, false
	}
	key, ok := render.CommentKey(comment)
	if !ok {
		return flow.Origin{}, false
	}
	if o, ok := known[key]; ok {
		return o, true
	}
	_, text, _ := strings.Cut(comment, " ")
	text, _, _ = strings.Cut(text, " ")
	o, err := flow.ParseOrigin(text)
	return o, err == nil && o.Key() == key
}

// originsOf returns the origins of programs by their keys.
func originsOf(ps ...*ir.Program) map[flow.RuleKey]flow.Origin {
	m := map[flow.RuleKey]flow.Origin{}
	for _, p := range ps {
		if p == nil {
			continue
		}
		for _, o := range p.Origins {
			m[o.Key()] = o
		}
	}
	return m
}
