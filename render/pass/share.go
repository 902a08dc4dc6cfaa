// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Share makes blocks with the same steps, origins included, one block: the one that is met first in the order of IDs. Endpoints with the
// same policy then share their tiers. Blocks that speak for endpoints keep their IDs, since people look for them.
func Share(p *ir.Program) (*ir.Program, error) {
	blocks := make(map[ir.BlockID]*ir.Block, len(p.Blocks))
	for i := range p.Blocks {
		blocks[p.Blocks[i].ID] = &p.Blocks[i]
	}
	s := &sharer{p: p, blocks: blocks, renamed: make(map[ir.BlockID]ir.BlockID, len(blocks)), byContent: map[[sha256.Size]byte]ir.BlockID{}}
	for _, b := range p.Blocks {
		if err := s.visit(b.ID); err != nil {
			return nil, err
		}
	}
	if len(s.kept) == len(p.Blocks) {
		return p, nil
	}
	q := &ir.Program{Entries: slices.Clone(p.Entries), Blocks: s.kept, Sets: p.Sets, Origins: p.Origins}
	for i := range q.Entries {
		e := &q.Entries[i]
		e.Block = s.renamed[e.Block]
		if e.Always != "" {
			e.Always = s.renamed[e.Always]
		}
	}
	slices.SortFunc(q.Blocks, func(a, b ir.Block) int { return cmp.Compare(a.ID, b.ID) })
	return q, nil
}

type sharer struct {
	p         *ir.Program
	blocks    map[ir.BlockID]*ir.Block
	renamed   map[ir.BlockID]ir.BlockID // "" while a block is being visited
	byContent map[[sha256.Size]byte]ir.BlockID
	kept      []ir.Block
}

// visit gives the block and those below it their final names.
func (s *sharer) visit(id ir.BlockID) error {
	if to, ok := s.renamed[id]; ok {
		if to == "" {
			return fmt.Errorf("block %q calls itself", id)
		}
		return nil
	}
	b, ok := s.blocks[id]
	if !ok {
		return fmt.Errorf("block %q does not exist", id)
	}
	s.renamed[id] = ""
	steps := make([]ir.Step, len(b.Steps))
	for i, step := range b.Steps {
		lowered, err := s.step(step)
		if err != nil {
			return err
		}
		steps[i] = lowered
	}
	n := ir.Block{ID: id, Steps: steps}
	to := id
	if !isEndpoint(id) {
		key := digestOf(steps)
		if first, ok := s.byContent[key]; ok {
			to = first
		} else {
			s.byContent[key] = id
		}
	}
	s.renamed[id] = to
	if to == id {
		s.kept = append(s.kept, n)
	}
	return nil
}

func (s *sharer) step(step ir.Step) (ir.Step, error) {
	switch step := step.(type) {
	case ir.Rule:
		return step, nil
	case ir.Call:
		if err := s.visit(step.Block); err != nil {
			return nil, err
		}
		step.Block = s.renamed[step.Block]
		return step, nil
	case ir.Switch:
		step.Cases = slices.Clone(step.Cases)
		for i := range step.Cases {
			t := &step.Cases[i].Then
			if t.Block == "" {
				continue
			}
			if err := s.visit(t.Block); err != nil {
				return nil, err
			}
			t.Block = s.renamed[t.Block]
		}
		return step, nil
	}
	return nil, fmt.Errorf("unknown step %T", step)
}

// digestOf identifies steps within one program.
func digestOf(steps []ir.Step) [sha256.Size]byte {
	b := make([]byte, 0, 128*len(steps))
	origin := func(id ir.OriginID) { b = binary.BigEndian.AppendUint32(b, uint32(id)) }
	for _, s := range steps {
		switch s := s.(type) {
		case ir.Rule:
			b = appendRule(b, &s)
			origin(s.Origin)
		case ir.Call:
			b = appendMatch(append(b, 'c', byte(s.Resume)), s.Match)
			b = appendText(b, string(s.Block))
			origin(s.Origin)
		case ir.Switch:
			b = appendLen(append(b, 's', byte(s.Resume)), len(s.Key))
			for _, f := range s.Key {
				b = append(b, byte(f))
			}
			b = appendLen(b, len(s.Cases))
			for _, c := range s.Cases {
				for _, k := range c.Key {
					b = append(append(b, k.Lo[:]...), k.Hi[:]...)
				}
				b = appendText(append(b, byte(c.Then.Outcome)), string(c.Then.Block))
				origin(c.Origin)
			}
		}
	}
	return sha256.Sum256(b)
}

func isEndpoint(id ir.BlockID) bool {
	return len(id) >= len(ir.EndpointBlock) && id[:len(ir.EndpointBlock)] == ir.EndpointBlock
}
