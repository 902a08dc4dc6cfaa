// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/picture"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	"github.com/hostpolicy/hostpolicy/selector"
)

// whoFlow is one set of packets that is let in, for machines.
type whoFlow struct {
	Host      string        `json:"host"` // that lets them in
	Packets   []string      `json:"packets"`
	Verdict   string        `json:"verdict"`
	By        string        `json:"by"`
	Pos       string        `json:"pos,omitempty"`
	Sources   []string      `json:"sources"`   // prefixes
	Endpoints []whoEndpoint `json:"endpoints"` // those among the sources
	Witness   string        `json:"witness"`
}

// whoEndpoint is an endpoint that the receiving host lets in. Its own host may let it out or not.
type whoEndpoint struct {
	Name  string `json:"name"`
	Held  bool   `json:"held"` // its own host keeps all of it
	By    string `json:"by"`   // what decides there
	Pos   string `json:"pos,omitempty"`
	Where string `json:"node"`
}

func whoCommand(out *output, stdin *os.File) *cobra.Command {
	in := &cluster{stdin: stdin}
	var to, from, proto, state string
	cmd := &cobra.Command{
		Use:   "who -f FILE (--to TARGET[:PORT] | --from SOURCE)",
		Short: "Say who can reach what, and which rules let them",
		Long: `who prints the exact set of packets that reach a process on a host: from which addresses and endpoints, over which
interfaces, protocols and ports, and the rule that lets each in. It asks the receiving host, and for endpoints among the
sources also their own hosts, which may hold back what they send.

TARGET and SOURCE are the name of a node or of an endpoint, an address, a prefix, or a selector such as role=web or
"role == 'web' && env in {'prod'}". Without --to all hosts are asked; without --from all sources are.

"none" among the verdicts means that no policy speaks of the packet, so that it goes on to the host's own rules.

The exit code is 0 if somebody is let in, 1 if nobody is, 2 if there is no answer.`,
		Example: `  hep who -f policy/ --to host-a:22
  hep who -f policy/ --from role=web
  hep who -f policy/ --from 203.0.113.0/24 --to role=db:5432`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			someone, err := who(cmd.Context(), out, in, to, from, proto, state)
			switch {
			case err != nil:
				return noAnswer(err)
			case !someone:
				return errMismatch
			}
			return nil
		},
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&to, "to", "", "who reaches this: TARGET[:PORT]")
	cmd.Flags().StringVar(&from, "from", "", "what this reaches: SOURCE")
	cmd.Flags().StringVar(&proto, "protocol", "", "only packets of this protocol; tcp if --to names a port")
	cmd.Flags().StringVar(&state, "state", "new", "the state of connection tracking")
	return cmd
}

// who prints the answer, and reports whether anybody is let in, as far as the hosts of both sides are known.
func who(ctx context.Context, out *output, in *cluster, to, from, proto, state string) (bool, error) {
	if to == "" && from == "" {
		return false, errors.New("ask about something: give --to TARGET[:PORT] or --from SOURCE")
	}
	r, hosts, err := in.load(ctx)
	if err != nil {
		return false, err
	}
	groups, err := fleet.Groups(r, hosts)
	if err != nil {
		return false, err
	}
	w := whoAsker{ctx: ctx, endpoints: r.HostEndpoints, groups: groups}
	if err := w.parse(to, from, proto, state); err != nil {
		return false, err
	}
	flows, err := w.ask()
	if err != nil {
		return false, err
	}
	if out.format != "table" {
		if flows == nil {
			flows = []whoFlow{}
		}
		err = out.value(flows)
	} else {
		printWho(out, flows)
	}
	if err == nil && w.partial != "" {
		err = fmt.Errorf("stopped before it was complete (%s); there may be more", w.partial)
	}
	return slices.ContainsFunc(flows, w.letIn), err
}

