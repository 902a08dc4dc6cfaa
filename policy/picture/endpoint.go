// SPDX-License-Identifier: Apache-2.0

// Package picture draws policy: the stages, tiers, policies and rules of an endpoint as SVG, and the difference of two
// sets of policies as an HTML page. Both are text made of their arguments alone, the same to the byte for the same
// arguments; they load nothing, run no script, and follow the reader's preference for light or dark.
package picture

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Note is what is known of a rule, or of the end of a tier or endpoint.
type Note struct {
	Dead bool   // no packet can reach it: it is drawn in grey
	Text string // shown beside it, such as "by web[0]"; "" is nothing
}

// Options say what else to draw. The zero value is a plain picture.
type Options struct {
	// Notes holds what is known of origins, by identity (flow.Origin.ID).
	Notes map[flow.Origin]Note
	// Counters holds how many packets origins decided, by identity; nil draws none.
	Counters map[flow.Origin]uint64
}

// The measures of a picture, in pixels. Text of rules is monospaced; a character is at most charWidth wide in any of
// the fonts that the style sheet names.
const (
	margin    = 24
	laneWidth = 620
	laneGap   = 32
	headTall  = 92
	rowTall   = 22
	charWidth = 7.3
	pad       = 12
	gap       = 22 // with an arrow in it
)

// Endpoint returns an SVG document of everything that one endpoint of a host is asked: on the left what packets meet
// that arrive, on the right those that leave, from top to bottom. The error says that there is no such endpoint.
func Endpoint(s *policy.Snapshot, name string, o Options) (string, error) {
	ep := find(s, name)
	if ep == nil {
		return "", fmt.Errorf("no endpoint %q governs an interface of node %s", name, s.Host.Node)
	}
	d := drawing{o: o, s: s, ep: ep, sets: SetNames(s)}
	left := d.lane(margin, flow.Ingress)
	right := d.lane(margin+laneWidth+laneGap, flow.Egress)
	width, height := 2*margin+2*laneWidth+laneGap, max(left, right)+margin

	var c canvas
	fmt.Fprintf(&c, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		width, height, width, height, escape("Policy of host endpoint "+ep.Name+" on node "+s.Host.Node))
	c.WriteString("<style>\n" + svgStyle + "</style>\n")
	c.rect("page", 0, 0, width, height, 0)
	c.text("title", margin, 46, ep.Name, 60)
	c.text("sub", margin, 70, describe(s, ep), 150)
	c.WriteString(d.c.String())
	c.WriteString("</svg>\n")
	return c.String(), nil
}

func find(s *policy.Snapshot, name string) *policy.Endpoint {
	for _, ep := range s.Endpoints {
		if ep.Name == name {
			return ep
		}
	}
	if s.Wildcard != nil && s.Wildcard.Name == name {
		return s.Wildcard
	}
	return nil
}

// describe returns the line under the title.
func describe(s *policy.Snapshot, ep *policy.Endpoint) string {
	where := "all interfaces that have no endpoint of their own"
	if len(ep.Interfaces) > 0 {
		where = strings.Join(ep.Interfaces, ", ")
	}
	out := "host endpoint of node " + s.Host.Node + ", " + where
	if p := ep.Pos.String(); p != "" {
		out += ", " + p
	}
	return out
}

// drawing is a picture being drawn.
type drawing struct {
	c    canvas
	o    Options
	s    *policy.Snapshot
	ep   *policy.Endpoint
	sets map[string]string
}

// stage is one list of tiers as it is drawn.
type stage struct {
	stage flow.Stage
	what  string
	tiers []policy.TierPolicies
}

// stages returns the stages of a direction, in the order in which packets meet them.
func (d *drawing) stages(dir flow.Direction) []stage {
	var out []stage
	if len(d.ep.Untracked) > 0 {
		out = append(out, stage{flow.StageUntracked, "untracked: before connection tracking", d.ep.Untracked})
	}
	if dir == flow.Ingress && len(d.ep.PreDNAT) > 0 {
		out = append(out, stage{flow.StagePreDNAT, "pre-DNAT: before destination NAT", d.ep.PreDNAT})
	}
	normal := stage{flow.StageNormal, "normal: to processes of this host", d.ep.Normal}
	if dir == flow.Egress {
		normal.what = "normal: from processes of this host"
	}
	out = append(out, normal)
	forward := stage{flow.StageForward, "forward: through this host", d.ep.Forward}
	return append(out, forward)
}

// lane draws one direction and returns where it ends.
func (d *drawing) lane(x int, dir flow.Direction) int {
	y := headTall
	title := "Ingress"
	if dir == flow.Egress {
		title = "Egress"
	}
	d.c.text("lane", x, y+14, title, 0)
	y += 28
	stages := d.stages(dir)
	for i := range stages {
		if i > 0 && stages[i].stage != flow.StageForward {
			d.c.down(x+laneWidth/2, y-gap+4, y-2)
		}
		y = d.stage(x, y, dir, &stages[i]) + gap
	}
	return y - gap
}

