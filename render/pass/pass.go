// SPDX-License-Identifier: Apache-2.0

// Package pass lowers rule programs to rule programs: it is the seam between what policy says and what dataplanes do
// well. Every pass keeps, for every packet, the outcome, the deciding origin and the logged origins of every hook.
//
// Passes are pure functions. They do not change the program they are given.
package pass

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Pass is one lowering. Name is stable and says in errors and tools which pass spoke.
type Pass struct {
	Name string
	Run  func(*ir.Program) (*ir.Program, error)
}

// Pipeline is a sequence of passes. The zero value changes nothing.
type Pipeline []Pass

// Run applies the passes in order. The error names the pass.
func (l Pipeline) Run(p *ir.Program) (*ir.Program, error) {
	for _, s := range l {
		q, err := s.Run(p)
		if err != nil {
			return nil, fmt.Errorf("pass %s: %w", s.Name, err)
		}
		p = q
	}
	return p, nil
}

// Default returns the passes that serve every dataplane.
func Default() Pipeline {
	return Pipeline{{Name: "share", Run: Share}}
}
