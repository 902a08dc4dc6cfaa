// SPDX-License-Identifier: Apache-2.0

package flowlog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	renderebpf "github.com/hostpolicy/hostpolicy/render/ebpf"
	renderiptables "github.com/hostpolicy/hostpolicy/render/iptables"
	rendernftables "github.com/hostpolicy/hostpolicy/render/nftables"
)

// dataplane is a backend and how it reports.
type dataplane struct {
	backends.Backend
	flows flowlog.Source
	// unwritable is the name of an interface that it cannot ask for.
	unwritable string
}

// dataplanes are all there are.
func dataplanes() map[string]func(*lab.Pair) (dataplane, error) {
	tables := func(v iptables.Variant) func(*lab.Pair) (dataplane, error) {
		return func(p *lab.Pair) (dataplane, error) {
			b, err := iptables.New(iptables.Options{NetNS: p.Host.FD(), Variant: v, Render: renderiptables.Options{Events: renderiptables.AllEvents, LogGroup: group}})
			return dataplane{b, flowlog.NFLOG{NetNS: p.Host.FD(), Group: group}, `eth"0`}, err
		}
	}
	return map[string]func(*lab.Pair) (dataplane, error){
		"iptables-nft":    tables(iptables.NFT),
		"iptables-legacy": tables(iptables.Legacy),
		"nftables": func(p *lab.Pair) (dataplane, error) {
			b, err := nftables.New(nftables.Options{NetNS: p.Host.FD(), Render: rendernftables.Options{Events: rendernftables.AllEvents, LogGroup: group, Counters: true}})
			return dataplane{b, flowlog.NFLOG{NetNS: p.Host.FD(), Group: group}, `eth"0`}, err
		},
		"ebpf": func(p *lab.Pair) (dataplane, error) {
			path := fmt.Sprintf("/sys/fs/bpf/hostpolicy-flowlog-%d", os.Getpid())
			b, err := ebpf.New(ebpf.Options{NetNS: p.Host.FD(), Path: path, Render: renderebpf.Options{Events: renderebpf.AllEvents}})
			if err != nil {
				return dataplane{}, err
			}
			return dataplane{b, b.FlowLog(), "a-name-beyond-15-bytes"}, nil
		},
	}
}

// A flow log line, a counter, an explanation and the error of an Apply name one rule alike, whatever enforces it.
func TestOneRuleHasOneOriginEverywhere(t *testing.T) {
	t.Parallel()
	const want, at = "policy:default/services/ingress[1]", "test.yaml:13"
	for name, open := range dataplanes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			b, err := open(p)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, b.Teardown(context.Background())) })

			r, err := manifest.Parse(manifest.Source{Name: "test.yaml", Data: []byte(documents)})
			require.NoError(t, err)
			s, err := policy.Resolve(r, p.Spec("host-a"), policy.Config{})
			require.NoError(t, err)
			prog, members, err := compile.Compile(s)
			require.NoError(t, err)

			// The explanation.
			packet := flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.UDP, Src: lab.PairPeer4.Addr(), Dst: lab.PairHost4.Addr(), SrcPort: 40000, DstPort: 2000}
			by := eval.New(s).Explain(&packet).By
			require.Equal(t, want, by.String())
			require.Equal(t, at, by.Pos.String())

			// The flow log.
			receipt, err := b.Apply(t.Context(), prog, members)
			require.NoError(t, err)
			l := flowlog.New(flowlog.Options{})
			l.Use(receipt.Generation, prog)
			sub := l.Subscribe(func(r *flowlog.Record) bool { return r.Tuple == packet.Tuple() && r.Event == flow.EventDeny })
			ctx, cancel := context.WithCancel(t.Context())
			ready, done := make(chan struct{}), make(chan error, 1)
			go func() { done <- l.Run(ctx, notify{b.flows, ready}) }()
			select {
			case <-ready:
			case err := <-done:
				require.NoError(t, err)
			}
			_, err = sender(t, p, "10.9.0.2:40000", "10.9.0.1:2000").Write([]byte("hello"))
			require.NoError(t, err)
			rec := next(t, sub)
			require.Equal(t, by, rec.Origin, "with its position")
			require.Equal(t, by.Key(), rec.Key)
			require.Equal(t, receipt.Generation, rec.Generation)
			require.Equal(t, flow.NormalIn, rec.Hook)
			require.Equal(t, "eth0", rec.In)
			require.EqualValues(t, 33, rec.Bytes)
			cancel()
			require.NoError(t, <-done)

			// The counter.
			cs, err := b.Counters(t.Context())
			require.NoError(t, err)
			i := slices.IndexFunc(cs, func(c backends.Counter) bool { return c.Origin == by })
			require.GreaterOrEqual(t, i, 0, "%v", cs)
			require.EqualValues(t, 1, cs[i].Packets)

			// The error.
			_, err = b.Apply(t.Context(), broken(prog, by, b.unwritable), members)
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, at)
			var unsupported *render.UnsupportedError
			var fault *ir.Fault
			switch {
			case errors.As(err, &unsupported):
				require.Equal(t, by, unsupported.Origin)
			case errors.As(err, &fault):
				require.Equal(t, by, fault.Origin)
			default:
				require.Fail(t, "neither error", "%v", err)
			}
		})
	}
}

// broken returns the program with one rule that asks for an impossible interface.
func broken(p *ir.Program, by flow.Origin, name string) *ir.Program {
	out := *p
	out.Blocks = slices.Clone(p.Blocks)
	for i, b := range out.Blocks {
		out.Blocks[i].Steps = slices.Clone(b.Steps)
		for j, s := range out.Blocks[i].Steps {
			if r, ok := s.(ir.Rule); ok && r.Origin > 0 && p.Origins[r.Origin-1].ID() == by.ID() {
				r.Match = append(slices.Clone(r.Match), ir.Clause{ir.InNames{Field: ir.InIface, Names: []ir.NamePattern{{Name: name}}}})
				out.Blocks[i].Steps[j] = r
			}
		}
	}
	return &out
}

// The same as with NFLOG: the reader stands still until the ring buffer is full.
func TestEventsThatTheRingBufferHasNoRoomForAreCounted(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	for _, ns := range []lab.Netns{p.Host, p.Peer} {
		require.NoError(t, ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) }))
	}
	b, err := ebpf.New(ebpf.Options{
		NetNS: p.Host.FD(), Path: fmt.Sprintf("/sys/fs/bpf/hostpolicy-flowlog-%d-slow", os.Getpid()), Buffer: 64 << 10,
		Render: renderebpf.Options{Events: renderebpf.AllEvents},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Teardown(context.Background())) })
	prog, m := compiled(t, p, documents)
	_, err = b.Apply(t.Context(), prog, m)
	require.NoError(t, err)
	l := flowlog.New(flowlog.Options{Window: time.Hour})
	src := &stuck{b.FlowLog(), make(chan struct{}), make(chan struct{})}
	first := src.first
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- l.Run(ctx, notify{src, ready}) }()
	<-ready
	c := sender(t, p, "10.9.0.2:40000", "10.9.0.1:2000")
	for i := range 5000 {
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		if i == 0 {
			<-first
		}
	}
	counted := func() (n uint64) {
		cs, err := b.Counters(t.Context())
		require.NoError(t, err)
		for _, c := range cs {
			n += c.Packets
		}
		return n
	}
	require.Eventually(t, func() bool { return counted() >= 5000 }, 30*time.Second, 10*time.Millisecond)
	close(src.release)
	require.Eventually(t, func() bool { s := l.Stats(); return s.Lost > 1000 && s.Events+s.Lost == counted() }, 30*time.Second, 50*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}
