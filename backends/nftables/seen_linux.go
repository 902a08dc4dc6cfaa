// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// seenTable is the content of a table.
type seenTable struct {
	flags  uint32
	chains map[string]*seenChain
	sets   map[string]*seenSet // by name; those of messages by "#" and their ID
	other  []string            // objects of other kinds
	buf    []byte
}

type seenChain struct {
	base  string
	rules []seenRule
}

type seenRule struct {
	text    string // the meaning, with anonymous sets written out, and the comment
	comment string
	packets uint64
	bytes   uint64
	counted bool
}

type seenSet struct {
	anonymous bool
	kind      string
	elements  map[string]bool
	written   string // text of an anonymous set, once a rule asked for it
}

func newSeen() *seenTable {
	return &seenTable{chains: map[string]*seenChain{}, sets: map[string]*seenSet{}}
}

func (t *seenTable) table(d []byte) error {
	return attrs(d, func(typ uint16, data []byte) error {
		if typ == unix.NFTA_TABLE_FLAGS {
			t.flags = be32(data)
		}
		return nil
	})
}

func (t *seenTable) object(d []byte, table, kind string) error {
	var in, name string
	if err := attrs(d, func(typ uint16, data []byte) error {
		switch typ { // NFTA_OBJ_TABLE and NFTA_FLOWTABLE_TABLE are the same, and so are the names
		case unix.NFTA_OBJ_TABLE:
			in = cstr(data)
		case unix.NFTA_OBJ_NAME:
			name = cstr(data)
		}
		return nil
	}); err != nil {
		return err
	}
	if in == table {
		t.other = append(t.other, kind+" "+name)
	}
	return nil
}

func (t *seenTable) chain(d []byte, table string) error {
	var in, name, typ string
	var hook, prio, policy, flags uint32
	base := false
	if err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_CHAIN_TABLE:
			in = cstr(data)
		case unix.NFTA_CHAIN_NAME:
			name = cstr(data)
		case unix.NFTA_CHAIN_TYPE:
			typ = cstr(data)
		case unix.NFTA_CHAIN_POLICY:
			policy = be32(data)
		case 10: // NFTA_CHAIN_FLAGS
			flags = be32(data) &^ 1 // NFT_CHAIN_BASE
		case unix.NFTA_CHAIN_HOOK:
			base = true
			return attrs(data, func(a uint16, data []byte) error {
				switch a {
				case unix.NFTA_HOOK_HOOKNUM:
					hook = be32(data)
				case unix.NFTA_HOOK_PRIORITY:
					prio = be32(data)
				}
				return nil
			})
		}
		return nil
	}); err != nil || in != table {
		return err
	}
	c := &seenChain{}
	if base {
		c.base = fmt.Sprintf("type %s hook %s priority %d policy %d", typ, render.NetfilterHook(hook+1), int32(prio), policy)
	}
	if flags != 0 {
		c.base += fmt.Sprintf(" flags %#x", flags)
	}
	t.chains[name] = c
	return nil
}

// set notes a set. In our own messages anonymous sets have no names yet, but IDs.
func (t *seenTable) set(d []byte, table string, own bool) error {
	var in, name string
	var flags, keyType, keyLen, dataType, id uint32
	if err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_SET_TABLE:
			in = cstr(data)
		case unix.NFTA_SET_NAME:
			name = cstr(data)
		case unix.NFTA_SET_FLAGS:
			flags = be32(data)
		case unix.NFTA_SET_KEY_TYPE:
			keyType = be32(data)
		case unix.NFTA_SET_KEY_LEN:
			keyLen = be32(data)
		case unix.NFTA_SET_DATA_TYPE:
			dataType = be32(data)
		case unix.NFTA_SET_ID:
			id = be32(data)
		}
		return nil
	}); err != nil || in != table {
		return err
	}
	s := &seenSet{elements: map[string]bool{}, anonymous: flags&unix.NFT_SET_ANONYMOUS != 0}
	s.kind = fmt.Sprintf("flags %#x key %#x of %d data %#x", flags, keyType, keyLen, dataType)
	if own && s.anonymous {
		name = fmt.Sprint("#", id)
	}
	t.sets[name] = s
	return nil
}

