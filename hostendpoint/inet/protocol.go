// SPDX-License-Identifier: Apache-2.0

// Package inet holds the small value types of packets: protocols, ports, port ranges and prefix sets. All are
// immutable and comparable or canonical, and safe for concurrent use.
package inet

import (
	"strconv"
	"strings"
)

// Protocol is the number of an IP protocol or IPv6 next header. Ref: IANA protocol numbers. The zero value is HOPOPT,
// which no rule can name.
type Protocol uint8

// The protocols that Calico knows by name.
const (
	ICMP    Protocol = 1
	TCP     Protocol = 6
	UDP     Protocol = 17
	ICMPv6  Protocol = 58
	SCTP    Protocol = 132
	UDPLite Protocol = 136
)

// String returns the lower-case name used in case files and origins ("tcp", "icmp6"), or the decimal number.
func (p Protocol) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmp6"
	case SCTP:
		return "sctp"
	case UDPLite:
		return "udplite"
	}
	return strconv.Itoa(int(p))
}

// ParseProtocol reads what String writes, and Calico's names in any case ("TCP", "ICMPv6").
func ParseProtocol(s string) (Protocol, bool) {
	switch strings.ToLower(s) {
	case "icmp":
		return ICMP, true
	case "tcp":
		return TCP, true
	case "udp":
		return UDP, true
	case "icmp6", "icmpv6":
		return ICMPv6, true
	case "sctp":
		return SCTP, true
	case "udplite":
		return UDPLite, true
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return Protocol(n), err == nil
}

// HasPorts reports whether rules may match ports of the protocol: TCP, UDP and SCTP. Calico does not count UDPLite.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// Family is an IP version. The zero value means either.
type Family uint8

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "4", "6" or "any".
func (f Family) String() string {
	switch f {
	case IPv4:
		return "4"
	case IPv6:
		return "6"
	}
	return "any"
}

// PortRange is a closed range of ports. The zero value holds port 0 alone.
type PortRange struct{ Min, Max uint16 }

// Contains reports whether p lies in r.
func (r PortRange) Contains(p uint16) bool { return r.Min <= p && p <= r.Max }

// String returns "80" or "80:90", as Calico writes ranges.
func (r PortRange) String() string {
	if r.Min == r.Max {
		return strconv.Itoa(int(r.Min))
	}
	return strconv.Itoa(int(r.Min)) + ":" + strconv.Itoa(int(r.Max))
}
