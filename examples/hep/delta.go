// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/picture"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// compare reads two sets of documents and says which hosts they make different. Hosts that a file describes are the
// same before and after.
func (in *cluster) compare(ctx context.Context, before, after string, o analyze.Options) (*fleet.Delta, error) {
	known, err := in.known()
	if err != nil {
		return nil, err
	}
	var groups [2][]*fleet.Group
	hosts := 0
	for i, name := range []string{before, after} {
		r, err := readPolicies(ctx, []string{name}, in.stdin)
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
	Packets []string      `json:"packets"` // sets of packets, each packet in one of them
	Witness string        `json:"witness"`
}

type deltaDecision struct {
	Verdict string `json:"verdict"`
	By      string `json:"by"`
	Pos     string `json:"pos,omitempty"`
}

func describeDelta(d *fleet.Delta) deltaResult {
	out := deltaResult{Changed: len(d.Changes) > 0, Hosts: []deltaHost{}, Same: append([]string{}, d.Same...)}
	decision := func(x analyze.Decision) deltaDecision {
		return deltaDecision{Verdict: x.Verdict.String(), By: x.By.String(), Pos: x.By.Pos.String()}
	}
	for _, c := range d.Changes {
		h := deltaHost{Nodes: c.Nodes, New: c.Before == nil, Gone: c.After == nil, Changes: []deltaChange{}}
		for i := range c.Report.Changes {
			x := &c.Report.Changes[i]
			y := deltaChange{Effect: picture.Effect(x), Before: decision(x.Before), After: decision(x.After), Witness: policytest.FormatPacket(&x.Witness)}
			for j := range x.Boxes {
				y.Packets = append(y.Packets, picture.BoxText(&x.Boxes[j]))
			}
			h.Changes = append(h.Changes, y)
		}
		if c.Report.Partial && out.Partial == "" {
			out.Partial = c.Nodes[0] + ": " + c.Report.Reason
		}
		out.Hosts = append(out.Hosts, h)
	}
	return out
}

// deltaLine is a change, and all hosts that have it.
type deltaLine struct {
	*deltaChange
	nodes []string
	share float64
}

// deltaLines puts the same change of several hosts together. The names of endpoints in the origin of the default denial
// do not count.
func deltaLines(d *fleet.Delta, r *deltaResult) []*deltaLine {
	var out []*deltaLine
	seen := map[string]*deltaLine{}
	for i, c := range d.Changes {
		for j := range c.Report.Changes {
			x, y := &c.Report.Changes[j], &r.Hosts[i].Changes[j]
			name := func(o flow.Origin) string {
				if o.Kind == flow.OriginDefault {
					o.Name = "*"
				}
				return o.String()
			}
			key := strings.Join(append([]string{y.Effect, name(x.Before.By), name(x.After.By)}, y.Packets...), "\n")
			l := seen[key]
			if l == nil {
				l = &deltaLine{deltaChange: y, share: x.Share}
				seen[key] = l
				out = append(out, l)
			}
			l.nodes = append(l.nodes, c.Nodes...)
		}
	}
	for _, l := range out {
		slices.Sort(l.nodes)
	}
	slices.SortStableFunc(out, func(a, b *deltaLine) int {
		return cmp.Or(cmp.Compare(len(b.nodes), len(a.nodes)), cmp.Compare(b.share, a.share), strings.Compare(a.nodes[0], b.nodes[0]))
	})
	return out
}

// printDelta prints which packets fare differently, and on which hosts.
func printDelta(out *output, d *fleet.Delta, r *deltaResult) {
	hosts := 0
	for _, h := range r.Hosts {
		hosts += len(h.Nodes)
	}
	all := hosts + len(r.Same)
	lines := deltaLines(d, r)
	for _, l := range lines {
		st := yellow
		switch l.Effect {
		case "opened":
			st = green
		case "closed":
			st = red
		}
		on := "on " + nodeList(l.nodes)
		if len(l.nodes) == all && all > 1 {
			on = fmt.Sprintf("on all %d hosts", all)
		}
		fmt.Fprintf(out.out, "%s %s\n", out.paint(st, l.Effect), out.paint(bold, on))
		const most = 4
		for i, p := range l.Packets {
			if i == most && len(l.Packets) > most+1 {
				fmt.Fprintf(out.out, "    and %d more sets of packets\n", len(l.Packets)-most)
				break
			}
			fmt.Fprintln(out.out, "    "+p)
		}
		fmt.Fprintf(out.out, "    %s → %s\n", decisionText(out, l.Before), decisionText(out, l.After))
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
