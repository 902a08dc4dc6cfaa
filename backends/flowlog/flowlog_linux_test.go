// SPDX-License-Identifier: Apache-2.0

package flowlog_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

const group = 71

const documents = `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep-eth0}
spec: {node: host-a, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: services}
spec:
  types: [Ingress, Egress]
  ingress:
  - {action: Allow, protocol: UDP, destination: {ports: [1000]}}
  - {action: Deny, protocol: UDP, destination: {ports: [2000]}}
  egress: [{action: Allow}]
`

func newPair(t testing.TB) *lab.Pair {
	t.Helper()
	p, err := lab.NewPair()
	require.NoError(t, err, "these tests need root")
	t.Cleanup(func() { p.Close() })
	return p
}

func compiled(t testing.TB, p *lab.Pair, text string) (*ir.Program, ir.Members) {
	t.Helper()
	r, err := manifest.Parse(manifest.Source{Name: "test.yaml", Data: []byte(text)})
	require.NoError(t, err)
	s, err := policy.Resolve(r, p.Spec("host-a"), policy.Config{})
	require.NoError(t, err)
	prog, m, err := compile.Compile(s)
	require.NoError(t, err)
	return prog, m
}

// enforce applies documents with all events on.
func enforce(t testing.TB, p *lab.Pair, text string) (*nftables.Backend, *ir.Program) {
	t.Helper()
	b, err := nftables.New(nftables.Options{NetNS: p.Host.FD(), Render: render.Options{Events: render.AllEvents, LogGroup: group, Counters: true}})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	prog, m := compiled(t, p, text)
	_, err = b.Apply(t.Context(), prog, m)
	require.NoError(t, err)
	return b, prog
}

// run runs a Log until the test or the function that it returns ends it, and waits until it reads.
func run(t testing.TB, p *lab.Pair, l *flowlog.Log, n flowlog.NFLOG) (stop func()) {
	t.Helper()
	n.NetNS, n.Group = p.Host.FD(), group
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- l.Run(ctx, notify{n, ready}) }()
	select {
	case <-ready:
	case err := <-done:
		require.NoError(t, err)
	}
	stop = func() {
		cancel()
		require.NoError(t, <-done)
		done <- nil
	}
	t.Cleanup(stop)
	return stop
}

// notify is a source that says when it is ready.
type notify struct {
	flowlog.Source
	ready chan struct{}
}

type notifySink struct {
	flowlog.Sink
	ready chan struct{}
}

func (n notify) Read(ctx context.Context, to flowlog.Sink) error {
	return n.Source.Read(ctx, notifySink{to, n.ready})
}

func (n notifySink) Ready() { n.Sink.Ready(); close(n.ready) }

