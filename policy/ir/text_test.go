// SPDX-License-Identifier: Apache-2.0

package ir_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// sample shows every word of the text form. It is canonical: it prints as it is written.
const sample = `entry untracked-in hook/untracked-in settles prednat,normal-in,forward-in notrack
entry normal-in hook/normal-in always workload/normal-in default pass
set n:7rm2 endpoints "has(web), tcp, http"
set s:vp0q prefixes

block endpoint/web/normal-in
  switch state
    case established -> allow by conntrack:established
    case related -> allow by conntrack:established
    case invalid -> deny by conntrack:invalid
  call failsafe/normal-in
  rule family=4 protocol=tcp dport=80,443-445|dst.protocol.dport=@n:7rm2 src!=10.9.0.0/16,fd00::1 log by policy:default/web/ingress[0]
  rule protocol!=icmp,100-102,sctp icmp-type!=8|icmp-code!=0 src=@s:vp0q state=new,untracked -> pass by policy:default/web/ingress[1]
  rule false -> deny by policy:default/web/ingress[2]
  rule -> deny by default:web/ingress

block failsafe/normal-in
  switch protocol,dport
    case tcp 22 -> allow by failsafe:in/tcp/22
    case 17 53-54 -> allow by failsafe:in/udp/53

block hook/normal-in
  switch iif
    case "a b" -> call endpoint/web/normal-in
    case eth* -> call endpoint/web/normal-in
  call endpoint/web/normal-in if iif!=lo,"we ird"* resume undecided,pass

block hook/untracked-in
  switch family,src,dst,icmp-type,icmp-code,sport,oif
    case 6 fd00::/8 fd00::1-fd00::3 8 0-255 * * -> deny by policy:default/u/ingress[0]@untracked

block workload/normal-in
  rule iif=cali*,tap* -> pass by workload
members n:7rm2
  10.9.0.1 tcp 80
  10.9.0.1 udp 80
members s:vp0q
  10.9.0.0/16
  fd00::1
`

func TestTextIsReadAndWritten(t *testing.T) {
	p, m, err := ir.Parse(sample)
	require.NoError(t, err)
	want := strings.Replace(sample, "0-255 * *", "* * *", 1)
	want = strings.Replace(want, "case 17 53-54", "case udp 53-54", 1)
	require.Empty(t, cmp.Diff(want, p.String()+m.String()))
	require.NoError(t, ir.Validate(p, m))
}

func TestTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := programGen().Draw(t, "program")
		m := membersOf(t, p)
		if err := ir.Validate(p, m); err != nil {
			t.Fatalf("the generator is wrong: %v\n%s%s", err, p, m)
		}
		text := p.String() + m.String()
		q, n, err := ir.Parse(text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if d := cmp.Diff(p, q, equal); d != "" {
			t.Fatalf("%s\n%s", d, text)
		}
		if d := cmp.Diff(m, n, equal); d != "" {
			t.Fatalf("%s\n%s", d, text)
		}
		if p.Fingerprint() != q.Fingerprint() || m.Fingerprint() != n.Fingerprint() {
			t.Fatal("fingerprints differ")
		}
	})
}

func TestTextDoesNotDependOnNumbersAndPositionsOfOrigins(t *testing.T) {
	a := flow.Origin{Kind: flow.OriginWorkload}
	b := flow.Origin{Kind: flow.OriginNoVerdict, Pos: field.Pos{File: "web.yaml", Line: 3}}
	block := func(first, second ir.OriginID) []ir.Block {
		return []ir.Block{{ID: "b", Steps: []ir.Step{
			ir.Rule{Do: []ir.Effect{ir.Log}, Origin: first}, ir.Rule{Then: ir.Pass, Origin: second}}}}
	}
	p := &ir.Program{Blocks: block(1, 2), Origins: []flow.Origin{a, b}}
	q := &ir.Program{Blocks: block(3, 1), Origins: []flow.Origin{b.ID(), {Kind: flow.OriginND}, a}}
	require.Equal(t, p.String(), q.String())
	require.Equal(t, p.Fingerprint(), q.Fingerprint())
	require.Equal(t, p.BlockFingerprint(p.Blocks[0]), q.BlockFingerprint(q.Blocks[0]))
	require.Len(t, ir.Canonical(q).Origins, 2)
	require.Equal(t, []flow.Origin{a, b}, ir.Canonical(p).Origins, "positions stay")
}

