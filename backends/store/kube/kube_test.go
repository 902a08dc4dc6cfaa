// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/kube"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// config returns how to reach the server, or a proxy to it, as a user of the token file.
func config(addr, token string) *rest.Config {
	return &rest.Config{Host: "https://" + addr, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1}
}

func TestServerCompiles(t *testing.T) { storetest.Build(t, "apiserver") }

// define installs what the tests need.
func define(t testing.TB, c *storetest.Cluster) {
	t.Helper()
	for _, native := range []bool{false, true} {
		done, err := kube.Install(t.Context(), kube.Config{REST: config(c.Addr, "admin")}, kube.InstallOptions{Native: native, Roles: true})
		require.NoError(t, err)
		require.Len(t, done, len(kinds)+2)
	}
	c.Namespaces("ns", "ns1", "a", "b")
}

// wipe deletes all custom resources.
func wipe(t *testing.T, c *storetest.Cluster, native bool) {
	t.Helper()
	group := "/apis/crd.projectcalico.org/v1/"
	if native {
		group = "/apis/projectcalico.org/v3/"
	}
	remove := func(path string) {
		code, data := c.Do(http.MethodDelete, path, "", "")
		require.Equal(t, http.StatusOK, code, "%s", data)
	}
	for _, plural := range []string{"hostendpoints", "tiers", "globalnetworkpolicies", "globalnetworksets"} {
		remove(group + plural)
	}
	for _, ns := range []string{"ns", "ns1", "a", "b"} {
		for _, plural := range []string{"networkpolicies", "networksets"} {
			remove(group + "namespaces/" + ns + "/" + plural)
		}
	}
}

// connect opens the server at a place: an address, and whether the native resources are meant.
func connect(_ context.Context, place string) (store.Driver, error) {
	addr, native, _ := strings.Cut(place, " ")
	return kube.Open(kube.Config{REST: config(addr, "admin"), Native: native == "native", Timeout: 5 * time.Second, Probe: 500 * time.Millisecond})
}

func place(addr string, native bool) string {
	if native {
		return addr + " native"
	}
	return addr
}

func open(t testing.TB, place string) store.Driver {
	d, err := connect(t.Context(), place)
	require.NoError(t, err)
	return d
}

