// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import "github.com/hostpolicy/hostpolicy/hostendpoint/inet"

// Protocol is a protocol as Calico's documents write it: a number, or a name that is kept as written. The zero value is
// the number 0, which is invalid. Comparable. Ref: api/pkg/lib/numorstring/protocol.go.
type Protocol struct {
	Name   string // "TCP"; "" for a numeric protocol
	Number uint8  // meaningful if Name is ""
}

// IP returns the protocol number; false if the name is not one that Calico knows.
func (p Protocol) IP() (inet.Protocol, bool) {
	if p.Name == "" {
		return inet.Protocol(p.Number), true
	}
	n, ok := inet.ParseProtocol(p.Name)
	return n, ok
}

// Port is a single port, a range, or the name of an endpoint port. The zero value is port 0, which is invalid.
// Comparable. Ref: api/pkg/lib/numorstring/port.go.
type Port struct {
	Min, Max uint16
	Name     string // "" for a numeric port; Min and Max are 0 if it is set
}
