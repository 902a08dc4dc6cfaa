// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/picture"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// compare reads two sets of documents and says which hosts they make different. Hosts that a file describes are the
// same before and after.
func (in *cluster) compare(ctx context.Context, before, after string, timeout time.Duration, o analyze.Options) (*fleet.Delta, error) {
	known, err := in.known()
	if err != nil {
		return nil, err
	}
	var groups [2][]*fleet.Group
	hosts := 0
	for i, name := range []string{before, after} {
		r, err := in.readPolicies(ctx, []string{name})
		if err != nil {
			return nil, err
		}
		all := fleet.Hosts(r, known, policy.Config{})
		hosts += len(all)
		if groups[i], err = fleet.Groups(r, all); err != nil {
			return nil, invalid(err)
		}
	}
	if hosts == 0 {
		return nil, fmt.Errorf("no host: neither %s nor %s holds a HostEndpoint or a Node; describe a host with --host FILE", before, after)
	}
	ctx, cancel := within(ctx, timeout)
	defer cancel()
	return fleet.Compare(ctx, groups[0], groups[1], o)
}

// deltaResult is what `hep diff` says of many hosts, for machines.
type deltaResult struct {
	Changed bool        `json:"changed"`
	Hosts   []deltaHost `json:"hosts"` // those that change alike together
	Same    []string    `json:"same"`
	Partial string      `json:"partial,omitempty"` // why there may be more; "" if that is all
}

type deltaHost struct {
	Nodes   []string      `json:"nodes"`
	New     bool          `json:"new,omitempty"`
	Gone    bool          `json:"gone,omitempty"`
	Changes []deltaChange `json:"changes"`
}

type deltaChange struct {
	Effect  string        `json:"effect"`
	Before  deltaDecision `json:"before"`
	After   deltaDecision `json:"after"`
	Packets []string      `json:"packets"` // sets of packets, each packet in one of them; none of a sample
	Witness string        `json:"witness"`
	// Sample says that it is one packet, from where the comparison was stopped before it had looked at all.
	Sample bool `json:"sample,omitempty"`

	brief, key string
	share      float64
	lost       bool // nobody wrote what decides now, but what did before
}

type deltaDecision struct {
	Verdict string `json:"verdict"`
	By      string `json:"by"`
	Pos     string `json:"pos,omitempty"`
}

func describeDelta(d *fleet.Delta) deltaResult {
	out := deltaResult{Changed: len(d.Changes) > 0, Hosts: []deltaHost{}, Same: append([]string{}, d.Same...)}
	for _, c := range d.Changes {
		h := deltaHost{Nodes: c.Nodes, New: c.Before == nil, Gone: c.After == nil, Changes: []deltaChange{}}
		for i := range c.Report.Changes {
			x := &c.Report.Changes[i]
			y := describeChange(x)
			y.Witness, y.brief, y.share = policytest.FormatPacket(&x.Witness), picture.Brief(x), x.Share
			for j := range x.Boxes {
				y.Packets = append(y.Packets, picture.BoxText(&x.Boxes[j]))
			}
			y.key += strings.Join(y.Packets, "\n")
			h.Changes = append(h.Changes, y)
		}
		for _, s := range c.Report.Samples {
			y := describeChange(&analyze.Change{Before: s.Before, After: s.After})
			y.Sample, y.Packets, y.Witness = true, []string{}, policytest.FormatPacket(&s.Packet)
			y.brief = "for one: " + y.Witness
			h.Changes = append(h.Changes, y)
		}
		if c.Report.Partial && out.Partial == "" {
			out.Partial = c.Nodes[0] + ": " + c.Report.Reason
		}
		out.Hosts = append(out.Hosts, h)
	}
	return out
}

// describeChange returns what is said of a change, but for its packets.
func describeChange(x *analyze.Change) deltaChange {
	decision := func(x analyze.Decision) deltaDecision {
		return deltaDecision{Verdict: x.Verdict.String(), By: x.By.String(), Pos: x.By.Pos.String()}
	}
	// The names of endpoints in the origin of the default denial do not count.
	name := func(o flow.Origin) string {
		if o.Kind == flow.OriginDefault {
			o.Name = "*"
		}
		return o.String()
	}
	y := deltaChange{Effect: picture.Effect(x), Before: decision(x.Before), After: decision(x.After)}
	rule := func(o flow.Origin) bool { return o.Kind == flow.OriginPolicy || o.Kind == flow.OriginProfile }
	y.lost = rule(x.Before.By) && !rule(x.After.By)
	y.key = strings.Join([]string{y.Effect, name(x.Before.By), name(x.After.By), ""}, "\n")
	return y
}

// deltaLine is a change, and all hosts that have it.
type deltaLine struct {
	*deltaChange
	nodes []string
}

