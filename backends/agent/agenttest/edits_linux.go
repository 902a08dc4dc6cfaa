// SPDX-License-Identifier: Apache-2.0

package agenttest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/netif"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// Patience bounds what takes no time on an idle machine.
const Patience = 2 * time.Minute

// Edits are random edits.
type Edits struct {
	Store     store.Store                    // empty, or used by Edits alone
	Open      Opener                         // what it opens is closed by Edits if it is an io.Closer
	Sequences int                            // how many; after each the kernel is compared
	Seed      uint64                         // of what is random
	Options   func(*agent.Options)           // nil, or what to change about the agent
	Between   func(m *Machine, sequence int) // nil, or what else to do between sequences, while the agent runs

	// Compared, if it is not nil, is called when the kernel has been found right behind a sequence, with how many edits of
	// resources and interfaces and how many starts of the agent there were. Fixed says behind which sequences the resources
	// are always the same, so that what is measured can be compared.
	Compared func(sequence, edits, starts int)
	Fixed    func(sequence int) bool
}

// node is the name of the host.
const node = "host-a"

// Run edits resources, interfaces and addresses at random while an agent runs, and stops and starts it. Packets come in
// all the while. After each sequence of edits the kernel must have what a compiler makes of the resources and the host as
// they are, from nothing.
func (e Edits) Run(t *testing.T) {
	r := &editing{Edits: e, T: t, rand: rand.New(rand.NewPCG(e.Seed, 0)), machine: NewMachine(t), links: map[string][]string{}}
	var err error
	r.monitor, err = netif.New(netif.Options{Node: node, NetNS: int(r.machine.Host.Fd())})
	require.NoError(t, err)
	defer r.machine.traffic()()
	r.scratch = e.Open(t, int(NewNetns(t).Fd()))
	defer closeBackend(r.scratch)
	r.start()
	defer func() { r.stop() }()
	for i := range e.Sequences {
		r.fixed = e.Fixed != nil && e.Fixed(i)
		r.sequence()
		if e.Between != nil {
			e.Between(r.machine, i)
		}
		if i%5 == 4 {
			r.stop()
			r.interfaces()
			r.start()
		}
		r.compare(i)
		if e.Compared != nil {
			e.Compared(i, r.edits, r.starts)
		}
	}
}

func closeBackend(b backends.Backend) {
	if c, ok := b.(io.Closer); ok {
		_ = c.Close()
	}
}

type editing struct {
	Edits
	*testing.T
	rand    *rand.Rand
	machine *Machine
	monitor *netif.Monitor
	scratch backends.Backend
	links   map[string][]string

	fixed         bool // the sequence leads to the same resources whenever it is so
	edits, starts int

	agent   *agent.Agent
	backend backends.Backend
	cancel  context.CancelFunc
	ended   chan error
}

func (e *editing) start() {
	e.starts++
	e.backend = e.Open(e.T, int(e.machine.Host.Fd()))
	o := agent.Options{Store: e.Store, Host: e.monitor, Backend: e.backend}
	if e.Options != nil {
		e.Options(&o)
	}
	var err error
	e.agent, err = agent.New(o)
	require.NoError(e.T, err)
	var ctx context.Context
	ctx, e.cancel = context.WithCancel(context.Background())
	e.ended = make(chan error, 1)
	go func(a *agent.Agent) { e.ended <- a.Run(ctx) }(e.agent)
}

func (e *editing) stop() {
	if e.cancel == nil {
		return
	}
	e.cancel()
	e.cancel = nil
	require.NoError(e.T, <-e.ended)
	require.Zero(e.T, e.agent.Status().Panics)
	closeBackend(e.backend)
}

// sequence edits on the way from the present resources to random other ones.
func (e *editing) sequence() {
	want := map[hostendpoint.ID]hostendpoint.Object{}
	seed := e.rand.Uint64()
	if e.fixed {
		seed = 1
	}
	for o := range policytest.Generate(seed, policytest.Size{}).Resources.All() {
		want[o.ID().Stored()] = o
	}
	have := e.list()
	var first, then, last []func() // tiers exist while policies are in them
	add := func(id hostendpoint.ID, deletes bool, do func()) {
		switch {
		case id.Kind == hostendpoint.KindTier && deletes:
			last = append(last, do)
		case id.Kind == hostendpoint.KindTier:
			first = append(first, do)
		default:
			then = append(then, do)
		}
	}
	for id, o := range have {
		if want[id] == nil {
			add(id, true, func() { e.done(e.Store.Delete(e.T.Context(), o.ID(), store.DeleteOptions{})) })
		}
	}
	for id, o := range want {
		if old := have[id]; old != nil {
			add(id, false, func() {
				m, from := o.Meta(), old.Meta()
				m.ResourceVersion, m.UID, m.CreationTimestamp = from.ResourceVersion, from.UID, from.CreationTimestamp
				e.done(e.Store.Update(e.T.Context(), o))
			})
		} else {
			add(id, false, func() { e.done(e.Store.Create(e.T.Context(), o)) })
		}
	}
	e.rand.Shuffle(len(then), func(i, j int) { then[i], then[j] = then[j], then[i] })
	for _, do := range slices.Concat(first, then) {
		if e.rand.IntN(10) == 0 && !e.fixed {
			continue // some edits never happen
		}
		do()
		switch e.rand.IntN(4) {
		case 0:
			time.Sleep(time.Duration(e.rand.IntN(20)) * time.Millisecond)
		case 1:
			e.interfaces()
		}
	}
	for _, do := range last {
		do()
	}
}

