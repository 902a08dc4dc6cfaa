// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// What should be in the kernel is read from the messages that we would send, and what is there from its answers, both by
// the same code. So nothing that a rule can hold escapes the comparison, whether we would ever write it or not.

// seenTable is the content of a table.
type seenTable struct {
	flags  uint32
	chains map[string]*seenChain
	sets   map[string]*seenSet // by name; those of messages by "#" and their ID
	other  []string            // objects of other kinds
}

type seenChain struct {
	base  string
	rules []seenRule
}

type seenRule struct {
	exprs   []seenExpr
	comment string
	packets uint64
	bytes   uint64
	counted bool
}

type seenExpr struct {
	text string
	set  string // that it looks up
}

type seenSet struct {
	anonymous bool
	kind      string
	elements  map[string]bool
}

func newSeen() *seenTable {
	return &seenTable{chains: map[string]*seenChain{}, sets: map[string]*seenSet{}}
}

// Observe implements backends.Backend. It reads everything, elements of sets included.
func (b *Backend) Observe(ctx context.Context) (backends.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var st backends.State
	got, err := b.read(ctx, "observe", true)
	if err != nil {
		return st, err
	}
	st.Present = got != nil
	if b.last == nil {
		return st, nil
	}
	st.Generation, st.Fingerprint = b.gens, render.Fingerprint(b.last.structure, b.last.sum)
	if st.Drift, err = b.compare(got, true); err != nil {
		return backends.State{}, err
	}
	if len(st.Drift) > 0 {
		b.last.suspect = true
	}
	return st, nil
}

// drift reads the table, its elements only if asked to, and compares.
func (b *Backend) drift(ctx context.Context, op string, elements bool) ([]backends.Drift, error) {
	got, err := b.read(ctx, op, elements)
	if err != nil {
		return nil, err
	}
	return b.compare(got, elements)
}

// read reads our table; nil if there is none.
func (b *Backend) read(ctx context.Context, op string, elements bool) (*seenTable, error) {
	table := b.opts.Render.Table
	t := newSeen()
	err := b.sock.request(ctx, op, unix.NFT_MSG_GETTABLE, 0, familyInet, func(w *writer) { w.str(unix.NFTA_TABLE_NAME, table) }, t.table)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	inTable := func(attr uint16) func(*writer) { return func(w *writer) { w.str(attr, table) } }
	type listing struct {
		typ   uint16
		write func(*writer)
		read  func([]byte) error
	}
	flags := t.flags
	for _, l := range []listing{
		{unix.NFT_MSG_GETCHAIN, nil, func(d []byte) error { return t.chain(d, table) }},
		{unix.NFT_MSG_GETSET, inTable(unix.NFTA_SET_TABLE), func(d []byte) error { return t.set(d, table, false) }},
		{unix.NFT_MSG_GETOBJ, inTable(unix.NFTA_OBJ_TABLE), func(d []byte) error { return t.object(d, table, "object") }},
		{unix.NFT_MSG_GETFLOWTABLE, inTable(unix.NFTA_OBJ_TABLE), func(d []byte) error { return t.object(d, table, "flowtable") }},
	} {
		keep := *t
		if err := b.sock.dump(ctx, op, l.typ, familyInet, l.write, func() {
			*t = keep
			switch l.typ {
			case unix.NFT_MSG_GETCHAIN:
				t.chains = map[string]*seenChain{}
			case unix.NFT_MSG_GETSET:
				t.sets = map[string]*seenSet{}
			}
		}, l.read); err != nil {
			return nil, err
		}
	}
	t.flags = flags
	if err := b.sock.dump(ctx, op, unix.NFT_MSG_GETRULE, familyInet, inTable(unix.NFTA_RULE_TABLE), func() {
		for _, c := range t.chains {
			c.rules = nil
		}
	}, func(d []byte) error { return t.rule(d, table, false) }); err != nil {
		return nil, err
	}
	for name, s := range t.sets {
		if !elements && !s.anonymous {
			continue
		}
		if err := b.sock.dump(ctx, op, unix.NFT_MSG_GETSETELEM, familyInet, func(w *writer) {
			w.str(unix.NFTA_SET_ELEM_LIST_TABLE, table)
			w.str(unix.NFTA_SET_ELEM_LIST_SET, name)
		}, func() { s.elements = map[string]bool{} }, func(d []byte) error { return t.elements(d, table, false) }); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// expected returns what the kernel should have, without the elements of named sets.
func (b *Backend) expected() (*seenTable, error) {
	r := *b.last.rules
	r.Sets = slices.Clone(r.Sets)
	for i := range r.Sets {
		r.Sets[i].Elements = nil
	}
	seq := b.sock.seq
	batch, err := b.whole(&r)
	b.sock.seq = seq
	if err != nil {
		return nil, err
	}
	t := newSeen()
	table := b.opts.Render.Table
	return t, messages(batch.buf, func(m message) error {
		if len(m.data) < nfgenLen || m.typ>>8 != unix.NFNL_SUBSYS_NFTABLES {
			return nil
		}
		d := m.data[nfgenLen:]
		switch m.typ & 0xff {
		case unix.NFT_MSG_NEWCHAIN:
			return t.chain(d, table)
		case unix.NFT_MSG_NEWSET:
			return t.set(d, table, true)
		case unix.NFT_MSG_NEWSETELEM:
			return t.elements(d, table, true)
		case unix.NFT_MSG_NEWRULE:
			return t.rule(d, table, true)
		}
		return nil
	})
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
func dataText(d []byte) string {
	var w strings.Builder
	if err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_DATA_VALUE:
			w.WriteString(hex.EncodeToString(data))
		case unix.NFTA_DATA_VERDICT:
			return attrs(data, func(a uint16, data []byte) error {
				switch a {
				case unix.NFTA_VERDICT_CODE:
					w.WriteString(verdictText(be32(data)))
				case unix.NFTA_VERDICT_CHAIN:
					w.WriteString(" " + cstr(data))
				}
				return nil
			})
		}
		return nil
	}); err != nil {
		return "? " + hex.EncodeToString(d)
	}
	return w.String()
}

