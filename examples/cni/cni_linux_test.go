// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/backends/netif"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/file"
	agenthttp "github.com/hostpolicy/hostpolicy/examples/serve"
	"github.com/hostpolicy/hostpolicy/policy"
)

const patienceOfTests = time.Minute

// bin holds this plugin, cnitool and the plugins it stands behind.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "hostpolicy-cni"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		defer os.RemoveAll(bin)
		for _, b := range []struct {
			dir, out, target string
			env              []string
		}{
			{".", filepath.Join(bin, "hostpolicy"), ".", nil},
			{"testplugins", bin + "/", "tool", []string{"GOWORK=off", "GOFLAGS=-mod=readonly -trimpath"}},
		} {
			c := exec.Command("go", "build", "-o", b.out, b.target)
			c.Dir, c.Env = b.dir, append(os.Environ(), append(b.env, "CGO_ENABLED=0")...)
			if out, err := c.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v: %s", b.target, err, out)
				return 2
			}
		}
		return m.Run()
	}())
}

// node is a host with an agent, and the runtime that starts workloads there.
type node struct {
	t      *testing.T
	pair   *lab.Pair
	dir    string // of the agent's store
	conf   string // directory of network configurations
	socket string // of the agent
	a      *agent.Agent
	s      store.Store
}

const network = `{
  "cniVersion": "1.1.0", "name": "shop",
  "plugins": [
    {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.65.0.0/24"}], [{"subnet": "fd00:65::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
    {"type": "hostpolicy", "directory": %q, "interfacePrefixes": ["veth"], "wait": "50s", "agent": %q, "labels": {"network": "shop"}, "capabilities": {"labels": true}}
  ]
}`

// The endpoint eth0 lets the outside reach workloads with app=web at TCP 8080 and nothing else, and lets those with
// app=web out. It denies everything of the host itself but what tests need.
const policies = `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep-eth0, labels: {role: edge}}
spec: {node: node-a, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: through}
spec:
  selector: role == 'edge'
  applyOnForward: true
  types: [Ingress, Egress]
  ingress:
  - {action: Allow, protocol: TCP, destination: {selector: app == 'web' && network == 'shop', ports: [8080]}}
  egress:
  - {action: Allow, source: {selector: app == 'web'}}
`

func newNode(t *testing.T) *node {
	p, err := lab.NewPair()
	require.NoError(t, err, "this test needs root")
	t.Cleanup(func() { p.Close() })
	n := &node{t: t, pair: p, dir: t.TempDir(), conf: t.TempDir(), socket: filepath.Join(t.TempDir(), "agent.sock")}
	require.NoError(t, os.WriteFile(filepath.Join(n.conf, "10-shop.conflist"), fmt.Appendf(nil, network, t.TempDir(), n.dir, n.socket), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, "policy.yaml"), []byte(policies), 0o600))
	n.run(p.Host, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	n.run(p.Peer, "ip", "route", "add", "10.65.0.0/24", "via", lab.PairHost4.Addr().String())

	ctx, cancel := context.WithCancel(context.Background())
	d, err := file.Open(ctx, n.dir, file.Options{})
	require.NoError(t, err)
	n.s = store.New(d, store.Options{})
	m, err := netif.New(netif.Options{Node: "node-a", NetNS: p.Host.FD()})
	require.NoError(t, err)
	b, err := nftables.New(nftables.Options{NetNS: p.Host.FD()})
	require.NoError(t, err)
	n.a, err = agent.New(agent.Options{Store: n.s, Host: m, Backend: b, Config: policy.Config{WorkloadInterfacePrefixes: []string{"veth"}}})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- n.a.Run(ctx) }()
	answers := agenthttp.Start(ctx, agenthttp.Options{Agent: n.a}, "unix:"+n.socket)
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		answers()
		<-d.Done()
		b.Close()
	})
	n.enforced()
	return n
}

// enforced waits until the kernel has what is in the directory now.
func (n *node) enforced() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patienceOfTests)
	defer cancel()
	for _, kind := range []string{"GlobalNetworkPolicy", "NetworkSet"} {
		l, err := n.s.List(ctx, kind, store.ListOptions{})
		require.NoError(n.t, err)
		for _, o := range l.Items {
			_, err := n.a.WaitReceipt(ctx, func(r *agent.Receipt) bool {
				for _, x := range r.Objects {
					if x.ID == o.ID().Stored() && x.ResourceVersion == o.Meta().ResourceVersion {
						return true
					}
				}
				return false
			})
			require.NoError(n.t, err, "%v", o.ID())
		}
	}
}

