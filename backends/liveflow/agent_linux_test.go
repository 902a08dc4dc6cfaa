// SPDX-License-Identifier: Apache-2.0

package liveflow_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/liveflow"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// An agent asks a gate: a change that would lock out is blocked, with the reason in its status, until it is forced, and
// then flows have the fate that the gate was told.
func TestAGateStandsBeforeAnAgent(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	b := newBackend(t, p)
	s := memory.New()
	policyOf := func(text string) hostendpoint.Object {
		r, err := manifest.Parse(manifest.Source{Name: "access.yaml", Data: []byte(text)})
		require.NoError(t, err)
		for _, e := range r.HostEndpoints {
			_, _ = s.Create(t.Context(), e) // once
		}
		return r.GlobalNetworkPolicies[0]
	}
	made, err := s.Create(t.Context(), policyOf(allow))
	require.NoError(t, err)
	g := gate(t, p, liveflow.Options{Guards: sshGuard, Fate: liveflow.CutDenied})
	a, err := agent.New(agent.Options{
		Store: s, Host: agent.FixedHost(p.Spec("host-a")), Backend: b,
		Gate: g,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() { cancel(); require.NoError(t, <-done) }()
	wait := func(phase agent.Phase) agent.Status {
		t.Helper()
		require.Eventually(t, func() bool { return a.Status().Phase == phase }, time.Minute, time.Millisecond, "%s", phase)
		return a.Status()
	}
	before := wait(agent.Enforcing)
	ssh := newSession(t, p.Host, p.Peer, "10.9.0.2:40000", "10.9.0.1:2222")

	deny := policyOf(denySSH)
	*deny.Meta() = *made.Meta()
	_, err = s.Update(t.Context(), deny)
	require.NoError(t, err)
	st := wait(agent.Blocked)
	require.ErrorIs(t, st.Err, liveflow.ErrLockout)
	require.ErrorContains(t, st.Err, "cuts tcp 10.9.0.2:40000 > 10.9.0.1:2222")
	require.ErrorContains(t, st.Err, "by policy:default/access/ingress[0]")
	require.Equal(t, before.Enforced, st.Enforced)
	require.NoError(t, ssh.echo(10*time.Second))

	a.Force()
	wait(agent.Enforcing)
	require.ErrorIs(t, ssh.echo(500*time.Millisecond), os.ErrDeadlineExceeded)
}
