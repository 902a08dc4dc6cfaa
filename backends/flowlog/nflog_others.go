// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package flowlog

import "context"

// Read returns ErrUnavailable.
func (n NFLOG) Read(context.Context, Sink) error { return ErrUnavailable }
