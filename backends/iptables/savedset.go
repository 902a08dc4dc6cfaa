// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// savedSet is a set of ours as ipset prints it.
type savedSet struct {
	kind     ir.SetKind // 0 if the type is none of ours
	family   inet.Family
	max      int
	elements []ir.Element
	odd      []string // elements that we would never write
}

// parseSavedSets reads the output of "ipset save".
func parseSavedSets(data []byte, prefix string) (map[string]*savedSet, error) {
	sets := map[string]*savedSet{}
	line := 0
	for l := range strings.Lines(string(data)) {
		line++
		l = strings.TrimSuffix(l, "\n")
		command, rest, _ := strings.Cut(l, " ")
		name, rest, ok := strings.Cut(rest, " ")
		switch {
		case l == "":
		case !ok || command != "create" && command != "add":
			return nil, fmt.Errorf("iptables: line %d of ipset save is not understood: %q", line, l)
		case !render.OwnsSet(prefix, name):
		case command == "create":
			sets[name] = parseCreate(strings.Fields(rest))
		case sets[name] == nil:
			return nil, fmt.Errorf("iptables: line %d of ipset save is not understood: %q", line, l)
		default:
			s := sets[name]
			if e, ok := parseMember(rest, s.kind); ok {
				s.elements = append(s.elements, e)
			} else {
				s.odd = append(s.odd, rest)
			}
		}
	}
	for _, s := range sets {
		slices.SortFunc(s.elements, ir.CompareElements)
	}
	return sets, nil
}

func parseCreate(words []string) *savedSet {
	s := &savedSet{}
	switch words[0] {
	case "hash:net":
		s.kind = ir.SetOfPrefixes
	case "hash:net,port":
		s.kind = ir.SetOfEndpoints
	}
	for i := 1; i < len(words); i++ {
		switch words[i] {
		case "family":
			if i++; i < len(words) && words[i] == "inet" {
				s.family = inet.IPv4
			} else if i < len(words) && words[i] == "inet6" {
				s.family = inet.IPv6
			}
		case "maxelem":
			if i++; i < len(words) {
				s.max, _ = strconv.Atoi(words[i])
			}
		case "hashsize", "bucketsize", "initval":
			i++
		default: // timeouts, counters, comments: none of ours
			s.kind = 0
		}
	}
	return s
}

// parseMember reads an element as ipset prints it. False if it holds something that we never write.
func parseMember(text string, kind ir.SetKind) (ir.Element, bool) {
	var e ir.Element
	addr := text
	if kind == ir.SetOfEndpoints {
		var pp string
		var ok bool
		if addr, pp, ok = strings.Cut(text, ","); !ok {
			return e, false
		}
		name, port, ok := strings.Cut(pp, ":")
		n, err := strconv.ParseUint(port, 10, 16)
		if !ok || err != nil {
			return e, false
		}
		num, known := protocols[name]
		if !known {
			x, err := strconv.ParseUint(name, 10, 8)
			if err != nil {
				return e, false
			}
			num = int(x)
		}
		e.Protocol, e.Port = inet.Protocol(num), uint16(n)
	}
	if strings.Contains(addr, "/") {
		p, err := netip.ParsePrefix(addr)
		if err != nil {
			return e, false
		}
		e.Prefix = p
		return e, true
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return e, false
	}
	e.Prefix = netip.PrefixFrom(a, a.BitLen())
	return e, true
}

// fits reports whether the set can hold what s holds.
func (x *savedSet) fits(s *render.Set) bool {
	return x.kind == s.Kind && x.family == s.Family && x.max == s.Max && len(x.odd) == 0
}