// letIn reports whether packets come through. They do not if endpoints were asked for, and the hosts of all of them hold
// them back.
func (w *whoAsker) letIn(f whoFlow) bool {
	return !w.fromEndpoints || len(f.Endpoints) == 0 || slices.ContainsFunc(f.Endpoints, func(e whoEndpoint) bool { return !e.Held })
}

// whoAsker asks all hosts.
type whoAsker struct {
	ctx       context.Context
	endpoints []*hostendpoint.HostEndpoint
	groups    []*fleet.Group
	query     analyze.Query
	nodes     map[string]bool // those that are asked; nil is all
	partial   string

	fromEndpoints bool // the sources are endpoints, not addresses
}

func (w *whoAsker) parse(to, from, proto, state string) error {
	st, err := flow.ParseConnState(state)
	if err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	w.query.Path, w.query.State = flow.Input, &st
	w.query.Verdicts = []flow.Verdict{flow.Allow, flow.None}
	target, port := splitPort(to)
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return fmt.Errorf("--to %q: %q is no port", to, port)
		}
		if w.query.DstPorts, err = inet.NewPortSet(inet.PortRange{Min: uint16(n), Max: uint16(n)}); err != nil {
			return err
		}
		if proto == "" {
			proto = "tcp"
		}
	}
	if proto != "" {
		p, ok := inet.ParseProtocol(proto)
		if !ok {
			return fmt.Errorf("--protocol %q: want a name such as tcp, or a number", proto)
		}
		w.query.Protocols = ir.MaskOf(p)
	}
	if target != "" {
		found, err := w.find(target)
		if err != nil {
			return fmt.Errorf("--to: %w", err)
		}
		w.query.Dst, w.nodes = found.addrs, found.nodes
	}
	if from != "" {
		found, err := w.find(from)
		if err != nil {
			return fmt.Errorf("--from: %w", err)
		}
		if found.addrs.IsEmpty() {
			return fmt.Errorf("--from %s: nobody knows its addresses; give its endpoints expectedIPs, or ask for the addresses", from)
		}
		w.query.Src, w.fromEndpoints = found.addrs, found.nodes != nil
	}
	return nil
}

// splitPort divides TARGET:PORT. A bare address of IPv6 has no port.
func splitPort(s string) (target, port string) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String(), strconv.Itoa(int(ap.Port()))
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return s, ""
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.ContainsAny(s[i:], "'\"/]") {
		return strings.Trim(s[:i], "[]"), s[i+1:]
	}
	return s, ""
}

// whoFound is what a name stands for.
type whoFound struct {
	addrs inet.PrefixSet
	nodes map[string]bool // nil if it says nothing about hosts
}

// find returns the addresses and nodes that a TARGET or SOURCE means.
func (w *whoAsker) find(s string) (whoFound, error) {
	if p, err := inet.ParsePrefix(s); err == nil {
		set, err := inet.NewPrefixSet(p)
		return whoFound{addrs: set}, err
	}
	var matches func(h *hostendpoint.HostEndpoint) bool
	named := func(h *hostendpoint.HostEndpoint) bool { return h.Spec.Node == s || h.Metadata.Name == s }
	text := s
	if k, v, ok := strings.Cut(s, "="); ok && !strings.ContainsAny(s, "!'\"{} ") && !strings.HasPrefix(v, "=") {
		text = fmt.Sprintf("%s == '%s'", k, v)
	}
	if slices.ContainsFunc(w.endpoints, named) {
		matches = named
	} else if sel, err := selector.Parse(text); err != nil {
		return whoFound{}, fmt.Errorf("%q is no node, endpoint, address or prefix, nor a selector: %w", s, err)
	} else {
		matches = func(h *hostendpoint.HostEndpoint) bool { return sel.Matches(selector.MapLabels(h.Metadata.Labels)) }
	}
	f := whoFound{nodes: map[string]bool{}}
	for _, h := range w.endpoints {
		if matches(h) {
			f.nodes[h.Spec.Node] = true
			f.addrs = f.addrs.Union(addrsOf(h))
		}
	}
	if len(f.nodes) == 0 {
		return f, fmt.Errorf("%q selects no endpoint", s)
	}
	return f, nil
}

