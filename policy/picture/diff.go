// SPDX-License-Identifier: Apache-2.0

package picture

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// DiffOptions say what the page of a difference tells besides it. The zero value is useful.
type DiffOptions struct {
	Before, After string // what was compared; "" is "before" and "after"
}

// effect is what a change means to those who send packets.
type effect struct{ class, word, what string }

var effects = [...]effect{
	{"opened", "opened", "was denied, is allowed"},
	{"closed", "closed", "was allowed, is denied"},
	{"none", "left open", "no policy decides any more"},
	{"none", "policed", "no policy decided before"},
	{"by", "other rule", "the same verdict by another rule"},
}

func effectOf(c *analyze.Change) effect {
	switch b, a := c.Before.Verdict, c.After.Verdict; {
	case b == a:
		return effects[4]
	case b == flow.Deny && a == flow.Allow:
		return effects[0]
	case a == flow.Deny && b == flow.Allow:
		return effects[1]
	case a == flow.None:
		return effects[2]
	}
	return effects[3]
}

// Effect returns what a change means to those who send packets, in a word or two: "opened", "closed", "left open",
// "policed", or "other rule" if the verdict stays.
func Effect(c *analyze.Change) string { return effectOf(c).word }

// boxesShown is how many boxes of a change stand on the page before a reader asks for more, and boxesListed how many
// there are then.
const (
	boxesShown  = 3
	boxesListed = 200
)