// sender returns a socket of the peer.
func sender(t testing.TB, p *lab.Pair, from, to string) net.Conn {
	t.Helper()
	var c net.Conn
	require.NoError(t, p.Peer.Do(func() (err error) {
		local, err := net.ResolveUDPAddr("udp", from)
		if err != nil {
			return err
		}
		d := net.Dialer{LocalAddr: local}
		c, err = d.Dial("udp", to)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

func denied(r *flowlog.Record) bool { return strings.Contains(r.Origin.String(), "ingress[1]") }

func TestRecordsNameTheRuleTheFlowAndTheGeneration(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	_, prog := enforce(t, p, documents)
	l := flowlog.New(flowlog.Options{})
	l.Use(7, prog)
	s := l.Subscribe(denied)
	run(t, p, l, flowlog.NFLOG{})

	for _, c := range []struct{ from, to, want string }{
		{"10.9.0.2:40000", "10.9.0.1:2000", "udp 10.9.0.2:40000 > 10.9.0.1:2000"},
		{"[fd00:9::2]:40000", "[fd00:9::1]:2000", "udp [fd00:9::2]:40000 > [fd00:9::1]:2000"},
	} {
		_, err := sender(t, p, c.from, c.to).Write([]byte("hello"))
		require.NoError(t, err)
		r := next(t, s)
		require.Equal(t, "deny", r.Event.String())
		require.Equal(t, "normal-in", r.Hook.String())
		require.Equal(t, "policy:default/services/ingress[1]", r.Origin.String())
		require.Equal(t, "test.yaml:13", r.Origin.Pos.String())
		require.Equal(t, r.Origin.Key(), r.Key)
		require.EqualValues(t, 7, r.Generation)
		require.Equal(t, "eth0", r.In)
		require.Empty(t, r.Out)
		require.Equal(t, c.want, r.Tuple.String())
		require.EqualValues(t, 1, r.Packets)
		require.WithinDuration(t, time.Now(), r.Time, time.Minute)
		require.EqualValues(t, map[bool]int{false: 33, true: 53}[strings.Contains(c.want, "::")], r.Bytes)

		b, err := json.Marshal(r)
		require.NoError(t, err)
		require.Contains(t, string(b), `"event":"deny","hook":"normal-in","origin":"policy:default/services/ingress[1]"`)
		require.Contains(t, string(b), `"pos":{"file":"test.yaml","line":13}`)
	}
	require.Zero(t, l.Stats().Lost)
}

func TestWindowGathersWhatIsAlike(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	_, prog := enforce(t, p, documents)
	l := flowlog.New(flowlog.Options{Window: time.Second, AnySourcePort: true})
	l.Use(1, prog)
	s := l.Subscribe(denied)
	run(t, p, l, flowlog.NFLOG{})

	const packets = 600
	for i := range 3 {
		c := sender(t, p, fmt.Sprintf("10.9.0.2:%d", 40000+i), "10.9.0.1:2000")
		for range packets / 3 {
			_, err := c.Write([]byte("hello"))
			require.NoError(t, err)
		}
	}
	var sum, records uint64
	for sum < packets {
		r := next(t, s)
		require.Equal(t, "udp 10.9.0.2:0 > 10.9.0.1:2000", r.Tuple.String())
		require.Equal(t, 33*r.Packets, r.Bytes)
		require.False(t, r.Last.Before(r.Time))
		sum += r.Packets
		records++
	}
	require.EqualValues(t, packets, sum)
	require.Less(t, records, uint64(packets/10), "a second holds more than this")
}

// The subscription has room for little and nobody receives: what does not fit is counted, and nothing else is held up.
func TestRecordsThatNobodyReceivesAreCounted(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	_, prog := enforce(t, p, documents)
	l := flowlog.New(flowlog.Options{Queue: 10})
	l.Use(1, prog)
	slow, quick := l.Subscribe(denied), l.Subscribe(denied)
	run(t, p, l, flowlog.NFLOG{})

	const packets = 100
	c := sender(t, p, "10.9.0.2:40000", "10.9.0.1:2000")
	for range packets {
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		next(t, quick)
	}
	require.EqualValues(t, packets-10, slow.Dropped())
	require.Zero(t, quick.Dropped())
	require.EqualValues(t, packets-10, l.Stats().Dropped)
	slow.Close()
	slow.Close()
	n := 0
	for range slow.C() {
		n++
	}
	require.Equal(t, 10, n)
}

// stuck is a source whose reader stands still until it is let go.
type stuck struct {
	flowlog.Source
	first, release chan struct{}
}

type stuckSink struct {
	flowlog.Sink
	s *stuck
}

func (s *stuck) Read(ctx context.Context, to flowlog.Sink) error {
	return s.Source.Read(ctx, &stuckSink{to, s})
}

func (s *stuckSink) Event(e flowlog.Event) {
	if s.s.first != nil {
		close(s.s.first)
		<-s.s.release
		s.s.first = nil
	}
	s.Sink.Event(e)
}

// The reader stands still until the kernel has no room left. Every packet is then either in a record or counted as lost.
func TestEventsThatTheKernelDropsAreCounted(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	for _, ns := range []lab.Netns{p.Host, p.Peer} { // which speaks unasked, also before there is a reader
		require.NoError(t, ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) }))
	}
	enforce(t, p, documents)
	l := flowlog.New(flowlog.Options{Window: time.Hour, MaxFlows: 100})
	src := &stuck{flowlog.NFLOG{NetNS: p.Host.FD(), Group: group, Buffer: 64 << 10}, make(chan struct{}), make(chan struct{})}
	first := src.first
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- l.Run(ctx, notify{src, ready}) }()
	<-ready

	c := sender(t, p, "10.9.0.2:40000", "10.9.0.1:2000")
	write := func() {
		_, err := c.Write(make([]byte, 1000))
		require.NoError(t, err)
	}
	write()
	<-first
	for range 5000 {
		write()
	}
	require.Eventually(t, func() bool { return arrived(t, p) >= 5001 }, 30*time.Second, time.Millisecond)
	close(src.release)
	// Numbers show what is missing only when something comes behind it.
	var st flowlog.Stats
	var n uint64
	for range 300 {
		write()
		time.Sleep(100 * time.Millisecond)
		if st, n = l.Stats(), arrived(t, p); st.Lost > 0 && st.Events+st.Lost == n {
			break
		}
	}
	require.Equal(t, n, st.Events+st.Lost, "every packet is in an event or lost: %+v of %d", st, n)
	require.Greater(t, l.Stats().Lost, uint64(1000))
	cancel()
	require.NoError(t, <-done)
}

// arrived returns how many packets the rule has counted.
func arrived(t testing.TB, p *lab.Pair) uint64 {
	t.Helper()
	b, err := nftables.New(nftables.Options{NetNS: p.Host.FD(), Render: render.Options{Counters: true}})
	require.NoError(t, err)
	defer b.Close()
	cs, err := b.Counters(t.Context())
	require.NoError(t, err)
	var n uint64
	for _, c := range cs {
		n += c.Packets
	}
	return n
}

// Many logs come and go while there is traffic; nothing of go-nflog stays.
func TestGoroutinesEndWithTheContext(t *testing.T) {
	p := newPair(t)
	_, prog := enforce(t, p, documents)
	c := sender(t, p, "10.9.0.2:40000", "10.9.0.1:2000")
	for range 20 {
		l := flowlog.New(flowlog.Options{})
		l.Use(1, prog)
		s := l.Subscribe(denied)
		stop := run(t, p, l, flowlog.NFLOG{})
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
		next(t, s)
		stop()
	}
	var stacks string
	require.Eventually(t, func() bool {
		b := make([]byte, 1<<20)
		stacks = string(b[:runtime.Stack(b, true)])
		return !strings.Contains(stacks, "go-nflog") && !strings.Contains(stacks, "flowlog.(*Log)")
	}, 30*time.Second, 10*time.Millisecond, "%s", stacks)
}

func TestAGroupHasOneReader(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	run(t, p, flowlog.New(flowlog.Options{}), flowlog.NFLOG{})
	err := flowlog.New(flowlog.Options{}).Run(t.Context(), flowlog.NFLOG{NetNS: p.Host.FD(), Group: group})
	require.ErrorContains(t, err, "NFLOG group 71")
}
