// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	gonft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// needLab skips where there can be no lab: without the capabilities for one. With them its absence is a failure.
func needLab(t *testing.T) {
	t.Helper()
	err := lab.Available()
	if errors.Is(err, lab.ErrUnavailable) && !capable(t) {
		t.Skipf("needs root: %v", err)
	}
	require.NoError(t, err)
}

func capable(t *testing.T) bool {
	f, err := os.Open("/proc/self/status")
	require.NoError(t, err)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if hex, ok := strings.CutPrefix(s.Text(), "CapEff:\t"); ok {
			have, err := strconv.ParseUint(hex, 16, 64)
			require.NoError(t, err)
			const want = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SYS_ADMIN
			return have&want == want
		}
	}
	return false
}

// small returns a case of one endpoint without policy and the given packets.
func small(t *testing.T, lines ...string) *policytest.Case {
	t.Helper()
	text := `Packets for the lab.
-- resources.yaml --
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep}
spec: {node: host-a, interfaceName: eth0}
-- host.yaml --
node: host-a
interfaces:
  - {name: eth0, addresses: [10.9.0.1/24, "fd00:9::1/64"]}
  - {name: eth1, addresses: [10.8.0.1/24, "fd00:8::1/64", "fe80::1/64"]}
  - {name: cali1}
forwarding: true
dnat:
  - {protocol: tcp, to: "10.9.0.1:81", becomes: "10.8.0.2:80"}
  - {protocol: tcp, to: "192.0.2.1:80", becomes: "10.8.0.3:80"}
-- packets --
` + strings.Join(lines, "\n") + "\n"
	c, err := policytest.Parse(t.Name(), []byte(text))
	require.NoError(t, err)
	return c
}

// Everything that a line can say can be sent, and is what it says: otherwise the control run would fail.
func TestEveryStateCanBeMade(t *testing.T) {
	needLab(t)
	var lines []string
	for _, path := range []struct{ words, src4, dst4, src6, dst6 string }{
		{"input eth1", "10.8.0.2", "10.8.0.1", "fd00:8::2", "fd00:8::1"},
		{"output eth1", "10.8.0.1", "10.8.0.2", "fd00:8::1", "fd00:8::2"},
		{"forward cali1>eth1", "10.65.0.2", "10.8.0.2", "fd00:65::2", "fd00:8::2"},
		{"local cali1", "10.65.0.2", "10.8.0.1", "fd00:65::2", "fd00:8::1"},
		{"input lo", "127.0.0.1", "127.0.0.1", "::1", "::1"},
		{"output lo", "127.0.0.1", "127.0.0.1", "::1", "::1"},
	} {
		verdict := " none"
		for _, state := range []string{"", " established", " related", " invalid"} {
			for _, proto := range []string{"tcp", "udp", "sctp", "udplite"} {
				lines = append(lines,
					path.words+" "+proto+" "+path.src4+":1000 > "+path.dst4+":80"+state+verdict,
					path.words+" "+proto+" ["+path.src6+"]:1000 > ["+path.dst6+"]:80"+state+verdict)
			}
			if state != " invalid" && (state != " related" || path.src4 != path.dst4) {
				lines = append(lines, path.words+" proto 253 "+path.src4+" > "+path.dst4+state+verdict)
			}
			if state != " related" && (state != " invalid" || !strings.HasPrefix(path.words, "output")) {
				lines = append(lines,
					path.words+" icmp 8/0 "+path.src4+" > "+path.dst4+state+verdict,
					path.words+" icmp6 128/0 "+path.src6+" > "+path.dst6+state+verdict)
			}
		}
		lines = append(lines,
			path.words+" icmp 0/0 "+path.src4+" > "+path.dst4+" established"+verdict,
			path.words+" icmp 0/0 "+path.src4+" > "+path.dst4+" invalid"+verdict,
			path.words+" icmp 3/1 "+path.src4+" > "+path.dst4+" related"+verdict,
			path.words+" icmp 11/0 "+path.src4+" > "+path.dst4+" invalid"+verdict,
			path.words+" icmp6 129/0 "+path.src6+" > "+path.dst6+" established"+verdict,
			path.words+" icmp6 1/4 "+path.src6+" > "+path.dst6+" related"+verdict,
			path.words+" icmp6 1/4 "+path.src6+" > "+path.dst6+" invalid"+verdict,
			path.words+" icmp6 135/0 "+path.src6+" > "+path.dst6+verdict,
			path.words+" proto 1 "+path.src6+" > "+path.dst6+" invalid"+verdict,
			path.words+" proto 58 "+path.src4+" > "+path.dst4+" invalid"+verdict)
	}
	lines = append(lines,
		"forward cali1>eth1 tcp 10.65.0.2:1 > 10.9.0.1:81 none",
		"forward cali1>eth1 tcp 10.65.0.2:1 > 10.9.0.1:81 established none",
		"forward cali1>eth1 tcp 10.65.0.2:1 > 10.8.0.2:80 established none", // the same to the peer
		"forward cali1>eth1 tcp 10.65.0.2:1 > 10.9.0.1:81 related none",
		"local cali1 tcp 10.65.0.2:1 > 10.9.0.1:81 invalid none",
		"output eth1 tcp 10.8.0.1:1 > 10.9.0.1:81 none",
		"output eth1 tcp 10.8.0.1:1 > 192.0.2.1:80 none",
		"output eth1 tcp 10.8.0.1:1 > 192.0.2.1:80 established none",
		"input eth1 udp 10.8.0.2:1 > 10.8.0.255:1 none",
		"input eth1 udp 0.0.0.0:68 > 255.255.255.255:67 none",
		"input eth1 udp 10.8.0.2:1 > 224.0.0.251:5353 none",
		"input eth1 udp [fe80::2]:1 > [ff02::fb]:5353 none",
		"output eth1 udp 10.8.0.1:1 > 255.255.255.255:67 none",
		"output eth1 udp 10.8.0.1:1 > 10.8.0.255:67 none",
		"output eth1 udp 10.8.0.1:1 > 224.0.0.251:5353 none",
		"output eth1 udp [fe80::1]:1 > [fe80::2]:5353 none",
		"output eth1 udp [fe80::1]:1 > [ff02::fb]:5353 none",
	)
	c := small(t, lines...)
	for _, fragment := range []bool{false, true} {
		rs, err := lab.Run(t.Context(), c, openNothing, lab.Options{Fragment: fragment})
		require.NoError(t, err)
		bad, err := policytest.Compare(c, rs)
		require.NoError(t, err)
		require.Empty(t, bad)
	}
}

