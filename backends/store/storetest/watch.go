// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// set creates or updates a host endpoint so that its label v is the value.
func (s *suite) set(name, v string) {
	s.Helper()
	h, err := s.heps().Get(s.ctx, "", name)
	if err != nil {
		require.ErrorIs(s.T, err, store.ErrNotFound)
		_, err = s.heps().Create(s.ctx, hep(name, "v", v))
		s.Require(err)
		return
	}
	h.Metadata.Labels["v"] = v
	_, err = s.heps().Update(s.ctx, h)
	s.Require(err)
}

func (s *suite) del(name string) {
	s.Helper()
	_, err := s.heps().Delete(s.ctx, "", name, store.DeleteOptions{})
	s.Require(err)
}

func (s *suite) watchOrder() {
	s.set("a", "0")
	s.set("b", "0")
	r := s.watch(hostendpoint.KindHostEndpoint, store.WatchOptions{})
	r.synced(s.Patience)
	require.Equal(s.T, []string{"Added HostEndpoint(a) 0", "Added HostEndpoint(b) 0"}, r.log)
	require.Equal(s.T, []store.EventType{store.Synced}, r.told)
	r.log = nil
	var want []string
	for i := range 20 {
		s.set("a", itoa(i+1))
		want = append(want, fmt.Sprintf("Modified HostEndpoint(a) %d", i+1))
	}
	s.set("c", "0")
	s.del("a")
	s.set("a", "again")
	s.del("b")
	want = append(want, "Added HostEndpoint(c) 0", "Deleted HostEndpoint(a) 20", "Added HostEndpoint(a) again", "Deleted HostEndpoint(b) 0")
	r.until(s.Patience, "all events are there", func() bool { return len(r.log) >= len(want) })
	require.Equal(s.T, want, r.log)
	s.same(r, hostendpoint.KindHostEndpoint)
}

func (s *suite) watchSelector() {
	s.set("a", "x")
	s.set("b", "y")
	r := s.watch(hostendpoint.KindHostEndpoint, store.WatchOptions{Selector: "v == 'x'"})
	r.synced(s.Patience)
	one := s.watch(hostendpoint.KindHostEndpoint, store.WatchOptions{Name: "b"})
	one.synced(s.Patience)
	s.set("b", "x")
	s.set("a", "y")
	s.del("b")
	want := []string{"Added HostEndpoint(a) x", "Added HostEndpoint(b) x", "Deleted HostEndpoint(a) x", "Deleted HostEndpoint(b) x"}
	r.until(s.Patience, "all events are there", func() bool { return len(r.log) >= len(want) })
	require.Equal(s.T, want, r.log)
	want = []string{"Added HostEndpoint(b) y", "Modified HostEndpoint(b) x", "Deleted HostEndpoint(b) x"}
	one.until(s.Patience, "all events are there", func() bool { return len(one.log) >= len(want) })
	require.Equal(s.T, want, one.log)
}

func (s *suite) slowReader() {
	r := s.watch(hostendpoint.KindHostEndpoint, store.WatchOptions{Buffer: 4})
	r.synced(s.Patience)
	for i := range 60 {
		s.set("h"+itoa(i%7), itoa(i))
	}
	s.del("h3")
	s.set("last", "x")
	r.until(s.Patience, "the last change is there", func() bool { return r.state[hostendpoint.ID{Kind: "HostEndpoint", Name: "last"}] != nil })
	s.same(r, hostendpoint.KindHostEndpoint)
	require.Len(s.T, r.state, 7)
}

func (s *suite) watchEnds() {
	ctx, cancel := context.WithCancel(s.ctx)
	w, err := s.store.Watch(ctx, "", store.WatchOptions{})
	s.Require(err)
	for e := range w.Events() {
		if e.Type == store.Synced {
			break
		}
	}
	short, stop := context.WithTimeout(s.ctx, 20*time.Millisecond)
	_, err = w.Next(short)
	stop()
	require.ErrorIs(s.T, err, context.DeadlineExceeded)
	cancel()
	select {
	case <-w.Done():
	case <-time.After(s.Patience):
		require.Fail(s.T, "the watch goes on after its context has ended")
	}
	_, err = w.Next(s.ctx)
	require.ErrorIs(s.T, err, store.ErrStopped)
	for range w.Events() {
		require.Fail(s.T, "an event after the end")
	}
}

func (s *suite) snapshots() {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	for _, kind := range s.writable() {
		_, err := s.store.Create(s.ctx, sample(kind))
		s.Require(err)
	}
	n, base := 0, -1
	for snap, err := range store.Snapshots(ctx, s.store, store.SnapshotOptions{Quiet: 100 * time.Millisecond}) {
		s.Require(err)
		n++
		require.True(s.T, snap.Status.Synced)
		if base < 0 {
			base = snap.Resources.Len()
			require.GreaterOrEqual(s.T, base, len(s.writable()))
			require.Len(s.T, snap.Resources.HostEndpoints, 1)
			for i := range 30 { // while the reader takes its time
				_, err := s.heps().Create(s.ctx, hep(fmt.Sprintf("x%02d", i)))
				s.Require(err)
			}
		}
		if len(snap.Resources.HostEndpoints) == 31 {
			require.True(s.T, slices.IsSortedFunc(snap.Resources.HostEndpoints, func(a, b *hostendpoint.HostEndpoint) int {
				return slices.Compare([]byte(a.Metadata.Name), []byte(b.Metadata.Name))
			}))
			break
		}
	}
	require.Less(s.T, n, 25, "changes are gathered")
}

