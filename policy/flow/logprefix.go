// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"fmt"
	"strings"
)

// Event is what a dataplane reports of a packet.
type Event uint8

// The events.
const (
	EventAllow Event = iota + 1 // the hook accepted it
	EventDeny                   // the hook dropped it
	EventPass                   // the hook had no verdict
	EventLog                    // a Log rule matched; the packet went on
)

var eventLetters = [...]byte{EventAllow: 'A', EventDeny: 'D', EventPass: 'P', EventLog: 'L'}

// String returns "allow", "deny", "pass" or "log".
func (e Event) String() string {
	switch e {
	case EventAllow:
		return "allow"
	case EventDeny:
		return "deny"
	case EventPass:
		return "pass"
	case EventLog:
		return "log"
	}
	return fmt.Sprintf("event(%d)", e)
}

// LogRecord is the content of a log prefix.
//
// Grammar: "hp1:" letter ":" hook ":" key [" " text], where letter is A, D, P or L, hook is the decimal number of the
// Hook, key is the RuleKey in hexadecimal, and text is the beginning of the origin's text, for people.
type LogRecord struct {
	Event Event
	Hook  Hook
	Key   RuleKey
	Text  string // may be cut off
}

const logMagic = "hp1:"

// LogPrefix returns the prefix for the packets that origin o of hook h decides or logs, at most limit bytes long; the
// text of the origin is cut where it does not fit. Netfilter allows 127 bytes in nftables and 63 in iptables; 24 is
// the least that works. Ref: NF_LOG_PREFIXLEN in linux/netfilter/nf_log.h, xt_NFLOG.h.
func LogPrefix(e Event, h Hook, o Origin, limit int) string {
	letter := byte('?')
	if int(e) < len(eventLetters) && eventLetters[e] != 0 {
		letter = eventLetters[e]
	}
	s := fmt.Sprintf("%s%c:%d:%s %s", logMagic, letter, h, o.Key(), o)
	return strings.TrimRight(s[:min(limit, len(s))], " ")
}

// ParseLogPrefix reads what LogPrefix writes; false if s is something else.
func ParseLogPrefix(s string) (LogRecord, bool) {
	var r LogRecord
	rest, ok := strings.CutPrefix(s, logMagic)
	if !ok || len(rest) < 20 || rest[1] != ':' || rest[3] != ':' {
		return r, false
	}
	for e, l := range eventLetters {
		if l != 0 && l == rest[0] {
			r.Event = Event(e)
		}
	}
	r.Hook = Hook(rest[2] - '0')
	k, err := ParseRuleKey(rest[4:20])
	if err != nil || r.Event == 0 || r.Hook < UntrackedIn || r.Hook > NormalOut {
		return LogRecord{}, false
	}
	r.Key = k
	r.Text = strings.TrimPrefix(rest[20:], " ")
	return r, true
}

// MarshalText returns the event's String.
func (e Event) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// ParseEvent reads what Event.String writes.
func ParseEvent(s string) (Event, error) {
	for _, e := range [...]Event{EventAllow, EventDeny, EventPass, EventLog} {
		if e.String() == s {
			return e, nil
		}
	}
	return 0, fmt.Errorf("unknown event %q: want one of allow, deny, pass, log", s)
}
