// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// machine is a host namespace with its interfaces, and a namespace in which the other ends of the interfaces are. The
// peers have no addresses and answer nothing, so one namespace serves all of them.
type machine struct {
	spec        hostendpoint.Host
	host, peers Netns

	hostIndex map[string]int     // interface index in host
	peerIndex map[string]int     // interface index in peers, by the name in host
	hostMAC   map[string][6]byte // link address in host
	memberOf  []int              // sockets that hold the multicast memberships
	nl        *netlink.Handle    // in host
	reachable map[netip.Addr]string
}

// newMachine builds the interfaces and addresses of a host. On error nothing is left.
func newMachine(h hostendpoint.Host, forwarding bool) (m *machine, err error) {
	m = &machine{
		spec:      h,
		hostIndex: map[string]int{}, peerIndex: map[string]int{}, hostMAC: map[string][6]byte{}, reachable: map[netip.Addr]string{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
			m = nil
		}
	}()
	if m.host, err = newNetns(); err != nil {
		return m, unavailable(err)
	}
	if m.peers, err = newNetns(); err != nil {
		return m, unavailable(err)
	}
	if err = m.host.Do(func() error { return sysctls(hostSysctls(forwarding)) }); err != nil {
		return m, err
	}
	if err = m.peers.Do(func() error { return sysctls(peerSysctls) }); err != nil {
		return m, err
	}
	if m.nl, err = netlink.NewHandleAt(netns.NsHandle(m.host.FD()), unix.NETLINK_ROUTE); err != nil {
		return m, fmt.Errorf("rtnetlink: %w", err)
	}
	peers, err := netlink.NewHandleAt(netns.NsHandle(m.peers.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return m, fmt.Errorf("rtnetlink: %w", err)
	}
	defer peers.Close()

	for i, iface := range h.Interfaces {
		if iface.Name == "lo" {
			continue
		}
		if err = m.addInterface(peers, i, iface.Name); err != nil {
			return m, fmt.Errorf("interface %s: %w", iface.Name, err)
		}
	}
	if err = m.setUp("lo"); err != nil {
		return m, fmt.Errorf("interface lo: %w", err)
	}
	// A link that is not ready yet drops packets, and its IPv6 addresses do not work.
	for _, nl := range []*netlink.Handle{m.nl, peers} {
		if err = waitReady(nl); err != nil {
			return m, err
		}
	}
	for _, iface := range h.Interfaces {
		if err = m.addAddresses(iface); err != nil {
			return m, fmt.Errorf("interface %s: %w", iface.Name, err)
		}
	}
	if err = m.waitLocal(h); err != nil {
		return m, err
	}
	return m, m.host.Do(func() error { return sysctls([]sysctl{{"net/ipv4/conf/lo/route_localnet", "1"}}) })
}

// waitLocal waits until all addresses are delivered to. IPv6 does that later, even without duplicate address detection.
// Ref: net/ipv6/addrconf.c, addrconf_dad_work.
func (m *machine) waitLocal(h hostendpoint.Host) error {
	return poll(func() (missing string, err error) {
		routes, err := m.nl.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return "", fmt.Errorf("list routes: %w", err)
		}
		for _, i := range h.Interfaces {
			for _, a := range i.Addresses {
				local := func(r netlink.Route) bool {
					return r.Type == unix.RTN_LOCAL && r.Dst != nil && r.Dst.IP.Equal(a.Addr().AsSlice())
				}
				if a.Addr().Is6() && !slices.ContainsFunc(routes, local) {
					return "address " + a.Addr().String(), nil
				}
			}
		}
		return "", nil
	})
}

// poll asks until nothing is missing.
func poll(ask func() (missing string, err error)) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		missing, err := ask()
		switch {
		case err != nil || missing == "":
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("%s is not ready", missing)
		}
	}
}

func (m *machine) addInterface(peers *netlink.Handle, number int, name string) error {
	peerName := fmt.Sprintf("p%d", number)
	mac := net.HardwareAddr{0x02, 0, 0, 1, byte(number >> 8), byte(number)}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, mac, 1500
	// Another index than that of the peer: the kernel takes a second to notice links whose two ends have the same.
	// Ref: net/core/link_watch.c, linkwatch_urgent_event.
	attrs.Index = firstIndex + number
	err := m.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: peerName, PeerNamespace: netlink.NsFd(m.peers.FD()), PeerHardwareAddr: peerMAC,
	})
	if err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	peer, err := peers.LinkByName(peerName)
	if err != nil {
		return fmt.Errorf("find peer: %w", err)
	}
	if err := peers.LinkSetUp(peer); err != nil {
		return fmt.Errorf("set peer up: %w", err)
	}
	m.peerIndex[name] = peer.Attrs().Index
	m.hostMAC[name] = [6]byte(mac)
	return m.setUp(name)
}