// fill creates objects past the rules.
func fill(t testing.TB, d store.Driver, objects []hostendpoint.Object) {
	var wg sync.WaitGroup
	for part := range slices.Chunk(objects, len(objects)/24+1) {
		wg.Go(func() {
			for _, o := range part {
				if _, err := d.Create(t.Context(), o); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestMain(m *testing.M) { storetest.Main(m, connect) }

// Lists and watches come from etcd with one form, and from the cache of the API server, as they do by default, with the
// other.
func TestKube(t *testing.T) {
	program := storetest.Build(t, "apiserver")
	for _, native := range []bool{false, true} {
		t.Run(fmt.Sprintf("native=%v", native), func(t *testing.T) {
			c := storetest.StartCluster(t, program, fmt.Sprintf("--watch-cache=%v", native))
			define(t, c)
			proxy := storetest.NewProxy(t, c.Addr)
			server := c.API
			storetest.Run(t, func(t *testing.T) *storetest.Instance {
				wipe(t, c, native)
				in := &storetest.Instance{
					Open:     func(t testing.TB) store.Driver { return open(t, place(proxy.Addr, native)) },
					Behind:   func(t testing.TB) store.Driver { return open(t, place(c.Addr, native)) },
					Place:    place(c.Addr, native),
					Cut:      func(testing.TB) func() { return proxy.Cut() },
					ReadOnly: []string{hostendpoint.KindProfile, hostendpoint.KindNode},
					Patience: 20 * time.Second,
					Fill:     func(t testing.TB, objects []hostendpoint.Object) { fill(t, open(t, place(c.Addr, native)), objects) },
					// Its own server and its datastore are killed in turns.
					Restart: func(testing.TB) {
						server.Restart()
						c.Ready()
						if server = c.API; rand.N(2) == 0 {
							server = c.Etcd
						}
					},
					PutNode: func(t testing.TB, name, ip string) {
						c.Apply(nodePath, `{"kind":"Node","apiVersion":"v1","metadata":{"name":"`+name+`"}}`)
						patch(t, c, nodePath+"/"+name+"/status", `{"status":{"addresses":[{"type":"InternalIP","address":"`+ip+`"}]}}`)
					},
					DeleteNode: func(t testing.TB, name string) {
						code, data := c.Do(http.MethodDelete, nodePath+"/"+name, "", "")
						require.Equal(t, http.StatusOK, code, "%s", data)
					},
				}
				if native {
					in.Many = 1000 // the large number is tested with the other form
				} else {
					in.Compact = func(t testing.TB) { storetest.EtcdCompact(t, c.EtcdURL) }
					in.Corrupt = func(t testing.TB, name string) {
						patch(t, c, "/apis/crd.projectcalico.org/v1/hostendpoints/"+name, `{"metadata":{"annotations":{"projectcalico.org/metadata":"not json"}}}`)
					}
				}
				return in
			})
			if native {
				t.Run("vectors", func(t *testing.T) { sameOnAServer(t, c) })
				t.Run("permissions", func(t *testing.T) { permissions(t, c) })
				t.Run("profiles and nodes", func(t *testing.T) { derived(t, c) })
				t.Run("manifests for kubectl", func(t *testing.T) { manifestsForKubectl(t, c) })
				t.Run("installing", func(t *testing.T) { install(t, c) })
			}
		})
	}
}

const nodePath = "/api/v1/nodes"

func patch(t testing.TB, c *storetest.Cluster, path, body string) {
	t.Helper()
	code, data := c.Do(http.MethodPatch, path, "application/merge-patch+json", body)
	require.Equal(t, http.StatusOK, code, "%s", data)
}

func BenchmarkKube(b *testing.B) {
	program := storetest.Build(b, "apiserver")
	for _, native := range []bool{false, true} {
		b.Run(fmt.Sprintf("native=%v", native), func(b *testing.B) {
			c := storetest.StartCluster(b, program)
			define(b, c)
			at := place(c.Addr, native)
			storetest.Benchmark(b, &storetest.Instance{
				Open: func(t testing.TB) store.Driver { return open(t, at) },
				Fill: func(t testing.TB, objects []hostendpoint.Object) { fill(t, open(t, at), objects) },
			})
		})
	}
}

// A server that goes silent in the middle of an answer is given up, and nothing is written but the error.
func TestSilentServer(t *testing.T) {
	var log bytes.Buffer
	klog.LogToStderr(false)
	klog.SetOutput(&log)
	defer klog.LogToStderr(true)
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"kind":`))
		_ = http.NewResponseController(w).Flush()
		<-ended
	}))
	defer server.Close()
	defer close(ended)
	d, err := kube.Open(kube.Config{REST: &rest.Config{Host: server.URL}, Timeout: 200 * time.Millisecond, Probe: 200 * time.Millisecond})
	require.NoError(t, err)
	_, err = d.Get(t.Context(), hostendpoint.ID{Kind: hostendpoint.KindHostEndpoint, Name: "x"})
	require.ErrorIs(t, err, store.ErrUnavailable)
	require.ErrorIs(t, d.Watch(t.Context(), hostendpoint.KindHostEndpoint, "1", func(store.Change) error { return nil }), store.ErrUnavailable)
	klog.Flush()
	require.Empty(t, log.String())
}

func permissions(t *testing.T, c *storetest.Cluster) {
	heps := func(token string) store.Client[*hostendpoint.HostEndpoint] {
		d, err := kube.Open(kube.Config{REST: config(c.Addr, token)})
		require.NoError(t, err)
		return store.For[*hostendpoint.HostEndpoint](store.New(d, store.Options{Retry: 10 * time.Millisecond, RetryMax: 50 * time.Millisecond}))
	}
	_, err := heps("wrong").List(t.Context(), store.ListOptions{})
	require.ErrorIs(t, err, store.ErrUnauthorized)
	_, err = heps("nobody").List(t.Context(), store.ListOptions{})
	require.ErrorIs(t, err, store.ErrForbidden)
	w, err := heps("reader").Watch(t.Context(), store.WatchOptions{})
	require.NoError(t, err)
	e, err := w.Next(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, e.Status.Err, store.ErrForbidden)
	bind := func(user, role string) {
		c.Apply("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"kind":"ClusterRoleBinding","apiVersion":"rbac.authorization.k8s.io/v1",
			"metadata":{"name":"`+user+`"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"`+role+`"},
			"subjects":[{"kind":"User","name":"`+user+`","apiGroup":"rbac.authorization.k8s.io"}]}`)
	}
	bind("reader", "hostpolicy-reader")
	for e := range w.Events() {
		if e.Type == store.Synced {
			break
		}
	}
	_, err = heps("reader").Create(t.Context(), &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "x"},
		Spec: hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "*"}})
	require.ErrorIs(t, err, store.ErrForbidden)
	// The roles are enough: for everything that there is to follow, and to write.
	for _, native := range []bool{false, true} {
		d, err := kube.Open(kube.Config{REST: config(c.Addr, "reader"), Native: native})
		require.NoError(t, err)
		for snap, err := range store.Snapshots(t.Context(), store.New(d, store.Options{}), store.SnapshotOptions{}) {
			require.NoError(t, err)
			if snap.Status.Synced {
				break
			}
			t.Logf("native=%v: %v", native, snap.Status.Err)
		}
	}
	bind("writer", "hostpolicy-writer")
	var written *hostendpoint.HostEndpoint
	require.Eventually(t, func() bool { // the server takes note of bindings a moment later
		written, err = heps("writer").Create(t.Context(), &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "writers"},
			Spec: hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "*"}})
		return err == nil
	}, 30*time.Second, 20*time.Millisecond, "%v", err)
	written.Spec.Node = "m"
	_, err = heps("writer").Update(t.Context(), written)
	require.NoError(t, err)
	_, err = heps("writer").Delete(t.Context(), "", "writers", store.DeleteOptions{})
	require.NoError(t, err)
	_, err = heps("admin").Create(t.Context(), &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "Not_For_Kubernetes"},
		Spec: hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "*"}})
	require.ErrorIs(t, err, store.ErrRefused)

	// A kubeconfig file says the same, and its contexts.
	path := c.Kubeconfig()
	d, err := kube.Open(kube.Config{Kubeconfig: path})
	require.NoError(t, err)
	_, err = d.List(t.Context(), hostendpoint.KindTier, store.ListOptions{})
	require.NoError(t, err)
	t.Setenv("KUBECONFIG", path)
	rc, err := kube.Kubectl("nobody")
	require.NoError(t, err)
	d, err = kube.Open(kube.Config{REST: rc})
	require.NoError(t, err)
	_, err = d.List(t.Context(), hostendpoint.KindTier, store.ListOptions{})
	require.ErrorIs(t, err, store.ErrForbidden)
	_, err = kube.Kubectl("none")
	require.ErrorIs(t, err, store.ErrUnavailable)
	_, err = kube.Open(kube.Config{})
	require.ErrorIs(t, err, store.ErrUnavailable, "this is no pod")
}

