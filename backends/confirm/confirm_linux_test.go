// SPDX-License-Identifier: Apache-2.0

package confirm_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/confirm"
	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// The test program is the watchdog, and the process that applies, too: it finds its work here.
const (
	roleVariable    = "HOSTPOLICY_TEST_ROLE"
	dirVariable     = "HOSTPOLICY_TEST_DIR"
	backendVariable = "HOSTPOLICY_TEST_BACKEND"
	withinVariable  = "HOSTPOLICY_TEST_WITHIN"
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "watchdog":
		var b backends.Backend
		if b, err = open(os.Getenv(backendVariable), 3); err == nil {
			err = confirm.Watch(os.Stdin, os.Stdout, b, confirm.Options{Dir: os.Getenv(dirVariable)})
		}
	case "applier":
		err = applier()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// applier applies what it reads from its standard input, says so, and waits to be killed.
func applier() error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	p, m, err := ir.Parse(string(text))
	if err != nil {
		return err
	}
	b, err := open(os.Getenv(backendVariable), 3)
	if err != nil {
		return err
	}
	within, err := time.ParseDuration(os.Getenv(withinVariable))
	if err != nil {
		return err
	}
	g, err := confirm.New(context.Background(), b, options(os.Getenv(dirVariable), os.NewFile(3, "netns")))
	if err != nil {
		return err
	}
	if _, err := g.Apply(context.Background(), ir.Canonical(p), m, within); err != nil {
		return err
	}
	fmt.Println("applied")
	select {}
}

func open(name string, netns int) (backends.Backend, error) {
	if name == "nftables" {
		return nftables.New(nftables.Options{NetNS: netns})
	}
	return iptables.New(iptables.Options{NetNS: netns, Variant: iptables.NFT})
}

func options(dir string, netns *os.File) confirm.Options {
	return confirm.Options{Dir: dir, Command: []string{"/usr/bin/env", roleVariable + "=watchdog", dirVariable + "=" + dir, os.Args[0]}, Files: []*os.File{netns}}
}

// world is a host, a peer, and a directory.
type world struct {
	testing.TB
	host, peer *os.File
	dir        string
	name       string
	backend    backends.Backend
}

const (
	hostAddr = "10.9.0.1"
	peerAddr = "10.9.0.2"
	wait     = time.Minute // bounds what takes no time on an idle machine
)