// done takes note of what a store says. It may refuse what it does not have, what is in use, and what is missing.
func (e *editing) done(_ hostendpoint.Object, err error) {
	e.edits++
	var s *store.Error
	if err != nil && !errors.As(err, &s) {
		require.NoError(e.T, err)
	}
	if errors.Is(err, store.ErrUnavailable) {
		require.NoError(e.T, err)
	}
}

func (e *editing) list() map[hostendpoint.ID]hostendpoint.Object {
	out := map[hostendpoint.ID]hostendpoint.Object{}
	for _, kind := range hostendpoint.Kinds() {
		l, err := e.Store.List(e.T.Context(), kind, store.ListOptions{})
		if errors.Is(err, store.ErrUnsupported) {
			continue
		}
		require.NoError(e.T, err)
		for _, o := range l.Items {
			out[o.ID().Stored()] = o
		}
	}
	return out
}

// interfaces changes one thing about the interfaces.
func (e *editing) interfaces() {
	e.edits++
	names := []string{"eth0", "eth1", "wan0", "cali1"}
	addrs := []string{"10.9.0.1/24", "10.8.0.1/24", "fd00:9::1/64", "fd00:8::1/64"}
	name := names[e.rand.IntN(len(names))]
	addr := addrs[e.rand.IntN(len(addrs))]
	have, ok := e.links[name]
	switch {
	case !ok:
		e.machine.AddLink(name)
		e.links[name] = nil
	case e.rand.IntN(8) == 0:
		e.machine.DeleteLink(name)
		delete(e.links, name)
	case e.rand.IntN(8) == 0:
		to := names[e.rand.IntN(len(names))]
		if _, taken := e.links[to]; taken {
			return
		}
		e.machine.Rename(name, to) // what is set down loses its addresses of IPv6
		delete(e.links, name)
		e.links[to] = slices.DeleteFunc(slices.Clone(have), func(a string) bool { return a[0] == 'f' })
	case slices.Contains(have, addr):
		e.machine.DeleteAddress(name, addr)
		e.links[name] = slices.DeleteFunc(slices.Clone(have), func(a string) bool { return a == addr })
	default:
		e.machine.AddAddress(name, addr)
		e.links[name] = append(slices.Clip(have), addr)
	}
}

// compare waits until the kernel has what it should.
func (e *editing) compare(sequence int) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.T.Context(), Patience)
	defer cancel()
	var res hostendpoint.Resources
	for _, o := range e.list() {
		res.Add(o)
	}
	var host hostendpoint.Host
	var p *ir.Program
	var want backends.Receipt
	for {
		changed := e.agent.Changed()
		// The kernel takes its time, a second and more, with addresses of IPv6 on interfaces that have come up.
		now, err := e.monitor.Look(ctx)
		require.NoError(e.T, err)
		if p == nil || !reflect.DeepEqual(now, host) {
			host = now
			s, err := policy.Resolve(res, host, policy.Config{})
			require.NoError(e.T, err)
			var m ir.Members
			p, m, err = compile.Compile(s)
			require.NoError(e.T, err)
			want, err = e.scratch.Apply(ctx, p, m)
			require.NoError(e.T, err)
		}
		st := e.agent.Status()
		if st.Phase == agent.Enforcing && st.Receipt.Kernel.Fingerprint == want.Fingerprint {
			state, err := e.backend.Observe(ctx)
			require.NoError(e.T, err)
			if state.Fingerprint == want.Fingerprint { // and nothing has changed since
				require.True(e.T, state.Present)
				require.Empty(e.T, state.Drift)
				return
			}
		}
		select {
		case <-changed:
		case <-time.After(time.Second):
		case <-ctx.Done():
			require.FailNow(e.T, "the kernel never gets what it should have", "sequence %d, seed %d: %s, generation %d of %d, error %v, held %v\nwant %s\nhost %v, agent's %v",
				sequence, e.Seed, st.Phase, st.Enforced, st.Wanted, st.Err, st.Held, p, host, st.Host)
		}
	}
}
