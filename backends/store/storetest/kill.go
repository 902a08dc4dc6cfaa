// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// owner writes one object that nobody else writes, and knows what it may be: what the last acknowledged write made of it,
// or one of the writes since whose outcome is not known.
type owner struct {
	heps     store.Client[*hostendpoint.HostEndpoint]
	name     string
	possible map[string]bool // values of the label v; "" for no object
	n        int
	tell     func(text string) // of each write: before it, and after it
}

func newOwner(s store.Store, name string, tell func(string)) *owner {
	return &owner{heps: store.For[*hostendpoint.HostEndpoint](s), name: name, possible: map[string]bool{"": true}, tell: tell}
}

// values are those of the addresses that each version has: an object is torn if they do not go with the label.
func version(name, v string) *hostendpoint.HostEndpoint {
	h := hep(name, "v", v, "kill", "yes")
	h.Metadata.Annotations = map[string]string{"padding": strings.Repeat(v, 200)}
	return h
}

// value returns the label of a version, or an error for an object that is torn.
func value(h *hostendpoint.HostEndpoint) (string, error) {
	v := h.Metadata.Labels["v"]
	if h.Metadata.Annotations["padding"] != strings.Repeat(v, 200) || !slices.Equal(h.Spec.ExpectedIPs, []string{"10.0.0.1", "2001:DB8::1"}) {
		return "", fmt.Errorf("%s is torn: %+v", h.Metadata.Name, h)
	}
	return v, nil
}

// check returns an error if the object is none that it may be; nil is for none.
func (o *owner) check(h *hostendpoint.HostEndpoint) error {
	v := ""
	if h != nil {
		var err error
		if v, err = value(h); err != nil {
			return err
		}
	}
	if !o.possible[v] {
		return fmt.Errorf("%s is %q and must be one of %q", o.name, v, slices.Sorted(maps.Keys(o.possible)))
	}
	return nil
}

// step reads the object, checks it and writes it. It reports whether the write was acknowledged. The error is a broken
// promise of the datastore; that it cannot be reached is none.
func (o *owner) step(ctx context.Context) (acknowledged bool, err error) {
	h, err := o.heps.Get(ctx, "", o.name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		h = nil
	case err != nil:
		return false, reached(err)
	}
	if err := o.check(h); err != nil {
		return false, err
	}
	o.n++
	v := fmt.Sprintf("%06d", o.n)
	if h != nil && o.n%5 == 0 {
		v = ""
	}
	o.tell("try " + o.name + " " + v)
	switch {
	case h == nil:
		_, err = o.heps.Create(ctx, version(o.name, v))
	case v == "":
		_, err = o.heps.Delete(ctx, "", o.name, store.DeleteOptions{ResourceVersion: h.Metadata.ResourceVersion})
	default:
		next := version(o.name, v)
		h.Metadata.Labels, h.Metadata.Annotations = next.Metadata.Labels, next.Metadata.Annotations
		_, err = o.heps.Update(ctx, h)
	}
	switch {
	case err == nil:
		o.possible = map[string]bool{v: true}
		o.tell("done " + o.name + " " + v)
		return true, nil
	case len(o.possible) > 1 && (errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrAlreadyExists)):
		return false, nil // a write that was given up has been done after all, just now
	}
	o.possible[v] = true
	return false, reached(err)
}

// reached returns an error unless it says that the datastore is away.
func reached(err error) error {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrUnauthorized) || errors.Is(err, store.ErrForbidden) {
		return nil // an API server that starts knows nobody yet
	}
	return err
}