// Diff returns an HTML page about the difference between two sets of policies. It needs nothing but itself: no network,
// no script, no other file.
func Diff(d *fleet.Delta, o DiffOptions) string {
	if o.Before == "" {
		o.Before = "before"
	}
	if o.After == "" {
		o.After = "after"
	}
	p := &page{}
	p.f("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
	p.f("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n<link rel=\"icon\" href=\"data:,\">\n")
	p.f("<title>%s</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n", escape("Policy diff: "+o.Before+" → "+o.After), pageStyle)
	p.f("<header><h1>Policy diff</h1><p class=\"what\"><code>%s</code> <span class=\"to\">→</span> <code>%s</code></p></header>\n", escape(o.Before), escape(o.After))
	p.summary(d)
	for _, c := range d.Changes {
		p.hosts(c)
	}
	if len(d.Changes) == 0 {
		p.f("<section class=\"calm\"><h2>Nothing changes</h2><p>Every packet fares on every host as before.</p></section>\n")
	}
	p.same(d)
	p.f("</main>\n</body>\n</html>\n")
	return p.String()
}

type page struct{ strings.Builder }

// f writes formatted text. Arguments that come from outside must have been escaped.
func (p *page) f(format string, args ...any) { fmt.Fprintf(p, format, args...) }

// summary writes the numbers at the top.
func (p *page) summary(d *fleet.Delta) {
	hosts, counts, partial := 0, map[string]int{}, ""
	for _, c := range d.Changes {
		hosts += len(c.Nodes)
		for i := range c.Report.Changes {
			counts[effectOf(&c.Report.Changes[i]).class]++
		}
		if c.Report.Partial && partial == "" {
			partial = c.Nodes[0] + ": " + c.Report.Reason
		}
	}
	tile := func(class string, n, of int, what string) {
		p.f("<div class=\"tile %s\"><b>%d</b>", class, n)
		if of > 0 {
			p.f("<i> of %d</i>", of)
		}
		p.f("<span>%s</span></div>\n", what)
	}
	word := func(n int, one, many string) string {
		if n == 1 {
			return one
		}
		return many
	}
	p.f("<section class=\"tiles\">\n")
	tile("", hosts, hosts+len(d.Same), word(hosts, "host changes", "hosts change"))
	tile("opened", counts["opened"], 0, word(counts["opened"], "change opens", "changes open"))
	tile("closed", counts["closed"], 0, word(counts["closed"], "change closes", "changes close"))
	if n := counts["none"]; n > 0 {
		tile("none", n, 0, word(n, "begins or ends policing", "begin or end policing"))
	}
	if n := counts["by"]; n > 0 {
		tile("by", n, 0, word(n, "other rule decides the same", "other rules decide the same"))
	}
	p.f("</section>\n")
	if partial != "" {
		p.f("<p class=\"partial\">The comparison was stopped before it was complete: what is shown is true, but there may be more. %s</p>\n", escape(partial))
	}
}

// hosts writes the card of hosts that change alike.
func (p *page) hosts(c *fleet.Change) {
	p.f("<section class=\"card\">\n<h2>")
	switch {
	case c.Before == nil:
		p.f("New: ")
	case c.After == nil:
		p.f("No longer there: ")
	}
	if len(c.Nodes) == 1 {
		p.f("%s</h2>\n", escape(c.Nodes[0]))
	} else {
		p.f("%d hosts</h2>\n<p class=\"nodes\">", len(c.Nodes))
		for _, n := range c.Nodes {
			p.f("<span>%s</span> ", escape(n))
		}
		p.f("</p>\n")
	}
	for i := range c.Report.Changes {
		p.change(&c.Report.Changes[i])
	}
	for i := range c.Report.Samples {
		p.sample(&c.Report.Samples[i])
	}
	p.f("</section>\n")
}

func (p *page) change(c *analyze.Change) {
	e := effectOf(c)
	p.f("<article class=\"%s\">\n<h3><span class=\"badge\">%s</span> %s</h3>\n", e.class, e.word, e.what)
	p.f("<div class=\"scroll\"><table>\n<thead><tr><th>Where</th><th>Protocol</th><th>From</th><th>To</th><th>State</th></tr></thead>\n<tbody>\n")
	for i := range c.Boxes[:min(len(c.Boxes), boxesShown)] {
		p.box(&c.Boxes[i])
	}
	p.f("</tbody></table></div>\n")
	if n := len(c.Boxes) - boxesShown; n > 0 {
		p.f("<details><summary>%d more</summary><div class=\"scroll\"><table><tbody>\n", n)
		for i := range c.Boxes[boxesShown:min(len(c.Boxes), boxesShown+boxesListed)] {
			p.box(&c.Boxes[boxesShown+i])
		}
		p.f("</tbody></table></div>")
		if n > boxesListed {
			p.f("<p>and %d that are not listed here</p>", n-boxesListed)
		}
		p.f("</details>\n")
	}
	p.f("<dl>\n")
	p.decision("before", c.Before)
	p.decision("after", c.After)
	p.f("<dt>for example</dt><dd><code>%s</code></dd>\n</dl>\n</article>\n", escape(packetText(&c.Witness)))
}

// sample writes a packet that changes, from where the comparison did not look at all packets.
func (p *page) sample(s *analyze.Sample) {
	e := effectOf(&analyze.Change{Before: s.Before, After: s.After})
	p.f("<article class=\"%s\">\n<h3><span class=\"badge\">%s</span> for one, where not all packets were looked at</h3>\n<dl>\n", e.class, e.word)
	p.decision("before", s.Before)
	p.decision("after", s.After)
	p.f("<dt>packet</dt><dd><code>%s</code></dd>\n</dl>\n</article>\n", escape(packetText(&s.Packet)))
}

func (p *page) box(b *analyze.Box) {
	t := textOf(b)
	when := t.when
	if when == "" {
		when = "any"
	}
	p.f("<tr><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td></tr>\n", escape(t.where), escape(t.what), escape(t.from), escape(t.to), escape(when))
}

func (p *page) decision(name string, d analyze.Decision) {
	p.f("<dt>%s</dt><dd><span class=\"v %s\">%s</span> <code>%s</code>", name, escape(d.Verdict.String()), escape(d.Verdict.String()), escape(d.By.String()))
	if pos := d.By.Pos.String(); pos != "" {
		p.f(" <span class=\"pos\">%s</span>", escape(pos))
	}
	p.f("</dd>\n")
}

// same names the hosts on which nothing changes.
func (p *page) same(d *fleet.Delta) {
	if len(d.Same) == 0 {
		return
	}
	p.f("<section class=\"card calm\"><h2>Unchanged</h2>\n<p class=\"nodes\">")
	for _, n := range d.Same {
		p.f("<span>%s</span> ", escape(n))
	}
	p.f("</p>\n")
	if n := len(d.Rewritten); n > 0 {
		p.f("<p>The rules of %d of them are others, and every packet fares the same.</p>\n", n)
	}
	p.f("</section>\n")
}

// packetText returns a packet on one line.
func packetText(p *flow.Packet) string {
	end := func(a netip.Addr, port uint16) string {
		if p.Protocol.HasPorts() || p.Protocol == inet.UDPLite {
			return netip.AddrPortFrom(a, port).String()
		}
		return a.String()
	}
	iface := p.In + p.Out
	if p.Path == flow.Forward {
		iface = p.In + " → " + p.Out
	}
	s := fmt.Sprintf("%s %s %s %s → %s", p.Path, iface, p.Protocol, end(p.Src, p.SrcPort), end(p.Dst, p.DstPort))
	if p.Protocol == inet.ICMP || p.Protocol == inet.ICMPv6 {
		s += fmt.Sprintf(" type %d code %d", p.ICMPType, p.ICMPCode)
	}
	if p.NATDst.IsValid() {
		s += " (translated to " + end(p.NATDst.Addr(), p.NATDst.Port()) + ")"
	}
	if p.State != flow.New {
		s += " " + p.State.String()
	}
	return s
}
