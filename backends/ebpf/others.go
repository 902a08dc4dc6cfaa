// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package ebpf

import (
	"context"
	"fmt"
	"runtime"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Backend cannot exist on this system.
type Backend struct{}

var (
	_ backends.Adopter        = (*Backend)(nil)
	_ backends.MembersApplier = (*Backend)(nil)
)

func unavailable() error { return fmt.Errorf("%w on %s", ErrUnavailable, runtime.GOOS) }

// New returns an error that wraps ErrUnavailable.
func New(Options) (*Backend, error) { return nil, unavailable() }

// Close does nothing.
func (*Backend) Close() error { return nil }

// Apply returns an error that wraps ErrUnavailable.
func (*Backend) Apply(context.Context, *ir.Program, ir.Members) (backends.Receipt, error) {
	return backends.Receipt{}, unavailable()
}

// ApplyMembers returns an error that wraps ErrUnavailable.
func (*Backend) ApplyMembers(context.Context, ir.MembersChanges) (backends.Receipt, error) {
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

// Boot returns an error that wraps ErrUnavailable.
func (*Backend) Boot(*ir.Program, ir.Members) ([]byte, error) { return nil, unavailable() }

// Notice returns an error that wraps ErrUnavailable.
func (*Backend) Notice(context.Context, func()) error { return unavailable() }

// FlowLog returns a source that cannot be read.
func (*Backend) FlowLog() flowlog.Source { return flowlog.None{} }

// Subscription cannot exist on this system.
type Subscription struct{}

// Events returns an error that wraps ErrUnavailable.
func (*Backend) Events(context.Context) (*Subscription, error) { return nil, unavailable() }

// Lost returns an error that wraps ErrUnavailable.
func (*Backend) Lost(context.Context) (Loss, error) { return Loss{}, unavailable() }

// C returns nil.
func (*Subscription) C() <-chan Event { return nil }

// Flush returns an error that wraps ErrUnavailable.
func (*Subscription) Flush(context.Context) error { return unavailable() }

// Err returns an error that wraps ErrUnavailable.
func (*Subscription) Err() error { return unavailable() }