// restart kills the server at any moment, while others write and watch.
func (s *suite) restart() {
	if s.Restart == nil {
		return
	}
	r := s.watch(hostendpoint.KindHostEndpoint, store.WatchOptions{})
	r.synced(s.Patience)
	var done atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var owners []*owner
	for w := range 6 {
		o := newOwner(s.open(s.Open(s.T)), fmt.Sprintf("w%d", w), func(string) {})
		owners = append(owners, o)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
				ok, err := o.step(ctx)
				cancel()
				switch {
				case err != nil:
					s.Error(err)
					return
				case ok:
					done.Add(1)
				default:
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	writes := func(n int64) {
		s.Helper()
		before := done.Load()
		require.Eventually(s.T, func() bool { return done.Load() >= before+n || s.Failed() }, s.Patience+60*time.Second, time.Millisecond, "writes go on")
	}
	writes(20)
	for range 3 {
		time.Sleep(rand.N(300 * time.Millisecond))
		s.Restart(s.T)
		writes(10)
	}
	close(stop)
	wg.Wait()
	s.Logf("%d writes were acknowledged", done.Load())
	s.checkOwners(owners)
	s.Patience += 20 * time.Second
	s.same(r, hostendpoint.KindHostEndpoint)
}

// checkOwners compares what another client lists, which never saw anything before, with what the objects may be.
func (s *suite) checkOwners(owners []*owner) {
	s.Helper()
	l, err := store.For[*hostendpoint.HostEndpoint](open(s.Open(s.T))).List(s.ctx, store.ListOptions{})
	s.Require(err)
	require.Empty(s.T, l.Problems)
	there := map[string]*hostendpoint.HostEndpoint{}
	for _, h := range l.Items {
		there[h.Metadata.Name] = h
	}
	for _, o := range owners {
		require.NoError(s.T, o.check(there[o.name]))
		delete(there, o.name)
	}
	require.Empty(s.T, there, "nothing appears that nobody wrote")
}

const placeVariable = "HOSTPOLICY_TEST_PLACE"

// Main is for TestMain of the test of a driver: run by itself it runs the tests; run by one of them, it is a client that
// writes to the datastore until it is killed.
func Main(m *testing.M, open func(ctx context.Context, place string) (store.Driver, error)) {
	place := os.Getenv(placeVariable)
	if place == "" {
		os.Exit(m.Run())
	}
	err := write(open, place)
	fmt.Println("fail", err)
	os.Exit(1)
}

func write(connect func(ctx context.Context, place string) (store.Driver, error), place string) error {
	ctx := context.Background()
	d, err := connect(ctx, place)
	if err != nil {
		return err
	}
	s := open(d)
	var owners []*owner
	for i := range 3 {
		o := newOwner(s, fmt.Sprintf("k%d", i), func(text string) { fmt.Println(text) })
		if h, err := o.heps.Get(ctx, "", o.name); err == nil { // what another left
			o.possible = map[string]bool{h.Metadata.Labels["v"]: true}
			_, _ = fmt.Sscanf(h.Metadata.Labels["v"], "%d", &o.n)
		}
		owners = append(owners, o)
	}
	for i := 0; ; i++ {
		if _, err := owners[i%len(owners)].step(ctx); err != nil {
			return err
		}
	}
}

// killedClients kills a client at any moment, again and again, while another watches.
func (s *suite) killedClients() {
	if s.Place == "" {
		return
	}
	r := s.watch(hostendpoint.KindHostEndpoint, store.WatchOptions{})
	r.synced(s.Patience)
	owners := map[string]*owner{}
	for range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), placeVariable+"="+s.Place)
		out, err := cmd.StdoutPipe()
		s.Require(err)
		s.Require(cmd.Start())
		lines := bufio.NewScanner(out)
		deadly := 10 + rand.IntN(30)
		for n := 0; lines.Scan(); n++ {
			what, rest, _ := strings.Cut(lines.Text(), " ")
			name, v, _ := strings.Cut(rest, " ")
			o := owners[name]
			if o == nil {
				o = newOwner(s.store, name, nil)
				owners[name] = o
			}
			switch what {
			case "try":
				o.possible[v] = true
			case "done":
				o.possible = map[string]bool{v: true}
			default:
				require.Fail(s.T, "the client is at an end", lines.Text())
			}
			if n == deadly {
				time.Sleep(rand.N(2 * time.Millisecond))
				s.Require(cmd.Process.Kill())
			}
		}
		require.Error(s.T, cmd.Wait(), "it was killed")
		s.checkOwners(slices.Collect(maps.Values(owners)))
		s.same(r, hostendpoint.KindHostEndpoint)
	}
	require.Len(s.T, owners, 3)
}
