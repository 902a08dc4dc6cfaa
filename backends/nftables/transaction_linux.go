// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// foreign reports whether an error of an incremental transaction means that the table is not what we left.
func foreign(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) || errors.Is(err, errForeign)
}

// errForeign means that a chain of ours has other rules.
var errForeign = errors.New("nftables: the rules are not ours")

// whole returns the transaction that replaces the table.
func (b *Backend) whole(r *render.Ruleset) (*batch, error) {
	size := 1 << 12
	for i := range r.Chains {
		size += 100 + 600*len(r.Chains[i].Rules)
	}
	for i := range r.Sets {
		size += 200 + 60*len(r.Sets[i].Elements)
	}
	t := newBatch(b.opts.Render.Table, size, b.sock.seq, 0)
	t.newTable() // so that there is one to delete
	t.delTable()
	t.newTable()
	for i := range r.Sets {
		if err := t.newSet(&r.Sets[i]); err != nil {
			return nil, err
		}
	}
	for i := range r.Chains {
		t.newChain(&r.Chains[i])
	}
	for i := range r.Chains {
		for j := range r.Chains[i].Rules {
			if err := t.newRule(r.Chains[i].Name, j, &r.Chains[i].Rules[j], 0); err != nil {
				return nil, err
			}
		}
	}
	b.finish(t)
	return t, nil
}

func (b *Backend) finish(t *batch) {
	t.finish()
	b.sock.seq = t.seq
}

// incremental returns the transaction that makes the changes.
func (b *Backend) incremental(ctx context.Context, c *render.Changes, r *render.Ruleset) (*batch, error) {
	handles := make([][]uint64, len(c.Rules))
	for i, rc := range c.Rules {
		hs, err := b.handles(ctx, rc.Old.Name)
		if err != nil {
			return nil, err
		}
		if len(hs) != len(rc.Old.Rules) {
			return nil, errForeign
		}
		handles[i] = hs
	}
	t := newBatch(b.opts.Render.Table, 1<<14, b.sock.seq, 0)
	for _, s := range c.NewSets {
		if err := t.newSet(s); err != nil {
			return nil, err
		}
	}
	for _, ch := range c.NewChains {
		t.newChain(ch)
	}
	for _, ch := range c.OldChains { // they may name one another
		t.delRules(ch.Name)
	}
	for i, rc := range c.Rules {
		for _, h := range rc.Hunks {
			for k := range h.Delete {
				t.delRule(rc.Old.Name, h.At+k, handles[i][h.At+k])
			}
			before := uint64(0)
			if n := h.At + h.Delete; n < len(handles[i]) {
				before = handles[i][n]
			}
			for k := range h.Insert {
				if err := t.newRule(rc.New.Name, h.From+k, &rc.New.Rules[h.From+k], before); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, ch := range c.NewChains {
		for j := range ch.Rules {
			if err := t.newRule(ch.Name, j, &ch.Rules[j], 0); err != nil {
				return nil, err
			}
		}
	}
	for _, ch := range c.OldChains {
		t.delChain(ch.Name)
	}
	for _, e := range c.Elements {
		t.setElements(unix.NFT_MSG_DELSETELEM, e.Set, e.Removed)
		t.setElements(unix.NFT_MSG_NEWSETELEM, e.Set, e.Added)
	}
	for _, s := range c.OldSets {
		t.delSet(s)
	}
	b.finish(t)
	return t, nil
}

// handles returns the handles of the rules of a chain.
func (b *Backend) handles(ctx context.Context, chain string) ([]uint64, error) {
	var hs []uint64
	err := b.sock.dump(ctx, "apply", unix.NFT_MSG_GETRULE, familyInet, func(w *writer) {
		w.str(unix.NFTA_RULE_TABLE, b.opts.Render.Table)
		w.str(unix.NFTA_RULE_CHAIN, chain)
	}, func() { hs = hs[:0] }, func(d []byte) error {
		return attrs(d, func(typ uint16, data []byte) error {
			if typ == unix.NFTA_RULE_HANDLE {
				hs = append(hs, be64(data))
			}
			return nil
		})
	})
	return hs, err
}
