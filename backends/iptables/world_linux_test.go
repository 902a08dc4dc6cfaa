// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

const (
	hostAddr = "10.9.0.1"
	peerAddr = "10.9.0.2"
)

// world is a host with one interface, and its peer.
type world struct{ host, peer netns }

func newWorld(t testing.TB) world {
	t.Helper()
	w := world{newNetns(t), newNetns(t)}
	h, err := netlink.NewHandleAt(vnetns.NsHandle(w.host.fd()))
	require.NoError(t, err)
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	require.NoError(t, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(w.peer.fd())}))
	w.host.run(t, "", "ip", "addr", "add", hostAddr+"/24", "dev", "eth0")
	w.host.run(t, "", "ip", "-6", "addr", "add", "fd00:9::1/64", "dev", "eth0", "nodad")
	w.peer.run(t, "", "ip", "addr", "add", peerAddr+"/24", "dev", "eth0")
	w.peer.run(t, "", "ip", "-6", "addr", "add", "fd00:9::2/64", "dev", "eth0", "nodad")
	w.host.run(t, "", "ip", "link", "set", "eth0", "up")
	w.peer.run(t, "", "ip", "link", "set", "eth0", "up")
	return w
}

// endpoint is the host endpoint of every policy here. Policies follow it.
const endpoint = `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep-eth0, labels: {role: web}}
spec: {node: host-a, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: out}
spec: {types: [Egress], egress: [{action: Allow}]}
`

// compiled returns the program for the endpoint and policies.
func compiled(t testing.TB, policies ...string) (*ir.Program, ir.Members) {
	t.Helper()
	text := endpoint
	for _, p := range policies {
		text += "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n" + p
	}
	r, err := manifest.Parse(manifest.Source{Name: "test.yaml", Data: []byte(text)})
	require.NoError(t, err)
	host := hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{{
		Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix(hostAddr + "/24"), netip.MustParsePrefix("fd00:9::1/64")},
	}}}
	s, err := policy.Resolve(r, host, policy.Config{})
	require.NoError(t, err)
	p, m, err := compile.Compile(s)
	require.NoError(t, err)
	return p, m
}

// ingress returns a policy for ingress with the given rules.
func ingress(name, extra string, rules ...string) string {
	return "metadata: {name: " + name + "}\nspec:\n  types: [Ingress]\n  " + extra + "\n  ingress:\n  - " + strings.Join(rules, "\n  - ") + "\n"
}

// listen returns a UDP socket of the namespace.
func (n netns) listen(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	var err error
	n.do(func() { c, err = net.ListenPacket("udp", addr) })
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	u := c.(*net.UDPConn)
	raw, err := u.SyscallConn()
	require.NoError(t, err)
	var set error
	require.NoError(t, raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) }))
	require.NoError(t, set) // a busy machine reads late
	return u
}

// connect tries to open a TCP connection.
func (n netns) connect(from, to string) error {
	var err error
	n.do(func() {
		d := net.Dialer{Timeout: 400 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		var c net.Conn
		if c, err = d.Dial("tcp", to); err == nil {
			c.Close()
		}
	})
	return err
}

// serve accepts TCP connections.
func (n netns) serve(t testing.TB, addr string) {
	t.Helper()
	var l net.Listener
	var err error
	n.do(func() { l, err = net.Listen("tcp", addr) })
	require.NoError(t, err)
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

// arrives reports whether a UDP packet from the peer gets to the socket.
func (w world) arrives(t testing.TB, to *net.UDPConn) bool {
	t.Helper()
	var c net.Conn
	var err error
	w.peer.do(func() { c, err = net.Dial("udp", to.LocalAddr().String()) })
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("x")) // once: packets are counted
	require.NoError(t, err)
	require.NoError(t, to.SetReadDeadline(time.Now().Add(time.Second))) // a new link takes its time
	var b [16]byte
	_, err = to.Read(b[:])
	return err == nil
}

var errRefused = syscall.ECONNREFUSED
