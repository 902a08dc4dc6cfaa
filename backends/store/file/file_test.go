// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/file"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

var quick = file.Options{Settle: 30 * time.Millisecond, Resync: time.Second}

func open(t testing.TB, dir string) *file.Driver {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d, err := file.Open(ctx, dir, quick)
	require.NoError(t, err)
	t.Cleanup(func() {
		cancel()
		<-d.Done()
	})
	return d
}

func TestMain(m *testing.M) {
	storetest.Main(m, func(ctx context.Context, dir string) (store.Driver, error) { return file.Open(ctx, dir, quick) })
}

func TestFile(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *storetest.Instance {
		dir := filepath.Join(t.TempDir(), "policies")
		require.NoError(t, os.Mkdir(dir, 0o755))
		return &storetest.Instance{
			Open:   func(t testing.TB) store.Driver { return open(t, dir) },
			Place:  dir,
			Behind: func(t testing.TB) store.Driver { return open(t, dir+".away") },
			Fill: func(t testing.TB, objects []hostendpoint.Object) {
				data, err := manifest.Marshal(objects...)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(dir, "all.yaml"), data, 0o644))
			},
			Cut: func(t testing.TB) func() {
				require.NoError(t, os.Rename(dir, dir+".away"))
				return func() { _ = os.Rename(dir+".away", dir) }
			},
			Corrupt: func(t testing.TB, name string) {
				write(t, dir, "hostendpoint."+name+".yaml", "kind: [")
			},
		}
	})
}

// Each object has a file of its own, as the store makes them.
func BenchmarkFile(b *testing.B) {
	dir := b.TempDir()
	storetest.Benchmark(b, &storetest.Instance{
		Open: func(t testing.TB) store.Driver { return open(t, dir) },
		Fill: func(t testing.TB, objects []hostendpoint.Object) {
			for _, o := range objects {
				data, err := manifest.Marshal(o)
				require.NoError(t, err)
				write(t, dir, o.ID().Name+".yaml", string(data))
			}
		},
	})
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
}

const one = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: %s, labels: {v: '%s'}}\nspec: {node: n, interfaceName: eth0}\n"

// follower reads a watch into a map of name to label.
type follower struct {
	t      *testing.T
	w      *store.Watcher[*hostendpoint.HostEndpoint]
	state  map[string]string
	status store.Status
}

func follow(t *testing.T, d store.Driver) *follower {
	w, err := store.For[*hostendpoint.HostEndpoint](store.New(d, store.Options{Retry: 10 * time.Millisecond})).Watch(t.Context(), store.WatchOptions{})
	require.NoError(t, err)
	return &follower{t: t, w: w, state: map[string]string{}}
}

func (f *follower) until(ok func() bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for !ok() {
		e, err := f.w.Next(ctx)
		require.NoError(f.t, err, "%v %+v", f.state, f.status)
		switch e.Type {
		case store.Synced, store.Stale:
			f.status = e.Status
		case store.Deleted:
			delete(f.state, e.Object.Metadata.Name)
		default:
			f.state[e.Object.Metadata.Name] = e.Object.Metadata.Labels["v"]
		}
	}
}

func TestBrokenFileKeepsItsLastGoodVersion(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "web.yaml", fmt.Sprintf(one+"---\n"+one, "a", "1", "b", "1"))
	d := open(t, dir)
	f := follow(t, d)
	f.until(func() bool { return f.status.Synced })
	require.Equal(t, map[string]string{"a": "1", "b": "1"}, f.state)

	write(t, dir, "web.yaml", fmt.Sprintf(one+"---\n"+one, "a", "2", "b", "1")+"bogus: 1\n")
	f.until(func() bool { return len(f.status.Problems) == 1 })
	require.Equal(t, map[string]string{"a": "1", "b": "1"}, f.state)
	var invalid *field.Errors
	require.ErrorAs(t, f.status.Problems[0].Err, &invalid)
	require.Equal(t, field.Pos{File: filepath.Join(dir, "web.yaml"), Line: 10}, invalid.List()[0].Pos)
	require.Equal(t, "web.yaml", f.status.Problems[0].Key)
	s := store.New(d, store.Options{})
	h, err := s.Get(t.Context(), hostendpoint.ID{Kind: "HostEndpoint", Name: "a"})
	require.NoError(t, err)
	_, err = s.Update(t.Context(), h)
	require.ErrorIs(t, err, store.ErrCorrupt, "a broken file is not overwritten")

	write(t, dir, "web.yaml", fmt.Sprintf(one, "a", "3"))
	f.until(func() bool { return len(f.status.Problems) == 0 && len(f.state) == 1 })
	require.Equal(t, map[string]string{"a": "3"}, f.state)
}

