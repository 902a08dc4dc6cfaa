// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/etcd"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func servers(t testing.TB) map[string]string {
	return map[string]string{"3.4": storetest.DebianEtcd, "3.7": storetest.Build(t, "etcdserver")}
}

func TestServerCompiles(t *testing.T) { storetest.Build(t, "etcdserver") }

func raw(t testing.TB, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	cfg.Logger, cfg.DialTimeout = zap.NewNop(), 5*time.Second
	c, err := clientv3.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func connect(_ context.Context, url string) (store.Driver, error) {
	return etcd.Open(etcd.Config{Endpoints: []string{url}, Timeout: 2 * time.Second, Probe: 300 * time.Millisecond})
}

func open(t testing.TB, url string) store.Driver {
	d, err := connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.(*etcd.Driver).Close() })
	return d
}

// fill writes objects past the rules, in large transactions.
func fill(t testing.TB, c *clientv3.Client, objects []hostendpoint.Object) {
	for part := range slices.Chunk(objects, 100) {
		var ops []clientv3.Op
		for _, o := range part {
			data, err := store.Encode(o)
			require.NoError(t, err)
			ops = append(ops, clientv3.OpPut(etcd.Key(o.ID()), string(data)))
		}
		_, err := c.Txn(t.Context()).Then(ops...).Commit()
		require.NoError(t, err)
	}
}

func TestMain(m *testing.M) { storetest.Main(m, connect) }

func BenchmarkEtcd(b *testing.B) {
	for name, path := range servers(b) {
		b.Run("server="+name, func(b *testing.B) {
			_, url := storetest.StartEtcd(b, []string{path}, "http")
			storetest.EtcdReady(b, url)
			c := raw(b, clientv3.Config{Endpoints: []string{url}})
			storetest.Benchmark(b, &storetest.Instance{
				Open: func(t testing.TB) store.Driver { return open(t, url) },
				Fill: func(t testing.TB, objects []hostendpoint.Object) { fill(t, c, objects) },
			})
		})
	}
}

func TestEtcd(t *testing.T) {
	for name, path := range servers(t) {
		t.Run(name, func(t *testing.T) {
			s, url := storetest.StartEtcd(t, []string{path}, "http")
			storetest.EtcdReady(t, url)
			proxy := storetest.NewProxy(t, strings.TrimPrefix(url, "http://"))
			c := raw(t, clientv3.Config{Endpoints: []string{url}})
			storetest.Run(t, func(t *testing.T) *storetest.Instance {
				_, err := c.Delete(t.Context(), "/calico/", clientv3.WithPrefix())
				require.NoError(t, err)
				return &storetest.Instance{
					Open:    func(t testing.TB) store.Driver { return open(t, "http://"+proxy.Addr) },
					Behind:  func(t testing.TB) store.Driver { return open(t, url) },
					Cut:     func(testing.TB) func() { return proxy.Cut() },
					Restart: func(t testing.TB) { s.Restart(); storetest.EtcdReady(t, url) },
					Compact: func(t testing.TB) { storetest.EtcdCompact(t, url) },
					Corrupt: func(t testing.TB, name string) {
						_, err := c.Put(t.Context(), etcd.Key(hostendpoint.ID{Kind: "HostEndpoint", Name: name}), `{"spec":{"node":5}}`)
						require.NoError(t, err)
					},
					Fill:  func(t testing.TB, objects []hostendpoint.Object) { fill(t, c, objects) },
					Place: url,
				}
			})
		})
	}
}

// What Calico has beside our kinds, and keys that are none, are left alone.
func TestOtherKeysAreIgnored(t *testing.T) {
	_, url := storetest.StartEtcd(t, []string{storetest.DebianEtcd}, "http")
	storetest.EtcdReady(t, url)
	c := raw(t, clientv3.Config{Endpoints: []string{url}})
	for _, k := range []string{"ippools/x", "hostendpoints/a/b", "hostendpoints/"} {
		_, err := c.Put(t.Context(), "/calico/resources/v3/projectcalico.org/"+k, "{}")
		require.NoError(t, err)
	}
	d, err := etcd.Open(etcd.Config{Endpoints: []string{url}})
	require.NoError(t, err)
	defer d.Close()
	l, err := d.List(t.Context(), "", store.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, l.Items)
	require.Empty(t, l.Problems)
}

