// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
	"github.com/hostpolicy/hostpolicy/examples/serve"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

const documents = `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep-eth0}
spec: {node: host-a, interfaceName: eth0, profiles: [gone]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: services}
spec:
  types: [Ingress, Egress]
  ingress: [{action: Deny, protocol: UDP, destination: {ports: [2000]}}, {action: Allow}]
  egress: [{action: Allow}]
`

// broken is a Backend whose counters cannot be read when it says so.
type broken struct {
	backends.Backend
	err error
}

func (b *broken) Counters(ctx context.Context) ([]backends.Counter, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.Backend.Counters(ctx)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(b)
}

func TestAnAgentOverHTTP(t *testing.T) {
	p, err := lab.NewPair()
	require.NoError(t, err, "this test needs root")
	t.Cleanup(func() { p.Close() })
	nft, err := nftables.New(nftables.Options{NetNS: p.Host.FD(), Render: render.Options{Counters: true}})
	require.NoError(t, err)
	t.Cleanup(func() { nft.Close() })
	b := &broken{Backend: nft}
	s := memory.New()
	a, err := agent.New(agent.Options{
		Store: s, Host: agent.FixedHost(p.Spec("host-a")), Backend: b,
	})
	require.NoError(t, err)
	h := httptest.NewServer(serve.Handler(serve.Options{Agent: a, Backend: b, Flows: flowlog.New(flowlog.Options{})}))
	defer h.Close()

	code, text := get(t, h.URL+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, text, "nothing is enforced yet")
	code, _ = get(t, h.URL+"/healthz")
	require.Equal(t, http.StatusOK, code, "it has only not yet begun")

	r, err := manifest.Parse(manifest.Source{Name: "test.yaml", Data: []byte(documents)})
	require.NoError(t, err)
	for o := range r.All() {
		_, err := s.Create(t.Context(), o)
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	eventually := func(want int, path, contains string) {
		t.Helper()
		require.Eventually(t, func() bool {
			code, text := get(t, h.URL+path)
			return code == want && strings.Contains(text, contains)
		}, time.Minute, 10*time.Millisecond, "%s %d %s", path, want, contains)
	}
	eventually(http.StatusOK, "/readyz", "ok")
	eventually(http.StatusOK, "/counters", "policy:default/services/ingress[0]")

	var c net.Conn
	require.NoError(t, p.Peer.Do(func() (err error) { c, err = net.Dial("udp", "10.9.0.1:2000"); return err }))
	defer c.Close()
	for range 3 {
		_, err := c.Write([]byte("hello"))
		require.NoError(t, err)
	}
	eventually(http.StatusOK, "/metrics", `hostpolicy_rule_packets_total{origin="policy:default/services/ingress[0]"} 3`)
	code, text = get(t, h.URL+"/metrics")
	require.Equal(t, http.StatusOK, code)
	for _, want := range []string{
		`hostpolicy_rule_bytes_total{origin="policy:default/services/ingress[0]"} 99`,
		`hostpolicy_agent_phase{phase="enforcing"} 1`, `hostpolicy_agent_phase{phase="failing"} 0`,
		`# TYPE hostpolicy_rule_packets_total counter`, `# TYPE hostpolicy_agent_problems gauge`,
		`hostpolicy_flowlog_lost_events_total 0`, `hostpolicy_metrics_ok 1`,
	} {
		require.Contains(t, text, want)
	}
	code, text = get(t, h.URL+"/counters?limit=2")
	require.Equal(t, http.StatusOK, code)
	var cs []struct {
		Origin  string
		Packets uint64
	}
	require.NoError(t, json.Unmarshal([]byte(text), &cs), text)
	require.Len(t, cs, 2)
	require.GreaterOrEqual(t, cs[0].Packets, cs[1].Packets, "busiest first")
	code, _ = get(t, h.URL+"/counters?limit=x")
	require.Equal(t, http.StatusBadRequest, code)

	code, text = get(t, h.URL+"/status")
	require.Equal(t, http.StatusOK, code)
	var st struct {
		Phase, Node      string
		Enforced, Wanted uint64
		Synced           bool
		Interfaces       []any
		Problems         []struct{ Severity, Object string }
	}
	require.NoError(t, json.Unmarshal([]byte(text), &st), text)
	require.Equal(t, "enforcing", st.Phase)
	require.Equal(t, "host-a", st.Node)
	require.NotZero(t, st.Enforced)
	require.True(t, st.Synced)
	require.Len(t, st.Interfaces, 2)
	require.NotEmpty(t, st.Problems, "a profile is missing")

	b.err = errors.New("the kernel is busy")
	code, _ = get(t, h.URL+"/counters")
	require.Equal(t, http.StatusServiceUnavailable, code)
	code, text = get(t, h.URL+"/metrics")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, text, "hostpolicy_metrics_ok 0")
	require.Contains(t, text, "hostpolicy_agent_generation_enforced", "what can be asked is there")

	cancel()
	require.NoError(t, <-done)
	code, text = get(t, h.URL+"/healthz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, text, "stopped")
}

func TestListenEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	at := make(chan net.Addr, 1)
	done := make(chan error, 1)
	go func() {
		done <- serve.Listen(ctx, "127.0.0.1:0", http.NotFoundHandler(), func(a net.Addr) { at <- a })
	}()
	code, _ := get(t, "http://"+(<-at).String()+"/")
	require.Equal(t, http.StatusNotFound, code)
	cancel()
	require.NoError(t, <-done)
	require.Error(t, serve.Listen(t.Context(), "nowhere", nil, nil))
}
