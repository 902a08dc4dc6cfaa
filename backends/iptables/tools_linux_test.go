// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// replace puts scripts before the commands of the system. In them, REAL is the path of the command.
func replace(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range scripts {
		real, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nREAL="+real+"\n"+text+"\n"), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestOldToolsAreRefused says which tool is too old, and what is needed.
func TestOldToolsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		tool, says string
		variant    iptables.Variant
		want       string
	}{
		{"ipset", "ipset v6.29, protocol version: 6", iptables.Auto, "ipset is version 6.29; 6.38 or later is needed"},
		{"ipset", "busybox", iptables.Auto, "ipset is version busybox; one that says its version or later is needed"},
		{"iptables-nft-restore", "iptables-restore v1.8.3 (nf_tables)", iptables.NFT, "iptables-nft-restore is version 1.8.3; 1.8.4 or later is needed"},
		{"iptables-legacy-restore", "iptables-restore v1.6.1", iptables.Legacy, "iptables-legacy-restore is version 1.6.1; 1.6.2 or later is needed"},
	} {
		t.Run(tt.tool+" "+tt.says, func(t *testing.T) {
			replace(t, map[string]string{tt.tool: "echo '" + tt.says + "'"})
			n := newNetns(t)
			_, err := iptables.New(iptables.Options{NetNS: n.fd(), Variant: tt.variant})
			require.ErrorIs(t, err, iptables.ErrUnavailable)
			var ve *iptables.VersionError
			require.ErrorAs(t, err, &ve)
			require.EqualError(t, ve, tt.want)
			if tt.tool == "ipset" {
				return
			}
			// The other variant does not need it.
			b, err := iptables.New(iptables.Options{NetNS: n.fd()})
			require.NoError(t, err)
			require.NotEqual(t, tt.variant, b.Variant())
		})
	}
	t.Run("the other variant under this name", func(t *testing.T) {
		replace(t, map[string]string{"iptables-legacy-restore": "exec iptables-nft-restore \"$@\""})
		_, err := iptables.New(iptables.Options{NetNS: newNetns(t).fd(), Variant: iptables.Legacy})
		require.ErrorIs(t, err, iptables.ErrUnavailable)
		require.ErrorContains(t, err, "iptables-legacy is not installed")
	})
	t.Run("it cannot run", func(t *testing.T) {
		replace(t, map[string]string{"ipset": "echo no such thing >&2; exit 3"})
		_, err := iptables.New(iptables.Options{NetNS: newNetns(t).fd()})
		require.ErrorIs(t, err, iptables.ErrUnavailable)
		require.ErrorContains(t, err, "no such thing")
	})
}

// TestErrorsQuoteTheLineAndItsOrigin deletes a set when its rule is about to be loaded.
func TestErrorsQuoteTheLineAndItsOrigin(t *testing.T) {
	const text = `entry normal-in hook/normal-in
set s:x prefixes

block hook/normal-in
  rule src=172.16.0.0/12 -> allow by policy:default/other/ingress[0]
  rule src=@s:x -> deny by policy:default/web/ingress[0]
members s:x
  10.0.0.0/8
`
	p, m, err := ir.Parse(text)
	require.NoError(t, err)
	for i := range p.Origins {
		p.Origins[i].Pos = field.Pos{File: p.Origins[i].Name + ".yaml", Line: 31}
	}
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			n := newNetns(t)
			flag := filepath.Join(t.TempDir(), "on")
			replace(t, map[string]string{"iptables-" + v.String() + "-restore": "[ -e " + flag + " ] && ipset destroy hp-4s:x\nexec $REAL \"$@\""})
			b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v})
			require.NoError(t, os.WriteFile(flag, nil, 0o600))
			_, err := b.Apply(t.Context(), p, m)
			var e *iptables.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, "apply", e.Op)
			require.Equal(t, "iptables-"+v.String()+"-restore", e.Tool)
			require.Contains(t, e.Line, "--match-set hp-4s:x src")
			require.Equal(t, "policy:default/web/ingress[0]", e.Origin.String())
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			for _, s := range []string{"--match-set hp-4s:x src", "policy:default/web/ingress[0] at web.yaml:31", "Set hp-4s:x doesn't exist"} {
				require.ErrorContains(t, err, s)
			}
			require.NotContains(t, n.run(t, "", "iptables-"+v.String()+"-save"), "hp-", "all or nothing")

			require.NoError(t, os.Remove(flag))
			_, err = b.Apply(t.Context(), p, m)
			require.NoError(t, err, "the next one repairs it")
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.Empty(t, st.Drift)
		})
	}
}

