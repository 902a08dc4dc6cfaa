// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/agent/agenttest"
	"github.com/hostpolicy/hostpolicy/backends/confirm"
	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	rendernft "github.com/hostpolicy/hostpolicy/render/nftables"
)

func nft(t testing.TB, ns *os.File, args ...string) string {
	t.Helper()
	var out []byte
	agenttest.In(t, ns, func() (err error) {
		out, err = exec.Command("nft", args...).CombinedOutput()
		if err != nil {
			err = errors.Join(err, errors.New(string(out)))
		}
		return err
	})
	return string(out)
}

func (r *running) until(t testing.TB, what string, ok func(agent.Status) bool) agent.Status {
	t.Helper()
	deadline := time.After(wait)
	for {
		changed := r.Changed()
		s := r.Status()
		if ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-deadline:
			require.FailNow(t, "never "+what, "%+v", s)
		}
	}
}

func TestMendsWhatOthersDo(t *testing.T) {
	ns := newNetns(t)
	b := newNFT(t, int(ns.Fd()))
	s := memory.New()
	a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: b, DriftEvery: time.Hour})
	a.settled(t, create(t, s, endpoint+"---"+web)...)
	list := func() []string { // in whatever order the chains came
		chains := strings.Split(strings.TrimSuffix(nft(t, ns, "list", "table", "inet", "hostpolicy"), "}\n"), "\tchain ")
		for i := range chains {
			chains[i] = strings.TrimSpace(chains[i])
		}
		slices.Sort(chains)
		return chains
	}
	before := list()
	for i, harm := range []string{"delete table inet hostpolicy", "flush ruleset", "flush table inet hostpolicy", "add rule inet hostpolicy filter-input accept"} {
		if strings.HasPrefix(harm, "add rule") { // a chain that exists
			chain := nft(t, ns, "list", "chains", "inet")
			at := strings.Index(chain, "chain ")
			harm = "add rule inet hostpolicy " + strings.Fields(chain[at:])[1] + " accept"
		}
		nft(t, ns, strings.Fields(harm)...)
		a.until(t, "mended: "+harm, func(s agent.Status) bool {
			return s.Drift.Findings > i && s.Drift.Repaired && s.Phase == agent.Enforcing
		})
		require.Equal(t, before, list(), harm)
	}
}

// What others do is noticed at once where the kernel tells of it, and what the agent itself does is no reason to look.
func TestNoticesWhatOthersDo(t *testing.T) {
	run := func(t *testing.T, ns *os.File, args ...string) {
		t.Helper()
		agenttest.In(t, ns, func() error {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil {
				err = errors.Join(err, errors.New(string(out)))
			}
			return err
		})
	}
	for backend, harms := range map[string][]func(*testing.T, *os.File){
		"nftables": {func(t *testing.T, ns *os.File) { run(t, ns, "nft", "flush", "table", "inet", "hostpolicy") }},
		"iptables-nft": {
			func(t *testing.T, ns *os.File) { run(t, ns, "iptables-nft", "-F", "INPUT") },
			func(t *testing.T, ns *os.File) { run(t, ns, "ip6tables-nft", "-I", "INPUT", "-j", "ACCEPT") },
		},
		"ebpf": {
			func(t *testing.T, ns *os.File) { run(t, ns, "nft", "delete", "table", "inet", "hostpolicy-ebpf") },
			func(t *testing.T, _ *os.File) {
				pins, err := filepath.Glob(fmt.Sprintf("%s-test/agent_%d_*/link_*", ebpf.DefaultPath, os.Getpid()))
				require.NoError(t, err)
				require.NotEmpty(t, pins)
				require.NoError(t, os.Remove(pins[0]))
			},
		},
	} {
		t.Run(backend, func(t *testing.T) {
			ns := newNetns(t)
			b := openers[backend](t, int(ns.Fd()))
			if c, ok := b.(io.Closer); ok {
				t.Cleanup(func() { c.Close() })
			}
			s := memory.New()
			a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: b, DriftEvery: time.Hour, Retry: time.Millisecond})
			a.settled(t, create(t, s, endpoint+"---"+web)...)
			a.settled(t, create(t, s, other("more", "101"))...)
			if backend != "ebpf" { // it makes pins and a table at first, and looks once more for it
				time.Sleep(100 * time.Millisecond) // for notices that must not come
				require.Zero(t, a.Status().Drift.Checks)
			}
			for i, harm := range harms {
				harm(t, ns)
				a.until(t, "mended", func(s agent.Status) bool {
					return s.Drift.Findings > i && s.Drift.Repaired && s.Phase == agent.Enforcing
				})
				st, err := b.Observe(t.Context())
				require.NoError(t, err)
				require.Empty(t, st.Drift)
			}
		})
	}
}