// A packet that does not do what its line says must not count as denied.
func TestTheControlRunFindsFalseClaims(t *testing.T) {
	needLab(t)
	for line, reason := range map[string]string{
		"input eth1 tcp 10.8.0.2:1 > 10.8.0.2:80 deny":                "instead of input eth1",
		"forward eth0>eth1 tcp 10.9.0.2:1 > 10.9.0.1:80 deny":         "it went input eth0 (new) instead of forward eth0>eth1 (new)",
		"forward eth0>eth1 tcp 10.9.0.2:1 > 10.9.0.1:81 invalid deny": "it went input eth0 (invalid)",
		"input eth1 icmp 0/0 10.8.0.2 > 10.8.0.1 deny":                "it went input eth1 (invalid) instead of input eth1 (new)",
		"input eth1 icmp6 135/0 fd00:8::2 > fd00:8::1 new deny":       "(untracked)",
		"input eth7 tcp 10.8.0.2:1 > 10.8.0.1:80 deny":                "no interface eth7",
		"output eth1 icmp 8/0 10.8.0.1 > 10.8.0.2 invalid deny":       "cannot be sent invalid",
		"input eth1 proto 253 10.8.0.2 > 10.8.0.1 invalid deny":       "no invalid packets",
		"input eth1 icmp 3/1 10.8.0.2 > 10.8.0.1 established deny":    "never part of a flow",
		"input eth1 tcp 10.8.0.2:1 > 10.8.0.1:80 untracked deny":      "it went input eth1 (new) instead of input eth1 (untracked)",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			c := small(t, "input eth1 tcp 10.8.0.2:1 > 10.8.0.1:80 deny", line)
			rs, err := lab.Run(t.Context(), c, openNFTables, lab.Options{Patience: 100 * time.Millisecond})
			require.Nil(t, rs)
			require.ErrorContains(t, err, reason)
			if !strings.Contains(reason, "no interface") {
				require.ErrorIs(t, err, lab.ErrControl)
				require.ErrorContains(t, err, line[:strings.LastIndex(line, " ")])
				require.NotContains(t, err.Error(), "line 18", "the other packet is all right")
			}
		})
	}
}

