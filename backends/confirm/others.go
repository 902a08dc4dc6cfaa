// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package confirm

import (
	"context"
	"io"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Guard cannot exist on this system.
type Guard struct{}

// New returns ErrUnavailable.
func New(context.Context, backends.Backend, Options) (*Guard, error) { return nil, ErrUnavailable }

// Apply returns ErrUnavailable.
func (*Guard) Apply(context.Context, *ir.Program, ir.Members, time.Duration) (backends.Receipt, error) {
	return backends.Receipt{}, ErrUnavailable
}

// Confirm returns ErrUnavailable.
func (*Guard) Confirm(context.Context) error { return ErrUnavailable }

// Revert returns ErrUnavailable.
func (*Guard) Revert(context.Context) error { return ErrUnavailable }

// Forget returns ErrUnavailable.
func (*Guard) Forget(context.Context) error { return ErrUnavailable }

// State returns ErrUnavailable.
func (*Guard) State() (State, error) { return State{}, ErrUnavailable }

// Confirm returns ErrUnavailable.
func Confirm(context.Context, string) error { return ErrUnavailable }

// Forget returns ErrUnavailable.
func Forget(context.Context, string) error { return ErrUnavailable }

// Watch returns ErrUnavailable.
func Watch(io.Reader, io.Writer, backends.Backend, Options) error { return ErrUnavailable }