// stage draws one stage and returns where it ends.
func (d *drawing) stage(x, y int, dir flow.Direction, s *stage) int {
	back := len(d.c.String()) // the frame goes behind what it holds, and its height is not known yet
	top := y
	d.c.text("stage", x+pad, y+20, s.what, 80)
	y += 32
	inner, w := x+pad, laneWidth-2*pad
	line := func(class, label, text string, o flow.Origin) {
		d.row(inner, y, w, class, label, text, "", o)
		y += rowTall
	}
	if s.stage != flow.StageUntracked {
		end := "allow"
		if s.stage == flow.StagePreDNAT {
			end = "next"
		}
		line(end, end, "packets of known connections", flow.Origin{Kind: flow.OriginEstablished})
		if !d.s.Config.DisableConntrackInvalidCheck {
			line("deny", "deny", "packets that connection tracking calls invalid", flow.Origin{Kind: flow.OriginInvalid})
		}
	}
	if text := d.failsafes(dir); s.stage != flow.StageForward && text != "" {
		end := "next"
		if s.stage == flow.StageNormal {
			end = "allow"
		}
		line(end, end, text, flow.Origin{})
	}
	y += 8
	if s.stage == flow.StageForward && len(s.tiers) == 0 {
		d.row(inner, y, w, "allow", "allow", "no policy of this endpoint applies on forward", "", flow.Origin{Kind: flow.OriginForwardDefault})
		y += rowTall
		return d.frame(back, x, top, y+8)
	}
	drawn := 0
	for _, t := range s.tiers {
		list := t.Ingress
		if dir == flow.Egress {
			list = t.Egress
		}
		if len(list) == 0 {
			continue
		}
		y = d.tier(inner, y, w, dir, s.stage, t.Tier, list)
		d.c.down(inner+w/2, y+3, y+gap-4)
		y += gap
		drawn++
	}
	switch s.stage {
	case flow.StageNormal:
		for _, p := range d.ep.Profiles {
			y = d.profile(inner, y, w, dir, p)
			d.c.down(inner+w/2, y+3, y+gap-4)
			y += gap
		}
		d.row(inner, y, w, "deny", "deny", "everything else", "", flow.Origin{Kind: flow.OriginDefault, Name: d.ep.Name, Dir: dir})
		y += rowTall
	case flow.StageForward:
		d.row(inner, y, w, "next", "next", "everything else goes on to the host's own rules", "", flow.Origin{Kind: flow.OriginNoVerdict})
		y += rowTall
	default:
		d.row(inner, y, w, "next", "next", "everything else goes on to the next stage", "", flow.Origin{Kind: flow.OriginNoVerdict, Stage: s.stage})
		y += rowTall
	}
	return d.frame(back, x, top, y+8)
}

// frame puts the frame of a stage behind what was drawn since back.
func (d *drawing) frame(back, x, top, bottom int) int {
	all := d.c.String()
	d.c.Reset()
	d.c.WriteString(all[:back])
	d.c.rect("frame", x, top, laneWidth, bottom-top, 10)
	d.c.WriteString(all[back:])
	return bottom
}

// failsafes returns the failsafes of a direction on one line; "" if there are none.
func (d *drawing) failsafes(dir flow.Direction) string {
	list := d.s.Config.Failsafes.Inbound
	if dir == flow.Egress {
		list = d.s.Config.Failsafes.Outbound
	}
	var out []string
	for _, f := range list {
		t := fmt.Sprintf("%s/%d", f.Protocol, f.Port)
		if f.Net.IsValid() {
			t += " " + f.Net.String()
		}
		out = append(out, t)
	}
	if d.s.Config.Failsafes.NeighborDiscovery == policy.On {
		out = append(out, "neighbour discovery")
	}
	if len(out) == 0 {
		return ""
	}
	return "failsafes: " + strings.Join(out, ", ")
}

// tier draws one tier and returns where it ends.
func (d *drawing) tier(x, y, w int, dir flow.Direction, st flow.Stage, t *policy.Tier, list []*policy.Policy) int {
	top, back := y, len(d.c.String())
	d.c.text("tier", x+pad, y+19, "tier "+t.Name, 40)
	d.source(x+w-pad, y+19, t.Pos)
	y += 30
	for _, p := range list {
		rules := p.Ingress
		if dir == flow.Egress {
			rules = p.Egress
		}
		y = d.list(x+pad, y, w-2*pad, p.Name, "policy", p.Pos, rules, flow.Origin{Kind: flow.OriginPolicy, Tier: p.Tier, Name: p.Name, Dir: dir, Stage: st}) + 8
	}
	end, what := "deny", "the end of the tier"
	if t.Pass || st == flow.StageUntracked || st == flow.StagePreDNAT {
		end = "pass"
	}
	d.row(x+pad, y, w-2*pad, end, end, what, "", flow.Origin{Kind: flow.OriginTier, Tier: t.Name, Dir: dir, Stage: st})
	y += rowTall + 6
	return d.box(back, "tierbox", x, top, w, y)
}