// Early boot enforces what was enforced last, and the agent takes over from it.
func TestBootRuleset(t *testing.T) {
	for backend, open := range openers {
		t.Run(backend, func(t *testing.T) {
			ns := newNetns(t)
			boot := filepath.Join(t.TempDir(), "boot")
			s := memory.New()
			begin := func() (*running, backends.Backend) {
				b := open(t, int(ns.Fd()))
				if c, ok := b.(io.Closer); ok {
					t.Cleanup(func() { c.Close() })
				}
				return start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: b, BootFile: boot, OnStop: agent.Open}), b
			}
			rules := func() string {
				if strings.HasPrefix(backend, "iptables") {
					var out []byte
					agenttest.In(t, ns, func() (err error) {
						out, err = exec.Command(backend + "-save").Output()
						return err
					})
					return string(out)
				}
				return nft(t, ns, "list", "ruleset")
			}
			a, _ := begin()
			a.settled(t, create(t, s, endpoint+"---"+web)...)
			require.NoError(t, a.stop())
			require.NotContains(t, rules(), "policy:default/web/")
			agenttest.In(t, ns, func() error {
				out, err := exec.Command(boot).CombinedOutput()
				if err != nil {
					err = errors.Join(err, errors.New(string(out)))
				}
				return err
			})
			require.Contains(t, rules(), "policy:default/web/")
			a, b := begin()
			a.until(t, "enforcing", func(s agent.Status) bool { return s.Phase == agent.Enforcing })
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.True(t, st.Present)
			require.Empty(t, st.Drift)
			require.NotContains(t, rules(), "-boot")
			if backend != "ebpf" { // whose rules are none that these commands show
				require.Equal(t, 1, strings.Count(rules(), "policy:default/web/"), rules())
			}
		})
	}
}

func TestOnlyReportsWhatOthersDo(t *testing.T) {
	ns := newNetns(t)
	s := memory.New()
	a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: newNFT(t, int(ns.Fd())), AlertOnly: true})
	a.settled(t, create(t, s, endpoint+"---"+web)...)
	nft(t, ns, "flush", "ruleset")
	st := a.until(t, "reported", func(s agent.Status) bool { return s.Drift.Findings > 0 })
	require.False(t, st.Drift.Repaired)
	require.Equal(t, backends.DriftMissing, st.Drift.Found[0].Kind)
	require.Empty(t, nft(t, ns, "list", "ruleset"))
}

func TestTwoAgentsInOneNamespace(t *testing.T) {
	ns := newNetns(t)
	var agents []*running
	var tables []string
	for _, name := range []string{"one", "two"} {
		b, err := nftables.New(nftables.Options{NetNS: int(ns.Fd()), Render: rendernft.Options{Table: name}})
		require.NoError(t, err)
		t.Cleanup(func() { b.Close() })
		s := memory.New()
		a := start(t, agent.Options{Name: name, Store: s, Host: agent.FixedHost(hostA), Backend: b, OnStop: agent.Open})
		a.settled(t, create(t, s, endpoint+"---"+strings.ReplaceAll(web, "80", map[string]string{"one": "81", "two": "82"}[name]))...)
		agents = append(agents, a)
		tables = append(tables, nft(t, ns, "list", "table", "inet", name))
	}
	nft(t, ns, "delete", "table", "inet", "one")
	agents[0].until(t, "mended", func(s agent.Status) bool { return s.Drift.Repaired })
	require.Zero(t, agents[1].Status().Drift.Findings)
	for i, name := range []string{"one", "two"} {
		require.Equal(t, tables[i], nft(t, ns, "list", "table", "inet", name))
	}
	require.NoError(t, agents[0].stop())
	require.Equal(t, tables[1], strings.TrimSpace(nft(t, ns, "list", "ruleset"))+"\n")
}

func TestStops(t *testing.T) {
	for _, p := range []agent.Posture{agent.Leave, agent.FailsafesOnly, agent.Open} {
		t.Run(p.String(), func(t *testing.T) {
			ns := newNetns(t)
			s := memory.New()
			a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: newNFT(t, int(ns.Fd())), OnStop: p})
			a.settled(t, create(t, s, endpoint+"---"+web)...)
			before := nft(t, ns, "list", "ruleset")
			require.NoError(t, a.stop())
			after := nft(t, ns, "list", "ruleset")
			switch p {
			case agent.Leave:
				require.Equal(t, before, after)
			case agent.Open:
				require.Empty(t, after)
			default:
				require.NotContains(t, after, "policy:")
				require.Contains(t, after, "failsafe:")
				require.Contains(t, after, "default:eth0/ingress")
			}
		})
	}
}

