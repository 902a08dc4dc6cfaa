// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// TestCommandsDieWithTheirProcess kills a process, and nothing but the process, while its command waits for the lock. A
// command that lived on would change tables behind the back of the next process.
func TestCommandsDieWithTheirProcess(t *testing.T) {
	n := newNetns(t)
	lock, err := os.OpenFile("/run/xtables.lock", os.O_CREATE, 0o600)
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killedVariant+"="+strconv.Itoa(int(iptables.Legacy)))
	cmd.ExtraFiles = []*os.File{n.File}
	require.NoError(t, cmd.Start())
	var waiting []int
	require.Eventually(t, func() bool {
		waiting = childrenOf(cmd.Process.Pid, "restore")
		return len(waiting) > 0
	}, time.Minute, time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for _, pid := range waiting {
		require.Eventually(t, func() bool { return !alive(pid) }, time.Minute, time.Millisecond, "the command goes on")
	}
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_UN))
	require.NotContains(t, n.run(t, "", "iptables-legacy-save"), "hp-")
}

// TestCommandsOutliveThreads ends threads all the time, as programs do that change namespaces: commands must not die with
// those that once started them.
func TestCommandsOutliveThreads(t *testing.T) {
	n := newNetns(t)
	p, m := compiled(t, ingress("in", "order: 1", "{action: Deny}"))
	q, k := compiled(t, ingress("in", "order: 1", "{action: Allow}"))
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				onThread(func() {})
			}
		}
	}()
	for _, v := range variants {
		b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v})
		for range 3 {
			_, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			_, err = b.Apply(t.Context(), q, k)
			require.NoError(t, err)
		}
		require.NoError(t, b.Teardown(t.Context()))
	}
	close(stop)
	<-ended
}

// childrenOf returns the running children of a process whose command line holds a word.
func childrenOf(parent int, word string) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		state, ppid := stat(pid)
		line, _ := os.ReadFile(filepath.Dir(s) + "/cmdline")
		if ppid == parent && state != "Z" && bytes.Contains(line, []byte(word)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func alive(pid int) bool {
	state, _ := stat(pid)
	return state != "" && state != "Z" && state != "X" && syscall.Kill(pid, 0) == nil
}

// stat returns the state of a process and its parent.
func stat(pid int) (state string, ppid int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(b), ") ")
	words := strings.Fields(rest)
	if !ok || len(words) < 2 {
		return "", 0
	}
	ppid, _ = strconv.Atoi(words[1])
	return words[0], ppid
}

// TestAnErrorLeavesTheOldRules fails in the last table of several: nothing leads to the new rules of the others.
func TestAnErrorLeavesTheOldRules(t *testing.T) {
	program := func(raw bool) (*ir.Program, ir.Members) {
		text := `entry normal-in hook/normal-in
entry prednat hook/prednat
set s:x prefixes

block hook/normal-in
  rule src=@s:x -> deny by policy:default/web/ingress[0]

block hook/prednat
  rule protocol=udp dport=7 -> deny by policy:default/pre/ingress[0]
members s:x
  10.0.0.0/8
`
		if raw {
			text = strings.Replace(text, "set s:x", "entry untracked-in hook/untracked-in\nset s:x", 1)
			text = strings.Replace(text, "members s:x", "\nblock hook/untracked-in\n  rule protocol=udp dport=9 -> deny by policy:default/un/ingress[0]\nmembers s:x", 1)
		}
		p, m, err := ir.Parse(text)
		require.NoError(t, err)
		return ir.Canonical(p), m
	}
	for _, raw := range []bool{false, true} {
		for _, v := range variants {
			t.Run(fmt.Sprintf("%s/raw=%v", v, raw), func(t *testing.T) {
				n := newNetns(t)
				on := filepath.Join(t.TempDir(), "on")
				replace(t, map[string]string{"iptables-" + v.String() + "-restore": "[ -e " + on + " ] && ipset destroy hp-4s:x\nexec $REAL \"$@\""})
				b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v})
				require.NoError(t, os.WriteFile(on, nil, 0o600))
				p, m := program(raw)
				_, err := b.Apply(t.Context(), p, m)
				var e *iptables.Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, "policy:default/web/ingress[0]", e.Origin.String())
				for l := range strings.Lines(n.run(t, "", "iptables-"+v.String()+"-save")) {
					if strings.HasPrefix(l, "-A hp-") && strings.Contains(l, " -g ") {
						t.Errorf("a packet may get from %s", l)
					}
				}
				require.NoError(t, os.Remove(on))
				_, err = b.Apply(t.Context(), p, m)
				require.NoError(t, err)
				st, err := b.Observe(t.Context())
				require.NoError(t, err)
				require.Empty(t, st.Drift)
			})
		}
	}
}

