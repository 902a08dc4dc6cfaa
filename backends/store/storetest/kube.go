// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Cluster is a Kubernetes API server and its etcd, without anything that acts on what is written there. It knows the
// bearer tokens "admin", "reader", "writer" and "nobody", of users of these names; only the first may do anything.
type Cluster struct {
	API, Etcd *Server
	Addr      string // of the API server; HTTPS, with a certificate of its own making
	EtcdURL   string

	t       testing.TB
	program string
	client  http.Client
}

// StartCluster starts the program that Build has made of the module kube/apiserver, and waits until it serves.
func StartCluster(t testing.TB, program string, flags ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, program: program, Addr: FreeAddr(t)}
	c.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(c.client.CloseIdleConnections)
	c.Etcd, c.EtcdURL = StartEtcd(t, []string{program, "etcd"}, "http")
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	keyFile, tokens := filepath.Join(dir, "sa.key"), filepath.Join(dir, "tokens")
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(tokens, []byte("admin,admin,1,system:masters\nreader,reader,2\nwriter,writer,3\nnobody,nobody,4\n"), 0o600))
	_, port, err := net.SplitHostPort(c.Addr)
	require.NoError(t, err)
	c.API = Start(t, program, append([]string{"kube-apiserver", "--etcd-servers", c.EtcdURL, "--cert-dir", filepath.Join(dir, "certs"),
		"--bind-address", "127.0.0.1", "--secure-port", port, "--service-cluster-ip-range", "10.0.0.0/24", "--service-account-issuer", "https://test",
		"--service-account-key-file", keyFile, "--service-account-signing-key-file", keyFile, "--token-auth-file", tokens,
		"--authorization-mode", "RBAC", "--etcd-compaction-interval=0", "--disable-admission-plugins", "ServiceAccount"}, flags...)...)
	c.Ready()
	return c
}

// Ready waits until the server serves.
func (c *Cluster) Ready() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		code, _, err := c.request(http.MethodGet, "/readyz", "", nil)
		return err == nil && code == http.StatusOK
	}, 2*time.Minute, 100*time.Millisecond)
}

// Do sends a request as the administrator, and returns the status code and the body of the answer.
func (c *Cluster) Do(method, path, contentType, body string) (int, []byte) {
	c.t.Helper()
	code, data, err := c.request(method, path, contentType, []byte(body))
	require.NoError(c.t, err)
	return code, data
}

func (c *Cluster) request(method, path, contentType string, body []byte) (int, []byte, error) {
	req, err := http.NewRequest(method, "https://"+c.Addr+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer admin")
	req.Header.Set("Accept", "application/json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, data, err
}

// Apply creates an object; that it exists is no error.
func (c *Cluster) Apply(path, object string) {
	c.t.Helper()
	code, data := c.Do(http.MethodPost, path, "application/json", object)
	if code != http.StatusConflict {
		require.Equal(c.t, http.StatusCreated, code, "%s", data)
	}
}

// Namespaces creates namespaces.
func (c *Cluster) Namespaces(names ...string) {
	c.t.Helper()
	for _, n := range names {
		c.Apply("/api/v1/namespaces", `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"`+n+`"}}`)
	}
}

// Kubeconfig writes a file with one context for each token, of its name; the administrator's is the current one.
func (c *Cluster) Kubeconfig() string {
	c.t.Helper()
	text := "apiVersion: v1\nkind: Config\ncurrent-context: admin\nclusters: [{name: x, cluster: {server: 'https://" + c.Addr +
		"', insecure-skip-tls-verify: true}}]\nusers:\n"
	for _, who := range []string{"admin", "reader", "nobody"} {
		text += "- {name: " + who + ", user: {token: " + who + "}}\n"
	}
	text += "contexts:\n"
	for _, who := range []string{"admin", "reader", "nobody"} {
		text += "- {name: " + who + ", context: {cluster: x, user: " + who + "}}\n"
	}
	path := filepath.Join(c.t.TempDir(), "config")
	require.NoError(c.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// Kubectl runs kubectl as the administrator, with standard input, and returns what it prints.
func (c *Cluster) Kubectl(stdin string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command(c.program, append([]string{"kubectl", "--server=https://" + c.Addr, "--token=admin", "--insecure-skip-tls-verify"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+c.t.TempDir(), "KUBECONFIG=") // its cache
	cmd.Stdin = bytes.NewReader([]byte(stdin))
	out, err := cmd.CombinedOutput()
	require.NoError(c.t, err, "kubectl %v: %s", args, out)
	return string(out)
}