func newWorld(t testing.TB, backend string) *world {
	w := &world{TB: t, host: newNetns(t), peer: newNetns(t), dir: filepath.Join(t.TempDir(), "state"), name: backend}
	t.Setenv(backendVariable, backend)
	h, err := netlink.NewHandleAt(netns.NsHandle(w.host.Fd()), unix.NETLINK_ROUTE)
	require.NoError(t, err)
	defer h.Close()
	p, err := netlink.NewHandleAt(netns.NsHandle(w.peer.Fd()), unix.NETLINK_ROUTE)
	require.NoError(t, err)
	defer p.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = "eth0", 1000 // another index than that of the peer: else the link is slow to come up
	require.NoError(t, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer0", PeerNamespace: netlink.NsFd(w.peer.Fd())}))
	for _, x := range []struct {
		h          *netlink.Handle
		name, addr string
	}{{h, "eth0", hostAddr}, {p, "peer0", peerAddr}} {
		l, err := x.h.LinkByName(x.name)
		require.NoError(t, err)
		a, err := netlink.ParseAddr(x.addr + "/24")
		require.NoError(t, err)
		require.NoError(t, x.h.AddrAdd(l, a))
		require.NoError(t, x.h.LinkSetUp(l))
	}
	w.backend, err = open(backend, int(w.host.Fd()))
	require.NoError(t, err)
	if c, ok := w.backend.(io.Closer); ok {
		t.Cleanup(func() { c.Close() })
	}
	return w
}

func newNetns(t testing.TB) *os.File {
	var f *os.File
	onThread(t, func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	require.NoError(t, <-done, "these tests need root")
}

func in(t testing.TB, ns *os.File, f func() error) {
	t.Helper()
	onThread(t, func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (w *world) guard() *confirm.Guard {
	w.Helper()
	g, err := confirm.New(w.Context(), w.backend, options(w.dir, w.host))
	require.NoError(w, err)
	return g
}

// session is a TCP connection to the host, as that of an administrator.
type session struct {
	w    *world
	conn net.Conn
}

const sshPort = "2222" // port 22 is a failsafe, which no policy can close

func (w *world) session() *session {
	var l net.Listener
	in(w, w.host, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(hostAddr, sshPort))
		return err
	})
	w.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	s := &session{w: w}
	in(w, w.peer, func() (err error) {
		s.conn, err = net.Dial("tcp", net.JoinHostPort(hostAddr, sshPort))
		return err
	})
	w.Cleanup(func() { s.conn.Close() })
	require.NoError(w, s.echo(wait))
	return s
}

// echo sends a line and waits for it to come back.
func (s *session) echo(within time.Duration) error {
	line := fmt.Sprintln(time.Now().UnixNano())
	if err := s.conn.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := io.WriteString(s.conn, line); err != nil {
		return err
	}
	r := bufio.NewReader(s.conn)
	for {
		got, err := r.ReadString('\n')
		if err != nil || strings.HasSuffix(got, line) {
			return err
		}
	}
}

// The policies: one that allows the session, and one that cuts it although it exists, before connection tracking.
const (
	allows = `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: ssh}
spec: {selector: all(), ingress: [{action: Allow, protocol: TCP, destination: {ports: [2222]}}]}
`
	cuts = `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: cut}
spec: {selector: all(), doNotTrack: true, applyOnForward: true, ingress: [{action: Deny, protocol: TCP, destination: {ports: [2222]}}]}
`
	endpoint = `
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: eth0}
spec: {node: host-a, interfaceName: eth0}
---`
)

func compiled(t testing.TB, policies string) (*ir.Program, ir.Members) {
	t.Helper()
	r, err := manifest.Parse(manifest.Source{Name: "test.yaml", Data: []byte(endpoint + policies)})
	require.NoError(t, err)
	s, err := policy.Resolve(r, hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{{
		Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix(hostAddr + "/24")}}}}, policy.Config{})
	require.NoError(t, err)
	p, m, err := compile.Compile(s)
	require.NoError(t, err)
	return p, m
}

func (w *world) apply(g *confirm.Guard, policies string, within time.Duration) {
	w.Helper()
	p, m := compiled(w, policies)
	_, err := g.Apply(w.Context(), p, m, within)
	require.NoError(w, err)
}

// reverted waits until nothing is pending any more.
func (w *world) reverted() {
	w.Helper()
	require.Eventually(w, func() bool {
		s, err := confirm.Read(w.dir)
		return err == nil && s.Pending == nil && s.Reverted != nil
	}, wait, 10*time.Millisecond)
}

// cuts makes sure that a change, which lasts 4 s, cuts a session. On a machine that is slower than that it cannot tell.
func (w *world) cuts(s *session, change func()) {
	w.Helper()
	began := time.Now()
	change()
	if err := s.echo(300 * time.Millisecond); err == nil && time.Since(began) < 4*time.Second {
		require.Fail(w, "the policy does not cut the session")
	}
}

// noWatchdog waits until no process holds a deadline in the directory any more.
func (w *world) noWatchdog() {
	w.Helper()
	require.Eventually(w, func() bool {
		left, _ := filepath.Glob(filepath.Join(w.dir, "watchdog-*"))
		return len(left) == 0
	}, wait, 10*time.Millisecond)
}

func each(t *testing.T, f func(t *testing.T, w *world)) {
	for _, b := range []string{"nftables", "iptables"} {
		t.Run(b, func(t *testing.T) { f(t, newWorld(t, b)) })
	}
}

func TestConfirmedChangeStays(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		g := w.guard()
		require.ErrorIs(t, g.Confirm(t.Context()), confirm.ErrNothing)
		w.apply(g, allows, 0)
		w.apply(g, cuts, time.Hour)
		s, err := g.State()
		require.NoError(t, err)
		p, m := compiled(t, cuts)
		require.Equal(t, confirm.Key(p, m), s.Pending.Key)
		require.NoError(t, confirm.Confirm(t.Context(), w.dir))
		require.ErrorIs(t, g.Confirm(t.Context()), confirm.ErrNothing)
		w.noWatchdog()
		s, err = g.State()
		require.NoError(t, err)
		require.Equal(t, confirm.State{Confirmed: confirm.Key(p, m)}, s)
	})
}

