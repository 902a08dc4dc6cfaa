// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

const (
	// maxNameLen keeps names of objects well below the kernel's 255 bytes. Ref: linux/netfilter/nf_tables.h,
	// NFT_NAME_MAXLEN.
	maxNameLen = 100
	// maxComment is what nft itself can print. Ref: libnftnl/udata.h, NFTNL_UDATA_COMMENT_MAXLEN, with the zero byte.
	maxComment = 127
	// maxPrefix is NF_LOG_PREFIXLEN of linux/netfilter/nf_log.h less the zero byte.
	maxPrefix = 127
)

// TableComment stands in every table of ours.
const TableComment = "hostpolicy"

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.' || c == '/'
}

// plainName reports whether nft reads s as the name of an object, keywords apart.
func plainName(s string) bool {
	if s == "" || !('a' <= s[0] && s[0] <= 'z' || 'A' <= s[0] && s[0] <= 'Z') {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !nameByte(s[i]) {
			return false
		}
	}
	return true
}

// chainName returns the name of the chain for the given text. Different texts may have the same name; see freeName. No
// name is a keyword of nft, since none of those holds a '/' or '.'.
func chainName(text string) string {
	if plainName(text) && len(text) <= maxNameLen && strings.ContainsAny(text, "/.") {
		return text
	}
	clean := []byte(text)
	for i, c := range clean {
		switch {
		case c == ':':
			clean[i] = '.'
		case !nameByte(c):
			clean[i] = '_'
		}
	}
	name := string(clean)
	if !plainName(name) || !strings.ContainsAny(name, "/.") {
		name = "b/" + name
	}
	if len(name) > maxNameLen {
		name = name[:maxNameLen-17] + "." + shortHash(text)
	}
	return name
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// setName returns the name of the set for one family of an IR set, such as "v4.s.vp0q", and "a4.s.vp0q" if it holds
// addresses only. Different sets have different names.
func setName(id ir.SetID, f inet.Family, exact bool) string {
	prefix := [...]string{"v4.", "v6.", "a4.", "a6."}
	n := 0
	if f == inet.IPv6 {
		n++
	}
	if exact {
		n += 2
	}
	kind, rest, ok := strings.Cut(string(id), ":")
	if ok && len(id) <= maxNameLen && plainName(kind) && nameBytes(rest) && !strings.ContainsAny(kind, "./") {
		return prefix[n] + kind + "." + rest
	}
	sum := sha256.Sum256([]byte(id))
	return prefix[n] + hex.EncodeToString(sum[:16]) // no '.' behind the family: none of the names above
}

func nameBytes(s string) bool {
	for i := 0; i < len(s); i++ {
		if !nameByte(s[i]) {
			return false
		}
	}
	return s != ""
}

// quotable returns s with the bytes that a quoted string of nft cannot hold replaced, cut to limit bytes.
func quotable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	for i := 0; i < len(s); i++ {
		if !quotableByte(s[i]) {
			b := []byte(s)
			for j, c := range b {
				switch {
				case c == '"':
					b[j] = '\''
				case !quotableByte(c):
					b[j] = '_'
				}
			}
			return string(b)
		}
	}
	return s
}

// quotableByte: a '$' in a log prefix names a variable of nft, and '\' has a meaning in names of interfaces.
func quotableByte(c byte) bool { return ' ' <= c && c <= '~' && c != '"' && c != '\\' && c != '$' }

// ruleComment returns the comment of rules that decide by o: key, text and position.
func (b *builder) ruleComment(o *flow.Origin) string {
	const head = 17 // the key in hex, and a space
	c := o.AppendTo(append(b.text[:0], "0123456789abcdef "...))
	sum := sha256.Sum256(c[head:]) // the beginning of which is the RuleKey
	hex.Encode(c[:head-1], sum[:8])
	if o.Pos.File != "" {
		n := len(c)
		c = append(c, ' ')
		c = append(c, o.Pos.File...)
		if o.Pos.Line != 0 {
			c = strconv.AppendInt(append(c, ':'), int64(o.Pos.Line), 10)
		}
		if len(c) > maxComment {
			c = c[:n]
		}
	}
	b.text = c
	return quotable(string(c[:min(len(c), maxComment)]), maxComment)
}

// CommentKey returns the RuleKey at the beginning of a rule's comment; false if there is none.
func CommentKey(comment string) (flow.RuleKey, bool) {
	if len(comment) < 16 || len(comment) > 16 && comment[16] != ' ' {
		return 0, false
	}
	k, err := flow.ParseRuleKey(comment[:16])
	return k, err == nil
}
