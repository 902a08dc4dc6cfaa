// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/confirm"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// stateRoot is where hep keeps what it must know of the kernel after it has ended. Like the kernel it forgets at a reboot.
const stateRoot = "/run/hostpolicy"

func (t *target) confirmFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.state, "state", "", "directory for what waits to be confirmed; default: one in "+stateRoot+" for each backend, table and network namespace")
}

// stateDir returns the directory of --state, or the default one.
func (t *target) stateDir() (string, error) {
	if t.state != "" {
		return filepath.Abs(t.state)
	}
	id, err := netnsID(t.netnsPath())
	if err != nil {
		return "", err
	}
	table := t.table
	if table == "" {
		table = "default"
	}
	return filepath.Join(stateRoot, t.backend+"-"+filepath.Base(table)+"-"+id), nil
}

// guard returns what applies changes that have to be confirmed. The watchdog is hep itself.
func (t *target) guard(ctx context.Context, b backends.Backend, c policy.Config) (*confirm.Guard, error) {
	dir, err := t.stateDir()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{self, "watchdog", "--state", dir, "--backend", t.backend, "--table", t.table, "--events", t.renderFlags.events,
		"--log-group", strconv.Itoa(int(t.group)), fmt.Sprintf("--counters=%t", t.counters),
		"--allow-action", strconv.Itoa(int(c.AllowAction)), "--deny-action", strconv.Itoa(int(c.DenyAction))}
	if t.netns != "" {
		path, err := filepath.Abs(t.netnsPath())
		if err != nil {
			return nil, err
		}
		args = append(args, "--netns", path)
	}
	return confirm.New(ctx, b, confirm.Options{Dir: dir, Command: args})
}

// apply applies for good, or for as long as nobody confirms.
func (t *target) apply(ctx context.Context, b backends.Backend, c policy.Config, p *ir.Program, m ir.Members, within time.Duration) (backends.Receipt, error) {
	g, err := t.guard(ctx, b, c)
	if err != nil && within == 0 && errors.Is(err, os.ErrPermission) {
		return b.Apply(ctx, p, m) // then nothing can be confirmed later on, which does not keep this from being right
	}
	if err != nil {
		return backends.Receipt{}, err
	}
	r, err := g.Apply(ctx, p, m, within)
	if errors.Is(err, confirm.ErrUnknown) {
		err = fmt.Errorf("%w; run hep apply without --confirm once, or hep teardown", err)
	}
	return r, err
}

func confirmCommand(out *output) *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "confirm",
		Short: "Keep what hep apply --confirm applied",
		Long: `confirm makes what hep apply --confirm applied the generation that stays, and to which later changes go back.
Exit code 1 means that nothing waits to be confirmed: the deadline has passed, and the change was reverted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := t.stateDir()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), t.timeout)
			defer cancel()
			err = confirm.Confirm(ctx, dir)
			if errors.Is(err, confirm.ErrReverted) || errors.Is(err, confirm.ErrNothing) {
				return &exitError{exitMismatch, err}
			}
			if err != nil {
				return err
			}
			s, err := confirm.Read(dir)
			if err != nil {
				return err
			}
			if out.format != "table" {
				return out.value(s)
			}
			fmt.Fprintln(out.out, out.paint(green, "confirmed"), out.paint(dim, short(s.Confirmed)))
			return nil
		},
	}
	t.flags(cmd)
	return cmd
}

// watchdogCommand is what the process runs that reverts.
func watchdogCommand(stdin *os.File) *cobra.Command {
	var t target
	var allow, deny uint8
	cmd := &cobra.Command{
		Use: "watchdog", Short: "Revert what nobody confirms; started by hep apply --confirm", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			// Not the context of the command: an interrupt must not keep it from reverting.
			_, b, done, err := t.open(context.Background(), policy.Config{AllowAction: policy.AllowAction(allow), DenyAction: policy.DenyAction(deny)})
			if err != nil {
				return err
			}
			defer done()
			dir, err := t.stateDir()
			if err != nil {
				return err
			}
			return confirm.Watch(stdin, os.Stdout, b, confirm.Options{Dir: dir})
		},
	}
	t.flags(cmd)
	cmd.Flags().Uint8Var(&allow, "allow-action", 0, "as the host file says it")
	cmd.Flags().Uint8Var(&deny, "deny-action", 0, "as the host file says it")
	return cmd
}
