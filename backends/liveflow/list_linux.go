// SPDX-License-Identifier: Apache-2.0

package liveflow

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// States of sockets. Ref: include/net/tcp_states.h.
const (
	sockEstablished = 1
	sockSynRecv     = 3
	sockTimeWait    = 6
	sockClose       = 7
	sockListen      = 10
)

// List returns the flows of a network namespace, which a file descriptor names; 0 is that of the calling thread. It needs
// CAP_NET_ADMIN there; names of processes are known where /proc shows them.
func List(ctx context.Context, netNS int) ([]Flow, error) {
	ct, err := openConntrack(netNS)
	if err != nil {
		return nil, err
	}
	defer ct.close()
	entries, err := ct.list(ctx)
	if err != nil {
		return nil, err
	}
	h := netns.None()
	if netNS > 0 {
		h = netns.NsHandle(netNS)
	}
	nl, err := netlink.NewHandleAt(h, unix.NETLINK_ROUTE, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	defer nl.Close()
	l := lister{nl: nl, routes: map[netip.Addr]string{}, names: map[int]string{}}
	if err := l.addresses(); err != nil {
		return nil, err
	}
	sockets, err := l.sockets()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	strict, err := tcpStrict(netNS)
	if err != nil {
		return nil, err
	}
	known := map[flow.Tuple]bool{}
	var out []Flow
	for _, e := range entries {
		known[e.orig], known[e.reply] = true, true
		if e.over() {
			continue
		}
		f := Flow{Tuple: e.orig, Tracked: true, Answered: e.status&ipsSeenReply != 0, entry: e}
		if e.reply.Src != e.orig.Dst || e.reply.SrcPort != e.orig.DstPort {
			f.NATDst = netip.AddrPortFrom(e.reply.Src, e.reply.SrcPort)
		}
		l.place(&f)
		s := sockets.at[e.orig]
		if s == nil {
			s = sockets.at[e.reply]
		}
		if s != nil {
			f.Process = s.process
		}
		out = append(out, f)
	}
	for _, s := range sockets.all {
		if known[s.tuple] || known[reverse(s.tuple)] {
			continue
		}
		t := s.tuple // from the host
		if s.tuple.Src == s.tuple.Dst || l.local[t.Dst] {
			known[s.tuple], known[reverse(s.tuple)] = true, true // both ends are here
		}
		if sockets.listening(t) {
			t = reverse(t)
		}
		f := Flow{Tuple: t, Process: s.process, Answered: s.answered}
		l.place(&f)
		out = append(out, f)
	}
	for i := range out {
		out[i].strict = strict && out[i].Tuple.Protocol == inet.TCP
	}
	slices.SortStableFunc(out, func(a, b Flow) int { return strings.Compare(a.Tuple.String(), b.Tuple.String()) })
	return out, nil
}

// tcpStrict reports whether connection tracking of a namespace refuses to begin in the midst of a TCP connection.
// Ref: Documentation/networking/nf_conntrack-sysctl.rst, nf_conntrack_tcp_loose.
func tcpStrict(netNS int) (strict bool, err error) {
	read := func() error {
		b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
		if errors.Is(err, os.ErrNotExist) {
			return nil // no connection tracking yet, so that it begins with the default
		}
		strict = strings.TrimSpace(string(b)) == "0"
		return err
	}
	if netNS <= 0 {
		err := read()
		return strict, err
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Setns(netNS, unix.CLONE_NEWNET)
		if err == nil {
			err = read()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return false, fmt.Errorf("read a setting of the namespace: %w", err)
	}
	return strict, nil
}

// lister asks a namespace.
type lister struct {
	nl     *netlink.Handle
	local  map[netip.Addr]bool
	routes map[netip.Addr]string
	names  map[int]string
}

// again is how often a list is asked for that changed while it was read.
const again = 5

// whole repeats what vishvananda/netlink calls interrupted.
func whole[T any](list func() (T, error)) (T, error) {
	var x T
	var err error
	for range again {
		if x, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return x, err
		}
	}
	return x, err
}

func (l *lister) addresses() error {
	as, err := whole(func() ([]netlink.Addr, error) { return l.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	l.local = make(map[netip.Addr]bool, len(as))
	for _, a := range as {
		if x, ok := netip.AddrFromSlice(a.IP); ok {
			l.local[x.Unmap()] = true
		}
	}
	return nil
}

// socket is one that is connected.
type socket struct {
	tuple    flow.Tuple // what it sends
	process  string
	answered bool
}

type sockets struct {
	all    []*socket
	at     map[flow.Tuple]*socket // by both tuples
	listen map[uint16]bool        // TCP ports
}

// listening reports whether somebody listens at the source of a tuple, so that its flow came from the other side.
func (s *sockets) listening(t flow.Tuple) bool { return t.Protocol == inet.TCP && s.listen[t.SrcPort] }

func (l *lister) sockets() (*sockets, error) {
	out := &sockets{at: map[flow.Tuple]*socket{}, listen: map[uint16]bool{}}
	inodes := map[uint32]*socket{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, kind := range []struct {
			protocol inet.Protocol
			list     func(uint8) ([]*netlink.Socket, error)
		}{{inet.TCP, l.nl.SocketDiagTCP}, {inet.UDP, l.nl.SocketDiagUDP}} {
			list, err := whole(func() ([]*netlink.Socket, error) { return kind.list(family) })
			if err != nil {
				return nil, fmt.Errorf("list %s sockets: %w", kind.protocol, err)
			}
			for _, s := range list {
				switch {
				case kind.protocol == inet.TCP && s.State == sockListen:
					out.listen[s.ID.SourcePort] = true
					continue
				case kind.protocol == inet.TCP && (s.State == sockTimeWait || s.State == sockClose):
					continue
				case kind.protocol == inet.UDP && s.State != sockEstablished:
					continue
				}
				src, ok1 := netip.AddrFromSlice(s.ID.Source)
				dst, ok2 := netip.AddrFromSlice(s.ID.Destination)
				src, dst = src.Unmap(), dst.Unmap()
				if !ok1 || !ok2 || dst.IsUnspecified() || src.Is4() != dst.Is4() {
					continue
				}
				x := &socket{answered: s.State == sockEstablished || s.State > sockSynRecv, tuple: flow.Tuple{Protocol: kind.protocol, Src: src, Dst: dst, SrcPort: s.ID.SourcePort, DstPort: s.ID.DestinationPort}}
				out.all = append(out.all, x)
				out.at[x.tuple], out.at[reverse(x.tuple)] = x, x
				if s.INode != 0 {
					inodes[s.INode] = x
				}
			}
		}
	}
	if len(inodes) > 0 {
		processes(inodes)
	}
	return out, nil
}

// processes finds the names of the processes that have sockets, as far as /proc shows them.
func processes(inodes map[uint32]*socket) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range dirs {
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // ended meanwhile, or not ours to see
		}
		name := ""
		for _, fd := range fds {
			link, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if err != nil {
				continue
			}
			n, ok := strings.CutPrefix(link, "socket:[")
			if !ok {
				continue
			}
			inode, err := strconv.ParseUint(strings.TrimSuffix(n, "]"), 10, 32)
			if err != nil {
				continue
			}
			s := inodes[uint32(inode)]
			if s == nil || s.process != "" {
				continue
			}
			if name == "" {
				b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "comm"))
				if err != nil {
					break
				}
				name = strings.TrimSpace(string(b))
			}
			s.process = name
		}
	}
}