// deltaLines puts the same change of several hosts together: those of most hosts first, and samples last.
func deltaLines(r *deltaResult) []*deltaLine {
	var out []*deltaLine
	seen := map[string]*deltaLine{}
	for i := range r.Hosts {
		h := &r.Hosts[i]
		for j := range h.Changes {
			y := &h.Changes[j]
			l := seen[y.key]
			if l == nil || y.Sample {
				l = &deltaLine{deltaChange: y}
				out = append(out, l)
				if !y.Sample {
					seen[y.key] = l
				}
			}
			l.nodes = append(l.nodes, h.Nodes...)
		}
	}
	for _, l := range out {
		slices.Sort(l.nodes)
	}
	rank := func(l *deltaLine) int {
		if l.Sample {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b *deltaLine) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(len(b.nodes), len(a.nodes)), cmp.Compare(b.share, a.share), strings.Compare(a.nodes[0], b.nodes[0]))
	})
	return out
}

// deltaMost is how many changes are printed unless all are asked for: what is read in a review.
const deltaMost = 8

// printDelta prints which packets fare differently, and on which hosts: a line for each change, or with long everything that
// is known of it.
func printDelta(out *output, r *deltaResult, long bool) {
	hosts := 0
	for _, h := range r.Hosts {
		hosts += len(h.Nodes)
	}
	all := hosts + len(r.Same)
	lines := deltaLines(r)
	on := func(l *deltaLine) string {
		if len(l.nodes) == all && all > 1 {
			return fmt.Sprintf("all %d hosts", all)
		}
		return nodeList(l.nodes)
	}
	if long {
		for _, l := range lines {
			printLong(out, l, on(l))
		}
	} else if len(lines) > 0 {
		shown := lines
		if len(lines) > deltaMost+1 {
			shown = lines[:deltaMost]
		}
		var rows [][]cell
		for _, l := range shown {
			rows = append(rows, []cell{{l.Effect, effectStyle(l.Effect)}, {on(l), bold}, {l.brief, plain}, because(l.deltaChange)})
		}
		out.table([]string{"CHANGE", "HOSTS", "PACKETS", "BECAUSE"}, rows)
		if n := len(lines) - len(shown); n > 0 {
			fmt.Fprintf(out.out, "and %d more changes: -v shows all\n", n)
		}
	}
	for _, h := range r.Hosts {
		if h.New {
			fmt.Fprintf(out.out, "%s %s\n", out.paint(bold, "new:"), nodeList(h.Nodes))
		} else if h.Gone {
			fmt.Fprintf(out.out, "%s %s\n", out.paint(bold, "no longer there:"), nodeList(h.Nodes))
		}
	}
	if r.Partial != "" {
		fmt.Fprintln(out.out, out.paint(yellow, "stopped before it was complete; there may be more: ")+r.Partial)
	}
	if len(lines) == 0 && r.Partial == "" {
		fmt.Fprintln(out.out, out.paint(green, "no packet fares differently")+" on "+hostCount(all))
		return
	}
	fmt.Fprintf(out.out, "%d of %s\n", hosts, plainChange(all, hosts))
}

func effectStyle(effect string) style {
	switch effect {
	case "opened":
		return green
	case "closed":
		return red
	}
	return yellow
}

// because names what a reviewer has to look at: the rule that decides now, or if nobody wrote what does, the one that does
// not any more.
func because(c *deltaChange) cell {
	is, d := "now ", c.After
	if c.lost {
		is, d = "no longer ", c.Before
	}
	text := is + d.By
	if d.Pos != "" {
		text += " (" + d.Pos + ")"
	}
	return cell{text, cyan}
}

func printLong(out *output, l *deltaLine, on string) {
	fmt.Fprintf(out.out, "%s on %s\n", out.paint(effectStyle(l.Effect), l.Effect), out.paint(bold, on))
	const most = 4
	for i, p := range l.Packets {
		if i == most && len(l.Packets) > most+1 {
			fmt.Fprintf(out.out, "    and %d more sets of packets\n", len(l.Packets)-most)
			break
		}
		fmt.Fprintln(out.out, "    "+p)
	}
	fmt.Fprintf(out.out, "    %s → %s\n", decisionText(out, l.Before), decisionText(out, l.After))
	fmt.Fprintln(out.out, "    "+out.paint(dim, "for example: "+l.Witness))
}

func plainChange(all, hosts int) string {
	if hosts == 1 {
		return hostCount(all) + " changes"
	}
	return hostCount(all) + " change"
}

func decisionText(out *output, d deltaDecision) string {
	s := verdictCell(d.Verdict)
	text := out.paint(s.style, s.text) + " " + out.paint(cyan, d.By)
	if d.Pos != "" {
		text += out.paint(dim, " ("+d.Pos+")")
	}
	return text
}
