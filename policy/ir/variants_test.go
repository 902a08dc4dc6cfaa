// SPDX-License-Identifier: Apache-2.0

package ir_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Each variant as a program that allows the packet of tcp by it: a variant that formatter, parser, validator or
// interpreter do not know fails below.
var (
	stepSamples = []ir.Step{
		ir.Rule{Then: ir.Allow, Origin: 1},
		ir.Call{Block: "allow"},
		ir.Switch{Key: []ir.Field{ir.DstPort}, Cases: []ir.Case{{Key: []ir.Interval{ir.Exactly(ir.Number(uint16(443)))}, Then: ir.Target{Outcome: ir.Allow}, Origin: 1}}},
	}
	termSamples = []ir.Term{
		ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: 443, Max: 443}}},
		ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}},
		ir.InNames{Field: ir.InIface, Names: []ir.NamePattern{{Name: "eth0"}}},
		ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(inet.TCP)},
		ir.InSet{Fields: []ir.Field{ir.SrcAddr}, Set: "s"},
	}
)

// implementers returns the names of the types in this package that have the method, as the source says.
func implementers(t *testing.T, method string) map[string]bool {
	t.Helper()
	files, err := os.ReadDir(".")
	require.NoError(t, err)
	names := map[string]bool{}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		require.NoError(t, err)
		for _, d := range tree.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == method && fn.Recv != nil {
				names[fn.Recv.List[0].Type.(*ast.Ident).Name] = true
			}
		}
	}
	return names
}

func TestEveryVariantIsKnownEverywhere(t *testing.T) {
	program := func(s ir.Step) *ir.Program {
		return &ir.Program{
			Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}},
			Sets:    []ir.SetDecl{{ID: "s", Kind: ir.SetOfPrefixes}},
			Blocks:  []ir.Block{{ID: "allow", Steps: []ir.Step{ir.Rule{Then: ir.Allow, Origin: 1}}}, {ID: "b", Steps: []ir.Step{s}}},
			Origins: []flow.Origin{{Kind: flow.OriginWorkload}},
		}
	}
	m := ir.Members{Sets: []ir.SetMembers{{ID: "s", Elements: []ir.Element{{Prefix: netip.MustParsePrefix("10.9.0.2/32")}}}}}
	check := func(t *testing.T, s ir.Step, want flow.Verdict) {
		p := program(s)
		require.NoError(t, ir.Validate(p, m))
		q, n, err := ir.Parse(p.String() + m.String())
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(ir.Canonical(p), q, equal))
		require.Empty(t, cmp.Diff(m, n, equal))
		in, err := ir.NewInterpreter(p, m)
		require.NoError(t, err)
		packet := tcp()
		v, _ := in.Verdict(&packet)
		require.Equal(t, want, v)
		if want == flow.Allow {
			require.True(t, ir.Outcomes(p)["b"].Has(ir.Allow))
		}
	}
	steps := implementers(t, "isStep")
	for _, s := range stepSamples {
		name := reflect.TypeOf(s).Name()
		require.True(t, steps[name], name)
		delete(steps, name)
		t.Run(name, func(t *testing.T) { check(t, s, flow.Allow) })
	}
	require.Empty(t, steps, "steps without a sample")

	terms := implementers(t, "isTerm")
	for _, term := range termSamples {
		name := reflect.TypeOf(term).Name()
		require.True(t, terms[name], name)
		delete(terms, name)
		t.Run(name, func(t *testing.T) {
			check(t, ir.Rule{Match: ir.Match{{term}}, Then: ir.Allow, Origin: 1}, flow.Allow)
		})
		t.Run("not "+name, func(t *testing.T) {
			not := reflect.New(reflect.TypeOf(term)).Elem()
			not.Set(reflect.ValueOf(term))
			not.FieldByName("Not").SetBool(true)
			check(t, ir.Rule{Match: ir.Match{{not.Interface().(ir.Term)}}, Then: ir.Allow, Origin: 1}, flow.None)
		})
	}
	require.Empty(t, terms, "terms without a sample")
}

// Every field has a word, a domain, and a value that the interpreter can look up.
func TestEveryFieldIsKnownEverywhere(t *testing.T) {
	n := 0
	for f := ir.Field(1); !strings.Contains(f.String(), "("); f++ {
		n++
		g, err := ir.ParseField(f.String())
		require.NoError(t, err)
		require.Equal(t, f, g)
		require.LessOrEqual(t, f.Domain().Lo.Compare(f.Domain().Hi), 0)
		in := interpret(t, "entry forward-in b\nblock b\n  switch "+f.String()+"\n    case * -> allow by workload\n")
		packet := tcp()
		packet.Path, packet.Out = flow.Forward, "eth1"
		if f == ir.ICMPType || f == ir.ICMPCode {
			packet.Protocol, packet.SrcPort, packet.DstPort = inet.ICMP, 0, 0
		}
		v, _ := in.Verdict(&packet)
		require.Equal(t, flow.Allow, v, f)
	}
	require.Equal(t, int(ir.State), n, "State is the last field")
}