func (m *machine) setUp(name string) error {
	link, err := m.nl.LinkByName(name)
	if err != nil {
		return err
	}
	m.hostIndex[name] = link.Attrs().Index
	if err := m.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// waitReady waits until all links of a namespace but lo can carry packets.
func waitReady(nl *netlink.Handle) error {
	return poll(func() (missing string, err error) {
		links, err := nl.LinkList()
		if err != nil {
			return "", fmt.Errorf("list links: %w", err)
		}
		for _, l := range links {
			a := l.Attrs()
			if a.Flags&net.FlagUp != 0 && a.Flags&net.FlagLoopback == 0 && a.OperState != netlink.OperUp {
				return "link " + a.Name, nil
			}
		}
		return "", nil
	})
}

func (m *machine) addAddresses(iface hostendpoint.Interface) error {
	name := iface.Name
	link, err := m.nl.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range iface.Addresses {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		} else if a.Bits() < 31 && name != "lo" {
			addr.Broadcast = broadcastOf(a).AsSlice()
		}
		if err := m.nl.AddrAdd(link, addr); err != nil && !(name == "lo" && errors.Is(err, unix.EEXIST)) {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	return nil
}

// firstIndex is the index of the first interface but lo; those of the peers are much lower.
const firstIndex = 1000

// peerMAC is the link address of every peer, so that neighbours need not be told apart.
var peerMAC = net.HardwareAddr{0x02, 0, 0, 2, 0, 0}

// provide makes what t asks for: routes and neighbours of the addresses that packets go to, and memberships.
func (m *machine) provide(t *topology) error {
	for _, a := range slices.SortedFunc(maps.Keys(t.via), netip.Addr.Compare) {
		iface := t.via[a]
		if m.reachable[a] == iface {
			continue
		}
		index, ok := m.hostIndex[iface]
		if !ok {
			return fmt.Errorf("no interface %s", iface)
		}
		bits := a.BitLen()
		err := m.nl.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(a, bits)), Scope: netlink.SCOPE_LINK})
		if err != nil {
			return fmt.Errorf("route %s dev %s: %w", a, iface, err)
		}
		family := unix.AF_INET
		if a.Is6() {
			family = unix.AF_INET6
		}
		err = m.nl.NeighSet(&netlink.Neigh{
			LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: peerMAC,
		})
		if err != nil {
			return fmt.Errorf("neighbour %s dev %s: %w", a, iface, err)
		}
		m.reachable[a] = iface
	}
	for g := range t.groups {
		if m.reachable[g.addr] == g.iface {
			continue
		}
		if err := m.join(g); err != nil {
			return fmt.Errorf("join %s on %s: %w", g.addr, g.iface, err)
		}
		m.reachable[g.addr] = g.iface
	}
	return nil
}

func (m *machine) join(g group) error {
	return m.host.Do(func() error {
		family, level := unix.AF_INET, unix.IPPROTO_IP
		if g.addr.Is6() {
			family, level = unix.AF_INET6, unix.IPPROTO_IPV6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		index := m.hostIndex[g.iface]
		if g.addr.Is4() {
			err = unix.SetsockoptIPMreqn(fd, level, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: g.addr.As4(), Ifindex: int32(index)})
		} else {
			err = unix.SetsockoptIPv6Mreq(fd, level, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: g.addr.As16(), Interface: uint32(index)})
		}
		if err != nil && !errors.Is(err, unix.EADDRINUSE) {
			unix.Close(fd)
			return err
		}
		m.memberOf = append(m.memberOf, fd)
		return nil
	})
}

// close gives everything back; the kernel removes the interfaces with the namespaces.
func (m *machine) close() error {
	if m.nl != nil {
		m.nl.Close()
	}
	for _, fd := range m.memberOf {
		unix.Close(fd)
	}
	return errors.Join(m.host.close(), m.peers.close())
}

type sysctl struct{ name, value string }

func hostSysctls(forwarding bool) []sysctl {
	f := "0"
	if forwarding {
		f = "1"
	}
	return []sysctl{
		{"net/ipv4/ip_forward", f}, {"net/ipv6/conf/all/forwarding", f}, {"net/ipv6/conf/default/forwarding", f},
		{"net/ipv4/conf/all/rp_filter", "0"}, {"net/ipv4/conf/default/rp_filter", "0"}, {"net/ipv4/conf/lo/rp_filter", "0"},
		{"net/ipv4/conf/all/accept_local", "1"}, {"net/ipv4/conf/default/accept_local", "1"},
		{"net/ipv4/conf/all/send_redirects", "0"}, {"net/ipv4/conf/default/send_redirects", "0"},
		{"net/ipv6/conf/default/disable_ipv6", "0"}, {"net/ipv6/conf/lo/disable_ipv6", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"}, {"net/ipv6/conf/default/dad_transmits", "0"},
		// No link-local addresses: they would bring traffic of their own.
		{"net/ipv6/conf/default/addr_gen_mode", "1"}, {"net/ipv6/conf/default/router_solicitations", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
	}
}

var peerSysctls = []sysctl{
	{"net/ipv4/ip_forward", "0"}, {"net/ipv6/conf/all/disable_ipv6", "1"}, {"net/ipv6/conf/default/disable_ipv6", "1"},
	{"net/ipv4/conf/all/arp_ignore", "8"}, {"net/ipv4/conf/default/arp_ignore", "8"},
}

// sysctls writes settings of the namespace that the thread is in.
func sysctls(list []sysctl) error {
	for _, s := range list {
		if err := os.WriteFile(filepath.Join("/proc/sys", s.name), []byte(s.value), 0); err != nil {
			return fmt.Errorf("sysctl %s: %w", s.name, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// unavailable marks errors that mean that there can be no lab.
func unavailable(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