// outage is a datastore that can go away.
type outage struct {
	store.Driver
	away atomic.Bool
}

func newOutage() (*outage, store.Store) {
	o := &outage{Driver: memory.NewDriver(memory.Options{History: 200})}
	return o, store.New(o, store.Options{Retry: 10 * time.Millisecond, RetryMax: 20 * time.Millisecond})
}

var errAway = errors.New("away")

func (o *outage) List(ctx context.Context, kind string, l store.ListOptions) (store.List[hostendpoint.Object], error) {
	if o.away.Load() {
		return store.List[hostendpoint.Object]{}, errors.Join(store.ErrUnavailable, errAway)
	}
	return o.Driver.List(ctx, kind, l)
}

func (o *outage) Watch(ctx context.Context, kind, revision string, f func(store.Change) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for ctx.Err() == nil && !o.away.Load() {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	if err := o.Driver.Watch(ctx, kind, revision, f); !o.away.Load() {
		return err
	}
	return errors.Join(store.ErrUnavailable, errAway)
}

func TestStaleDatastore(t *testing.T) {
	ns := newNetns(t)
	o, s := newOutage()
	a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: newNFT(t, int(ns.Fd())), Stale: agent.FailsafesOnly, StaleAfter: 50 * time.Millisecond})
	a.settled(t, create(t, s, endpoint+"---"+web)...)
	before := nft(t, ns, "list", "ruleset")
	o.away.Store(true)
	st := a.until(t, "stale", func(s agent.Status) bool { return s.Posture == agent.FailsafesOnly })
	require.ErrorIs(t, st.Store.Err, errAway)
	require.NotContains(t, nft(t, ns, "list", "ruleset"), "policy:")
	o.away.Store(false)
	a.until(t, "back", func(s agent.Status) bool { return s.Posture == agent.Leave && s.Phase == agent.Enforcing })
	require.Equal(t, before, nft(t, ns, "list", "ruleset"))
}

func TestUnsyncedDatastore(t *testing.T) {
	ns := newNetns(t)
	o, s := newOutage()
	create(t, s, endpoint+"---"+web)
	o.away.Store(true)
	a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: newNFT(t, int(ns.Fd())), Unsynced: agent.FailsafesOnly})
	a.until(t, "closed", func(s agent.Status) bool { return s.Posture == agent.FailsafesOnly })
	require.Contains(t, nft(t, ns, "list", "ruleset"), "default:failsafes-only/ingress")
	o.away.Store(false)
	a.until(t, "open", func(s agent.Status) bool { return s.Posture == agent.Leave && s.Phase == agent.Enforcing })
	require.Contains(t, nft(t, ns, "list", "ruleset"), "policy:default/web")
}

// picky is a Backend whose kernel refuses what names a port, or everything, or panics.
type picky struct {
	*nftables.Backend
	port     string
	mode     atomic.Int32
	attempts atomic.Int32
}

const (
	cannotRender = iota
	cannotApply
	panics
	refusesAll
)

var errPicky = errors.New("the kernel refuses")

func (p *picky) Check(prog *ir.Program, m ir.Members) error {
	if p.mode.Load() == cannotRender && strings.Contains(prog.String(), "dport="+p.port) {
		return &render.UnsupportedError{Backend: "picky", What: "port " + p.port}
	}
	return p.Backend.Check(prog, m)
}

func (p *picky) Apply(ctx context.Context, prog *ir.Program, m ir.Members) (backends.Receipt, error) {
	p.attempts.Add(1)
	bad := strings.Contains(prog.String(), "dport="+p.port)
	switch mode := p.mode.Load(); {
	case mode == refusesAll, mode == cannotApply && bad:
		return backends.Receipt{}, errPicky
	case mode == panics && bad:
		panic("a defect")
	case mode == cannotRender && bad:
		return backends.Receipt{}, p.Check(prog, m)
	}
	return p.Backend.Apply(ctx, prog, m)
}

func other(name, port string) string {
	return strings.NewReplacer("{name: web}", "{name: "+name+"}", "[80]", "["+port+"]").Replace(web)
}

