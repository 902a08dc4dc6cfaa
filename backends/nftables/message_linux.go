// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Numbers in attributes of nfnetlink are big endian; headers are in the order of the host, which the package assumes
// for loads from the packet, too, as nft does.
var host = binary.NativeEndian

const (
	headerLen  = unix.NLMSG_HDRLEN
	nfgenLen   = 4
	maxAttrLen = 1<<16 - 1

	familyUnspec = 0
	familyInet   = 1 // NFPROTO_INET

	nfnlBatchBegin = unix.NLMSG_MIN_TYPE
	nfnlBatchEnd   = unix.NLMSG_MIN_TYPE + 1
)

// writer writes netlink messages one behind the other.
type writer struct {
	buf []byte
	msg int // where the message at work begins
	seq uint32
}

// begin starts a message and returns its sequence number.
func (w *writer) begin(typ uint16, flags uint16, family uint8, res uint16) uint32 {
	w.seq++
	w.msg = len(w.buf)
	w.buf = append(w.buf, 0, 0, 0, 0)
	w.buf = host.AppendUint16(w.buf, typ)
	w.buf = host.AppendUint16(w.buf, unix.NLM_F_REQUEST|flags)
	w.buf = host.AppendUint32(w.buf, w.seq)
	w.buf = append(w.buf, 0, 0, 0, 0, family, 0, byte(res>>8), byte(res)) // port: the kernel knows
	return w.seq
}

// end completes the message. Everything in it is padded to four bytes already.
func (w *writer) end() { host.PutUint32(w.buf[w.msg:], uint32(len(w.buf)-w.msg)) }

// flag adds flags to the message at work.
func (w *writer) flag(f uint16) {
	host.PutUint16(w.buf[w.msg+6:], host.Uint16(w.buf[w.msg+6:])|f)
}

func (w *writer) head(typ uint16, n int) {
	w.buf = host.AppendUint16(w.buf, uint16(4+n))
	w.buf = host.AppendUint16(w.buf, typ)
}

func (w *writer) pad() {
	for len(w.buf)&3 != 0 {
		w.buf = append(w.buf, 0)
	}
}

func (w *writer) bytes(typ uint16, b []byte) {
	w.head(typ, len(b))
	w.buf = append(w.buf, b...)
	w.pad()
}

func (w *writer) str(typ uint16, s string) {
	w.head(typ, len(s)+1)
	w.buf = append(append(w.buf, s...), 0)
	w.pad()
}

func (w *writer) u8(typ uint16, n uint8) {
	w.head(typ, 1)
	w.buf = append(w.buf, n, 0, 0, 0)
}

func (w *writer) u16(typ uint16, n uint16) {
	w.head(typ, 2)
	w.buf = append(w.buf, byte(n>>8), byte(n), 0, 0)
}

func (w *writer) u32(typ uint16, n uint32) {
	w.head(typ, 4)
	w.buf = binary.BigEndian.AppendUint32(w.buf, n)
}

func (w *writer) u64(typ uint16, n uint64) {
	w.head(typ, 8)
	w.buf = binary.BigEndian.AppendUint64(w.buf, n)
}

// nest starts an attribute that holds others, and close ends it.
func (w *writer) nest(typ uint16) int {
	at := len(w.buf)
	w.head(typ|unix.NLA_F_NESTED, 0)
	return at
}

func (w *writer) close(at int) { host.PutUint16(w.buf[at:], uint16(len(w.buf)-at)) }

// object says what a message of a transaction is about.
type object struct {
	kind   objectKind
	name   string // of the chain or set
	rule   int    // index in the chain, for rules
	origin *flow.Origin
}

type objectKind uint8

const (
	objTable objectKind = iota
	objChain
	objRule
	objRules // of a chain
	objSet
	objElements
	objAnonymous // set of a rule
)

func (o object) String() string {
	switch o.kind {
	case objTable:
		return "table " + o.name
	case objChain:
		return "chain " + o.name
	case objRule:
		return fmt.Sprintf("rule %s[%d]", o.name, o.rule)
	case objRules:
		return "rules of chain " + o.name
	case objSet:
		return "set " + o.name
	case objElements:
		return "elements of set " + o.name
	}
	return fmt.Sprintf("set in rule %s[%d]", o.name, o.rule)
}

// batch is a transaction under construction.
type batch struct {
	writer
	table   string
	first   uint32   // sequence number of objects[0]
	objects []object // one for each message
	sets    uint32   // IDs given to sets of the batch
	changes int      // objects and elements
}

func newBatch(table string, size int, seq, generation uint32) *batch {
	b := &batch{writer: writer{buf: make([]byte, 0, size), seq: seq}, table: table}
	b.first = b.writer.begin(nfnlBatchBegin, 0, familyUnspec, unix.NFNL_SUBSYS_NFTABLES)
	if generation != 0 {
		b.u32(unix.NFNL_BATCH_GENID, generation)
	}
	b.end()
	b.objects = append(b.objects, object{kind: objTable, name: table})
	return b
}

// start starts a message about an object of the table.
func (b *batch) start(typ uint16, flags uint16, o object) {
	b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, familyInet, 0)
	b.objects = append(b.objects, o)
}

// finish ends the transaction. The last message before the end asks for an acknowledgement, which the kernel sends
// behind all errors: of the messages that begin and end a batch, older kernels acknowledge none.
func (b *batch) finish() {
	b.flag(unix.NLM_F_ACK)
	b.begin(nfnlBatchEnd, 0, familyUnspec, unix.NFNL_SUBSYS_NFTABLES)
	b.objects = append(b.objects, object{kind: objTable, name: b.table})
	b.end()
}

// object returns what the message with the sequence number is about.
func (b *batch) object(seq uint32) (object, bool) {
	i := seq - b.first
	if int64(i) >= int64(len(b.objects)) {
		return object{}, false
	}
	return b.objects[i], true
}

// attrs calls f with the type and content of every attribute in b. Content that is cut off is an error.
func attrs(b []byte, f func(typ uint16, data []byte) error) error {
	for len(b) >= 4 {
		n := int(host.Uint16(b))
		typ := host.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if n < 4 || n > len(b) {
			return fmt.Errorf("attribute %d of %d bytes in %d", typ, n, len(b))
		}
		if err := f(typ, b[4:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	if len(b) != 0 {
		return fmt.Errorf("%d bytes behind the last attribute", len(b))
	}
	return nil
}

func be32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func be64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// cstr returns a string without its zero byte.
func cstr(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