func derived(t *testing.T, c *storetest.Cluster) {
	d, err := kube.Open(kube.Config{REST: config(c.Addr, "admin")})
	require.NoError(t, err)
	s := store.New(d, store.Options{})
	profiles, nodes := store.For[*hostendpoint.Profile](s), store.For[*hostendpoint.Node](s)
	w, err := profiles.Watch(t.Context(), store.WatchOptions{})
	require.NoError(t, err)
	seen := map[string]*hostendpoint.Profile{}
	until := func(ok func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for !ok() {
			e, err := w.Next(ctx)
			require.NoError(t, err)
			if e.Object != nil {
				seen[e.Object.Metadata.Name] = e.Object
			}
		}
	}
	until(func() bool { return seen["kns.ns1"] != nil })
	c.Apply("/api/v1/namespaces", `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"late","labels":{"team":"x"}}}`)
	c.Apply("/api/v1/namespaces/ns1/serviceaccounts", `{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"sa.x","labels":{"role":"y"}}}`)
	until(func() bool { return seen["kns.late"] != nil && seen["ksa.ns1.sa.x"] != nil })
	require.Equal(t, "x", seen["kns.late"].Spec.LabelsToApply["pcns.team"])
	require.Equal(t, "late", seen["kns.late"].Spec.LabelsToApply["pcns.projectcalico.org/name"])
	require.Len(t, seen["kns.late"].Spec.Ingress, 1)
	sa, err := profiles.Get(t.Context(), "", "ksa.ns1.sa.x")
	require.NoError(t, err)
	require.Equal(t, seen["ksa.ns1.sa.x"], sa)
	require.Equal(t, map[string]string{"pcsa.role": "y", "pcsa.projectcalico.org/name": "sa.x"}, sa.Spec.LabelsToApply)
	require.Empty(t, sa.Spec.Ingress)
	for _, name := range []string{"other", "kns.none", "ksa.ns1", "ksa.ns1.none"} {
		_, err = profiles.Get(t.Context(), "", name)
		require.ErrorIs(t, err, store.ErrNotFound, name)
	}
	_, err = profiles.Create(t.Context(), &hostendpoint.Profile{Metadata: hostendpoint.ObjectMeta{Name: "mine"}})
	require.ErrorIs(t, err, store.ErrUnsupported)

	c.Apply("/api/v1/nodes", `{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1","annotations":{"projectcalico.org/IPv4Address":"10.0.0.1/24"}}}`)
	n, err := nodes.Get(t.Context(), "", "n1")
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1/24", n.Spec.BGP.IPv4Address)
	_, err = nodes.Delete(t.Context(), "", "n1", store.DeleteOptions{})
	require.ErrorIs(t, err, store.ErrUnsupported)
}