// TestApplyWaitsForTheLock holds the lock by which legacy tools keep out of each other's way. The variant nft has none:
// the kernel tells it that a transaction of somebody else came first, and it begins again.
func TestApplyWaitsForTheLock(t *testing.T) {
	n := newNetns(t)
	b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: iptables.Legacy})
	p, m := compiled(t, ingress("in", "order: 1", "{action: Deny}"))
	lock, err := os.OpenFile("/run/xtables.lock", os.O_CREATE, 0o600)
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = b.Apply(ctx, p, m)
	require.ErrorIs(t, err, context.DeadlineExceeded, "a wait ends with the context")
	done := make(chan error, 1)
	go func() {
		_, err := b.Apply(t.Context(), p, m)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	require.NotContains(t, n.run(t, "", "iptables-legacy-save"), "hp-")
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_UN))
	require.NoError(t, <-done)
	st, err := b.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Drift)
}

// TestTwoOfOneVariantAtOnce changes the same tables from several processes' worth of backends and a foreign tool.
func TestTwoOfOneVariantAtOnce(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			n := newNetns(t)
			p, m := compiled(t, ingress("in", "order: 1", "{action: Deny, protocol: TCP}"))
			q, k := compiled(t, ingress("in", "order: 1", "{action: Allow, protocol: TCP}"), ingress("pre", "preDNAT: true\n  applyOnForward: true", "{action: Deny, protocol: UDP}"))
			const rounds = 6
			errs := make(chan error, 3)
			for i, o := range []iptables.Options{{}, {}} {
				o.NetNS, o.Variant = n.fd(), v
				if i == 1 {
					o.Render.Prefix, o.Render.MarkMask = "hp2-", 0xff0000
				}
				b := newBackend(t, o)
				go func() {
					for j := range rounds {
						x, y := p, m
						if j%2 == 1 {
							x, y = q, k
						}
						if _, err := b.Apply(t.Context(), x, y); err != nil {
							errs <- fmt.Errorf("%s: %w", o.Render.Prefix, err)
							return
						}
					}
					st, err := b.Observe(t.Context())
					if err == nil && len(st.Drift) > 0 {
						err = fmt.Errorf("%s: %+v", o.Render.Prefix, st.Drift)
					}
					errs <- err
				}()
			}
			go func() {
				for j := range 4 * rounds {
					if out, err := n.try("", "iptables-"+v.String(), "-w", "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "--dport", fmt.Sprint(1000+j), "-j", "RETURN"); err != nil {
						errs <- fmt.Errorf("%w: %s", err, out)
						return
					}
				}
				errs <- nil
			}()
			for range 3 {
				require.NoError(t, <-errs)
			}
			require.Equal(t, 4*rounds, bytes.Count([]byte(n.run(t, "", "iptables-"+v.String()+"-save", "-t", "mangle")), []byte("-A OUTPUT -p udp")), "no rule of another tool is lost")
		})
	}
}

// TestRulesOfBothVariantsAreSaid logs that packets meet legacy rules, too.
func TestRulesOfBothVariantsAreSaid(t *testing.T) {
	n := newNetns(t)
	n.run(t, "", "iptables-legacy", "-A", "INPUT", "-p", "udp", "-j", "ACCEPT")
	var said bytes.Buffer
	newBackend(t, iptables.Options{NetNS: n.fd(), Variant: iptables.NFT, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	require.Contains(t, said.String(), "level=WARN")
	require.Contains(t, said.String(), "legacy")
}