// One object that nothing can hold takes no other along, whoever finds that out and when.
func TestHoldsBackWhatCannotBeEnforced(t *testing.T) {
	for name, mode := range map[string]int32{"renderer": cannotRender, "kernel": cannotApply} {
		t.Run(name, func(t *testing.T) {
			ns := newNetns(t)
			b := &picky{Backend: newNFT(t, int(ns.Fd())), port: "666"}
			b.mode.Store(mode)
			s := memory.New()
			a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: b, Retry: time.Millisecond, RetryMax: 200 * time.Millisecond})
			made := create(t, s, endpoint+"---"+web)
			a.settled(t, made...)
			text := other("a", "101") + "---" + other("bad", "666") + "---" + other("c", "103")
			create(t, s, text)
			bad := hostendpoint.ID{Kind: hostendpoint.KindGlobalNetworkPolicy, Name: "default.bad"}
			a.until(t, "held back", func(s agent.Status) bool {
				return s.Phase == agent.Enforcing && len(s.Held) == 1 && s.Held[0].ID == bad && s.Held[0].Err != nil
			})
			rules := nft(t, ns, "list", "ruleset")
			require.Contains(t, rules, "policy:default/a/")
			require.Contains(t, rules, "policy:default/c/")
			require.NotContains(t, rules, "policy:default/bad/")
			// When it can be enforced after all, it is.
			b.mode.Store(-1)
			a.until(t, "taken up", func(s agent.Status) bool { return s.Phase == agent.Enforcing && len(s.Held) == 0 })
			require.Contains(t, nft(t, ns, "list", "ruleset"), "policy:default/bad/")
			require.Zero(t, a.Status().Panics)
		})
	}
}

func TestSurvivesPanicsAndRefusals(t *testing.T) {
	ns := newNetns(t)
	b := &picky{Backend: newNFT(t, int(ns.Fd())), port: "666"}
	b.mode.Store(panics)
	s := memory.New()
	a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: b, Retry: time.Millisecond, RetryMax: 10 * time.Millisecond})
	a.settled(t, create(t, s, endpoint+"---"+web)...)
	create(t, s, other("bad", "666"))
	a.until(t, "panicked", func(s agent.Status) bool { return s.Panics > 2 })
	b.mode.Store(refusesAll)
	st := a.until(t, "failing", func(s agent.Status) bool { return s.Phase == agent.Failing && errors.Is(s.Err, errPicky) })
	require.Contains(t, nft(t, ns, "list", "ruleset"), "policy:default/web/")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := a.WaitEnforced(ctx, st.Wanted)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	b.mode.Store(-1)
	_, err = a.WaitEnforced(t.Context(), st.Wanted)
	require.NoError(t, err)
	require.Contains(t, nft(t, ns, "list", "ruleset"), "policy:default/bad/")
	require.Empty(t, a.Status().Held)
}

func TestBacksOff(t *testing.T) {
	b := &picky{Backend: newNFT(t, int(newNetns(t).Fd()))}
	b.mode.Store(refusesAll)
	s := memory.New()
	a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: b, Retry: 20 * time.Millisecond, RetryMax: time.Hour})
	create(t, s, endpoint)
	a.until(t, "failing", func(s agent.Status) bool { return s.Failures >= 4 })
	require.Less(t, b.attempts.Load(), int32(8))
}

func TestBeforeApplyBlocks(t *testing.T) {
	ns := newNetns(t)
	s := memory.New()
	errNo := errors.New("this would lock you out")
	var refuse atomic.Bool
	var changes []agent.Change
	var programs []string
	a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: newNFT(t, int(ns.Fd())),
		BeforeApply: func(_ context.Context, c *agent.Change) error {
			if refuse.Load() {
				return errNo
			}
			return nil
		},
		AfterApply: func(_ context.Context, c *agent.Change, r agent.Receipt) {
			_, before, _ := c.Before()
			p, _ := c.Program()
			text := "nothing"
			if before != nil {
				text = before.String()
			}
			programs = append(programs, text, p.String())
			changes = append(changes, *c)
			if c.Snapshot() == nil || r.Generation != c.Generation {
				panic("no snapshot")
			}
		},
	})
	a.settled(t, create(t, s, endpoint+"---"+web)...)
	refuse.Store(true)
	create(t, s, other("more", "101"))
	st := a.until(t, "blocked", func(s agent.Status) bool { return s.Phase == agent.Blocked })
	require.ErrorIs(t, st.Err, errNo)
	require.NotContains(t, nft(t, ns, "list", "ruleset"), "policy:default/more")
	a.Force()
	a.until(t, "forced", func(s agent.Status) bool { return s.Phase == agent.Enforcing })
	require.Contains(t, nft(t, ns, "list", "ruleset"), "policy:default/more")
	require.NoError(t, a.stop())
	require.Zero(t, a.Status().Panics)
	last := changes[len(changes)-1]
	require.True(t, last.Forced)
	require.Equal(t, "default.more", last.Objects[0].ID.Name)
	require.Equal(t, "nothing", programs[0])
	require.Equal(t, programs[len(programs)-3], programs[len(programs)-2])
	require.NotEqual(t, programs[len(programs)-2], programs[len(programs)-1])
}

