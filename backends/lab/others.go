// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package lab

import (
	"context"

	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// Netns is a network namespace. The zero value is none.
type Netns struct{}

// FD returns -1.
func (Netns) FD() int { return -1 }

// Do returns ErrUnavailable.
func (Netns) Do(func() error) error { return ErrUnavailable }

// NFLOG returns a source that cannot be subscribed to.
func NFLOG(Netns, uint16) EventSource { return noEvents{} }

// RingBuffer returns a source that cannot be subscribed to.
func RingBuffer(Netns, *ebpf.Backend, uint16) EventSource { return noEvents{} }

type noEvents struct{}

func (noEvents) Subscribe(context.Context) (<-chan Event, error) { return nil, ErrUnavailable }
func (noEvents) Err() error                                      { return ErrUnavailable }

// Available returns ErrUnavailable.
func Available() error { return ErrUnavailable }

// Run returns ErrUnavailable.
func Run(context.Context, *policytest.Case, Opener, Options) ([]policytest.Result, error) {
	return nil, ErrUnavailable
}

// RunAll fails every case with ErrUnavailable.
func RunAll(_ context.Context, cases []*policytest.Case, _ Opener, _ Options) []Outcome {
	out := make([]Outcome, len(cases))
	for i, c := range cases {
		out[i] = Outcome{Case: c, Err: ErrUnavailable}
	}
	return out
}