func (t *seenTable) elements(d []byte, table string, own bool) error {
	var in, name string
	var id uint32
	var list []byte
	if err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			in = cstr(data)
		case unix.NFTA_SET_ELEM_LIST_SET:
			name = cstr(data)
		case nftaSetElemListID:
			id = be32(data)
		case unix.NFTA_SET_ELEM_LIST_ELEMENTS:
			list = data
		}
		return nil
	}); err != nil || in != table {
		return err
	}
	if own && id != 0 {
		name = fmt.Sprint("#", id)
	}
	s := t.sets[name]
	if s == nil {
		return nil
	}
	return attrs(list, func(_ uint16, data []byte) error {
		e, err := elementText(data)
		s.elements[e] = true
		return err
	})
}

// elementText returns the meaning of an element: everything but comments, in the order of attributes.
func elementText(d []byte) (string, error) {
	var key, end, verdict, rest string
	flags := uint32(0)
	err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_SET_ELEM_KEY:
			key = dataText(data)
		case nftaSetElemKeyEnd:
			end = "-" + dataText(data)
		case unix.NFTA_SET_ELEM_FLAGS:
			flags = be32(data)
		case unix.NFTA_SET_ELEM_DATA:
			verdict = ":" + dataText(data)
		case unix.NFTA_SET_ELEM_USERDATA, unix.NFTA_SET_ELEM_PAD:
		default:
			rest += fmt.Sprintf(" %d=%x", a, data)
		}
		return nil
	})
	if flags&nftSetElemIntervEnd != 0 {
		end += "]"
		flags &^= nftSetElemIntervEnd
	}
	if flags != 0 {
		rest += fmt.Sprintf(" flags=%x", flags)
	}
	return key + end + verdict + rest, err
}

// dataText returns the text of an attribute that holds a value or a verdict.
func dataText(d []byte) string { return string(appendData(nil, d)) }

func appendData(t, d []byte) []byte {
	n := len(t)
	if err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_DATA_VALUE:
			t = hex.AppendEncode(t, data)
		case unix.NFTA_DATA_VERDICT:
			return attrs(data, func(a uint16, data []byte) error {
				switch a {
				case unix.NFTA_VERDICT_CODE:
					t = append(t, verdictText(be32(data))...)
				case unix.NFTA_VERDICT_CHAIN:
					t = append(append(t, ' '), cstr(data)...)
				}
				return nil
			})
		}
		return nil
	}); err != nil {
		return hex.AppendEncode(append(t[:n], "? "...), d)
	}
	return t
}

func verdictText(code uint32) string {
	for op, name := range verdictNames {
		if verdictCode(render.VerdictOp(op)) == code {
			return name
		}
	}
	return fmt.Sprintf("verdict(%d)", int32(code))
}

var verdictNames = [...]string{render.Drop: "drop", render.Accept: "accept", render.Return: "return", render.Jump: "jump", render.Goto: "goto"}

func (t *seenTable) rule(d []byte, table string, own bool) error {
	var in, chain string
	var r seenRule
	t.buf = t.buf[:0]
	if err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_RULE_TABLE:
			in = cstr(data)
		case unix.NFTA_RULE_CHAIN:
			chain = cstr(data)
		case unix.NFTA_RULE_USERDATA:
			r.comment = udataComment(data)
		case unix.NFTA_RULE_EXPRESSIONS:
			return attrs(data, func(_ uint16, data []byte) error { return t.expr(&r, data, own) })
		}
		return nil
	}); err != nil || in != table {
		return err
	}
	if c := t.chains[chain]; c != nil {
		if r.comment != "" {
			t.buf = append(append(t.buf, "# "...), r.comment...)
		}
		r.text = string(t.buf)
		c.rules = append(c.rules, r)
	}
	return nil
}

// udataComment returns the comment among user data. Ref: libnftnl/udata.h.
func udataComment(d []byte) string {
	for len(d) >= 2 && len(d) >= 2+int(d[1]) {
		if d[0] == 0 {
			return cstr(d[2 : 2+int(d[1])])
		}
		d = d[2+int(d[1]):]
	}
	return ""
}

