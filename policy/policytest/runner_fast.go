// SPDX-License-Identifier: Apache-2.0

package policytest

import (
	"context"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/compile"
)

// fastRunner runs the compiled program in the flat classifier. It keeps no trace: irRunner has it.
type fastRunner struct{}

func (fastRunner) Name() string { return "fast" }

func (fastRunner) Run(ctx context.Context, c *Case) ([]Result, error) {
	s, err := policy.Resolve(c.Resources, c.Host, c.Config)
	if err != nil {
		return nil, err
	}
	p, m, err := compile.Compile(s)
	if err != nil {
		return nil, err
	}
	cl, err := classify.New(p, m)
	if err != nil {
		return nil, err
	}
	out := make([]Result, len(c.Packets))
	for i := range c.Packets {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out[i].Verdict, out[i].By = cl.Verdict(&c.Packets[i].Packet)
	}
	return out, nil
}
