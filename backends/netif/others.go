// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package netif

import (
	"context"
	"fmt"
	"runtime"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

var groups []uint32

// Look returns an error that wraps ErrUnavailable.
func (m *Monitor) Look(context.Context) (hostendpoint.Host, error) {
	return hostendpoint.Host{}, fmt.Errorf("%w: this is %s", ErrUnavailable, runtime.GOOS)
}

// Follow returns an error that wraps ErrUnavailable.
func (m *Monitor) Follow(ctx context.Context, _ func(hostendpoint.Host)) error {
	_, err := m.Look(ctx)
	return err
}
