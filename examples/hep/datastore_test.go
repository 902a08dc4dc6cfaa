// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
)

const kubeServer = "../../backends/store/kube/apiserver"

// place is a datastore under test, as hep's flags have it.
type place struct {
	datastore, kubeconfig string
	native                bool
	restart               func() // kills the server and starts it again; nil if there is none
}

func fileStore(t *testing.T) place {
	return place{datastore: "file:" + t.TempDir()}
}

func etcdStore(t *testing.T) place {
	s, url := storetest.StartEtcd(t, []string{storetest.DebianEtcd}, "http")
	storetest.EtcdReady(t, url)
	return place{datastore: "etcd:" + url, restart: func() { s.Restart(); storetest.EtcdReady(t, url) }}
}

func TestFiles(t *testing.T) { everything(t, fileStore(t)) }

func TestEtcd(t *testing.T) { everything(t, etcdStore(t)) }

func TestKubernetes(t *testing.T) {
	cluster := newCluster(t)
	kubeconfig := cluster.Kubeconfig()
	for _, native := range []bool{false, true} {
		t.Run("native="+strconv.FormatBool(native), func(t *testing.T) {
			everything(t, place{datastore: "kube:admin", kubeconfig: kubeconfig, native: native, restart: func() { cluster.API.Restart(); cluster.Ready() }})
		})
	}
	t.Run("migrate", func(t *testing.T) {
		etcd := etcdStore(t)
		testscript.Run(t, params("testdata/migrate", func(e *testscript.Env) {
			e.Setenv("ETCD", etcd.datastore)
			e.Setenv("KUBE", "kube:admin")
			e.Setenv("KUBECONFIG", kubeconfig)
			e.Setenv("HOME", e.WorkDir)
		}))
	})
	t.Run("kubectl", func(t *testing.T) { kubectlSeesTheSame(t, cluster, kubeconfig) })
}

// everything runs what must be the same on every datastore.
func everything(t *testing.T, a place) {
	// The fleet comes first: it is asked about all that a datastore holds.
	for _, dir := range []string{"fleet", "store"} {
		t.Run(dir, func(t *testing.T) {
			testscript.Run(t, params("testdata/"+dir, func(e *testscript.Env) {
				e.Setenv("DS", a.datastore)
				e.Setenv("NATIVE", strconv.FormatBool(a.native))
				e.Setenv("KUBECONFIG", a.kubeconfig)
				e.Setenv("HOME", e.WorkDir)
			}))
		})
	}
	t.Run("watch", func(t *testing.T) { watchAcrossRestart(t, a) })
	t.Run("run", func(t *testing.T) { runEnforces(t, a) })
}

// newCluster starts an API server, into which hep installs what it needs.
func newCluster(t *testing.T) *storetest.Cluster {
	c := storetest.StartCluster(t, storetest.Build(t, kubeServer))
	t.Setenv("KUBECONFIG", c.Kubeconfig())
	for _, want := range []string{"created (dry run)", "created", "unchanged"} {
		for _, native := range []string{"--native=false", "--native=true"} {
			args := []string{"crds", "install", "--datastore", "kube:admin", native}
			if strings.Contains(want, "dry") {
				args = append(args, "--dry-run")
			}
			out := hep(t, args...)
			require.Equal(t, 6, strings.Count(out, " "+want+"\n"), "%s", out)
		}
	}
	c.Namespaces("ns1", "prod")
	return c
}

// hep runs the program, which must succeed, and returns what it prints.
func hep(t *testing.T, args ...string) string {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	var text strings.Builder
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = bufio.NewReader(r).WriteTo(&text) })
	code := run(t.Context(), args, newOutput(w, w), nil)
	require.NoError(t, w.Close())
	wg.Wait()
	require.Equal(t, 0, code, "hep %v: %s", args, text.String())
	return text.String()
}

