// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
)

// maxDepth is how many chains may follow one another, that of the kernel included. The nft variant counts goto as well
// as jump. Ref: linux/netfilter/nf_tables.h, NFT_JUMP_STACK_SIZE.
const maxDepth = 16

var errTooDeep = errors.New("iptables: chains too deep")

// finish gives a chain and those that it leads to their names, from the leaves up. Above is how many chains stand over
// it.
func (b *builder) finish(c *chain, above int) error {
	if err := b.name(c); err != nil {
		return err
	}
	if above+c.depth > maxDepth {
		return errTooDeep
	}
	return nil
}

func (b *builder) name(c *chain) error {
	if c.out != nil {
		return nil
	}
	if b.treeDepth > 0 && !c.split {
		b.grow(c)
	}
	out := &Chain{Rules: b.outA.room(len(c.rules))}
	c.depth = 1
	for i := range c.rules {
		r := &c.rules[i]
		for _, t := range r.tests {
			if in, ok := t.(InSet); ok {
				b.inUse[in.Set] = true
			}
		}
		if r.to != nil {
			if err := b.name(r.to); err != nil {
				return err
			}
			c.depth = max(c.depth, r.to.depth+1)
			r.target = r.to.verdict(r.op)
		}
		out.Rules[i] = Rule{Tests: r.tests, Target: r.target, Comment: r.note, Origin: r.by}
	}
	b.scr.text = appendBodies(b.scr.text[:0], out.Rules)
	out.text = b.textA.copy(b.scr.text)
	c.name = b.o.Prefix + c.label + "-" + hashText(sha256.Sum256(out.text))
	out.Name = c.name
	c.out = out
	c.rules = nil
	b.order = append(b.order, c)
	return nil
}

// verdict returns the target that leads to the chain, which has its name.
func (c *chain) verdict(op VerdictOp) Target {
	if op == Jump {
		return Verdict{Jump, c.name}
	}
	if c.goTo == nil {
		c.goTo = Verdict{Goto, c.name}
	}
	return c.goTo
}

// finished returns the chains, sorted by name. Chains with the same name are the same.
func (b *builder) finished() ([]Chain, error) {
	out := make([]Chain, 0, len(b.order))
	for _, c := range b.order {
		out = append(out, *c.out)
	}
	slices.SortFunc(out, func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
	n := 0
	for i := range out {
		if n > 0 && out[n-1].Name == out[i].Name {
			if !bytes.Equal(out[n-1].text, out[i].text) {
				return nil, errors.New("iptables: two chains have the same hash: " + out[i].Name)
			}
			continue
		}
		out[n] = out[i]
		n++
	}
	return out[:n], nil
}