// TestWhatOthersUseIsLeft makes somebody else use a chain and a set that the next policy does not need.
func TestWhatOthersUseIsLeft(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			n := newNetns(t)
			var said bytes.Buffer
			b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v, Logger: slog.New(slog.NewTextHandler(&said, nil))})
			p, m := compiled(t, ingress("in", "order: 1", "{action: Allow, source: {nets: [10.1.0.0/16, 10.3.0.0/16]}}"))
			q, k := compiled(t, ingress("in", "order: 1", "{action: Allow, source: {nets: [10.5.0.0/16, 10.7.0.0/16]}}"))
			_, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			tool := "iptables-" + v.String()
			root, set := "", ""
			for _, l := range strings.Split(n.run(t, "", tool+"-save", "-t", "filter")+n.run(t, "", "ipset", "list", "-n"), "\n") {
				if r, ok := strings.CutPrefix(l, "-A hp-INPUT -g "); ok {
					root = r
				}
				if strings.HasPrefix(l, "hp-4=") {
					set = l
				}
			}
			n.run(t, "", tool, "-N", "custom")
			n.run(t, "", tool, "-A", "custom", "-j", root)
			n.run(t, "", tool, "-A", "custom", "-m", "set", "--match-set", set, "src", "-j", "RETURN")

			for range 2 {
				_, err = b.Apply(t.Context(), q, k)
				require.NoError(t, err, "the new policy is enforced")
				require.Contains(t, said.String(), "level=WARN")
				require.Contains(t, said.String(), root)
				require.Contains(t, said.String(), set)
				st, err := b.Observe(t.Context())
				require.NoError(t, err)
				var left []string
				for _, d := range st.Drift {
					require.Equal(t, backends.DriftUnknown, d.Kind, "%+v", d)
					left = append(left, d.Object)
				}
				slices.Sort(left)
				require.Equal(t, []string{"iptables filter chain " + root, "set " + set}, left)
			}
			n.run(t, "", tool, "-F", "custom")
			_, err = b.Apply(t.Context(), q, k)
			require.NoError(t, err)
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.Empty(t, st.Drift)
		})
	}
}

// TestSomebodyElseComesFirst puts an accepting rule into a chain of ours behind the look at the tables and before they
// change. The next Apply must find it.
func TestSomebodyElseComesFirst(t *testing.T) {
	n := newNetns(t)
	on := filepath.Join(t.TempDir(), "on")
	replace(t, map[string]string{"iptables-nft-save": "$REAL \"$@\" || exit\n[ -e " + on + " ] && iptables-nft -I hp-OUTPUT -j ACCEPT || true"})
	b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: iptables.NFT})
	p, m := compiled(t, ingress("in", "order: 1", "{action: Allow, protocol: UDP}"))
	q, k := compiled(t, ingress("in", "order: 1", "{action: Allow, protocol: TCP}"))
	_, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	n.run(t, "", "iptables-nft", "-A", "OUTPUT", "-p", "udp", "-j", "RETURN") // so that it looks at the tables
	require.NoError(t, os.WriteFile(on, nil, 0o600))
	_, err = b.Apply(t.Context(), q, k)
	require.NoError(t, err)
	require.NoError(t, os.Remove(on))
	require.Contains(t, n.run(t, "", "iptables-nft", "-S", "hp-OUTPUT"), "ACCEPT", "it was there first")

	r, err := b.Apply(t.Context(), q, k)
	require.NoError(t, err)
	require.Positive(t, r.Changes)
	require.NotContains(t, n.run(t, "", "iptables-nft", "-S", "hp-OUTPUT"), "ACCEPT")
	r, err = b.Apply(t.Context(), q, k)
	require.NoError(t, err)
	require.Zero(t, r.Changes)
}

