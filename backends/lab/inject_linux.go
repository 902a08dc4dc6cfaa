// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// injector sends packets: what arrives at the host as frames from the other end of the link, what the host sends as raw
// IP from the host itself.
type injector struct {
	m          *machine
	link       int // AF_PACKET in the namespace of the peers
	loop       int // AF_PACKET in the host, for what arrives on lo
	raw4, raw6 int
	bound      map[string][2]int // raw sockets bound to an interface: IPv4 and IPv6
}

func newInjector(m *machine) (in *injector, err error) {
	in = &injector{m: m, link: -1, loop: -1, raw4: -1, raw6: -1, bound: map[string][2]int{}}
	defer func() {
		if err != nil {
			in.close()
			in = nil
		}
	}()
	if err = m.peers.Do(func() (err error) { in.link, err = packetSocket(); return err }); err != nil {
		return in, err
	}
	err = m.host.Do(func() (err error) {
		if in.loop, err = packetSocket(); err != nil {
			return err
		}
		in.raw4, in.raw6, err = rawSockets("")
		return err
	})
	return in, err
}

func packetSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, unavailable(fmt.Errorf("packet socket: %w", err))
	}
	return fd, nil
}

// rawSockets opens sockets on which the sender writes the IP header.
func rawSockets(iface string) (v4, v6 int, err error) {
	open := func(family int) (int, error) {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return -1, unavailable(fmt.Errorf("raw socket: %w", err))
		}
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		if err == nil && iface != "" {
			err = unix.BindToDevice(fd, iface)
		}
		if err == nil && family == unix.AF_INET {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0)
		} else if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0)
		}
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("raw socket: %w", err)
		}
		return fd, nil
	}
	if v4, err = open(unix.AF_INET); err != nil {
		return -1, -1, err
	}
	if v6, err = open(unix.AF_INET6); err != nil {
		unix.Close(v4)
		return -1, -1, err
	}
	return v4, v6, nil
}

// send sends the IP packets that make up p.
func (in *injector) send(p *flow.Packet, packets [][]byte, bind string) error {
	for _, b := range packets {
		var err error
		switch {
		case p.Path == flow.Output:
			err = in.sendRaw(p, b, bind)
		case p.In == "lo":
			err = sendFrame(in.loop, in.m.hostIndex["lo"], [6]byte{}, [6]byte{}, p, b)
		default:
			index, ok := in.m.peerIndex[p.In]
			if !ok {
				return fmt.Errorf("no interface %s", p.In)
			}
			err = sendFrame(in.link, index, destinationMAC(p.Dst, in.m.hostMAC[p.In], in.m.spec), [6]byte(peerMAC), p, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func sendFrame(fd, index int, dst, src [6]byte, p *flow.Packet, b []byte) error {
	ether := uint16(unix.ETH_P_IP)
	if p.Dst.Is6() {
		ether = unix.ETH_P_IPV6
	}
	frame := make([]byte, 0, 14+len(b))
	frame = append(frame, dst[:]...)
	frame = append(frame, src[:]...)
	frame = binary.BigEndian.AppendUint16(frame, ether)
	frame = append(frame, b...)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{
		Protocol: ether<<8 | ether>>8, Ifindex: index, Halen: 6, Addr: [8]byte{dst[0], dst[1], dst[2], dst[3], dst[4], dst[5]},
	})
}

func (in *injector) sendRaw(p *flow.Packet, b []byte, bind string) error {
	fd4, fd6, zone := in.raw4, in.raw6, uint32(0)
	if bind != "" {
		fds, ok := in.bound[bind]
		if !ok {
			err := in.m.host.Do(func() (err error) {
				fds[0], fds[1], err = rawSockets(bind)
				return err
			})
			if err != nil {
				return err
			}
			in.bound[bind] = fds
		}
		fd4, fd6, zone = fds[0], fds[1], uint32(in.m.hostIndex[bind])
	}
	var err error
	if p.Dst.Is4() {
		err = unix.Sendto(fd4, b, 0, &unix.SockaddrInet4{Addr: p.Dst.As4()})
	} else {
		err = unix.Sendto(fd6, b, 0, &unix.SockaddrInet6{Addr: p.Dst.As16(), ZoneId: zone})
	}
	if errors.Is(err, unix.EPERM) {
		return nil // a hook dropped it; the tap drops every packet
	}
	return err
}

func (in *injector) close() {
	for _, fd := range []int{in.link, in.loop, in.raw4, in.raw6} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	for _, fds := range in.bound {
		unix.Close(fds[0])
		unix.Close(fds[1])
	}
}
