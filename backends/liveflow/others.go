// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package liveflow

import "context"

type entry struct{}

// List returns ErrUnavailable.
func List(context.Context, int) ([]Flow, error) { return nil, ErrUnavailable }

// Cut returns ErrUnavailable.
func Cut(context.Context, int, []Flow) (int, error) { return 0, ErrUnavailable }
