// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package iptables

import (
	"context"
	"fmt"
	"runtime"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Backend cannot exist on this system.
type Backend struct{}

var _ backends.Backend = (*Backend)(nil)

func unavailable() error { return fmt.Errorf("%w on %s", ErrUnavailable, runtime.GOOS) }

// New returns an error that wraps ErrUnavailable.
func New(Options) (*Backend, error) { return nil, unavailable() }

// Variant returns Auto.
func (*Backend) Variant() Variant { return Auto }

// Apply returns an error that wraps ErrUnavailable.
func (*Backend) Apply(context.Context, *ir.Program, ir.Members) (backends.Receipt, error) {
	return backends.Receipt{}, unavailable()
}

// Observe returns an error that wraps ErrUnavailable.
func (*Backend) Observe(context.Context) (backends.State, error) {
	return backends.State{}, unavailable()
}

// Counters returns an error that wraps ErrUnavailable.
func (*Backend) Counters(context.Context) ([]backends.Counter, error) { return nil, unavailable() }

// Teardown returns an error that wraps ErrUnavailable.
func (*Backend) Teardown(context.Context) error { return unavailable() }

// Adopt returns an error that wraps ErrUnavailable.
func (*Backend) Adopt(context.Context, *ir.Program, ir.Members) (backends.State, error) {
	return backends.State{}, unavailable()
}

// Check returns an error that wraps ErrUnavailable.
func (*Backend) Check(*ir.Program, ir.Members) error { return unavailable() }

// Boot returns an error that wraps ErrUnavailable.
func (*Backend) Boot(*ir.Program, ir.Members) ([]byte, error) { return nil, unavailable() }

// Notice returns an error that wraps ErrUnavailable.
func (*Backend) Notice(context.Context, func()) error { return unavailable() }