// The session of an administrator who cuts it comes back in time: within the deadline, and what a revert takes. The
// kernel sends lost data again after pauses that double, so the session needs at most twice that time to notice.
func TestUnconfirmedChangeIsReverted(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		g := w.guard()
		w.apply(g, allows, 0)
		s := w.session()
		w.cuts(s, func() { w.apply(g, cuts, 4*time.Second) })
		require.NoError(t, s.echo(wait))
		w.reverted()
		require.ErrorIs(t, g.Confirm(t.Context()), confirm.ErrReverted)
		w.noWatchdog()
	})
}

func TestFirstChangeIsRevertedToNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		g := w.guard()
		s := w.session()
		w.apply(g, cuts, time.Second)
		require.NoError(t, s.echo(wait))
		w.reverted()
		b, err := open(w.name, int(w.host.Fd()))
		require.NoError(t, err)
		st, err := b.Observe(t.Context())
		require.NoError(t, err)
		require.False(t, st.Present)
	})
}

// kill applies in another process, which dies as soon as it has.
func (w *world) applyAndDie(policies string, within time.Duration) {
	w.Helper()
	p, m := compiled(w, policies)
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleVariable+"=applier", dirVariable+"="+w.dir, withinVariable+"="+within.String())
	c.ExtraFiles = []*os.File{w.host}
	c.Stdin = strings.NewReader(p.String() + m.String())
	out, err := c.StdoutPipe()
	require.NoError(w, err)
	require.NoError(w, c.Start())
	said, _ := bufio.NewReader(out).ReadString('\n')
	require.NoError(w, c.Process.Kill())
	_ = c.Wait()
	require.Equal(w, "applied\n", said)
}

func TestRevertsAlthoughTheAgentWasKilled(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.apply(w.guard(), allows, 0)
		s := w.session()
		w.cuts(s, func() { w.applyAndDie(cuts, 4*time.Second) })
		require.NoError(t, s.echo(wait))
		w.reverted()
		w.noWatchdog()
	})
}

// Where the watchdog was killed, too, the next process reverts.
func TestRevertsAlthoughTheWatchdogWasKilled(t *testing.T) {
	w := newWorld(t, "nftables")
	w.apply(w.guard(), allows, 0)
	s := w.session()
	w.applyAndDie(cuts, time.Hour)
	st, err := confirm.Read(w.dir)
	require.NoError(t, err)
	w.guard() // finds it alive
	st, err = confirm.Read(w.dir)
	require.NoError(t, err)
	require.NotNil(t, st.Pending)
	require.NoError(t, unix.Kill(st.Pending.Watchdog, unix.SIGKILL))
	require.Eventually(t, func() bool {
		w.guard()
		st, err := confirm.Read(w.dir)
		return err == nil && st.Pending == nil && st.Reverted != nil
	}, wait, 10*time.Millisecond)
	require.NoError(t, s.echo(wait))
}

// Who ends the watchdog wants no more waiting, and cannot know that nobody is locked out.
func TestWatchdogRevertsOnSIGTERM(t *testing.T) {
	w := newWorld(t, "nftables")
	g := w.guard()
	w.apply(g, allows, 0)
	w.apply(g, cuts, time.Hour)
	st, err := g.State()
	require.NoError(t, err)
	require.NoError(t, unix.Kill(st.Pending.Watchdog, unix.SIGHUP))
	require.NoError(t, unix.Kill(st.Pending.Watchdog, unix.SIGTERM))
	w.reverted()
}

func TestWatchdogEndsWithItsDirectory(t *testing.T) {
	w := newWorld(t, "nftables")
	g := w.guard()
	w.apply(g, allows, 0)
	w.apply(g, cuts, time.Hour)
	st, err := g.State()
	require.NoError(t, err)
	// The watchdog may write its own file just between the reading and the removal of the directory.
	require.Eventually(t, func() bool { return os.RemoveAll(w.dir) == nil }, wait, 10*time.Millisecond)
	require.Eventually(t, func() bool { return errors.Is(unix.Kill(st.Pending.Watchdog, 0), unix.ESRCH) }, wait, 10*time.Millisecond)
}