// run runs a program in a namespace.
func (n *node) run(ns lab.Netns, name string, args ...string) string {
	n.t.Helper()
	var out []byte
	err := ns.Do(func() (err error) { out, err = exec.Command(name, args...).CombinedOutput(); return err })
	require.NoError(n.t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// cnitool runs cnitool as a runtime would be run: in the namespace of the host.
func (n *node) cnitool(command string, w *workload) (string, error) {
	var out bytes.Buffer
	err := n.pair.Host.Do(func() error {
		c := exec.Command(filepath.Join(bin, "cnitool"), command, "shop", w.path)
		labels, err := json.Marshal(map[string]any{"labels": w.labels})
		if err != nil {
			return err
		}
		c.Env = append(os.Environ(), "CNI_PATH="+bin, "NETCONFPATH="+n.conf, "CNI_IFNAME=eth0", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=store;K8S_POD_NAME="+w.name, "CAP_ARGS="+string(labels))
		c.Stdout, c.Stderr = &out, &out
		return c.Run()
	})
	return out.String(), err
}

// workload is a namespace in which something listens at 8080.
type workload struct {
	name   string
	ns     lab.Netns
	path   string
	labels map[string]string
	addr   netip.Addr
}

func (n *node) start(name string, labels map[string]string) *workload {
	n.t.Helper()
	ns, release, err := lab.NewNetns()
	require.NoError(n.t, err)
	n.t.Cleanup(func() { release() })
	w := &workload{name: name, ns: ns, path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD()), labels: labels}
	out, err := n.cnitool("add", w)
	require.NoError(n.t, err, out)
	var r current.Result
	require.NoError(n.t, json.Unmarshal([]byte(out), &r), out)
	require.Len(n.t, r.IPs, 2, out)
	a, ok := netip.AddrFromSlice(r.IPs[0].Address.IP)
	require.True(n.t, ok)
	w.addr = a.Unmap()
	// ADD has waited: there is nothing left to wait for.
	ctx, cancel := context.WithCancel(n.t.Context())
	cancel()
	_, err = n.a.WaitReceipt(ctx, func(r *agent.Receipt) bool {
		for _, x := range r.Objects {
			if x.ID.Kind == "NetworkSet" && !x.Deleted && strings.Contains(n.filed(x), w.name) {
				return true
			}
		}
		return false
	})
	require.NoError(n.t, err)
	serve(n.t, ns, netip.AddrPortFrom(w.addr, 8080))
	return w
}

// filed returns what the store has of a version.
func (n *node) filed(v agent.ObjectVersion) string {
	o, err := n.s.Get(n.t.Context(), v.ID)
	if err != nil || o.Meta().ResourceVersion != v.ResourceVersion {
		return ""
	}
	return fmt.Sprint(o.Meta().Labels)
}

func serve(t *testing.T, ns lab.Netns, at netip.AddrPort) {
	var l net.Listener
	require.NoError(t, ns.Do(func() (err error) { l, err = net.Listen("tcp", at.String()); return err }))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

// reaches reports whether a TCP connection can be made.
func reaches(from lab.Netns, a netip.Addr, port uint16, patience time.Duration) error {
	return from.Do(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(a, port).String(), patience)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func (n *node) passes(from lab.Netns, a netip.Addr, port uint16) {
	n.t.Helper()
	require.NoError(n.t, reaches(from, a, port, 20*time.Second))
}

func (n *node) denied(from lab.Netns, a netip.Addr, port uint16) {
	n.t.Helper()
	err := reaches(from, a, port, 700*time.Millisecond)
	var timeout net.Error
	require.ErrorAs(n.t, err, &timeout, "it got through")
	require.True(n.t, timeout.Timeout(), "%v", err)
}

func TestWorkloadsArePeersOfHostEndpoints(t *testing.T) {
	n := newNode(t)
	out, err := n.cnitool("status", &workload{name: "none", path: "none"})
	require.NoError(t, err, out)
	web := n.start("web-1", map[string]string{"app": "web"})
	db := n.start("db-1", map[string]string{"app": "db"})
	serve(t, n.pair.Peer, netip.AddrPortFrom(lab.PairPeer4.Addr(), 443))
	serve(t, n.pair.Host, netip.MustParseAddrPort("0.0.0.0:9000"))

	// Rules of the host endpoint select workloads by their labels.
	n.passes(n.pair.Peer, web.addr, 8080)
	n.denied(n.pair.Peer, db.addr, 8080)
	n.passes(web.ns, lab.PairPeer4.Addr(), 443)
	n.denied(db.ns, lab.PairPeer4.Addr(), 443)
	// Between the host and its workloads everything passes, though the endpoint denies the host's own traffic.
	n.passes(n.pair.Host, web.addr, 8080)
	n.passes(n.pair.Host, db.addr, 8080)
	n.passes(db.ns, lab.PairHost4.Addr(), 9000)
	n.denied(n.pair.Peer, lab.PairHost4.Addr(), 9000)
	// And among workloads, which no interface of the endpoint sees.
	n.passes(db.ns, web.addr, 8080)

	out, err = n.cnitool("check", web)
	require.NoError(t, err, out)

	// What is filed is what a runtime said.
	l, err := n.s.List(t.Context(), "NetworkSet", store.ListOptions{Selector: "app == 'web'"})
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	o := l.Items[0].Meta()
	require.Equal(t, "store", o.Namespace)
	require.Equal(t, map[string]string{"app": "web", "network": "shop", "projectcalico.org/orchestrator": "k8s", "projectcalico.org/pod": "web-1"}, o.Labels)

	// CHECK notices what is gone. Then the address belongs to nobody.
	_, err = n.s.Delete(t.Context(), l.Items[0].ID(), store.DeleteOptions{})
	require.NoError(t, err)
	out, err = n.cnitool("check", web)
	require.Error(t, err)
	require.Contains(t, out, "the workload is not filed")
	require.Eventually(t, func() bool { return reaches(n.pair.Peer, web.addr, 8080, 200*time.Millisecond) != nil }, patienceOfTests, 10*time.Millisecond)

	// DEL may be repeated.
	for range 2 {
		out, err = n.cnitool("del", web)
		require.NoError(t, err, out)
		out, err = n.cnitool("del", db)
		require.NoError(t, err, out)
	}
	l, err = n.s.List(t.Context(), "NetworkSet", store.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, l.Items)
}

// A runtime that lost its memory tells which attachments are valid; everything else of the network is removed.
func TestGarbageCollection(t *testing.T) {
	n := newNode(t)
	kept, lost := n.start("kept", nil), n.start("lost", nil)
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, "other.yaml"), []byte("apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {name: other, namespace: store}\nspec: {nets: [10.1.2.3/32]}\n"), 0o600))
	list, err := libcni.LoadNetworkConf(n.conf, "shop")
	require.NoError(t, err)
	var containers []string
	l, err := n.s.List(t.Context(), "NetworkSet", store.ListOptions{Selector: "projectcalico.org/pod == 'kept'"})
	require.NoError(t, err)
	for _, o := range l.Items {
		containers = append(containers, o.Meta().Annotations[ofContainer])
	}
	require.Len(t, containers, 1)
	require.NoError(t, n.pair.Host.Do(func() error {
		return libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil).GCNetworkList(context.Background(), list,
			&libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: containers[0], IfName: "eth0"}}})
	}))
	require.Eventually(t, func() bool {
		l, err := n.s.List(t.Context(), "NetworkSet", store.ListOptions{})
		require.NoError(t, err)
		var names []string
		for _, o := range l.Items {
			names = append(names, o.Meta().Labels["projectcalico.org/pod"])
		}
		return strings.Join(names, " ") == "kept " || strings.Join(names, " ") == " kept"
	}, patienceOfTests, 10*time.Millisecond)
	for _, w := range []*workload{kept, lost} {
		out, err := n.cnitool("del", w)
		require.NoError(t, err, out)
	}
}