func (d *drawing) profile(x, y, w int, dir flow.Direction, p *policy.Profile) int {
	top, back := y, len(d.c.String())
	y += 8
	if p.Missing {
		d.c.text("policy", x+pad, y+15, p.Name, 50)
		y += 24
		d.row(x+pad, y, w-2*pad, "deny", "deny", "the profile does not exist: everything", "", flow.Origin{Kind: flow.OriginProfileMissing, Name: p.Name})
		return d.box(back, "tierbox", x, top, w, y+rowTall+6)
	}
	rules := p.Ingress
	if dir == flow.Egress {
		rules = p.Egress
	}
	y = d.list(x+pad, y, w-2*pad, "profile "+p.Name, "tier", p.Pos, rules, flow.Origin{Kind: flow.OriginProfile, Name: p.Name, Dir: dir})
	return d.box(back, "tierbox", x, top, w, y+8)
}

func (d *drawing) box(back int, class string, x, top, w, bottom int) int {
	all := d.c.String()
	d.c.Reset()
	d.c.WriteString(all[:back])
	d.c.rect(class, x, top, w, bottom-top, 8)
	d.c.WriteString(all[back:])
	return bottom
}

// list draws the rules of a policy or profile under its name, and returns where they end.
func (d *drawing) list(x, y, w int, name, class string, pos field.Pos, rules []policy.Rule, o flow.Origin) int {
	d.c.text(class, x, y+15, name, 50)
	d.source(x+w, y+15, pos)
	y += 24
	if len(rules) == 0 {
		d.c.text("none", x+8, y+15, "no rules", 0)
		return y + rowTall
	}
	for i := range rules {
		r := &rules[i]
		o.Index, o.Pos = r.Index, r.Pos
		class, label := action(r.Action)
		line := ""
		if r.Pos.Line > 0 {
			line = fmt.Sprint(r.Pos.Line)
		}
		d.row(x, y, w, class, label, RuleText(r, d.sets), line, o)
		y += rowTall
	}
	return y
}

// action returns how an action is drawn. What is no action denies.
func action(a hostendpoint.Action) (class, label string) {
	switch a {
	case hostendpoint.Allow:
		return "allow", "allow"
	case hostendpoint.Pass:
		return "pass", "pass"
	case hostendpoint.Log:
		return "log", "log"
	}
	return "deny", "deny"
}

// source writes where something stands, ending at x.
func (d *drawing) source(x, y int, pos field.Pos) {
	if s := pos.String(); s != "" {
		n := utf8.RuneCountInString(s)
		if n > 44 {
			s = "…" + string([]rune(s)[n-43:])
		}
		d.c.text("src end", x, y, s, 0)
	}
}

// row draws one line: what happens, to what, and on the right a note or a counter and the line of the file.
func (d *drawing) row(x, y, w int, class, label, text, line string, o flow.Origin) {
	note := d.o.Notes[o.ID()]
	if note.Dead {
		class += " dead"
	}
	fmt.Fprintf(&d.c, `<g class="%s">`+"\n", class)
	d.c.rect("row", x, y, w, rowTall-3, 4)
	d.c.rect("chip", x, y, 46, rowTall-3, 4)
	d.c.text("label", x+23, y+13, label, 0)
	right := x + w - 8
	if line != "" {
		d.c.text("src end", right, y+13, line, 0)
		right -= 38
	}
	if n, ok := d.o.Counters[o.ID()]; ok && ofOneStage(o.Kind) {
		s := count(n)
		d.c.text("count end", right, y+13, s, 0)
		right -= int(float64(len(s))*charWidth) + 10
	}
	if note.Text != "" {
		s := cut(note.Text, 34)
		d.c.text("note end", right, y+13, note.Text, 34)
		right -= int(float64(utf8.RuneCountInString(s))*charWidth) + 10
	}
	d.c.text("rule", x+56, y+13, text, max(int(float64(right-x-56)/charWidth), 8))
	d.c.WriteString("</g>\n")
}

// ofOneStage reports whether what is counted for origins of a kind belongs to one place in the picture.
func ofOneStage(k flow.OriginKind) bool {
	switch k {
	case flow.OriginPolicy, flow.OriginProfile, flow.OriginTier, flow.OriginDefault, flow.OriginProfileMissing:
		return true
	}
	return false
}

// count returns a number in at most five characters.
func count(n uint64) string {
	for _, u := range [...]struct {
		from uint64
		unit string
	}{{1e15, "P"}, {1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if n >= u.from {
			base := u.from
			if u.unit == "k" {
				base = 1e3
			}
			return fmt.Sprintf("%d%s", n/base, u.unit)
		}
	}
	return fmt.Sprint(n)
}
