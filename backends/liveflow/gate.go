// SPDX-License-Identifier: Apache-2.0

package liveflow

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Options say what a Gate lets pass and what becomes of flows. The zero value is useful.
type Options struct {
	// NetNS is a file descriptor of the network namespace, which must stay open; 0 is that of the calling thread.
	NetNS int
	// Guards protect flows; nil is DefaultGuards, empty and not nil is none.
	Guards []Guard
	// Fate is what becomes of flows that are under way.
	Fate Fate
	// Force applies what would cut guarded flows; they are logged.
	Force bool
	// Logger gets what an operator may want to know; nil is silence.
	Logger *slog.Logger
}

// Gate stands before and behind every Apply. It is immutable and safe for concurrent use.
type Gate struct {
	opts Options
	log  *slog.Logger
}

// NewGate returns a Gate.
func NewGate(o Options) (*Gate, error) {
	if o.Fate > CutAll {
		return nil, fmt.Errorf("unknown %s", o.Fate)
	}
	if o.Guards == nil {
		o.Guards = DefaultGuards()
	}
	g := &Gate{opts: o, log: o.Logger}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	return g, nil
}

// few is up to how many flows the interpreter is quicker than making a classifier.
const few = 32

// Judging returns a Judge for so many flows.
func Judging(p *ir.Program, m ir.Members, flows int) (Judge, error) {
	if flows <= few {
		return ir.NewInterpreter(p, m)
	}
	return classify.New(p, m)
}

// Check returns what a program would do to the flows that are under way now.
func (g *Gate) Check(ctx context.Context, p *ir.Program, m ir.Members) ([]Finding, error) {
	flows, err := List(ctx, g.opts.NetNS)
	if err != nil {
		return nil, err
	}
	j, err := Judging(p, m, len(flows))
	if err != nil {
		return nil, err
	}
	return Check(flows, j, g.opts.Fate, g.opts.Guards), nil
}

// Before is called before a program is applied. The error is a *LockoutError if the program would cut or bar guarded
// flows and Options.Force is false; it is another one if the flows cannot be known, which Force passes over, too.
func (g *Gate) Before(ctx context.Context, p *ir.Program, m ir.Members) error {
	fs, err := g.Check(ctx, p, m)
	if err == nil {
		err = Lockout(fs)
	}
	if err != nil && g.opts.Force && ctx.Err() == nil {
		g.log.Warn("applied by force", "error", err)
		return nil
	}
	if n := len(fs); n > 0 && err == nil {
		g.log.Info("flows are concerned", "flows", n, "first", fs[0].String())
	}
	return err
}

// After is called when a program has been applied. It does to flows what Options.Fate says, and returns how many
// connections were taken out of the kernel's table.
func (g *Gate) After(ctx context.Context, p *ir.Program, m ir.Members) (int, error) {
	if g.opts.Fate == Keep {
		return 0, nil
	}
	flows, err := List(ctx, g.opts.NetNS)
	if err != nil {
		return 0, err
	}
	if g.opts.Fate == CutDenied {
		j, err := Judging(p, m, len(flows))
		if err != nil {
			return 0, err
		}
		var denied []Flow
		for _, f := range Check(flows, j, CutDenied, nil) {
			denied = append(denied, f.Flow)
		}
		flows = denied
	}
	n, err := Cut(ctx, g.opts.NetNS, flows)
	if n > 0 {
		g.log.Info("flows were cut", "fate", g.opts.Fate.String(), "flows", n)
	}
	return n, err
}
