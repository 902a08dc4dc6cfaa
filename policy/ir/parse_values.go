// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

func parseClause(w string) (Clause, error) {
	c := Clause{}
	if w == "false" {
		return c, nil
	}
	for _, s := range splitOutsideQuotes(w, '|') {
		t, err := parseTerm(s)
		if err != nil {
			return nil, err
		}
		c = append(c, t)
	}
	return c, nil
}

func parseTerm(s string) (Term, error) {
	names, value, ok := strings.Cut(s, "=")
	if !ok {
		return nil, fmt.Errorf("%q is not a term: want FIELD=VALUES or FIELD!=VALUES", s)
	}
	names, not := strings.CutSuffix(names, "!")
	var fields []Field
	for _, n := range strings.Split(names, ".") {
		f, err := ParseField(n)
		if err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	if strings.HasPrefix(value, "@") {
		id, err := unquote(value[1:])
		return InSet{Fields: fields, Set: SetID(id), Not: not}, err
	}
	if len(fields) != 1 {
		return nil, fmt.Errorf("%q: only sets have members of several fields", s)
	}
	var vals []string
	if value != "" {
		vals = splitOutsideQuotes(value, ',')
	}
	switch f := fields[0]; f {
	case InIface, OutIface:
		t := InNames{Field: f, Not: not}
		for _, v := range vals {
			name, prefix := strings.CutSuffix(v, "*")
			name, err := unquote(name)
			if err != nil {
				return nil, err
			}
			t.Names = append(t.Names, NamePattern{Name: name, Prefix: prefix})
		}
		return t, nil
	case SrcAddr, DstAddr:
		t := InPrefixes{Field: f, Not: not}
		for _, v := range vals {
			p, err := parsePrefix(v)
			if err != nil {
				return nil, err
			}
			t.Prefixes = append(t.Prefixes, p)
		}
		return t, nil
	case SrcPort, DstPort:
		t := InPorts{Field: f, Not: not}
		for _, v := range vals {
			lo, hi, err := parseRange(f, v)
			if err != nil {
				return nil, err
			}
			t.Ranges = append(t.Ranges, inet.PortRange{Min: lo, Max: hi})
		}
		return t, nil
	default:
		t := InMask{Field: f, Not: not}
		for _, v := range vals {
			lo, hi, err := parseRange(f, v)
			if err != nil {
				return nil, err
			}
			for n := int(lo); n <= int(hi); n++ {
				m := MaskOf(uint8(n))
				for i := range t.Mask {
					t.Mask[i] |= m[i]
				}
			}
		}
		return t, nil
	}
}

// parseRange reads a number, a name of the field, or two of them around a "-".
func parseRange(f Field, s string) (lo, hi uint16, err error) {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		lo, err = parseNumber(f, s)
		return lo, lo, err
	}
	if lo, err = parseNumber(f, a); err != nil {
		return 0, 0, err
	}
	if hi, err = parseNumber(f, b); err != nil {
		return 0, 0, err
	}
	if lo > hi {
		return 0, 0, fmt.Errorf("%q: the range is empty", s)
	}
	return lo, hi, nil
}

func parseNumber(f Field, s string) (uint16, error) {
	switch f {
	case Protocol:
		if p, ok := inet.ParseProtocol(s); ok {
			return uint16(p), nil
		}
		return 0, fmt.Errorf("unknown protocol %q", s)
	case State:
		if st, err := flow.ParseConnState(s); err == nil {
			return uint16(st), nil
		}
	}
	size := 8
	if f == SrcPort || f == DstPort {
		size = 16
	}
	n, err := strconv.ParseUint(s, 10, size)
	if err != nil {
		return 0, fmt.Errorf("%q is not a value of the field %s", s, f)
	}
	return uint16(n), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not a prefix", s)
		}
		return p, nil
	}
	a, err := parseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an address", s)
	}
	return a, nil
}

func parseInterval(f Field, s string) (Interval, error) {
	if s == "*" {
		return f.Domain(), nil
	}
	if len(s) == 69 && strings.HasPrefix(s, "0x") && s[34:37] == "-0x" {
		var i Interval
		_, err := hex.Decode(i.Lo[:], []byte(s[2:34]))
		if err == nil {
			_, err = hex.Decode(i.Hi[:], []byte(s[37:]))
		}
		return i, err
	}
	switch f {
	case InIface, OutIface:
		body, prefix := strings.CutSuffix(s, "*")
		name, err := unquote(body)
		if err != nil {
			return Interval{}, err
		}
		v, ok := Name(name)
		if !ok {
			return Interval{}, fmt.Errorf("%q is not the name of an interface", name)
		}
		if prefix {
			i, _ := NamePrefix(name)
			return i, nil
		}
		return Exactly(v), nil
	case SrcAddr, DstAddr:
		if strings.Contains(s, "/") {
			p, err := parsePrefix(s)
			if err != nil {
				return Interval{}, err
			}
			is := AddrPrefix(p.Masked())
			if len(is) != 1 || p != p.Masked() {
				return Interval{}, fmt.Errorf("%q is not one interval", s)
			}
			return is[0], nil
		}
		a, b, ok := strings.Cut(s, "-")
		lo, err := parseAddr(a)
		if err != nil {
			return Interval{}, err
		}
		if !ok {
			return Exactly(Addr(lo)), nil
		}
		hi, err := parseAddr(b)
		if err != nil {
			return Interval{}, err
		}
		return Interval{Addr(lo), Addr(hi)}, nil
	}
	lo, hi, err := parseRange(f, s)
	return Interval{Number(lo), Number(hi)}, err
}

// splitOutsideQuotes cuts s at each sep that is not inside quotes. Quotes are known to be closed.
func splitOutsideQuotes(s string, sep byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(s); {
		switch s[i] {
		case sep:
			parts = append(parts, s[start:i])
			i++
			start = i
		case '"':
			q, err := strconv.QuotedPrefix(s[i:])
			if err != nil {
				return append(parts, s[start:])
			}
			i += len(q)
		default:
			i++
		}
	}
	return append(parts, s[start:])
}

// unquote returns the text of a word that may be quoted.
func unquote(w string) (string, error) {
	if strings.HasPrefix(w, `"`) {
		s, err := strconv.Unquote(w)
		if err != nil {
			return "", fmt.Errorf("%s is not a quoted name", w)
		}
		return s, nil
	}
	if w == "" || strings.Contains(w, `"`) {
		return "", fmt.Errorf("%q is not a name", w)
	}
	return w, nil
}
