// SPDX-License-Identifier: Apache-2.0

package policytest

import (
	"context"
	"fmt"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Pure returns the runners that need no kernel: the reference evaluator ("eval"), and the compiled program in the
// interpreter ("ir") and in the flat classifier ("fast").
func Pure() []Runner { return []Runner{evalRunner{}, irRunner{}, fastRunner{}} }

type evalRunner struct{}

func (evalRunner) Name() string { return "eval" }

func (evalRunner) Run(ctx context.Context, c *Case) ([]Result, error) {
	s, err := policy.Resolve(c.Resources, c.Host, c.Config)
	if err != nil {
		return nil, err
	}
	e := eval.New(s)
	out := make([]Result, len(c.Packets))
	for i := range c.Packets {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d := e.Explain(&c.Packets[i].Packet)
		var trace strings.Builder
		for _, step := range d.Trace {
			fmt.Fprintln(&trace, step)
		}
		out[i] = Result{Verdict: d.Verdict, By: d.By, Trace: trace.String()}
	}
	return out, nil
}

type irRunner struct{}

func (irRunner) Name() string { return "ir" }

func (irRunner) Run(ctx context.Context, c *Case) ([]Result, error) {
	s, err := policy.Resolve(c.Resources, c.Host, c.Config)
	if err != nil {
		return nil, err
	}
	p, m, err := compile.Compile(s)
	if err != nil {
		return nil, err
	}
	in, err := ir.NewInterpreter(p, m)
	if err != nil {
		return nil, err
	}
	out := make([]Result, len(c.Packets))
	for i := range c.Packets {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r := in.Explain(&c.Packets[i].Packet)
		out[i] = Result{Verdict: r.Verdict, By: r.By, Trace: r.String()}
	}
	return out, nil
}