func TestParseErrorsNameTheLine(t *testing.T) {
	tests := map[string]struct {
		text string
		line int
		want string
	}{
		"a word that starts nothing":         {"entries\n", 1, `unexpected "entries"`},
		"a step outside a block":             {"\n  rule\n", 2, `unexpected "rule"`},
		"a step that does not exist":         {"block b\n\n  jump c\n", 3, `unknown step "jump"`},
		"a case without switch":              {"block b\n  rule\n    case 1 -> allow\n", 3, "case without switch"},
		"a case at the start of a block":     {"block b\n    case 1 -> allow\n", 2, "case without switch"},
		"a case with too few keys":           {"block b\n  switch iif,oif\n    case a -> allow\n", 3, `want "->"`},
		"a case without arrow":               {"block b\n  switch iif\n    case a allow\n", 3, `want "->"`},
		"a hook that does not exist":         {"entry nowhere b\n", 1, `unknown hook "nowhere"`},
		"an outcome that does not exist":     {"block b\n  rule -> accept\n", 2, `unknown outcome "accept"`},
		"an origin that does not exist":      {"block b\n  rule -> deny by me\n", 2, "not an origin"},
		"a field that does not exist":        {"block b\n  rule mac=1\n", 2, `unknown field "mac"`},
		"a protocol that does not exist":     {"block b\n  rule protocol=tpc\n", 2, `unknown protocol "tpc"`},
		"a port out of range":                {"block b\n  rule dport=65536\n", 2, "not a value of the field dport"},
		"a range that is empty":              {"block b\n  rule dport=9-8\n", 2, "the range is empty"},
		"a prefix that is none":              {"block b\n  rule src=10.0.0.0/33\n", 2, "not a prefix"},
		"an address that is none":            {"block b\n  rule src=10.0.0.256\n", 2, "not an address"},
		"an address with zone":               {"block b\n  rule src=fe80::1%eth0\n", 2, "not an address"},
		"a prefix that is two intervals":     {"block b\n  switch src\n    case ::/0 -> allow\n", 3, "not one interval"},
		"an interface name that is too long": {"block b\n  switch iif\n    case abcdefghijklmnop -> allow\n", 3, "not the name of an interface"},
		"a quote that is not closed":         {"block \"b\n", 1, "quote is not closed"},
		"a quote inside a name":              {"block b\"c\"\n", 1, "is not a name"},
		"something behind the end":           {"block b\n  rule -> deny by workload now\n", 2, `unexpected "now"`},
		"a tuple of fields without set":      {"block b\n  rule src.protocol=1\n", 2, "only sets"},
		"an if without condition":            {"block b\n  call c if resume pass\n", 2, "no condition"},
		"an element that is no prefix":       {"members s\n  rule\n", 2, "not an address"},
		"an element with half a port":        {"members s\n  10.0.0.1 tcp\n", 2, "ends too early"},
		"a set of nothing":                   {"set s words\n", 1, `unknown kind of set "words"`},
		"half a line":                        {"block b\n  rule ->\n", 2, "ends too early"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, m, err := ir.Parse(tt.text)
			require.Nil(t, p)
			require.Empty(t, m.Sets)
			var se *ir.SyntaxError
			require.True(t, errors.As(err, &se), "%v", err)
			require.Equal(t, tt.line, se.Line, "%v", err)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestParseSkipsCommentsAndEmptyLines(t *testing.T) {
	p, _, err := ir.Parse("# a program\r\n\nblock b\n  # nothing\n\n  rule -> deny by workload\r\n")
	require.NoError(t, err)
	require.Equal(t, "block b\n  rule -> deny by workload\n", p.String())
}

// FuzzParse holds that what Parse reads is written in a form that reads back as the same, and that nothing panics on
// programs that make no sense.
func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add("block b\n  switch iif\n    case 0x00000000000000000000000000000001-0x0000000000000000000000000000000f -> deny\n")
	f.Add("block \"\"\n  rule iif=\"\"*|src=|dport= by no-endpoint\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, m, err := ir.Parse(text)
		if err != nil {
			return
		}
		once := p.String() + m.String()
		valid := ir.Validate(p, m)
		q, n, err := ir.Parse(once)
		if err != nil {
			if valid == nil {
				t.Fatalf("%v in\n%s", err, once)
			}
			return
		}
		if twice := q.String() + n.String(); twice != once {
			t.Fatalf("not stable:\n%s\n%s", once, twice)
		}
		if valid == nil {
			if d := cmp.Diff(ir.Canonical(p), ir.Canonical(q), equal); d != "" {
				t.Fatal(d)
			}
		}
	})
}
