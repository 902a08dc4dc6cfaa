// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// RenderSized is Render with trees of another size.
func RenderSized(p *ir.Program, m ir.Members, o Options, least, leaf int) (*Ruleset, error) {
	return renderSized(p, m, o, treeSize{min: least, leaf: leaf})
}

// Comment returns the comment of rules that decide by o.
func Comment(o flow.Origin) string { return string(appendComment(nil, &o)) }

var (
	SetName    = setName
	AppendTest = func(t Test) string { return string(appendTest(nil, t, nil)) }
)

const (
	MaxChain   = maxChain
	MaxSetName = maxSet
	MaxDepth   = maxDepth
)