// TestApplyNoticesForeignChanges applies what was applied, when somebody else has emptied a chain.
func TestApplyNoticesForeignChanges(t *testing.T) {
	p, m := compiled(t, ingress("in", "order: 1", "{action: Allow, protocol: UDP}"))
	for _, v := range variants {
		n := newNetns(t)
		b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v})
		_, err := b.Apply(t.Context(), p, m)
		require.NoError(t, err)
		n.run(t, "", "iptables-"+v.String(), "-F", "hp-INPUT")
		if v == iptables.Legacy { // nothing counts changes there
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.NotEmpty(t, st.Drift)
		}
		r, err := b.Apply(t.Context(), p, m)
		require.NoError(t, err)
		require.Positive(t, r.Changes, v)
		st, err := b.Observe(t.Context())
		require.NoError(t, err)
		require.Empty(t, st.Drift)
	}
}

// TestTablesThatIptablesCannotShow has rules that only nftables knows beside ours. What cannot be seen must not be taken
// for absent.
func TestTablesThatIptablesCannotShow(t *testing.T) {
	n := newNetns(t)
	b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: iptables.NFT})
	p, m := compiled(t, ingress("in", "order: 1", "{action: Allow, protocol: UDP}"))
	q, k := compiled(t, ingress("in", "order: 1", "{action: Allow, protocol: TCP}"))
	_, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	before := n.run(t, "", "nft", "list", "chain", "ip", "filter", "hp-INPUT")
	n.run(t, "", "nft", "add", "rule", "ip", "filter", "FORWARD", "quota", "over", "1", "mbytes", "drop")

	for what, do := range map[string]func() error{
		"observe":  func() error { _, err := b.Observe(t.Context()); return err },
		"apply":    func() error { _, err := b.Apply(t.Context(), q, k); return err },
		"counters": func() error { _, err := b.Counters(t.Context()); return err },
		"teardown": func() error { return b.Teardown(t.Context()) },
	} {
		var he *iptables.HiddenError
		require.ErrorAs(t, do(), &he, what)
		require.Equal(t, iptables.HiddenError{Op: what, Tool: "iptables", Table: "filter"}, *he)
		require.ErrorContains(t, he, "nft list table ip filter")
	}
	require.Equal(t, before, n.run(t, "", "nft", "list", "chain", "ip", "filter", "hp-INPUT"), "the old policy is enforced")
	n.run(t, "", "nft", "flush", "chain", "ip", "filter", "FORWARD")
	_, err = b.Apply(t.Context(), q, k)
	require.NoError(t, err)
	st, err := b.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Drift)
}

// TestBothVariantsHaveOurs is what a change of the variant without a teardown leaves. There must be a way out.
func TestBothVariantsHaveOurs(t *testing.T) {
	n := newNetns(t)
	p, m := compiled(t, ingress("in", "order: 1", "{action: Allow, source: {nets: [10.1.0.0/16, 10.3.0.0/16]}}"))
	apply := func(v iptables.Variant) error {
		_, err := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v}).Apply(t.Context(), p, m)
		return err
	}
	require.NoError(t, apply(iptables.Legacy))
	// What New would not do.
	n.run(t, n.run(t, "", "iptables-legacy-save", "-t", "filter"), "iptables-nft-restore")

	var ce *iptables.ConflictError
	_, err := iptables.New(iptables.Options{NetNS: n.fd()})
	require.ErrorAs(t, err, &ce)
	require.ErrorAs(t, apply(iptables.NFT), &ce)
	require.ErrorAs(t, apply(iptables.Legacy), &ce)
	require.NoError(t, newBackend(t, iptables.Options{NetNS: n.fd(), Variant: iptables.NFT}).Teardown(t.Context()))
	require.NotContains(t, n.run(t, "", "iptables-nft-save"), "hp-")
	require.NoError(t, apply(iptables.Legacy))
	b := newBackend(t, iptables.Options{NetNS: n.fd()})
	require.Equal(t, iptables.Legacy, b.Variant())
	require.NoError(t, b.Teardown(t.Context()))
	require.NotContains(t, strings.Join(n.saved(t, iptables.Legacy, ""), "\n"), "hp-")
}
