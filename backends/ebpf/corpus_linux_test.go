// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// source is the ring buffer of a backend as the lab wants events. Fences come by NFLOG.
type source struct {
	b      *ebpf.Backend
	fences lab.EventSource
	mu     sync.Mutex
	sub    *ebpf.Subscription
}

const fenceGroup = 78

func newSource(b *ebpf.Backend, ns lab.Netns) *source {
	return &source{b: b, fences: lab.NFLOG(ns, fenceGroup)}
}

func (s *source) FenceGroup() uint16 { return fenceGroup }

func (s *source) Subscribe(ctx context.Context) (<-chan lab.Event, error) {
	fences, err := s.fences.Subscribe(ctx)
	if err != nil {
		return nil, err
	}
	sub, err := s.b.Events(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.sub = sub
	s.mu.Unlock()
	ch := make(chan lab.Event, 1024)
	forward := func(e ebpf.Event) {
		ch <- lab.Event{Record: flow.LogRecord{Event: e.Kind, Hook: e.Hook, Key: e.Key}, Packet: e.Packet}
	}
	go func() {
		defer close(ch)
		for {
			select {
			case e, ok := <-sub.C():
				if !ok {
					return
				}
				forward(e)
			case f, ok := <-fences:
				if !ok {
					return
				}
				flushed := make(chan error, 1)
				go func() { flushed <- sub.Flush(ctx) }()
				for waiting := true; waiting; {
					select {
					case e := <-sub.C():
						forward(e)
					case err := <-flushed:
						if err != nil {
							return
						}
						waiting = false
					}
				}
				for len(sub.C()) > 0 { // the fence comes behind what was flushed
					forward(<-sub.C())
				}
				ch <- f
			}
		}
	}()
	return ch, nil
}

func (s *source) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sub == nil {
		return nil
	}
	return errors.Join(s.sub.Err(), s.fences.Err())
}

var serial atomic.Uint64

// pinPath returns a directory that no other test has.
func pinPath() string {
	return fmt.Sprintf("%s-test/%d_%d", ebpf.DefaultPath, os.Getpid(), serial.Add(1))
}

func openLab(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
	b, err := ebpf.New(ebpf.Options{NetNS: ns.FD(), Path: pinPath(), Render: render.Options{Events: render.AllEvents}})
	if err != nil {
		return nil, err
	}
	return lab.WithEvents(b, newSource(b, ns)), nil
}

// TestKernelAgreesWithTheCorpus sends the packets of every case through the kernel and compares verdict and origin.
func TestKernelAgreesWithTheCorpus(t *testing.T) {
	t.Parallel()
	cases, err := policytest.Cases()
	require.NoError(t, err)
	check(t, cases, lab.Options{})
}

// TestKernelAgreesWithTheEvaluator does the same for random small universes.
func TestKernelAgreesWithTheEvaluator(t *testing.T) {
	t.Parallel()
	n := uint64(16)
	if testing.Short() {
		n = 4
	}
	check(t, universes(t, 3000, n), lab.Options{})
}

// TestKernelPutsFragmentsTogether sends every packet in two fragments.
func TestKernelPutsFragmentsTogether(t *testing.T) {
	t.Parallel()
	check(t, universes(t, 4000, 3), lab.Options{Fragment: true})
}

func universes(t *testing.T, first, n uint64) []*policytest.Case {
	var cases []*policytest.Case
	for i := range n {
		c := policytest.Generate(first+i, policytest.Size{Packets: 100})
		rs, err := policytest.Pure()[0].Run(t.Context(), c)
		require.NoError(t, err)
		for j := range rs {
			c.Packets[j].Asked, c.Packets[j].Want, c.Packets[j].By = true, rs[j].Verdict, rs[j].By
		}
		cases = append(cases, c)
	}
	return cases
}

func check(t *testing.T, cases []*policytest.Case, o lab.Options) {
	packets := 0
	for _, o := range lab.RunAll(t.Context(), cases, openLab, o) {
		packets += len(o.Case.Packets)
		if o.Err != nil {
			t.Errorf("%s: %v", o.Case.Name, o.Err)
			continue
		}
		ms, err := policytest.Compare(o.Case, o.Results)
		require.NoError(t, err)
		for _, m := range ms {
			t.Error(m)
		}
	}
	require.NotZero(t, packets)
	t.Logf("%d packets in %d cases", packets, len(cases))
}
