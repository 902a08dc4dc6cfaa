// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"hep": func() { os.Exit(run(context.Background(), os.Args[1:], newOutput(os.Stdout, os.Stderr), os.Stdin)) },
	})
}

// The scripts run the program as a user would, and say what it prints and how it exits.
func TestScripts(t *testing.T) {
	testscript.Run(t, params("testdata/script", func(e *testscript.Env) {
		dir, err := os.Getwd()
		if err != nil {
			e.T().Fatal(err)
		}
		e.Setenv("DEMO", filepath.Join(dir, "demo.txtar"))
		e.Setenv("SHOP", filepath.Join(dir, "testdata", "shop"))
		e.Setenv("CASES", filepath.Join(dir, "testdata", "cases"))
	}))
}

// params are those of all scripts.
func params(dir string, setup func(*testscript.Env)) testscript.Params {
	return testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			e.Setenv("NO_COLOR", "1")
			setup(e)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// exits CODE PROGRAM ARG... runs a program that must exit with CODE.
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exits CODE PROGRAM ARG...")
				}
				err := ts.Exec(args[1], args[2:]...)
				code := "0"
				if x, ok := err.(*exec.ExitError); ok {
					code = itoa(x.ExitCode())
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if code != args[0] {
					ts.Fatalf("exit code %s, want %s", code, args[0])
				}
			},
			// unpack FILE writes the sections of a txtar file.
			"unpack": func(ts *testscript.TestScript, neg bool, args []string) {
				f, err := os.Open(args[0])
				ts.Check(err)
				defer f.Close()
				ts.Check(unpack(f, ts.MkAbs(".")))
			},
		},
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

func unpack(r io.Reader, dir string) error {
	var out *os.File
	s := bufio.NewScanner(r)
	for s.Scan() {
		if name, ok := strings.CutPrefix(s.Text(), "-- "); ok && strings.HasSuffix(name, " --") {
			f, err := os.Create(filepath.Join(dir, strings.TrimSuffix(name, " --")))
			if err != nil {
				return err
			}
			defer f.Close()
			out = f
			continue
		}
		if out != nil {
			if _, err := io.WriteString(out, s.Text()+"\n"); err != nil {
				return err
			}
		}
	}
	return s.Err()
}