func TestChangesWhileOneIsPending(t *testing.T) {
	w := newWorld(t, "nftables")
	g := w.guard()
	w.apply(g, allows, 0)
	w.apply(g, cuts, time.Hour)
	first, err := g.State()
	require.NoError(t, err)
	w.apply(g, allows+"---"+cuts, 0) // shares its fate
	st, err := g.State()
	require.NoError(t, err)
	require.Equal(t, first.Pending.ID, st.Pending.ID)
	require.NotEqual(t, first.Pending.Key, st.Pending.Key)
	w.apply(g, cuts, time.Hour) // takes its place
	second, err := g.State()
	require.NoError(t, err)
	require.NotEqual(t, first.Pending.ID, second.Pending.ID)
	require.Eventually(t, func() bool {
		left, _ := filepath.Glob(filepath.Join(w.dir, "watchdog-*"))
		return len(left) == 1
	}, wait, 10*time.Millisecond)
	require.NoError(t, g.Revert(t.Context()))
	w.noWatchdog()
	st, err = g.State()
	require.NoError(t, err)
	p, m := compiled(t, allows)
	require.Equal(t, confirm.Key(p, m), st.Confirmed)
	require.Nil(t, st.Pending)
}

func TestNothingChangesWithoutWatchdog(t *testing.T) {
	w := newWorld(t, "nftables")
	w.apply(w.guard(), allows, 0)
	p, m := compiled(t, cuts)
	for name, command := range map[string][]string{"none": nil, "not there": {"/nowhere/watchdog"}, "not ready": {"/bin/echo", "no rights"}, "says nothing": {"/bin/true"}} {
		t.Run(name, func(t *testing.T) {
			o := options(w.dir, w.host)
			o.Command = command
			g, err := confirm.New(t.Context(), w.backend, o)
			require.NoError(t, err)
			_, err = g.Apply(t.Context(), p, m, time.Hour)
			require.Error(t, err)
			if name == "not ready" {
				require.ErrorContains(t, err, "no rights")
			}
			st, err := g.State()
			require.NoError(t, err)
			require.Nil(t, st.Pending)
			s, err := w.backend.Observe(t.Context())
			require.NoError(t, err)
			require.Empty(t, s.Drift)
		})
	}
}

func TestUnknownBaseline(t *testing.T) {
	w := newWorld(t, "nftables")
	p, m := compiled(t, allows)
	_, err := w.backend.Apply(t.Context(), p, m)
	require.NoError(t, err)
	p, m = compiled(t, cuts)
	_, err = w.guard().Apply(t.Context(), p, m, time.Hour)
	require.ErrorIs(t, err, confirm.ErrUnknown)
}

// failing is a Backend whose kernel refuses.
type failing struct{ backends.Backend }

var errKernel = errors.New("the kernel refuses")

func (failing) Apply(context.Context, *ir.Program, ir.Members) (backends.Receipt, error) {
	return backends.Receipt{}, errKernel
}

func TestFailedApplyLeavesWhatWasPending(t *testing.T) {
	w := newWorld(t, "nftables")
	g := w.guard()
	w.apply(g, allows, 0)
	w.apply(g, cuts, time.Hour)
	before, err := g.State()
	require.NoError(t, err)
	bad, err := confirm.New(t.Context(), failing{w.backend}, options(w.dir, w.host))
	require.NoError(t, err)
	p, m := compiled(t, allows)
	for _, within := range []time.Duration{0, time.Hour} {
		_, err = bad.Apply(t.Context(), p, m, within)
		require.ErrorIs(t, err, errKernel)
		after, err := g.State()
		require.NoError(t, err)
		require.Equal(t, before, after)
	}
	time.Sleep(500 * time.Millisecond) // in which the watchdog looks
	require.NoError(t, unix.Kill(before.Pending.Watchdog, 0))
	require.NoError(t, g.Confirm(t.Context()))
	w.noWatchdog()
}