// call runs the plugin by itself.
func call(t *testing.T, command, config string) (string, error) {
	t.Helper()
	c := exec.Command(filepath.Join(bin, "hostpolicy"))
	c.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0", "CNI_PATH=" + bin, "CNI_NETNS_OVERRIDE=true"}
	c.Stdin = strings.NewReader(config)
	out, err := c.Output()
	return string(out), err
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	conf := func(extra, interfaces, ips string) string {
		prev := ""
		if interfaces != "" {
			prev = `, "prevResult": {"cniVersion": "1.1.0", "interfaces": ` + interfaces + `, "ips": ` + ips + `}`
		}
		return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "shop", "type": "hostpolicy", "directory": %q%s%s}`, dir, extra, prev)
	}
	const (
		ifaces = `[{"name": "cali1"}, {"name": "eth0", "sandbox": "/x"}]`
		ips    = `[{"address": "10.65.0.2/24", "interface": 1}]`
	)
	for _, c := range []struct{ name, command, config, want string }{
		{"nothing stands before it", "ADD", conf("", "", ""), "must stand behind a plugin"},
		{"an interface that is the host's", "ADD", conf("", `[{"name": "veth1"}, {"name": "eth0", "sandbox": "/x"}]`, ips), "veth1 of the workload begins with none of cali"},
		{"no interface on the host", "ADD", conf("", `[{"name": "eth0", "sandbox": "/x"}]`, `[{"address": "10.65.0.2/24", "interface": 0}]`), "names no interface of the host"},
		{"no address", "ADD", conf("", ifaces, `[]`), "gives eth0 no address"},
		{"an address of another interface", "ADD", conf("", ifaces, `[{"address": "10.65.0.2/24", "interface": 0}]`), "gives eth0 no address"},
		{"an address of no interface", "ADD", conf("", ifaces, `[{"address": "10.65.0.2/24", "interface": 7}]`), "address of interface 7"},
		{"an empty prefix", "ADD", conf(`, "interfacePrefixes": [""]`, ifaces, ips), "an empty one would make every interface"},
		{"a label that is not to be claimed", "ADD", conf(`, "labels": {"projectcalico.org/namespace": "kube-system"}`, ifaces, ips), "reserved"},
		{"a label that is none", "ADD", conf(`, "labels": {"a b": "c"}`, ifaces, ips), "not a label key"},
		{"no directory", "ADD", `{"cniVersion": "1.1.0", "name": "shop", "type": "hostpolicy"}`, "directory: missing"},
		{"a wait that is none", "ADD", conf(`, "wait": "soon", "agent": "/x"`, ifaces, ips), "no duration up to 50s"},
		{"a wait for nobody", "ADD", conf(`, "wait": "1s"`, ifaces, ips), "agent: missing"},
		{"a directory that is not there", "STATUS", `{"cniVersion": "1.1.0", "name": "shop", "type": "hostpolicy", "directory": "/nonexistent"}`, `"code": 50`},
		{"an old version", "ADD", `{"cniVersion": "0.1.0", "name": "shop", "type": "hostpolicy"}`, "incompatible"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := call(t, c.command, c.config)
			require.Error(t, err)
			require.Contains(t, out, c.want)
			var e types.Error
			require.NoError(t, json.Unmarshal([]byte(out), &e), out)
			require.NotZero(t, e.Code)
		})
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	require.NoError(t, err)
	require.Empty(t, files, "nothing was filed")

	// An ADD that was killed leaves an object, and the next one takes its place.
	for _, a := range []string{"10.65.0.2", "10.65.0.3"} {
		out, err := call(t, "ADD", conf(`, "args": {"cni": {"labels": [{"key": "app", "value": "web"}]}}`, ifaces, `[{"address": "`+a+`/24", "interface": 1}]`))
		require.NoError(t, err, out)
		require.Contains(t, out, a, "the result before is passed on")
	}
	files, err = filepath.Glob(filepath.Join(dir, "*.yaml"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	text, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.Contains(t, string(text), "10.65.0.3/32")
	require.Contains(t, string(text), "app: web")
	out, err := call(t, "VERSION", `{"cniVersion": "1.1.0"}`)
	require.NoError(t, err)
	require.Contains(t, out, `"1.1.0"`)
	// An agent that does not answer in time fails ADD, which may be tried again.
	out, err = call(t, "ADD", conf(`, "wait": "1s", "agent": "/nonexistent/agent.sock"`, ifaces, ips))
	require.Error(t, err)
	require.Contains(t, out, "not known to be enforced")
	require.Contains(t, out, `"code": 11`)
	// DEL where nothing was ever filed.
	out, err = call(t, "DEL", `{"cniVersion": "1.1.0", "name": "shop", "type": "hostpolicy", "directory": "/nonexistent"}`)
	require.NoError(t, err, out)
}