func TestPacketsThatWantDifferentRoutesAreRefused(t *testing.T) {
	needLab(t)
	c := small(t, "output eth0 tcp 10.9.0.1:1 > 10.9.0.2:80 deny", "output eth1 tcp 10.8.0.1:1 > 10.9.0.2:80 deny")
	_, err := lab.Run(t.Context(), c, openNothing, lab.Options{})
	require.ErrorIs(t, err, lab.ErrControl)
	require.ErrorContains(t, err, "line 19")
}

// fake is a dataplane that does not do what it says.
type fake struct {
	ns     lab.Netns
	apply  func(*ir.Program) error
	events chan lab.Event
}

func (f *fake) Apply(_ context.Context, p *ir.Program, _ ir.Members) (backends.Receipt, error) {
	if f.apply == nil {
		return backends.Receipt{}, nil
	}
	return backends.Receipt{}, f.apply(p)
}

func (f *fake) Observe(context.Context) (backends.State, error) { return backends.State{}, nil }

func (f *fake) Counters(context.Context) ([]backends.Counter, error) { return nil, nil }

func (f *fake) Teardown(context.Context) error { return nil }

func (f *fake) Events() lab.EventSource { return f }

func (f *fake) Subscribe(context.Context) (<-chan lab.Event, error) { return f.events, nil }

func (f *fake) Err() error { return errors.New("the fake has an error") }

func openNothing(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
	return &fake{ns: ns, events: make(chan lab.Event)}, nil
}

func TestASilentDropIsNoVerdict(t *testing.T) {
	needLab(t)
	c := small(t, "input eth0 tcp 10.9.0.2:1 > 10.9.0.1:80 deny", "input eth1 tcp 10.8.0.2:1 > 10.8.0.1:80 none")
	rs, err := lab.Run(t.Context(), c, func(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
		return &fake{events: make(chan lab.Event), apply: func(*ir.Program) error { return dropTo(ns, "eth0") }}, nil
	}, lab.Options{Patience: 100 * time.Millisecond})
	require.NoError(t, err)
	require.Equal(t, flow.Deny, rs[0].Verdict)
	require.Contains(t, rs[0].Problem, "nothing was reported")
	require.Equal(t, flow.None, rs[1].Verdict)
	require.Empty(t, rs[1].Problem)
	bad, err := policytest.Compare(c, rs)
	require.NoError(t, err)
	require.Len(t, bad, 1, "a deny that nobody claims is a mismatch even where deny is right")
}