func (s *suite) compaction() {
	if s.Compact == nil {
		return
	}
	s.set("a", "0")
	r := s.watch(hostendpoint.KindHostEndpoint, store.WatchOptions{})
	r.synced(s.Patience)
	for i := range 5 {
		s.set("a", itoa(i))
		s.Compact(s.T)
	}
	s.set("b", "1")
	s.same(r, hostendpoint.KindHostEndpoint)
	fresh := s.watch(hostendpoint.KindHostEndpoint, store.WatchOptions{})
	s.same(fresh, hostendpoint.KindHostEndpoint)
}

// churn changes things through a client that is not cut off.
func (s *suite) churn(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	live := map[string]bool{}
	for i := range 30 {
		name := "h" + itoa(r.IntN(6))
		if live[name] && r.IntN(3) == 0 {
			s.del(name)
			delete(live, name)
			continue
		}
		s.set(name, itoa(i))
		live[name] = true
	}
	for name := range live {
		if name < "h3" {
			s.del(name)
		}
	}
}

func (s *suite) cut()              { s.cutOff(false) }
func (s *suite) cutAndCompaction() { s.cutOff(true) }

// cutOff is what a watch and a writer see when the network goes away without a word.
func (s *suite) cutOff(compact bool) {
	if s.Cut == nil || compact && s.Compact == nil {
		return
	}
	s.set("a", "0")
	s.set("gone", "0")
	r := s.watch("", store.WatchOptions{})
	r.synced(s.Patience)
	heal := s.Cut(s.T)
	r.until(s.Patience+20*time.Second, "stale", func() bool { return !r.last.Synced })
	require.False(s.T, r.last.StaleSince.IsZero())
	require.Error(s.T, r.last.Err)
	require.False(s.T, r.w.Status().Synced)
	short, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
	_, err := s.heps().Get(short, "", "a")
	cancel()
	require.ErrorIs(s.T, err, store.ErrUnavailable)
	heal()
	r.until(s.Patience+20*time.Second, "synced", func() bool { return r.last.Synced })

	// Again, with changes that the watch cannot see.
	heal = s.Cut(s.T)
	r.until(s.Patience+20*time.Second, "stale", func() bool { return !r.last.Synced })
	heal2 := heal
	defer func() { heal2() }()
	s.changeBehind(compact)
	heal()
	r.until(s.Patience+20*time.Second, "synced", func() bool { return r.last.Synced })
	require.Contains(s.T, r.log, "Deleted HostEndpoint(gone) 0")
	require.Contains(s.T, r.log, "Modified HostEndpoint(a) behind")
	s.same(r, hostendpoint.KindHostEndpoint)
}

func (s *suite) changeBehind(compact bool) {
	d := s.Behind(s.T)
	other := &suite{T: s.T, Instance: s.Instance, ctx: s.ctx, driver: d, store: s.open(d)}
	other.set("a", "behind")
	other.del("gone")
	other.churn(7)
	if compact {
		s.Compact(s.T)
	}
}

func (s *suite) corrupt() {
	if s.Corrupt == nil {
		return
	}
	s.set("good", "0")
	r := s.watch(hostendpoint.KindHostEndpoint, store.WatchOptions{})
	r.synced(s.Patience)
	require.Empty(s.T, r.last.Problems)
	s.set("victim", "fine")
	s.same(r, hostendpoint.KindHostEndpoint)
	s.Corrupt(s.T, "victim")
	r.until(s.Patience, "there is a problem", func() bool { return len(r.last.Problems) == 1 })
	require.True(s.T, r.last.Synced)
	victim := hostendpoint.ID{Kind: "HostEndpoint", Name: "victim"}
	require.Contains(s.T, r.state, victim, "the last good version stays")
	require.Equal(s.T, "fine", r.state[victim].Meta().Labels["v"])
	l, err := s.heps().List(s.ctx, store.ListOptions{})
	s.Require(err)
	require.Len(s.T, l.Problems, 1)
	require.Error(s.T, l.Problems[0].Err)
	require.NotEmpty(s.T, l.Problems[0].Key)
	fresh := s.watch("", store.WatchOptions{})
	fresh.synced(s.Patience)
	require.Len(s.T, fresh.last.Problems, 1)
	require.Contains(s.T, fresh.state, hostendpoint.ID{Kind: "HostEndpoint", Name: "good"})
	s.set("good", "still-works")
	r.until(s.Patience, "others go on", func() bool {
		return r.state[hostendpoint.ID{Kind: "HostEndpoint", Name: "good"}].Meta().Labels["v"] == "still-works"
	})
}

// heps counts the host endpoints that the reader knows.
func (r *reader) heps() int {
	n := 0
	for id := range r.state {
		if id.Kind == hostendpoint.KindHostEndpoint {
			n++
		}
	}
	return n
}

func (s *suite) many() {
	var objects []hostendpoint.Object
	for i := range s.Many {
		objects = append(objects, hep(fmt.Sprintf("h%05d", i), "bucket", itoa(i%100)))
	}
	if s.Fill != nil {
		s.Fill(s.T, objects)
	} else {
		parallel(s.T, s.Many, 16, func(i int) error {
			_, err := s.store.Create(s.ctx, objects[i])
			return err
		})
	}
	start := time.Now()
	r := s.watch("", store.WatchOptions{})
	r.until(2*time.Minute, "all are there", func() bool { return r.last.Synced && r.heps() == s.Many })
	s.Logf("%d objects were watched after %v", s.Many, time.Since(start))
	l, err := s.heps().List(s.ctx, store.ListOptions{Selector: "bucket == '7'"})
	s.Require(err)
	require.Len(s.T, l.Items, s.Many/100)
	s.set("extra", "0")
	r.until(s.Patience, "a change arrives", func() bool { return r.heps() == s.Many+1 })
}