func TestSecurity(t *testing.T) {
	dir := t.TempDir()
	certificates(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	_, url := storetest.StartEtcd(t, []string{storetest.DebianEtcd}, "https", "--cert-file", file("server.pem"), "--key-file", file("server.key"), "--trusted-ca-file", file("ca.pem"), "--client-cert-auth")
	cfg := etcd.Config{Endpoints: []string{url}, CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("client.key"), Timeout: 5 * time.Second}
	heps := func(cfg etcd.Config) store.Client[*hostendpoint.HostEndpoint] {
		d, err := etcd.Open(cfg)
		require.NoError(t, err)
		t.Cleanup(func() { _ = d.Close() })
		return store.For[*hostendpoint.HostEndpoint](store.New(d, store.Options{}))
	}
	require.Eventually(t, func() bool {
		_, err := heps(cfg).List(t.Context(), store.ListOptions{})
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)

	none := cfg
	none.CertFile, none.KeyFile, none.Timeout = "", "", time.Second
	_, err := heps(none).List(t.Context(), store.ListOptions{})
	require.ErrorIs(t, err, store.ErrUnavailable, "no client certificate")
	missing := cfg
	missing.KeyFile = file("none")
	_, err = etcd.Open(missing)
	require.ErrorIs(t, err, os.ErrNotExist)
	missing = cfg
	missing.CAFile = file("client.key")
	_, err = etcd.Open(missing)
	require.Error(t, err)
	_, err = etcd.Open(etcd.Config{})
	require.ErrorIs(t, err, store.ErrUnavailable)

	// Users and roles.
	admin, err := etcd.Open(cfg)
	require.NoError(t, err)
	defer admin.Close()
	c := raw(t, clientv3.Config{Endpoints: []string{url}, TLS: etcd.TLSOf(admin)})
	ctx := t.Context()
	for _, do := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "writer", "w"); return err },
		func() error { _, err := c.UserAdd(ctx, "nobody", "n"); return err },
		func() error { _, err := c.RoleAdd(ctx, "calico"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "calico", "/calico/", clientv3.GetPrefixRangeEnd("/calico/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.UserGrantRole(ctx, "writer", "calico"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		require.NoError(t, do())
	}
	as := func(user, password string) error {
		cfg := cfg
		cfg.Username, cfg.Password = user, password
		d, err := etcd.Open(cfg)
		if err != nil {
			return err
		}
		defer d.Close()
		_, err = store.New(d, store.Options{}).Create(ctx, &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "x"},
			Spec: hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "*"}})
		return err
	}
	require.ErrorIs(t, as("writer", "wrong"), store.ErrUnauthorized)
	require.ErrorIs(t, as("nobody", "n"), store.ErrForbidden)
	require.NoError(t, as("writer", "w"))
}

// certificates writes an authority, and a pair for the server and one for a client.
func certificates(t *testing.T, dir string) {
	t.Helper()
	write := func(name, kind string, der []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	}
	key := func(name string) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		der, err := x509.MarshalECPrivateKey(k)
		require.NoError(t, err)
		write(name+".key", "EC PRIVATE KEY", der)
		return k
	}
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	}
	ca := template(1, "ca")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caKey := key("ca")
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	require.NoError(t, err)
	write("ca.pem", "CERTIFICATE", der)
	for i, name := range []string{"server", "client"} {
		k := key(name)
		// A common name would make etcd take the certificate for a user.
		c := template(int64(i+2), "")
		der, err := x509.CreateCertificate(rand.Reader, c, ca, &k.PublicKey, caKey)
		require.NoError(t, err)
		write(name+".pem", "CERTIFICATE", der)
	}
}
