// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

const (
	// maxChain is the longest name of a chain. Ref: linux/netfilter/x_tables.h, XT_EXTENSION_MAXNAMELEN, less the zero
	// byte; Calico: felix/iptables/table.go, MaxChainNameLength.
	maxChain = 28
	// maxSet is the longest name of a set, two bytes of which backends may use. Ref: linux/netfilter/ipset/ip_set.h,
	// IPSET_MAXNAMELEN.
	maxSet = 29
	// maxComment is the longest comment. Ref: linux/netfilter/xt_comment.h, XT_MAX_COMMENT_LEN.
	maxComment = 255
	// maxPrefix is the longest prefix of a log event. Ref: linux/netfilter/xt_NFLOG.h.
	maxPrefix = 63
)

// hashLen is the length of the hash in names: 60 bits.
const hashLen = 12

// digits are those of the hash in names. No two look alike.
const digits = "abcdefghijkmnpqrstuvwxyz23456789"

func hashText(sum [sha256.Size]byte) string {
	var t [hashLen]byte
	acc, bits, next := uint32(0), 0, 0
	for i := range t {
		if bits < 5 {
			acc = acc<<8 | uint32(sum[next])
			next++
			bits += 8
		}
		bits -= 5
		t[i] = digits[acc>>bits&31]
	}
	return string(t[:])
}

// label returns the readable part of the names of chains: the beginning of text in letters, digits and '.'.
func label(prefix, text string) string {
	room := maxChain - len(prefix) - 1 - hashLen
	b := make([]byte, 0, room)
	for i := 0; i < len(text) && len(b) < room; i++ {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.':
			b = append(b, c)
		default:
			b = append(b, '_')
		}
	}
	return string(b)
}

// OwnsChain reports whether a chain of this name belongs to the instance with the given prefix.
func OwnsChain(prefix, name string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return false
	}
	switch rest {
	case "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING":
		return true
	}
	i := strings.IndexByte(rest, '-')
	if i < 0 || len(rest)-i-1 != hashLen {
		return false
	}
	for _, c := range []byte(rest[i+1:]) {
		if strings.IndexByte(digits, c) < 0 {
			return false
		}
	}
	return true
}

// OwnsSet reports whether a set of this name belongs to the instance with the given prefix.
func OwnsSet(prefix, name string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && (strings.HasPrefix(rest, "4") || strings.HasPrefix(rest, "6"))
}

// setName returns the name of the set for one family of an IR set, such as "hp-4s:vp0q". Different sets have different
// names.
func setName(prefix string, id ir.SetID, f inet.Family) string {
	head := prefix + f.String()
	if len(head)+len(id) <= maxSet && plainID(string(id)) {
		return head + string(id)
	}
	// '~' is in no plain ID.
	return head + "~" + hashText(sha256.Sum256([]byte(id)))
}

func plainID(s string) bool {
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == ':' || c == '_' || c == '-' || c == '.') {
			return false
		}
	}
	return s != ""
}

// clean returns s, cut to limit bytes, with the bytes replaced that have a meaning between quotes or that iptables-save
// would print in another way.
func clean(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	for i := 0; i < len(s); i++ {
		if !cleanByte(s[i]) {
			b := []byte(s)
			for j, c := range b {
				if !cleanByte(c) {
					b[j] = '_'
				}
			}
			return string(b)
		}
	}
	return s
}

func cleanByte(c byte) bool {
	return ' ' <= c && c <= '~' && c != '"' && c != '\\' && c != '\'' && c != '`'
}

// appendComment appends the comment of rules that decide by o.
func appendComment(b []byte, o *flow.Origin) []byte {
	start := len(b)
	text := o.String()
	b = append(b, text...)
	sum := sha256.Sum256(b[start:]) // whose beginning is the RuleKey
	b = hex.AppendEncode(b[:start], sum[:8])
	b = append(append(b, ' '), text...)
	if o.Pos.File != "" {
		if p := o.Pos.String(); len(b)-start+1+len(p) <= maxComment {
			b = append(append(b, ' '), p...)
		}
	}
	b = b[:min(len(b), start+maxComment)]
	for i := start; i < len(b); i++ {
		if !cleanByte(b[i]) {
			b[i] = '_'
		}
	}
	return b
}

// CommentKey returns the RuleKey at the beginning of a rule's comment; false if there is none.
func CommentKey(comment string) (flow.RuleKey, bool) {
	if len(comment) < 16 || len(comment) > 16 && comment[16] != ' ' {
		return 0, false
	}
	k, err := flow.ParseRuleKey(comment[:16])
	return k, err == nil
}