// addrsOf returns the expected addresses of an endpoint.
func addrsOf(h *hostendpoint.HostEndpoint) inet.PrefixSet {
	var ps []netip.Prefix
	for _, ip := range h.Spec.ExpectedIPs {
		if a, err := inet.ParseAddr(ip); err == nil {
			ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	set, _ := inet.NewPrefixSet(ps...) // addresses make valid prefixes
	return set
}

// ask asks the hosts of the query, those that enforce the same once.
func (w *whoAsker) ask() ([]whoFlow, error) {
	var out []whoFlow
	for _, g := range w.groups {
		var nodes []string
		for _, n := range g.Nodes {
			if w.nodes == nil || w.nodes[n] {
				nodes = append(nodes, n)
			}
		}
		if len(nodes) == 0 {
			continue
		}
		q := w.query
		// Hosts that enforce the same differ in their addresses.
		if own := w.addrs(g, nodes); !own.IsEmpty() {
			if q.Dst = own.Intersect(orAll(w.query.Dst)); q.Dst.IsEmpty() {
				continue
			}
		}
		a, err := w.who(g, q)
		if err != nil {
			return nil, err
		}
		var flows []whoFlow
		for i := range a.Flows {
			f := &a.Flows[i]
			f.Boxes = slices.DeleteFunc(f.Boxes, func(b analyze.Box) bool { return !has(g, b.In) })
			if len(f.Boxes) == 0 {
				continue
			}
			f.Witness = f.Boxes[0].Packet()
			x := whoFlow{
				Host: nodeList(nodes), Verdict: f.Verdict.String(), By: f.By.String(), Pos: f.By.Pos.String(),
				Witness: policytest.FormatPacket(&f.Witness), Endpoints: []whoEndpoint{},
			}
			var src inet.PrefixSet
			for j := range f.Boxes {
				x.Packets = append(x.Packets, picture.BoxText(&f.Boxes[j]))
				src = src.Union(f.Boxes[j].Src)
			}
			for _, p := range src.Prefixes() {
				x.Sources = append(x.Sources, p.String())
			}
			if x.Endpoints, err = w.senders(f, nodes); err != nil {
				return nil, err
			}
			flows = append(flows, x)
		}
		// What policy says comes first.
		slices.SortStableFunc(flows, func(a, b whoFlow) int {
			return cmp.Compare(strings.Count(a.By, "failsafe:"), strings.Count(b.By, "failsafe:"))
		})
		out = append(out, flows...)
	}
	return out, nil
}

// has reports whether the host has an interface of the set. What would be true on others is no news.
func has(g *fleet.Group, names analyze.Names) bool {
	return slices.ContainsFunc(g.Host.Interfaces, func(i hostendpoint.Interface) bool { return names.Contains(i.Name) })
}

func orAll(s inet.PrefixSet) inet.PrefixSet {
	if s.IsEmpty() {
		return inet.AllAddrs(0)
	}
	return s
}

// addrs returns the addresses of nodes of a group, as far as they are known.
func (w *whoAsker) addrs(g *fleet.Group, nodes []string) inet.PrefixSet {
	var out inet.PrefixSet
	for _, h := range w.endpoints {
		if slices.Contains(nodes, h.Spec.Node) {
			out = out.Union(addrsOf(h))
		}
	}
	if slices.Contains(nodes, g.Host.Node) {
		for _, i := range g.Host.Interfaces {
			for _, p := range i.Addresses {
				one, err := inet.NewPrefixSet(netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
				if err == nil {
					out = out.Union(one)
				}
			}
		}
	}
	return out
}

func (w *whoAsker) who(g *fleet.Group, q analyze.Query) (*analyze.Answer, error) {
	a, err := analyze.Who(w.ctx, analyze.Input{Program: g.Program, Members: g.Members}, q, analyze.Options{})
	if err == nil && a.Partial {
		w.partial = a.Reason
	}
	return a, err
}

// senders returns the endpoints of other hosts that are let in, and what their own hosts say.
func (w *whoAsker) senders(f *analyze.Flow, nodes []string) ([]whoEndpoint, error) {
	out := []whoEndpoint{}
	for _, h := range w.endpoints {
		addrs := addrsOf(h)
		if slices.Contains(nodes, h.Spec.Node) || !w.query.Src.IsEmpty() && addrs.Intersect(w.query.Src).IsEmpty() {
			continue
		}
		at := slices.IndexFunc(w.groups, func(g *fleet.Group) bool { return slices.Contains(g.Nodes, h.Spec.Node) })
		if at < 0 {
			continue
		}
		e := whoEndpoint{Name: h.Metadata.Name, Where: h.Spec.Node, Held: true}
		met := false
		for i := range f.Boxes {
			b := &f.Boxes[i]
			src := b.Src.Intersect(addrs)
			if src.IsEmpty() {
				continue
			}
			met = true
			q := analyze.Query{
				Path: flow.Output, State: w.query.State, Src: src, Dst: b.Dst, Protocols: b.Protocols,
				Verdicts: []flow.Verdict{flow.Allow, flow.None, flow.Deny},
			}
			if b.DstPorts.Len() < 1<<16 {
				q.DstPorts = b.DstPorts
			}
			a, err := w.who(w.groups[at], q)
			if err != nil {
				return nil, err
			}
			for _, x := range a.Flows {
				if !slices.ContainsFunc(x.Boxes, func(b analyze.Box) bool { return has(w.groups[at], b.Out) }) {
					continue
				}
				if e.By == "" || e.Held && x.Verdict != flow.Deny {
					e.By, e.Pos = x.By.String(), x.By.Pos.String()
				}
				e.Held = e.Held && x.Verdict == flow.Deny
			}
		}
		if met {
			e.Held = e.Held && e.By != ""
			out = append(out, e)
		}
	}
	return out, nil
}

func printWho(out *output, flows []whoFlow) {
	if len(flows) == 0 {
		fmt.Fprintln(out.out, out.paint(red, "nobody")+": no packet of this kind is let in")
		return
	}
	for i, f := range flows {
		if strings.HasPrefix(f.By, "failsafe:") {
			// They are the same for everybody.
			if i == 0 || flows[i-1].Host != f.Host || !strings.HasPrefix(flows[i-1].By, "failsafe:") {
				var by []string
				for _, x := range flows[i:] {
					if text, ok := strings.CutPrefix(x.By, "failsafe:"); ok && x.Host == f.Host {
						by = append(by, strings.TrimPrefix(text, "in/"))
					}
				}
				fmt.Fprintf(out.out, "%s %s %s\n", out.paint(bold, f.Host), out.paint(green, f.Verdict), out.paint(cyan, "failsafes: "+strings.Join(by, ", ")))
			}
			continue
		}
		fmt.Fprintf(out.out, "%s %s\n", out.paint(bold, f.Host), decisionText(out, deltaDecision{Verdict: f.Verdict, By: f.By, Pos: f.Pos}))
		const most = 6
		for i, p := range f.Packets {
			if i == most && len(f.Packets) > most+1 {
				fmt.Fprintf(out.out, "    and %d more sets of packets\n", len(f.Packets)-most)
				break
			}
			fmt.Fprintln(out.out, "    "+p)
		}
		var let []string
		for _, e := range f.Endpoints {
			if !e.Held {
				let = append(let, e.Name)
				continue
			}
			fmt.Fprintf(out.out, "    %s %s: its own host holds it: %s\n", out.paint(yellow, "but not"), e.Name, decisionText(out, deltaDecision{Verdict: "deny", By: e.By, Pos: e.Pos}))
		}
		if len(let) > 0 {
			fmt.Fprintf(out.out, "    endpoints: %s\n", out.paint(green, nodeList(let)))
		}
	}
}