// place finds out which way the flow goes.
func (l *lister) place(f *Flow) {
	dst := f.Tuple.Dst
	if f.NATDst.IsValid() {
		dst = f.NATDst.Addr()
	}
	f.dstLocal = l.isLocal(f.Tuple.Dst)
	switch {
	case l.isLocal(f.Tuple.Src):
		f.Path, f.Out = flow.Output, l.route(dst)
		if f.NATDst.IsValid() {
			if r := l.route(f.Tuple.Dst); r != f.Out {
				f.routeOut = r
			}
		}
	case l.isLocal(dst):
		f.Path, f.In = flow.Input, l.route(f.Tuple.Src)
	default:
		f.Path, f.In, f.Out = flow.Forward, l.route(f.Tuple.Src), l.route(dst)
	}
}

func (l *lister) isLocal(a netip.Addr) bool { return a.IsLoopback() || l.local[a] }

// route returns the interface to an address; "" if there is no way to it.
func (l *lister) route(a netip.Addr) string {
	if l.isLocal(a) {
		return "lo"
	}
	if name, ok := l.routes[a]; ok {
		return name
	}
	name := ""
	if rs, err := l.nl.RouteGet(net.IP(a.AsSlice())); err == nil && len(rs) > 0 {
		index := rs[0].LinkIndex
		var ok bool
		if name, ok = l.names[index]; !ok {
			if link, err := l.nl.LinkByIndex(index); err == nil {
				name = link.Attrs().Name
			}
			l.names[index] = name
		}
	}
	l.routes[a] = name
	return name
}

// Cut takes flows out of the kernel's table of connections, so that they have to be let in anew. It returns how many
// there were; flows that are not tracked are left alone.
func Cut(ctx context.Context, netNS int, flows []Flow) (int, error) {
	ct, err := openConntrack(netNS)
	if err != nil {
		return 0, err
	}
	defer ct.close()
	n := 0
	var errs []error
	for i := range flows {
		if flows[i].entry == nil {
			continue
		}
		done, err := ct.remove(ctx, flows[i].entry)
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		if err != nil {
			errs = append(errs, err)
		} else if done {
			n++
		}
	}
	return n, errors.Join(errs...)
}
