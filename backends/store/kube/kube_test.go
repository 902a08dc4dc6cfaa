// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/kube"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// cluster is an API server and its etcd.
type cluster struct {
	api     *storetest.Server
	addr    string
	program string
	etcd    string
	client  *rest.RESTClient
}

// config returns how to reach the server, or a proxy to it, as a user of the token file.
func config(addr, token string) *rest.Config {
	return &rest.Config{Host: "https://" + addr, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1}
}

func start(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{program: storetest.Build(t, "apiserver"), addr: storetest.FreeAddr(t)}
	dir := t.TempDir()
	c.etcd = "http://" + storetest.FreeAddr(t)
	peer := "http://" + storetest.FreeAddr(t)
	storetest.Start(t, c.program, "etcd", "--name", "test", "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", c.etcd,
		"--advertise-client-urls", c.etcd, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "test="+peer)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	keyFile, tokens := filepath.Join(dir, "sa.key"), filepath.Join(dir, "tokens")
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(tokens, []byte("admin,admin,1,system:masters\nreader,reader,2\nnobody,nobody,3\n"), 0o600))
	_, port, err := net.SplitHostPort(c.addr)
	require.NoError(t, err)
	c.api = storetest.Start(t, c.program, "kube-apiserver", "--etcd-servers", c.etcd, "--cert-dir", filepath.Join(dir, "certs"),
		"--bind-address", "127.0.0.1", "--secure-port", port, "--service-cluster-ip-range", "10.0.0.0/24", "--service-account-issuer", "https://test",
		"--service-account-key-file", keyFile, "--service-account-signing-key-file", keyFile, "--token-auth-file", tokens,
		"--authorization-mode", "RBAC", "--watch-cache=false", "--etcd-compaction-interval=0", "--disable-admission-plugins", "ServiceAccount")
	c.client = restClient(t, config(c.addr, "admin"))
	c.ready(t)
	return c
}

func restClient(t *testing.T, rc *rest.Config) *rest.RESTClient {
	rc.GroupVersion = &schema.GroupVersion{Version: "v1"}
	rc.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	c, err := rest.UnversionedRESTClientFor(rc)
	require.NoError(t, err)
	return c
}

func (c *cluster) ready(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return c.client.Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error() == nil
	}, 90*time.Second, 100*time.Millisecond)
}

// apply creates objects of a manifest, those that exist excepted.
func (c *cluster) apply(t *testing.T, path string, objects ...json.RawMessage) {
	t.Helper()
	for _, o := range objects {
		var code int
		r := c.client.Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(o)).Do(t.Context()).StatusCode(&code)
		if code != http.StatusConflict {
			text, err := r.Raw()
			require.NoError(t, err, "%s", text)
		}
	}
}

const crdPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

func (c *cluster) define(t *testing.T) {
	t.Helper()
	c.apply(t, crdPath, documents(t, kube.StorageCRDs)...)
	c.apply(t, crdPath, documents(t, kube.NativeCRDs)...)
	c.apply(t, "/apis/rbac.authorization.k8s.io/v1/clusterroles", documents(t, kube.RBAC)...)
	for _, ns := range []string{"ns", "ns1", "a", "b"} {
		c.apply(t, "/api/v1/namespaces", json.RawMessage(`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"`+ns+`"}}`))
	}
	for _, native := range []bool{false, true} {
		require.Eventually(t, func() bool {
			d, err := kube.Open(kube.Config{REST: config(c.addr, "admin"), Native: native})
			require.NoError(t, err)
			for _, k := range kinds {
				if _, err := d.List(t.Context(), k.kind, store.ListOptions{}); err != nil {
					return false
				}
			}
			return true
		}, 60*time.Second, 200*time.Millisecond)
	}
}

// wipe deletes all custom resources.
func (c *cluster) wipe(t *testing.T, native bool) {
	t.Helper()
	group := "/apis/crd.projectcalico.org/v1/"
	if native {
		group = "/apis/projectcalico.org/v3/"
	}
	for _, plural := range []string{"hostendpoints", "tiers", "globalnetworkpolicies", "globalnetworksets"} {
		require.NoError(t, c.client.Delete().AbsPath(group+plural).Timeout(2*time.Minute).Do(t.Context()).Error())
	}
	for _, ns := range []string{"ns", "ns1", "a", "b"} {
		for _, plural := range []string{"networkpolicies", "networksets"} {
			require.NoError(t, c.client.Delete().AbsPath(group+"namespaces/"+ns+"/"+plural).Do(t.Context()).Error())
		}
	}
}

