// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// Counters implements backends.Backend. Rules count only with Options.Render.Counters. A chain that Apply had to change
// goes on counting with the rules that stayed.
func (b *Backend) Counters(ctx context.Context) ([]backends.Counter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	table := b.opts.Render.Table
	t := newSeen()
	if err := b.sock.dump(ctx, "counters", unix.NFT_MSG_GETRULE, familyInet, func(w *writer) { w.str(unix.NFTA_RULE_TABLE, table) },
		func() { t.chains = map[string]*seenChain{"": {}} },
		func(d []byte) error { return t.counter(d, table) }); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return nil, err
	}
	origins := map[flow.RuleKey]flow.Origin{}
	if b.last != nil {
		for _, o := range b.last.program.Origins {
			origins[o.Key()] = o
		}
	}
	sums := map[flow.RuleKey]*backends.Counter{}
	for _, r := range t.chains[""].rules {
		k, ok := render.CommentKey(r.comment)
		if !r.counted || !ok {
			continue
		}
		c := sums[k]
		if c == nil {
			o, ok := origins[k]
			if !ok { // of an earlier process
				words := strings.Fields(r.comment)
				if len(words) < 2 {
					continue
				}
				var err error
				if o, err = flow.ParseOrigin(words[1]); err != nil || o.Key() != k {
					continue
				}
			}
			c = &backends.Counter{Origin: o}
			sums[k] = c
		}
		c.Packets += r.packets
		c.Bytes += r.bytes
	}
	out := make([]backends.Counter, 0, len(sums))
	for _, c := range sums {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b backends.Counter) int { return strings.Compare(a.Origin.String(), b.Origin.String()) })
	return out, nil
}

// counter notes the comment and the counters of a rule, and nothing else of it.
func (t *seenTable) counter(d []byte, table string) error {
	var in string
	var r seenRule
	t.buf = t.buf[:0]
	err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_RULE_TABLE:
			in = cstr(data)
		case unix.NFTA_RULE_USERDATA:
			r.comment = udataComment(data)
		case unix.NFTA_RULE_EXPRESSIONS:
			if bytes.Contains(data, []byte("counter\x00")) {
				return attrs(data, func(_ uint16, data []byte) error { return t.expr(&r, data, false) })
			}
		}
		return nil
	})
	if err == nil && in == table && r.counted {
		t.chains[""].rules = append(t.chains[""].rules, r)
	}
	return err
}