// expr appends the meaning of an expression to buf.
func (t *seenTable) expr(r *seenRule, d []byte, own bool) error {
	var name string
	var data []byte
	if err := attrs(d, func(a uint16, b []byte) error {
		switch a {
		case unix.NFTA_EXPR_NAME:
			name = cstr(b)
		case unix.NFTA_EXPR_DATA:
			data = b
		}
		return nil
	}); err != nil {
		return err
	}
	type attr struct {
		typ  uint16
		data []byte
	}
	var list [16]attr
	found := list[:0]
	set, id, length := "", uint32(0), uint32(0)
	if err := attrs(data, func(a uint16, b []byte) error {
		switch {
		case name == "counter":
			r.count(a, b)
			return nil
		case name == "lookup" && a == unix.NFTA_LOOKUP_SET:
			set = cstr(b)
			return nil
		case name == "lookup" && a == unix.NFTA_LOOKUP_SET_ID:
			id = be32(b)
			return nil
		case isDefault(name, a, b):
			return nil
		case name == "byteorder" && a == unix.NFTA_BYTEORDER_LEN:
			length = be32(b)
		}
		found = append(found, attr{a, b})
		return nil
	}); err != nil {
		return err
	}
	if length == 1 { // nft turns single bytes round, too
		return nil
	}
	slices.SortFunc(found, func(a, b attr) int { return cmp.Compare(a.typ, b.typ) }) // the kernel has orders of its own
	t.buf = append(append(t.buf, name...), '(')
	for i, a := range found {
		if i > 0 {
			t.buf = append(t.buf, ' ')
		}
		t.buf = strconv.AppendUint(t.buf, uint64(a.typ), 10)
		t.buf = append(t.buf, '=')
		t.buf = appendAttr(t.buf, name, a.typ, a.data)
	}
	t.buf = append(t.buf, ')')
	if name == "lookup" {
		if own && id != 0 {
			set = fmt.Sprint("#", id)
		}
		if s := t.sets[set]; s != nil && s.anonymous {
			if s.written == "" {
				s.written = "{" + s.kind + ": " + s.text() + "}"
			}
			t.buf = append(t.buf, s.written...)
		} else {
			t.buf = append(append(t.buf, '@'), set...)
		}
	}
	t.buf = append(t.buf, ' ')
	return nil
}

// count notes an attribute of a counter.
func (r *seenRule) count(a uint16, b []byte) {
	r.counted = true
	switch a {
	case unix.NFTA_COUNTER_BYTES:
		r.bytes += be64(b)
	case unix.NFTA_COUNTER_PACKETS:
		r.packets += be64(b)
	}
}

// isDefault reports attributes that the kernel adds to what it was given, with the meaning that their absence has.
func isDefault(name string, attr uint16, b []byte) bool {
	if !zeros(b) {
		return false
	}
	switch name {
	case "lookup":
		return attr == unix.NFTA_LOOKUP_FLAGS
	case "bitwise":
		return attr == 6 // NFTA_BITWISE_OP: a mask and an exclusive or
	case "log":
		return attr == unix.NFTA_LOG_SNAPLEN || attr == unix.NFTA_LOG_QTHRESHOLD || attr == unix.NFTA_LOG_FLAGS
	case "reject":
		return attr == unix.NFTA_REJECT_ICMP_CODE
	}
	return false
}

func zeros(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// appendAttr appends the text of an attribute of an expression.
func appendAttr(t []byte, name string, attr uint16, b []byte) []byte {
	switch {
	case name == "log" && attr == unix.NFTA_LOG_PREFIX:
		return append(t, bytes.TrimRight(b, "\x00")...)
	case name == "immediate" && attr == unix.NFTA_IMMEDIATE_DATA, name == "cmp" && attr == unix.NFTA_CMP_DATA,
		name == "bitwise" && (attr == unix.NFTA_BITWISE_MASK || attr == unix.NFTA_BITWISE_XOR),
		name == "range" && (attr == unix.NFTA_RANGE_FROM_DATA || attr == unix.NFTA_RANGE_TO_DATA):
		return appendData(t, b)
	}
	return hex.AppendEncode(t, b)
}

// text returns the elements. The end of nothing, which nft puts in front of sets that do not begin at zero, is none.
func (s *seenSet) text() string {
	es := make([]string, 0, len(s.elements))
	for k := range s.elements {
		if !isNothing(k) {
			es = append(es, k)
		}
	}
	slices.Sort(es)
	return strings.Join(es, ", ")
}

func isNothing(element string) bool {
	key, end := strings.CutSuffix(element, "]")
	return end && strings.Trim(key, "0") == ""
}
