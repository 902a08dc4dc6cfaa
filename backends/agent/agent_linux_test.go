// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// newNetns returns a network namespace that lives as long as its test.
func newNetns(t testing.TB) *os.File {
	t.Helper()
	var f *os.File
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: nobody else may get this thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	require.NoError(t, <-done, "these tests need root")
	t.Cleanup(func() { f.Close() })
	return f
}

// wait bounds what takes no time on an idle machine.
const wait = time.Minute

func newNFT(t testing.TB, netns int) *nftables.Backend {
	t.Helper()
	b, err := nftables.New(nftables.Options{NetNS: netns})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// running is an Agent in its Run.
type running struct {
	*agent.Agent
	stop func() error
}

func start(t testing.TB, o agent.Options) *running {
	t.Helper()
	a, err := agent.New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r := &running{Agent: a}
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(wait):
			t.Fatal("the agent does not stop")
			return nil
		}
	}
	t.Cleanup(func() { _ = r.stop() })
	return r
}

// settled waits until everything that was written is enforced.
func (r *running) settled(t testing.TB, objects ...hostendpoint.Object) agent.Receipt {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	var last agent.Receipt
	for _, o := range objects {
		var err error
		last, err = r.WaitReceipt(ctx, func(rc *agent.Receipt) bool {
			for _, v := range rc.Objects {
				if v.ID == o.ID().Stored() && v.ResourceVersion == o.Meta().ResourceVersion {
					return true
				}
			}
			return false
		})
		require.NoError(t, err)
	}
	return last
}

func objects(t testing.TB, text string) []hostendpoint.Object {
	t.Helper()
	r, err := manifest.Parse(manifest.Source{Name: "test.yaml", Data: []byte(text)})
	require.NoError(t, err)
	var out []hostendpoint.Object
	for o := range r.All() {
		out = append(out, o)
	}
	return out
}

func create(t testing.TB, s store.Store, text string) []hostendpoint.Object {
	t.Helper()
	var out []hostendpoint.Object
	for _, o := range objects(t, text) {
		made, err := s.Create(context.Background(), o)
		require.NoError(t, err)
		out = append(out, made)
	}
	return out
}

const endpoint = `
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: eth0, labels: {role: web}}
spec: {node: host-a, interfaceName: eth0}
`

const web = `
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == 'web'
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [80]}}
`

var hostA = hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{{Name: "eth0"}}}

func TestEnforcesWhatIsWritten(t *testing.T) {
	b := newNFT(t, int(newNetns(t).Fd()))
	s := memory.New()
	a := start(t, agent.Options{Store: s, Host: agent.FixedHost(hostA), Backend: b})
	first := a.settled(t, create(t, s, endpoint)...)
	second := a.settled(t, create(t, s, web)...)
	require.NotEqual(t, first.Kernel.Fingerprint, second.Kernel.Fingerprint)
	require.Positive(t, second.Kernel.Changes)
	st, err := b.Observe(context.Background())
	require.NoError(t, err)
	require.True(t, st.Present)
	require.Empty(t, st.Drift)
	require.Equal(t, second.Kernel.Fingerprint, st.Fingerprint)
	require.Equal(t, agent.Enforcing, a.Status().Phase)
	require.NoError(t, a.stop())
	require.Equal(t, agent.Stopped, a.Status().Phase)
	var _ backends.Backend = b
}
