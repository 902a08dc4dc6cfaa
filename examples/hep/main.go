// SPDX-License-Identifier: Apache-2.0

// Command hep checks, explains, renders and enforces host endpoint policy: Calico's HostEndpoint and Profile resources
// with the policies that select them, on this host or on one described in a file.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes.
const (
	exitOK       = 0
	exitMismatch = 1 // the answer is no: a verdict differs, a resource is invalid, the kernel has drifted
	exitFailed   = 2 // there is no answer: bad usage, unreadable input, a kernel that refuses
)

// errMismatch makes hep exit with exitMismatch; what it has to say has been printed.
var errMismatch = errors.New("")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], newOutput(os.Stdout, os.Stderr), os.Stdin))
}

// run is main without the process around it.
func run(ctx context.Context, args []string, out *output, in *os.File) int {
	root := command(out, in)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errMismatch):
		return exitMismatch
	}
	fmt.Fprintln(out.err, out.paint(red, "hep: ")+err.Error())
	var x *exitError
	if errors.As(err, &x) {
		return x.code
	}
	return exitFailed
}

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// invalid marks an error as an answer: the input was read, and it is wrong.
func invalid(err error) error { return &exitError{exitMismatch, err} }

func command(out *output, in *os.File) *cobra.Command {
	root := &cobra.Command{
		Use:   "hep",
		Short: "Host endpoint policy: check it, ask it, enforce it",
		Long: `hep reads Calico HostEndpoint, Profile, Tier, policy and network set documents (projectcalico.org/v3) and
says what a host does with packets, which rule decides, and why. On Linux it enforces the same in the kernel. It reads and
writes them in Calico's datastores too: a directory, etcd, or the Kubernetes API server.

Exit codes: 0 yes; 1 no (a verdict differs, a document is invalid, the kernel has drifted); 2 no answer.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd: true,
		},
	}
	root.SetOut(out.out)
	root.SetErr(out.err)
	root.PersistentFlags().VarP(&out.format, "output", "o", "how to print: table, json or yaml; resources of a datastore also name or wide")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return out.checkFormat(cmd) }
	root.AddCommand(
		checkCommand(out, in), explainCommand(out, in), renderCommand(out, in),
		applyCommand(out, in), confirmCommand(out), runCommand(out, in), watchdogCommand(in), lockoutCommand(out, in), statusCommand(out, in), flowsCommand(out, in), teardownCommand(out, in),
		tryCommand(out, in), demoCommand(out), selectorCommand(out, in),
		testCommand(out, in), lintCommand(out, in), diffCommand(out, in), whoCommand(out, in), graphCommand(out, in),
		createCommand(out, in), replaceCommand(out, in), deleteCommand(out, in), getCommand(out, in), watchCommand(out, in),
		migrateCommand(out), crdsCommand(out), autohepCommand(out),
	)
	return root
}