func TestKube(t *testing.T) {
	c := start(t)
	c.define(t)
	proxy := storetest.NewProxy(t, c.addr)
	for _, native := range []bool{false, true} {
		t.Run(fmt.Sprintf("native=%v", native), func(t *testing.T) {
			open := func(t *testing.T, addr string) store.Driver {
				d, err := kube.Open(kube.Config{REST: config(addr, "admin"), Native: native, Timeout: 5 * time.Second, Probe: 500 * time.Millisecond})
				require.NoError(t, err)
				return d
			}
			storetest.Run(t, func(t *testing.T) *storetest.Instance {
				c.wipe(t, native)
				in := &storetest.Instance{
					Open:     func(t *testing.T) store.Driver { return open(t, proxy.Addr) },
					Behind:   func(t *testing.T) store.Driver { return open(t, c.addr) },
					Cut:      func(*testing.T) func() { return proxy.Cut() },
					Restart:  func(t *testing.T) { c.api.Restart(); c.ready(t) },
					Compact:  func(t *testing.T) { compact(t, c.etcd) },
					ReadOnly: []string{hostendpoint.KindProfile, hostendpoint.KindNode},
					Patience: 20 * time.Second,
					Fill: func(t *testing.T, objects []hostendpoint.Object) {
						d := open(t, c.addr)
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
					},
				}
				if native {
					in.Many = 1000 // the large number is tested with the other form
				} else {
					in.Corrupt = func(t *testing.T, name string) {
						body := `{"metadata":{"annotations":{"projectcalico.org/metadata":"not json"}}}`
						err := c.client.Verb(http.MethodPatch).AbsPath("/apis/crd.projectcalico.org/v1/hostendpoints/"+name).
							SetHeader("Content-Type", "application/merge-patch+json").Body([]byte(body)).Do(t.Context()).Error()
						require.NoError(t, err)
					}
				}
				return in
			})
		})
	}
	t.Run("permissions", func(t *testing.T) { permissions(t, c) })
	t.Run("profiles and nodes", func(t *testing.T) { derived(t, c) })
}

// compact makes etcd forget its history, through its JSON gateway: no client of etcd is needed for that.
func compact(t *testing.T, etcd string) {
	t.Helper()
	post := func(path, body string, into any) {
		resp, err := http.Post(etcd+path, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.NoError(t, json.NewDecoder(resp.Body).Decode(into))
	}
	var got struct{ Header struct{ Revision string } }
	post("/v3/kv/range", `{"key":"eA=="}`, &got)
	post("/v3/kv/compaction", `{"revision":"`+got.Header.Revision+`"}`, &struct{}{})
}

func permissions(t *testing.T, c *cluster) {
	heps := func(token string) store.Client[*hostendpoint.HostEndpoint] {
		d, err := kube.Open(kube.Config{REST: config(c.addr, token)})
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
	c.apply(t, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", json.RawMessage(`{"kind":"ClusterRoleBinding","apiVersion":"rbac.authorization.k8s.io/v1",
		"metadata":{"name":"reader"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"hostpolicy-reader"},
		"subjects":[{"kind":"User","name":"reader","apiGroup":"rbac.authorization.k8s.io"}]}`))
	for e := range w.Events() {
		if e.Type == store.Synced {
			break
		}
	}
	_, err = heps("reader").Create(t.Context(), &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "x"},
		Spec: hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "*"}})
	require.ErrorIs(t, err, store.ErrForbidden)
	_, err = heps("admin").Create(t.Context(), &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "Not_For_Kubernetes"},
		Spec: hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "*"}})
	require.ErrorIs(t, err, store.ErrRefused)

	// A kubeconfig file says the same.
	path := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(path, []byte("apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{name: x, cluster: {server: 'https://"+c.addr+
		"', insecure-skip-tls-verify: true}}]\nusers: [{name: x, user: {token: reader}}]\ncontexts: [{name: x, context: {cluster: x, user: x}}]\n"), 0o600))
	d, err := kube.Open(kube.Config{Kubeconfig: path})
	require.NoError(t, err)
	_, err = d.List(t.Context(), hostendpoint.KindTier, store.ListOptions{})
	require.NoError(t, err)
	_, err = kube.Open(kube.Config{})
	require.ErrorIs(t, err, store.ErrUnavailable, "this is no pod")
}

func derived(t *testing.T, c *cluster) {
	d, err := kube.Open(kube.Config{REST: config(c.addr, "admin")})
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
	c.apply(t, "/api/v1/namespaces", json.RawMessage(`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"late","labels":{"team":"x"}}}`))
	c.apply(t, "/api/v1/namespaces/ns1/serviceaccounts", json.RawMessage(`{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"sa.x","labels":{"role":"y"}}}`))
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

	c.apply(t, "/api/v1/nodes", json.RawMessage(`{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1","annotations":{"projectcalico.org/IPv4Address":"10.0.0.1/24"}}}`))
	n, err := nodes.Get(t.Context(), "", "n1")
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1/24", n.Spec.BGP.IPv4Address)
	_, err = nodes.Delete(t.Context(), "", "n1", store.DeleteOptions{})
	require.ErrorIs(t, err, store.ErrUnsupported)
}
