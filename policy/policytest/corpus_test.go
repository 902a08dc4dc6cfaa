// SPDX-License-Identifier: Apache-2.0

package policytest_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

var update = flag.Bool("update", false, "rewrite the ir sections of the corpus")

func TestThePureRunnersAgreeWithTheCorpus(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	require.Greater(t, len(cases), 200)
	for _, r := range policytest.Pure() {
		for _, c := range cases {
			t.Run(r.Name()+"/"+c.Name, func(t *testing.T) {
				t.Parallel()
				require.NoError(t, policytest.Check(t.Context(), r, c))
			})
		}
	}
}

// A record of what Calico does and we do not must differ from what we do, or it has become an ordinary case; and what
// we do instead is a case of the same name, with the same packets.
func TestEveryDefectHasItsDeviation(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	byName := map[string]*policytest.Case{}
	for _, c := range cases {
		byName[c.Name] = c
	}
	defects, err := policytest.Defects()
	require.NoError(t, err)
	require.NotEmpty(t, defects)
	for _, d := range defects {
		t.Run(d.Name, func(t *testing.T) {
			ours := byName[strings.Replace(d.Name, "calico/dev-", "deviations/", 1)]
			require.NotNil(t, ours)
			require.Len(t, ours.Packets, len(d.Packets))
			differ := d.Invalid != nil // the deviation can also be that it cannot be written
			for i := range d.Packets {
				require.Equal(t, d.Packets[i].Packet, ours.Packets[i].Packet)
				differ = differ || d.Packets[i].Want != ours.Packets[i].Want || d.Packets[i].By != ours.Packets[i].By
			}
			require.True(t, differ)
			require.Regexp(t, `Deviation:|cannot be written`, ours.Comment)
		})
	}
}

func TestCasesReportWhatTheySay(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	asked := 0
	for _, c := range cases {
		if c.Errors == nil {
			continue
		}
		asked++
		t.Run(c.Name, func(t *testing.T) {
			got, err := policytest.Report(c)
			require.NoError(t, err)
			require.Subset(t, got, c.Errors)
		})
	}
	require.NotZero(t, asked)
}

func TestCasesCompileToTheIRTheyShow(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	asked := 0
	for _, c := range cases {
		if c.IR == "" {
			continue
		}
		asked++
		t.Run(c.Name, func(t *testing.T) {
			s, err := policy.Resolve(c.Resources, c.Host, c.Config)
			require.NoError(t, err)
			p, m, err := compile.Compile(s)
			require.NoError(t, err)
			got := p.String() + m.String()
			if *update {
				rewriteIR(t, c.Name, got)
				return
			}
			require.Equal(t, c.IR, got, "go test -update rewrites it")
		})
	}
	require.NotZero(t, asked)
}

func rewriteIR(t *testing.T, name, text string) {
	file := filepath.Join("testdata", filepath.FromSlash(name)+".txtar")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	a := txtar.Parse(b)
	for i := range a.Files {
		if a.Files[i].Name == "ir" {
			a.Files[i].Data = []byte(text)
		}
	}
	require.NoError(t, os.WriteFile(file, txtar.Format(a), 0o644))
}

func TestEveryCaseSaysWhereItsExpectationComesFrom(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	for _, c := range cases {
		require.GreaterOrEqual(t, len(strings.Split(strings.TrimSpace(c.Comment), "\n")), 3, c.Name)
	}
}
