// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// Protocol is a protocol as Calico's documents write it: a number, or a name that is kept as written. The zero value is
// the number 0, which is invalid. Comparable. Ref: api/pkg/lib/numorstring/protocol.go.
type Protocol struct {
	Name   string // "TCP"; "" for a numeric protocol
	Number uint8  // meaningful if Name is ""
}

// ParseProtocol reads the text form of a protocol. Text that is a decimal number up to 255 is that number; anything else
// is kept as a name, in the case in which it was written.
//
// Calico: "tcp" is accepted here and rejected by Validate, as its JSON decoder does not fold case.
func ParseProtocol(s string) Protocol {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return Protocol{Number: uint8(n)}
	}
	return Protocol{Name: s}
}

// IP returns the protocol number; false if the name is not one that Calico knows.
func (p Protocol) IP() (inet.Protocol, bool) {
	if p.Name == "" {
		return inet.Protocol(p.Number), true
	}
	n, ok := inet.ParseProtocol(p.Name)
	return n, ok
}

// String returns the name or the decimal number.
func (p Protocol) String() string {
	if p.Name == "" {
		return strconv.Itoa(int(p.Number))
	}
	return p.Name
}

// MarshalJSON writes a name as a string and a number as a number.
func (p Protocol) MarshalJSON() ([]byte, error) {
	if p.Name == "" {
		return strconv.AppendUint(nil, uint64(p.Number), 10), nil
	}
	return json.Marshal(p.Name)
}

// UnmarshalJSON accepts a string or a number from 0 to 255. Null reads as the number 0. On error p is unchanged.
func (p *Protocol) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*p = ParseProtocol(s)
		return nil
	}
	var n uint8
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("%w: a protocol is a name or a number from 0 to 255, not %s", field.ErrInvalid, b)
	}
	*p = Protocol{Number: n}
	return nil
}

// Port is a single port, a range, or the name of an endpoint port. The zero value is port 0, which is invalid.
// Comparable. Ref: api/pkg/lib/numorstring/port.go.
type Port struct {
	Min, Max uint16
	Name     string // "" for a numeric port; Min and Max are 0 if it is set
}

// maxDecodedPortName is the longest text that Calico's decoder takes for a port name; Validate is stricter.
const maxDecodedPortName = 128

// ParsePort reads the text form of a port: "80", "80:90", or a name.
//
// Calico: "80-90" is a name, which Validate rejects since it has no letter.
func ParsePort(s string) (Port, error) {
	lo, hi, isRange := strings.Cut(s, ":")
	if allDigits(lo) && (!isRange || allDigits(hi)) {
		if !isRange {
			hi = lo
		}
		from, err1 := strconv.ParseUint(lo, 10, 16)
		to, err2 := strconv.ParseUint(hi, 10, 16)
		if err1 != nil || err2 != nil {
			return Port{}, fmt.Errorf("%w: a port number is at most 65535, not %q", field.ErrInvalid, s)
		}
		if from > to {
			return Port{}, fmt.Errorf("%w: port range %q ends before it begins", field.ErrInvalid, s)
		}
		return Port{Min: uint16(from), Max: uint16(to)}, nil
	}
	if s == "" || len(s) > maxDecodedPortName || !inNameAlphabet(s) {
		return Port{}, fmt.Errorf("%w: a port is a number, a range such as 80:90, or a name, not %q", field.ErrInvalid, s)
	}
	return Port{Name: s}, nil
}

// IsNamed reports whether p is the name of an endpoint port.
func (p Port) IsNamed() bool { return p.Name != "" }

// Range returns the ports of a numeric port; false for a named one.
func (p Port) Range() (inet.PortRange, bool) {
	return inet.PortRange{Min: p.Min, Max: p.Max}, p.Name == ""
}

// String returns the name, "80", or "80:90".
func (p Port) String() string {
	if p.Name != "" {
		return p.Name
	}
	return inet.PortRange{Min: p.Min, Max: p.Max}.String()
}

// MarshalJSON writes a single port as a number, a range and a name as a string.
func (p Port) MarshalJSON() ([]byte, error) {
	if p.Name == "" && p.Min == p.Max {
		return strconv.AppendUint(nil, uint64(p.Min), 10), nil
	}
	return json.Marshal(p.String())
}

// UnmarshalJSON accepts a number from 0 to 65535 or the text that ParsePort reads. Null reads as port 0. On error p is
// unchanged.
func (p *Port) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		v, err := ParsePort(s)
		if err != nil {
			return err
		}
		*p = v
		return nil
	}
	var n uint16
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("%w: a port is a number from 0 to 65535, a range such as \"80:90\", or a name, not %s", field.ErrInvalid, b)
	}
	*p = Port{Min: n, Max: n}
	return nil
}

func allDigits(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}
