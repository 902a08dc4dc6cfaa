// SPDX-License-Identifier: Apache-2.0

package rate

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Site is a host in a namespace, and the other end of its link. Two threads send, each to an address of its own.
type Site struct {
	Host, Peer Netns // the peer's end of the link is p0
	mac        [6]byte
	index      int // of the link in peer
	batched    bool
}

const senders = 2

func hostAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}) }

// NewSite makes a site. Its host takes packets from everywhere in 10.0.0.0/8 and answers by the same link, eth0.
func NewSite(b testing.TB) *Site {
	s := &Site{Host: NewNetns(b), Peer: NewNetns(b), mac: [6]byte{2, 0, 0, 0, 0, 1}}
	ip := func(n Netns, args ...string) {
		n.Do(b, func() {
			out, err := exec.Command("ip", args...).CombinedOutput()
			require.NoError(b, err, "%v: %s", args, out)
		})
	}
	s.Host.Do(b, func() {
		for k, v := range map[string]string{"all/rp_filter": "0", "default/rp_filter": "0", "all/accept_local": "1"} {
			require.NoError(b, os.WriteFile("/proc/sys/net/ipv4/conf/"+k, []byte(v), 0))
		}
	})
	ip(s.Host, "link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "p0", "address", "02:00:00:00:00:02")
	ip(s.Host, "link", "set", "lo", "up")
	s.Host.Do(b, func() { // a namespace without a name is known by its file
		c := exec.Command("ip", "link", "set", "p0", "netns", "/proc/self/fd/3")
		c.ExtraFiles = []*os.File{s.Peer.File}
		out, err := c.CombinedOutput()
		require.NoError(b, err, string(out))
	})
	ip(s.Host, "link", "set", "eth0", "up")
	ip(s.Peer, "link", "set", "p0", "up")
	ip(s.Peer, "addr", "add", "10.255.255.254/8", "dev", "p0")
	ip(s.Peer, "route", "add", "192.0.2.0/24", "dev", "p0")
	for i := range senders {
		ip(s.Host, "addr", "add", hostAddr(i).String()+"/24", "dev", "eth0")
		ip(s.Peer, "neigh", "add", hostAddr(i).String(), "lladdr", "02:00:00:00:00:01", "dev", "p0")
	}
	ip(s.Host, "route", "add", "default", "dev", "eth0")
	ip(s.Host, "neigh", "add", "10.255.255.254", "lladdr", "02:00:00:00:00:02", "dev", "eth0")
	s.Peer.Do(b, func() {
		i, err := net.InterfaceByName("p0")
		require.NoError(b, err)
		s.index = i.Index
	})
	return s
}

// Listen opens UDP sockets that nobody reads: a full buffer costs the same with and without rules.
func (s *Site) Listen(b testing.TB, port uint16) {
	s.Host.Do(b, func() {
		for i := range senders {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			require.NoError(b, err)
			require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: hostAddr(i).As4()}))
			b.Cleanup(func() { unix.Close(fd) })
		}
	})
}

// Counter returns a counter of /proc/net/snmp in the host, such as "Ip", "InReceives".
func (s *Site) Counter(b testing.TB, proto, name string) (n uint64) {
	s.Host.Do(b, func() {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		require.NoError(b, err)
		var names []string
		for _, l := range strings.Split(string(text), "\n") {
			f := strings.Fields(l)
			if len(f) == 0 || f[0] != proto+":" {
				continue
			}
			if names == nil {
				names = f
				continue
			}
			i := slices.Index(names, name)
			require.GreaterOrEqual(b, i, 0, name)
			n, err = strconv.ParseUint(f[i], 10, 64)
			require.NoError(b, err)
		}
	})
	return n
}