// dropTo drops what arrives on an interface.
func dropTo(ns lab.Netns, iface string) error {
	c, err := gonft.New(gonft.WithNetNSFd(ns.FD()))
	if err != nil {
		return err
	}
	name := make([]byte, 16)
	copy(name, iface)
	table := c.AddTable(&gonft.Table{Family: gonft.TableFamilyINet, Name: "silent"})
	chain := c.AddChain(&gonft.Chain{Table: table, Name: "in", Type: gonft.ChainTypeFilter, Hooknum: gonft.ChainHookInput, Priority: gonft.ChainPriorityFilter})
	c.AddRule(&gonft.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return c.Flush()
}

func TestADataplaneThatGoesAwayIsAnError(t *testing.T) {
	needLab(t)
	c := small(t, "input eth0 tcp 10.9.0.2:1 > 10.9.0.1:80 deny")
	_, err := lab.Run(t.Context(), c, func(context.Context, lab.Netns) (lab.Dataplane, error) {
		f := &fake{events: make(chan lab.Event)}
		close(f.events)
		return f, nil
	}, lab.Options{})
	require.ErrorContains(t, err, "no more events")
	require.ErrorContains(t, err, "the fake has an error")

	_, err = lab.Run(t.Context(), c, func(context.Context, lab.Netns) (lab.Dataplane, error) {
		return &fake{events: make(chan lab.Event), apply: func(*ir.Program) error { return errors.New("the kernel said no") }}, nil
	}, lab.Options{})
	require.ErrorContains(t, err, "apply: the kernel said no")

	_, err = lab.Run(t.Context(), c, func(context.Context, lab.Netns) (lab.Dataplane, error) { return nil, errors.New("not today") }, lab.Options{})
	require.ErrorContains(t, err, "not today")
}

func TestRunEndsWithItsContext(t *testing.T) {
	needLab(t)
	c := small(t, "input eth0 tcp 10.9.0.2:1 > 10.9.0.1:80 deny")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := lab.Run(ctx, c, func(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
		cancel()
		return openNothing(ctx, ns)
	}, lab.Options{Patience: time.Hour})
	require.ErrorIs(t, err, context.Canceled)
	_, err = lab.Run(ctx, c, openNothing, lab.Options{})
	require.ErrorIs(t, err, context.Canceled)
}

// Runs leave no files, and so no namespaces, and no goroutines.
func TestNothingIsLeftBehind(t *testing.T) {
	needLab(t)
	c := small(t, "input eth0 tcp 10.9.0.2:1 > 10.9.0.1:80 deny", "output eth1 tcp 10.8.0.1:1 > 10.8.0.2:80 established none")
	run := func() {
		for _, open := range []lab.Opener{openNFTables, openNothing, func(context.Context, lab.Netns) (lab.Dataplane, error) {
			return nil, errors.New("not today")
		}} {
			_, err := lab.Run(t.Context(), c, open, lab.Options{})
			if err != nil {
				require.ErrorContains(t, err, "not today")
			}
		}
	}
	run() // what the runtime keeps for itself is open after this
	files, routines := openFiles(t), runtime.NumGoroutine()
	for range 3 {
		run()
	}
	// Sockets and threads end a little later than the calls that end them.
	for deadline := time.Now().Add(5 * time.Second); openFiles(t) > files || runtime.NumGoroutine() > routines; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d files and %d goroutines, %d and %d before\n%s", openFiles(t), runtime.NumGoroutine(), files, routines, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func openFiles(t *testing.T) int {
	d, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(d)
}

func TestANamespaceIsEnteredAndLeft(t *testing.T) {
	needLab(t)
	names := func() (out []string) {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		require.NoError(t, err)
		for _, l := range strings.Split(string(b), "\n") {
			if name, _, ok := strings.Cut(l, ":"); ok {
				out = append(out, strings.TrimSpace(name))
			}
		}
		return out
	}
	_, err := lab.Run(t.Context(), small(t, "input eth0 tcp 10.9.0.2:1 > 10.9.0.1:80 none"), func(ctx context.Context, ns lab.Netns) (lab.Dataplane, error) {
		require.NoError(t, ns.Do(func() error {
			require.ElementsMatch(t, []string{"lo", "eth0", "eth1", "cali1"}, names())
			return nil
		}))
		require.ErrorContains(t, ns.Do(func() error { return errors.New("as it is") }), "as it is")
		return openNothing(ctx, ns)
	}, lab.Options{})
	require.NoError(t, err)
	require.NotContains(t, names(), "cali1")
	require.Error(t, lab.Netns{}.Do(func() error { return nil }))
	require.Equal(t, -1, lab.Netns{}.FD())
}

// The events name origins that the program has: a backend that renders another program is found out.
func TestEventsOfAnotherProgramAreFoundOut(t *testing.T) {
	needLab(t)
	c := small(t, "input eth0 tcp 10.9.0.2:1 > 10.9.0.1:80 deny")
	other := *c
	other.Resources = hostendpoint.Resources{}
	h := *c.Resources.HostEndpoints[0]
	h.Metadata.Name = "another"
	other.Resources.Add(&h)
	s, err := policy.Resolve(other.Resources, other.Host, other.Config)
	require.NoError(t, err)
	p, m, err := compile.Compile(s)
	require.NoError(t, err)
	rs, err := lab.Run(t.Context(), c, func(ctx context.Context, ns lab.Netns) (lab.Dataplane, error) {
		dp, err := openNFTables(ctx, ns)
		return stubborn{dp, p, m}, err
	}, lab.Options{})
	require.NoError(t, err)
	require.Contains(t, rs[0].Problem, "a rule that the program does not have")
}

// stubborn applies the same program always.
type stubborn struct {
	lab.Dataplane
	p *ir.Program
	m ir.Members
}

func (s stubborn) Close() error { return s.Dataplane.(io.Closer).Close() }

func (s stubborn) Apply(ctx context.Context, _ *ir.Program, _ ir.Members) (backends.Receipt, error) {
	return s.Dataplane.Apply(ctx, s.p, s.m)
}