// What a change of members costs does not depend on the program: it is not rendered again.
func TestMembersOnly(t *testing.T) {
	s := memory.New()
	b := newNFT(t, int(newNetns(t).Fd()))
	var only []bool
	a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: b,
		AfterApply: func(_ context.Context, c *agent.Change, _ agent.Receipt) { only = append(only, c.Members) }})
	set := `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: peers, labels: {peers: "yes"}}
spec: {nets: [10.1.0.0/16]}
`
	made := create(t, s, endpoint+"---"+strings.Replace(web, "protocol: TCP", "protocol: TCP, source: {selector: has(peers)}", 1)+"---"+set)
	a.settled(t, made...)
	n := slices.IndexFunc(made, func(o hostendpoint.Object) bool { _, ok := o.(*hostendpoint.GlobalNetworkSet); return ok })
	o := made[n].(*hostendpoint.GlobalNetworkSet)
	o.Spec.Nets = append(o.Spec.Nets, "10.2.0.0/16")
	changed, err := s.Update(t.Context(), o)
	require.NoError(t, err)
	r := a.settled(t, changed)
	require.Positive(t, r.Kernel.Changes)
	require.NoError(t, a.stop())
	require.True(t, only[len(only)-1])
	st, err := b.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Drift)
}

// A generation that was reverted is not applied again, by this process or the next, until something changes.
func TestRevertedGenerationStaysAway(t *testing.T) {
	ns := newNetns(t)
	dir := filepath.Join(t.TempDir(), "state")
	s := memory.New()
	begin := func() *running {
		b := newNFT(t, int(ns.Fd()))
		g, err := confirm.New(t.Context(), b, confirm.Options{Dir: dir, Files: []*os.File{ns}, Command: []string{"/usr/bin/env", "HOSTPOLICY_TEST_WATCHDOG=" + dir, os.Args[0]}})
		require.NoError(t, err)
		return start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: b, Guard: g, Confirm: agent.OfResources(time.Second)})
	}
	a := begin()
	a.settled(t, create(t, s, endpoint+"---"+web)...)
	require.NoError(t, a.Confirm(t.Context()))
	a.until(t, "confirmed", func(s agent.Status) bool { return s.Pending == nil })
	create(t, s, other("more", "101"))
	a.until(t, "pending", func(s agent.Status) bool { return s.Pending != nil })
	a.until(t, "reverted", func(s agent.Status) bool { return s.Phase == agent.Blocked && errors.Is(s.Err, confirm.ErrReverted) })
	rules := nft(t, ns, "list", "ruleset")
	require.Contains(t, rules, "policy:default/web/")
	require.NotContains(t, rules, "policy:default/more/")
	require.NoError(t, a.stop())
	a = begin()
	a.until(t, "refused again", func(s agent.Status) bool { return errors.Is(s.Err, confirm.ErrReverted) })
	require.Equal(t, rules, nft(t, ns, "list", "ruleset"))
	create(t, s, other("yet-more", "102"))
	a.until(t, "applied", func(s agent.Status) bool { return s.Pending != nil })
	require.Contains(t, nft(t, ns, "list", "ruleset"), "policy:default/yet-more/")
	require.NoError(t, a.Confirm(t.Context()))
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("HOSTPOLICY_TEST_WATCHDOG"); dir != "" {
		b, err := nftables.New(nftables.Options{NetNS: 3})
		if err == nil {
			err = confirm.Watch(os.Stdin, os.Stdout, b, confirm.Options{Dir: dir})
		}
		if err != nil {
			os.Stdout.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv("HOSTPOLICY_TEST_SOAK"); dir != "" {
		if err := soakAgent(dir); err != nil {
			os.Stdout.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestOptions(t *testing.T) {
	_, err := agent.New(agent.Options{})
	require.ErrorIs(t, err, agent.ErrOptions)
	require.ErrorContains(t, err, "no Store")
	require.ErrorContains(t, err, "no Backend")
	_, err = agent.New(agent.Options{Store: memory.New(), Host: agent.FixedHost(hostA), Backend: newNFT(t, int(newNetns(t).Fd())), OnStop: 9})
	require.ErrorIs(t, err, agent.ErrOptions)
}