// A writer that empties a file before it writes can be slow, or killed.
func TestEmptiedFileKeepsItsObjects(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "web.yaml", fmt.Sprintf(one, "a", "1"))
	f := follow(t, open(t, dir))
	f.until(func() bool { return f.status.Synced })
	write(t, dir, "web.yaml", "")
	f.until(func() bool { return len(f.status.Problems) == 1 })
	require.Equal(t, map[string]string{"a": "1"}, f.state)
	require.ErrorContains(t, f.status.Problems[0].Err, filepath.Join(dir, "web.yaml"))
	write(t, dir, "web.yaml", fmt.Sprintf(one, "a", "2"))
	f.until(func() bool { return len(f.status.Problems) == 0 && f.state["a"] == "2" })
	write(t, dir, "web.yaml", "# nothing any more\n")
	f.until(func() bool { return len(f.state) == 0 })
}

func TestEditsArriveHoweverTheyAreMade(t *testing.T) {
	dir := t.TempDir()
	f := follow(t, open(t, dir))
	f.until(func() bool { return f.status.Synced })
	write(t, dir, "a.yaml", fmt.Sprintf(one, "a", "1"))
	f.until(func() bool { return f.state["a"] == "1" })
	write(t, dir, "a.yaml", fmt.Sprintf(one, "a", "2")) // the same size
	f.until(func() bool { return f.state["a"] == "2" })
	write(t, dir, ".a.swp", fmt.Sprintf(one, "a", "3"))
	require.NoError(t, os.Rename(filepath.Join(dir, ".a.swp"), filepath.Join(dir, "a.yaml")))
	f.until(func() bool { return f.state["a"] == "3" })
	require.NoError(t, os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")))
	write(t, dir, "c.json", `{"apiVersion":"projectcalico.org/v3","kind":"HostEndpoint","metadata":{"name":"c"},"spec":{"node":"n","interfaceName":"*"}}`)
	f.until(func() bool { _, ok := f.state["c"]; return ok && len(f.state) == 2 })
	require.Equal(t, "3", f.state["a"])
	require.NoError(t, os.Remove(filepath.Join(dir, "b.yaml")))
	f.until(func() bool { return len(f.state) == 1 })
}

// A policy in a file governs what its rules say, as it would if it were given to a client.
func TestTypesFollowFromTheRules(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "p.yaml", "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: p}, spec: {egress: [{action: Allow}]}}")
	o, err := open(t, dir).Get(t.Context(), hostendpoint.ID{Kind: hostendpoint.KindGlobalNetworkPolicy, Name: "p"}.Stored())
	require.NoError(t, err)
	require.Equal(t, []hostendpoint.PolicyType{hostendpoint.PolicyTypeEgress}, o.(*hostendpoint.GlobalNetworkPolicy).Spec.Types)
}

// A Kubernetes volume changes all its files by renaming one symbolic link.
func TestKubernetesVolume(t *testing.T) {
	dir := t.TempDir()
	for _, v := range []string{"1", "2"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, "..v"+v), 0o755))
		write(t, filepath.Join(dir, "..v"+v), "a.yaml", fmt.Sprintf(one, "a", v))
	}
	require.NoError(t, os.Symlink("..v1", filepath.Join(dir, "..data")))
	require.NoError(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	d := open(t, dir)
	f := follow(t, d)
	f.until(func() bool { return f.state["a"] == "1" })
	require.NoError(t, os.Symlink("..v2", filepath.Join(dir, "..tmp")))
	require.NoError(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
	f.until(func() bool { return f.state["a"] == "2" })
	_, err := store.For[*hostendpoint.HostEndpoint](store.New(d, store.Options{})).Delete(t.Context(), "", "a", store.DeleteOptions{})
	require.ErrorIs(t, err, store.ErrUnsupported, "what is not ours is not replaced")
}

func TestOneObjectInTwoFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.yaml", fmt.Sprintf(one, "x", "b"))
	write(t, dir, "a.yaml", fmt.Sprintf(one, "x", "a"))
	f := follow(t, open(t, dir))
	f.until(func() bool { return f.status.Synced })
	require.Equal(t, "a", f.state["x"], "the first by name counts")
	require.Len(t, f.status.Problems, 1)
	require.ErrorIs(t, f.status.Problems[0].Err, field.ErrDuplicate)
	require.ErrorContains(t, f.status.Problems[0].Err, filepath.Join(dir, "b.yaml")+":1")
	require.NoError(t, os.Remove(filepath.Join(dir, "a.yaml")))
	f.until(func() bool { return f.state["x"] == "b" && len(f.status.Problems) == 0 })
}