func verdictText(code uint32) string {
	for _, op := range [...]render.VerdictOp{render.Accept, render.Drop, render.Return, render.Jump, render.Goto} {
		if verdictCode(op) == code {
			return render.Rule{Exprs: []render.Expr{render.Verdict{Op: op}}}.String()
		}
	}
	return fmt.Sprintf("verdict(%d)", int32(code))
}

func (t *seenTable) rule(d []byte, table string, own bool) error {
	var in, chain string
	var r seenRule
	if err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_RULE_TABLE:
			in = cstr(data)
		case unix.NFTA_RULE_CHAIN:
			chain = cstr(data)
		case unix.NFTA_RULE_USERDATA:
			r.comment = udataComment(data)
		case unix.NFTA_RULE_EXPRESSIONS:
			return attrs(data, func(_ uint16, data []byte) error { return r.expr(data, own) })
		}
		return nil
	}); err != nil || in != table {
		return err
	}
	if c := t.chains[chain]; c != nil {
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

func (r *seenRule) expr(d []byte, own bool) error {
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
	e := seenExpr{}
	var parts []string
	id, length := uint32(0), uint32(0)
	if err := attrs(data, func(a uint16, b []byte) error {
		switch {
		case name == "counter":
			r.counted = true
			switch a {
			case unix.NFTA_COUNTER_BYTES:
				r.bytes += be64(b)
			case unix.NFTA_COUNTER_PACKETS:
				r.packets += be64(b)
			}
			return nil
		case name == "lookup" && a == unix.NFTA_LOOKUP_SET:
			e.set = cstr(b)
			return nil
		case name == "lookup" && a == unix.NFTA_LOOKUP_SET_ID:
			id = be32(b)
			return nil
		case isDefault(name, a, b):
			return nil
		case name == "byteorder" && a == unix.NFTA_BYTEORDER_LEN:
			length = be32(b)
		}
		parts = append(parts, fmt.Sprintf("%d=%s", a, attrText(name, a, b)))
		return nil
	}); err != nil {
		return err
	}
	if length == 1 { // nft turns single bytes round, too
		return nil
	}
	if own && id != 0 {
		e.set = fmt.Sprint("#", id)
	}
	slices.Sort(parts)
	e.text = name + "(" + strings.Join(parts, " ") + ")"
	r.exprs = append(r.exprs, e)
	return nil
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

// attrText returns the text of an attribute of an expression.
func attrText(name string, attr uint16, b []byte) string {
	switch {
	case name == "log" && attr == unix.NFTA_LOG_PREFIX:
		return cstr(b)
	case name == "immediate" && attr == unix.NFTA_IMMEDIATE_DATA, name == "cmp" && attr == unix.NFTA_CMP_DATA,
		name == "bitwise" && (attr == unix.NFTA_BITWISE_MASK || attr == unix.NFTA_BITWISE_XOR),
		name == "range" && (attr == unix.NFTA_RANGE_FROM_DATA || attr == unix.NFTA_RANGE_TO_DATA):
		return dataText(b)
	}
	return hex.EncodeToString(b)
}

// text returns the meaning of a rule, with anonymous sets written out.
func (t *seenTable) text(r seenRule) string {
	var w strings.Builder
	for i, e := range r.exprs {
		if i > 0 {
			w.WriteByte(' ')
		}
		w.WriteString(e.text)
		if e.set == "" {
			continue
		}
		s := t.sets[e.set]
		if s == nil || !s.anonymous {
			w.WriteString("@" + e.set)
			continue
		}
		w.WriteString("{" + s.kind + ": " + s.text() + "}")
	}
	if r.comment != "" {
		w.WriteString(" # " + r.comment)
	}
	return w.String()
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

// maxDrift bounds how many elements of one set, or rules of one chain, are told apart.
const maxDrift = 100

// compare returns how got differs from what should be there. A nil got is no table.
func (b *Backend) compare(got *seenTable, elements bool) ([]backends.Drift, error) {
	table := b.opts.Render.Table
	if got == nil {
		return []backends.Drift{{Kind: backends.DriftMissing, Object: "table " + table}}, nil
	}
	want, err := b.expected()
	if err != nil {
		return nil, err
	}
	var ds []backends.Drift
	add := func(kind backends.DriftKind, object, want, got string) {
		ds = append(ds, backends.Drift{Kind: kind, Object: object, Want: want, Got: got})
	}
	if got.flags != 0 {
		add(backends.DriftChanged, "table "+table, "flags 0", fmt.Sprintf("flags %#x", got.flags))
	}
	for _, o := range got.other {
		add(backends.DriftUnknown, o, "", "")
	}
	for name, g := range got.sets {
		w := want.sets[name]
		switch {
		case g.anonymous:
		case w == nil:
			add(backends.DriftUnknown, "set "+name, "", g.kind)
		case w.kind != g.kind:
			add(backends.DriftChanged, "set "+name, w.kind, g.kind)
		case elements && len(w.elements) > 0 && w.text() != g.text():
			add(backends.DriftChanged, "set "+name, w.text(), g.text())
		}
	}
	for name, w := range want.sets {
		if !w.anonymous && got.sets[name] == nil {
			add(backends.DriftMissing, "set "+name, w.kind, "")
		}
	}
	if elements {
		for _, s := range b.last.sets {
			for _, f := range s.families {
				if g := got.sets[f.set.Name]; g != nil {
					ds = append(ds, elementDrift(f, g)...)
				}
			}
		}
	}
	for name, g := range got.chains {
		w := want.chains[name]
		if w == nil {
			add(backends.DriftUnknown, "chain "+name, "", g.base)
			continue
		}
		if w.base != g.base {
			add(backends.DriftChanged, "chain "+name, w.base, g.base)
		}
		ds = append(ds, b.ruleDrift(name, want, got)...)
	}
	for name, w := range want.chains {
		if got.chains[name] == nil {
			add(backends.DriftMissing, "chain "+name, w.base, "")
		}
	}
	slices.SortFunc(ds, func(a, b backends.Drift) int {
		return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Want, b.Want), strings.Compare(a.Got, b.Got))
	})
	return ds, nil
}

// ruleDrift compares the rules of one chain.
func (b *Backend) ruleDrift(chain string, want, got *seenTable) []backends.Drift {
	w, g := want.chains[chain].rules, got.chains[chain].rules
	n := max(len(w), len(g))
	var ws, gs []int // those that have no counterpart, by index
	wt, gt := make([]string, len(w)), make([]string, len(g))
	same := len(w) == len(g)
	count := map[string]int{}
	for i := range n {
		if i < len(w) {
			wt[i] = want.text(w[i])
			count[wt[i]]++
		}
		if i < len(g) {
			gt[i] = got.text(g[i])
		}
		same = same && wt[i] == gt[i]
	}
	if same {
		return nil
	}
	for i, s := range gt {
		if count[s] > 0 {
			count[s]--
		} else {
			gs = append(gs, i)
		}
	}
	for i := len(wt) - 1; i >= 0; i-- { // of rules that occur more often than they should, the last ones are missing
		if count[wt[i]] > 0 {
			count[wt[i]]--
			ws = append(ws, i)
		}
	}
	slices.Reverse(ws)
	if len(ws)+len(gs) == 0 {
		return []backends.Drift{{Kind: backends.DriftChanged, Object: "chain " + chain, Want: "the rules in their order", Got: "the same rules in another order"}}
	}
	rules, _ := b.last.rules.Chain(chain)
	var ds []backends.Drift
	for len(ws)+len(gs) > 0 && len(ds) < maxDrift {
		var d backends.Drift
		if len(ws) > 0 {
			d.Kind, d.Object = backends.DriftMissing, fmt.Sprintf("rule %s[%d]", chain, ws[0])
			r := &rules.Rules[ws[0]]
			d.Want = r.String()
			if r.Origin != nil {
				d.Origin = r.Origin.String()
			}
		}
		if len(gs) > 0 {
			d.Got = gt[gs[0]]
			if len(ws) > 0 {
				d.Kind = backends.DriftChanged
			} else {
				d.Kind, d.Object = backends.DriftUnknown, fmt.Sprintf("rule %s[%d]", chain, gs[0])
			}
			gs = gs[1:]
		}
		if len(ws) > 0 {
			ws = ws[1:]
		}
		ds = append(ds, d)
	}
	return ds
}

// elementDrift compares the elements of a named set.
func elementDrift(f *familySet, got *seenSet) []backends.Drift {
	var ds []backends.Drift
	for _, e := range f.store.elements() {
		key, end := elementKeys(f.set, e)
		texts := [...]string{hex.EncodeToString(key), hex.EncodeToString(end) + "]"}
		n := 1
		if end != nil {
			n = 2
		}
		missing := false
		for _, t := range texts[:n] {
			missing = missing || !got.elements[t]
			delete(got.elements, t)
		}
		if missing && len(ds) < maxDrift {
			ds = append(ds, backends.Drift{Kind: backends.DriftMissing, Object: "set " + f.set.Name, Want: e.String()})
		}
	}
	for t := range got.elements {
		if !isNothing(t) {
			ds = append(ds, backends.Drift{Kind: backends.DriftUnknown, Object: "set " + f.set.Name, Got: t})
		}
	}
	slices.SortFunc(ds, func(a, b backends.Drift) int { return strings.Compare(a.Got, b.Got) })
	return ds[:min(len(ds), 2*maxDrift)]
}

// Counters implements backends.Backend. Rules count only with Options.Render.Counters. A chain that Apply had to change
// goes on counting with the rules that stayed.
func (b *Backend) Counters(ctx context.Context) ([]backends.Counter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	table := b.opts.Render.Table
	t := newSeen()
	if err := b.sock.dump(ctx, "counters", unix.NFT_MSG_GETRULE, familyInet, func(w *writer) { w.str(unix.NFTA_RULE_TABLE, table) },
		func() { t.chains = map[string]*seenChain{"": {}} },
		func(d []byte) error { return t.counter(d, table) }); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return nil, err
	}
	origins := map[flow.RuleKey]flow.Origin{}
	if b.last != nil {
		for _, o := range b.last.program.Origins {
			origins[o.Key()] = o
		}
	}
	sums := map[flow.RuleKey]*backends.Counter{}
	for _, r := range t.chains[""].rules {
		k, ok := render.CommentKey(r.comment)
		if !r.counted || !ok {
			continue
		}
		c := sums[k]
		if c == nil {
			o, ok := origins[k]
			if !ok { // of an earlier process
				words := strings.Fields(r.comment)
				if len(words) < 2 {
					continue
				}
				var err error
				if o, err = flow.ParseOrigin(words[1]); err != nil || o.Key() != k {
					continue
				}
			}
			c = &backends.Counter{Origin: o}
			sums[k] = c
		}
		c.Packets += r.packets
		c.Bytes += r.bytes
	}
	out := make([]backends.Counter, 0, len(sums))
	for _, c := range sums {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b backends.Counter) int { return strings.Compare(a.Origin.String(), b.Origin.String()) })
	return out, nil
}

// counter notes the comment and the counters of a rule, and nothing else of it.
func (t *seenTable) counter(d []byte, table string) error {
	var in string
	var r seenRule
	err := attrs(d, func(a uint16, data []byte) error {
		switch a {
		case unix.NFTA_RULE_TABLE:
			in = cstr(data)
		case unix.NFTA_RULE_USERDATA:
			r.comment = udataComment(data)
		case unix.NFTA_RULE_EXPRESSIONS:
			if bytes.Contains(data, []byte("counter\x00")) {
				return attrs(data, func(_ uint16, data []byte) error { return r.expr(data, false) })
			}
		}
		return nil
	})
	if err == nil && in == table && r.counted {
		t.chains[""].rules = append(t.chains[""].rules, r)
	}
	return err
}