// A watch shows every change, and goes on when the server was killed and is back.
func watchAcrossRestart(t *testing.T, a place) {
	t.Setenv("KUBECONFIG", a.kubeconfig)
	flags := []string{"--datastore=" + a.datastore}
	if a.native {
		flags = append(flags, "--native")
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	ended := make(chan int)
	go func() {
		ended <- run(ctx, append([]string{"watch", "hep", "-l", "script=watch", "-o", "json"}, flags...), newOutput(w, w), nil)
		_ = w.Close()
	}()
	defer func() { cancel(); <-ended; _ = r.Close() }()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	next := func(want string) watchEvent {
		t.Helper()
		for {
			require.True(t, lines.Scan(), "waiting for %s: %v", want, ctx.Err())
			var e watchEvent
			require.NoError(t, json.Unmarshal(lines.Bytes(), &e), "%s", lines.Text())
			if e.Type == want {
				return e
			}
			// A server that is killed may be lost and found several times, or so shortly that nobody notices.
			require.Contains(t, []string{"SYNCED", "STALE"}, e.Type)
		}
	}
	doc := filepath.Join(t.TempDir(), "hep.yaml")
	apply := func(node string) {
		t.Helper()
		require.NoError(t, os.WriteFile(doc, []byte("apiVersion: projectcalico.org/v3\nkind: HostEndpoint\n"+
			"metadata: {name: watched, labels: {script: watch}}\nspec: {interfaceName: eth0, node: "+node+"}\n"), 0o644))
		hep(t, append([]string{"apply", "-f", doc}, flags...)...)
	}
	next("SYNCED")
	apply("n1")
	require.Contains(t, string(next("ADDED").Object), `"node":"n1"`)
	apply("n2")
	require.Contains(t, string(next("MODIFIED").Object), `"node":"n2"`)
	if a.restart != nil {
		a.restart()
	}
	apply("n3")
	require.Contains(t, string(next("MODIFIED").Object), `"node":"n3"`)
	hep(t, append([]string{"delete", "hep", "watched"}, flags...)...)
	require.Contains(t, string(next("DELETED").Object), `"node":"n3"`)
}

// kubectlSeesTheSame creates host endpoints with each of the two programs and reads them with the other.
func kubectlSeesTheSame(t *testing.T, c *storetest.Cluster, kubeconfig string) {
	t.Setenv("KUBECONFIG", kubeconfig)
	const spec = `{"node":"n1","interfaceName":"eth0","expectedIPs":["10.0.0.1","2001:DB8::1"],"profiles":["a","b"],"ports":[{"name":"web","protocol":"TCP","port":80},{"name":"n","protocol":17,"port":53}]}`
	for group, native := range map[string]string{"crd.projectcalico.org/v1": "--native=false", "projectcalico.org/v3": "--native=true"} {
		resource := "hostendpoints." + strings.Split(group, "/")[0]
		flags := []string{"--datastore=kube:admin", native}
		c.Kubectl(`{"apiVersion":"`+group+`","kind":"HostEndpoint","metadata":{"name":"by-kubectl","labels":{"a":"b"}},"spec":`+spec+`}`, "apply", "-f", "-")
		var got struct {
			Metadata struct {
				UID    string
				Labels map[string]string
			}
			Spec json.RawMessage
		}
		require.NoError(t, json.Unmarshal([]byte(hep(t, append([]string{"get", "hep", "by-kubectl", "-o", "json"}, flags...)...)), &got))
		require.JSONEq(t, spec, string(got.Spec))
		require.Equal(t, map[string]string{"a": "b"}, got.Metadata.Labels)

		doc := filepath.Join(t.TempDir(), "hep.json")
		require.NoError(t, os.WriteFile(doc, []byte(`{"apiVersion":"projectcalico.org/v3","kind":"HostEndpoint","metadata":{"name":"by-hep","labels":{"a":"b"}},"spec":`+spec+`}`), 0o644))
		hep(t, append([]string{"create", "-f", doc}, flags...)...)
		require.JSONEq(t, spec, c.Kubectl("", "get", resource, "by-hep", "-o", "jsonpath={.spec}"))
		require.Contains(t, c.Kubectl("", "get", resource, "by-hep", "-o", "yaml"), "apiVersion: "+group)

		// Both list both, and each deletes what the other made.
		one := strings.Replace(resource, "hostendpoints", "hostendpoint", 1)
		require.Equal(t, one+"/by-hep\n"+one+"/by-kubectl\n", c.Kubectl("", "get", resource, "-o", "name"))
		require.Equal(t, "hostendpoint/by-hep\nhostendpoint/by-kubectl\n", hep(t, append([]string{"get", "hep", "-o", "name"}, flags...)...))
		// An update by one is seen by the other, and what the other says stays.
		c.Kubectl("", "patch", resource, "by-hep", "--type=merge", "-p", `{"spec":{"node":"n2"}}`)
		out := hep(t, append([]string{"get", "hep/by-hep", "-o", "json"}, flags...)...)
		require.Contains(t, out, `"node":"n2"`)
		require.Contains(t, out, `"labels":{"a":"b"}`)
		c.Kubectl("", "delete", resource, "by-hep")
		hep(t, append([]string{"delete", "hep", "by-kubectl"}, flags...)...)
		require.Empty(t, c.Kubectl("", "get", resource, "-o", "name"))
	}
}