// What another process has written is seen before a write, however fast the two follow each other.
func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	stores := []store.Client[*hostendpoint.HostEndpoint]{}
	for range 2 {
		stores = append(stores, store.For[*hostendpoint.HostEndpoint](store.New(open(t, dir), store.Options{})))
	}
	for i := range 40 {
		h := &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: fmt.Sprintf("h%d", i)}, Spec: hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "*"}}
		c, err := stores[i%2].Create(t.Context(), h)
		require.NoError(t, err)
		_, err = stores[1-i%2].Create(t.Context(), h)
		require.ErrorIs(t, err, store.ErrAlreadyExists)
		c.Metadata.Labels = map[string]string{"v": "2"}
		_, err = stores[1-i%2].Update(t.Context(), c)
		require.NoError(t, err)
		_, err = stores[i%2].Update(t.Context(), c)
		require.ErrorIs(t, err, store.ErrConflict)
	}
}

func TestWritesLeaveTheRestOfAFileAlone(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "all.yaml", fmt.Sprintf(one+"---\n"+one+"---\n"+one, "a", "1", "b", "1", "c", "1"))
	require.NoError(t, os.Chmod(filepath.Join(dir, "all.yaml"), 0o600))
	d := open(t, dir)
	heps := store.For[*hostendpoint.HostEndpoint](store.New(d, store.Options{}))
	b, err := heps.Get(t.Context(), "", "b")
	require.NoError(t, err)
	require.Equal(t, field.Pos{File: filepath.Join(dir, "all.yaml"), Line: 6}, b.At(""))
	b.Metadata.Labels["v"] = "2"
	again, err := heps.Update(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, b.Metadata.UID, again.Metadata.UID)
	_, err = heps.Delete(t.Context(), "", "a", store.DeleteOptions{})
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, "all.yaml"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	l, err := store.For[*hostendpoint.HostEndpoint](store.New(open(t, dir), store.Options{})).List(t.Context(), store.ListOptions{})
	require.NoError(t, err)
	require.Len(t, l.Items, 2)
	require.Equal(t, again.Metadata.ResourceVersion, l.Items[0].Metadata.ResourceVersion, "versions survive a restart")
	require.Equal(t, "2", l.Items[0].Metadata.Labels["v"])
	_, err = heps.Update(t.Context(), b)
	require.ErrorIs(t, err, store.ErrConflict)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	require.Equal(t, []string{".lock", "all.yaml"}, names)
}

func TestNamesOfFiles(t *testing.T) {
	dir := t.TempDir()
	heps := store.For[*hostendpoint.HostEndpoint](store.New(open(t, dir), store.Options{}))
	long := strings.Repeat("x", 240)
	for _, name := range []string{"a", "A", long + "1", long + "2"} {
		_, err := heps.Create(t.Context(), &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: name},
			Spec: hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "*"}})
		require.NoError(t, err)
	}
	l, err := heps.List(t.Context(), store.ListOptions{})
	require.NoError(t, err)
	require.Len(t, l.Items, 4)
	require.FileExists(t, filepath.Join(dir, "hostendpoint.%41.yaml"))
}

func TestOpenNeedsADirectory(t *testing.T) {
	_, err := file.Open(t.Context(), filepath.Join(t.TempDir(), "none"), file.Options{})
	require.ErrorIs(t, err, store.ErrUnavailable)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func Example() {
	dir, err := os.MkdirTemp("", "policies")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d, err := file.Open(ctx, dir, file.Options{})
	if err != nil {
		panic(err)
	}
	for snap, err := range store.Snapshots(ctx, store.New(d, store.Options{}), store.SnapshotOptions{}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(snap.Resources.Len(), snap.Status.Synced)
		if snap.Resources.Len() == 1 {
			break
		}
		_ = os.WriteFile(filepath.Join(dir, "web.yaml"), []byte("apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: web}\nspec: {node: n1, interfaceName: '*'}\n"), 0o644)
	}
	// Output:
	// 0 true
	// 1 true
}
