// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// String returns the canonical text of the origin's identity, such as "policy:security/web/ingress[0]@forward"; ""
// for the zero value. ParseOrigin is its inverse.
//
// Valid names stand as they are. In those of stored objects that nobody validated, "%", "/" and "@" are written %25, %2f
// and %40, and an empty name is "%".
func (o Origin) String() string {
	if o.Kind == 0 {
		return ""
	}
	return string(o.AppendTo(make([]byte, 0, 64)))
}

// AppendTo appends what String returns.
func (o Origin) AppendTo(b []byte) []byte {
	indexed := func(b []byte) []byte {
		b = append(append(append(b, '/'), o.Dir.String()...), '[')
		return append(strconv.AppendInt(b, int64(o.Index), 10), ']')
	}
	switch o.Kind {
	case 0:
		return b
	case OriginPolicy:
		b = appendName(append(b, "policy:"...), o.Tier)
		b = indexed(appendName(append(b, '/'), o.Name))
	case OriginProfile:
		b = indexed(appendName(append(b, "profile:"...), o.Name))
	case OriginTier:
		b = append(append(appendName(append(b, "tier:"...), o.Tier), '/'), o.Dir.String()...)
	case OriginDefault:
		b = append(append(appendName(append(b, "default:"...), o.Name), '/'), o.Dir.String()...)
	case OriginFailsafe:
		d := "failsafe:in/"
		if o.Dir == Egress {
			d = "failsafe:out/"
		}
		b = append(append(append(b, d...), o.Protocol.String()...), '/')
		b = strconv.AppendUint(b, uint64(o.Port), 10)
	case OriginProfileMissing:
		b = appendName(append(b, "profile-missing:"...), o.Name)
	default:
		fixed := ""
		for _, f := range fixedOrigins {
			if f.kind == o.Kind {
				fixed = f.text
			}
		}
		if fixed == "" {
			return fmt.Appendf(b, "origin(%d)", o.Kind)
		}
		b = append(b, fixed...)
	}
	if o.Stage != StageNormal {
		b = append(append(b, '@'), o.Stage.String()...)
	}
	return b
}

const emptyName = "%"

var (
	nameEscaper   = strings.NewReplacer("%", "%25", "/", "%2f", "@", "%40")
	nameUnescaper = strings.NewReplacer("%25", "%", "%2f", "/", "%40", "@")
)

func appendName(b []byte, s string) []byte {
	if s == "" {
		return append(b, emptyName...)
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '%' || c == '/' || c == '@' {
			return append(b, nameEscaper.Replace(s)...)
		}
	}
	return append(b, s...)
}

// unescapeName reads what appendName writes. For other text it returns something that is not written like that.
func unescapeName(s string) string {
	if s == emptyName {
		return ""
	}
	return nameUnescaper.Replace(s)
}

// fixedOrigins are the kinds whose text has no parts. The failsafe for neighbour discovery stands before the
// failsafes for ports, whose text begins alike.
var fixedOrigins = [...]struct {
	kind OriginKind
	text string
}{
	{OriginND, "failsafe:nd"},
	{OriginEstablished, "conntrack:established"},
	{OriginInvalid, "conntrack:invalid"},
	{OriginWorkload, "workload"},
	{OriginForwardDefault, "forward-default"},
	{OriginNoVerdict, "no-verdict"},
	{OriginNoEndpoint, "no-endpoint"},
}

// ErrOrigin is what errors of ParseOrigin wrap.
var ErrOrigin = errors.New("not an origin")

// ParseOrigin reads what Origin.String writes. The empty string is an error.
func ParseOrigin(text string) (Origin, error) {
	bad := func() (Origin, error) { return Origin{}, fmt.Errorf("%w: %q", ErrOrigin, text) }
	var o Origin
	body := text
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		st, err := ParseStage(text[i+1:])
		if err != nil || st == StageNormal {
			return bad()
		}
		o.Stage, body = st, text[:i]
	}
	for _, f := range fixedOrigins {
		if body == f.text {
			o.Kind = f.kind
			return o, nil
		}
	}
	kind, rest, ok := strings.Cut(body, ":")
	if !ok || rest == "" {
		return bad()
	}
	parts := strings.Split(rest, "/")
	dir := func(s string, indexed bool) bool {
		if indexed {
			i := strings.IndexByte(s, '[')
			if i < 0 || !strings.HasSuffix(s, "]") {
				return false
			}
			n, err := strconv.Atoi(s[i+1 : len(s)-1])
			if err != nil || n < 0 || strconv.Itoa(n) != s[i+1:len(s)-1] {
				return false
			}
			o.Index, s = n, s[:i]
		}
		d, err := ParseDirection(s)
		o.Dir = d
		return err == nil
	}
	name := unescapeName
	switch {
	case kind == "profile-missing" && len(parts) == 1:
		o.Kind, o.Name = OriginProfileMissing, name(rest)
	case kind == "policy" && len(parts) == 3 && parts[0] != "" && parts[1] != "" && dir(parts[2], true):
		o.Kind, o.Tier, o.Name = OriginPolicy, name(parts[0]), name(parts[1])
	case kind == "profile" && len(parts) == 2 && parts[0] != "" && dir(parts[1], true):
		o.Kind, o.Name = OriginProfile, name(parts[0])
	case kind == "tier" && len(parts) == 2 && parts[0] != "" && dir(parts[1], false):
		o.Kind, o.Tier = OriginTier, name(parts[0])
	case kind == "default" && len(parts) == 2 && parts[0] != "" && dir(parts[1], false):
		o.Kind, o.Name = OriginDefault, name(parts[0])
	case kind == "failsafe" && len(parts) == 3 && (parts[0] == "in" || parts[0] == "out"):
		p, ok := inet.ParseProtocol(parts[1])
		n, err := strconv.ParseUint(parts[2], 10, 16)
		if !ok || err != nil {
			return bad()
		}
		o.Kind, o.Protocol, o.Port = OriginFailsafe, p, uint16(n)
		if parts[0] == "out" {
			o.Dir = Egress
		}
	default:
		return bad()
	}
	if o.String() != text {
		return bad()
	}
	return o, nil
}

// MarshalText returns the origin's String.
func (o Origin) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads what MarshalText writes; empty text is the zero value.
func (o *Origin) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*o = Origin{}
		return nil
	}
	x, err := ParseOrigin(string(b))
	if err == nil {
		*o = x
	}
	return err
}

// RuleKey identifies an Origin in places too small for its text: log prefixes, map values, comments. It is the
// beginning of the SHA-256 of the text.
type RuleKey uint64

// Key returns the origin's key; 0 for the zero value.
func (o Origin) Key() RuleKey {
	if o.Kind == 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(o.String()))
	return RuleKey(binary.BigEndian.Uint64(sum[:8]))
}

// String returns the key as 16 hexadecimal digits.
func (k RuleKey) String() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(k))
	return hex.EncodeToString(b[:])
}

// MarshalText returns the key's String.
func (k RuleKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// ParseRuleKey reads what RuleKey.String writes.
func ParseRuleKey(s string) (RuleKey, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 8 {
		return 0, fmt.Errorf("not a rule key: %q", s)
	}
	return RuleKey(binary.BigEndian.Uint64(b)), nil
}
