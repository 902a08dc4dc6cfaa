// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// flowFilter says which records are shown. Criteria that are given must all hold.
type flowFilter struct {
	events     []string
	rule       string
	iface      string
	nets       []string
	ports      []uint
	protocol   string
	hideChecks bool
}

func (f *flowFilter) flags(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.events, "event", nil, "only these: allow, deny, pass, log")
	cmd.Flags().StringVar(&f.rule, "rule", "", "only rules whose origin contains this: policy:default/web, failsafe, conntrack")
	cmd.Flags().StringVarP(&f.iface, "interface", "i", "", "only packets that arrive or leave by it")
	cmd.Flags().StringSliceVar(&f.nets, "net", nil, "only packets from or to these addresses or networks")
	cmd.Flags().UintSliceVar(&f.ports, "port", nil, "only packets from or to these ports")
	cmd.Flags().StringVar(&f.protocol, "protocol", "", "only this protocol: tcp, icmp, 47")
	cmd.Flags().BoolVar(&f.hideChecks, "new", false, "leave out packets of established connections")
}

// compile returns the filter as a function.
func (f *flowFilter) compile() (func(*flowlog.Record) bool, error) {
	var all []func(*flowlog.Record) bool
	if len(f.events) > 0 {
		var events []flow.Event
		for _, s := range f.events {
			e, err := flow.ParseEvent(s)
			if err != nil {
				return nil, fmt.Errorf("--event: %w", err)
			}
			events = append(events, e)
		}
		all = append(all, func(r *flowlog.Record) bool { return slices.Contains(events, r.Event) })
	}
	if f.rule != "" {
		all = append(all, func(r *flowlog.Record) bool { return strings.Contains(originText(r), f.rule) })
	}
	if f.iface != "" {
		all = append(all, func(r *flowlog.Record) bool { return r.In == f.iface || r.Out == f.iface })
	}
	if len(f.nets) > 0 {
		var nets []netip.Prefix
		for _, s := range f.nets {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				a, err2 := netip.ParseAddr(s)
				if err2 != nil {
					return nil, fmt.Errorf("--net %q: want an address or a network", s)
				}
				p = netip.PrefixFrom(a, a.BitLen())
			}
			nets = append(nets, p.Masked())
		}
		all = append(all, func(r *flowlog.Record) bool {
			return slices.ContainsFunc(nets, func(p netip.Prefix) bool { return p.Contains(r.Tuple.Src) || p.Contains(r.Tuple.Dst) })
		})
	}
	if len(f.ports) > 0 {
		all = append(all, func(r *flowlog.Record) bool {
			return slices.Contains(f.ports, uint(r.Tuple.DstPort)) || slices.Contains(f.ports, uint(r.Tuple.SrcPort))
		})
	}
	if f.protocol != "" {
		p, ok := inet.ParseProtocol(f.protocol)
		if !ok {
			return nil, fmt.Errorf("--protocol %q: want a name or a number up to 255", f.protocol)
		}
		all = append(all, func(r *flowlog.Record) bool { return r.Tuple.Protocol == p })
	}
	if f.hideChecks {
		all = append(all, func(r *flowlog.Record) bool { return r.Origin.Kind != flow.OriginEstablished })
	}
	return func(r *flowlog.Record) bool {
		for _, ok := range all {
			if !ok(r) {
				return false
			}
		}
		return true
	}, nil
}

// originText names the rule of a record, by its key if nobody knows it.
func originText(r *flowlog.Record) string {
	if r.Origin.Kind == 0 {
		return "key:" + r.Key.String()
	}
	return r.Origin.String()
}

func flowsCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin}
	var t target
	var f flowFilter
	var window, limit time.Duration
	var count int
	var top bool
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "Show what the dataplane says of packets, as it happens",
		Long: `flows shows the decisions that the dataplane reports: what became of which flow, by which rule. What is reported is up
to apply: --events denies or all, and Log rules always. With -f records say where the rules are written, and with the eBPF
backend what they are called.

Packets that are alike within --window are one line. --top shows the busiest flows instead, anew at the end of each window.
It ends with an interrupt, after --count lines, or after --for. Lines that were lost are counted at the end.`,
		Example: `  hep flows --event deny --net 10.9.0.0/24
  hep flows -f policy/ --rule policy:platform/web --for 10s -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.compile()
			if err != nil {
				return err
			}
			if window < 0 || top && window == 0 {
				return fmt.Errorf("--window %s: want some time", window)
			}
			if top && out.format != "table" {
				return fmt.Errorf("--top is a table: leave -o out")
			}
			log := flowlog.New(flowlog.Options{Window: window, AnySourcePort: top})
			if len(in.files) > 0 {
				s, _, err := in.snapshot()
				if err != nil {
					return err
				}
				prog, _, err := compile.Compile(s)
				if err != nil {
					return err
				}
				log.Use(0, prog)
			}
			t.timeout = limit
			ctx, done, err := t.enter(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			src, release, err := t.events(policy.Config{})
			if err != nil {
				return err
			}
			defer release()
			sub := log.Subscribe(filter)
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			failed := make(chan error, 1)
			go func() {
				failed <- log.Run(ctx, src)
				sub.Close()
			}()
			v := flowView{out: out, wide: utf8.RuneCountInString("policy:default/some-policy/ingress[0]")}
			if top {
				err = v.top(sub, window)
			} else {
				err = v.lines(sub, count, cancel)
			}
			if err2 := <-failed; err2 != nil {
				return err2
			}
			if st := log.Stats(); err == nil && (st.Lost > 0 || sub.Dropped() > 0) {
				fmt.Fprintln(out.err, out.paint(yellow, "hep: ")+fmt.Sprintf("lost %d packets in the kernel and %d lines here", st.Lost, sub.Dropped()))
			}
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&in.files, "filename", "f", nil, "the documents that were applied, to say where rules are written (repeatable)")
	cmd.Flags().StringVar(&in.host, "host", "", "a file that describes the host; without it this host is looked at")
	cmd.Flags().StringVar(&in.node, "node", "", "name of the node")
	cmd.Flags().StringVar(&t.backend, "backend", backendNames[0], "which dataplane reports: "+strings.Join(backendNames, ", "))
	cmd.Flags().StringVar(&t.table, "table", "", "as with apply; only eBPF needs it")
	cmd.Flags().Uint16Var(&t.group, "log-group", 0, "NFLOG group of events and Log rules; eBPF has none")
	cmd.Flags().StringVar(&t.netns, "netns", "", "network namespace: a path, or a name of `ip netns`; default: this one")
	cmd.Flags().DurationVar(&window, "window", time.Second, "how long alike packets are gathered; 0 shows every packet")
	cmd.Flags().DurationVar(&limit, "for", 0, "how long to look; 0 is until interrupted")
	cmd.Flags().IntVar(&count, "count", 0, "how many lines to show; 0 is all")
	cmd.Flags().BoolVar(&top, "top", false, "show the busiest flows, anew after each window")
	f.flags(cmd)
	return cmd
}

// flowView prints records.
type flowView struct {
	out  *output
	wide int // of the column of origins, so far
	flow int // of that of flows
	head bool
}

// lines prints records as they come.
func (v *flowView) lines(sub *flowlog.Subscription, count int, stop func()) error {
	n := 0
	for r := range sub.C() {
		if count > 0 && n == count {
			continue // what was under way
		}
		if v.out.format != "table" {
			if err := v.out.value(r); err != nil {
				stop()
				return err
			}
		} else {
			v.line(&r)
		}
		if n++; n == count {
			stop()
		}
	}
	return nil
}

// line prints one record. Columns grow when they have to.
func (v *flowView) line(r *flowlog.Record) {
	cells := recordCells(r)
	v.flow = max(v.flow, 44, utf8.RuneCountInString(cells[3].text))
	v.wide = max(v.wide, utf8.RuneCountInString(cells[4].text))
	widths := []int{12, 5, 9, v.flow, v.wide, 7, 8}
	print := func(cells []cell) {
		var b strings.Builder
		for i, c := range cells {
			b.WriteString(v.out.paint(c.style, c.text))
			if i < len(widths) {
				b.WriteString(strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(c.text))+2))
			}
		}
		fmt.Fprintln(v.out.out, strings.TrimRight(b.String(), " "))
	}
	if !v.head {
		v.head = true
		var h []cell
		for _, s := range []string{"TIME", "EVENT", "INTERFACE", "FLOW", "ORIGIN", "PACKETS", "BYTES", "SOURCE"} {
			h = append(h, cell{s, bold})
		}
		print(h)
	}
	print(cells)
}

func recordCells(r *flowlog.Record) []cell {
	iface := r.In
	if r.Out != "" {
		iface += ">" + r.Out
	}
	return []cell{
		{r.Time.Format("15:04:05.000"), dim}, eventCell(r.Event), {iface, plain}, {r.Tuple.String(), plain},
		{originText(r), cyan}, {strconv.FormatUint(r.Packets, 10), plain}, {strconv.FormatUint(r.Bytes, 10), plain}, {r.Origin.Pos.String(), dim},
	}
}

func eventCell(e flow.Event) cell {
	switch e {
	case flow.EventAllow:
		return cell{e.String(), green}
	case flow.EventDeny:
		return cell{e.String(), red}
	}
	return cell{e.String(), yellow}
}

// shown is how many flows --top shows.
const shown = 20

// top prints the busiest flows of each window, on a terminal in place of those before.
func (v *flowView) top(sub *flowlog.Subscription, window time.Duration) error {
	t := time.NewTicker(window)
	defer t.Stop()
	var rs []flowlog.Record
	for {
		select {
		case r, ok := <-sub.C():
			if !ok {
				v.table(rs)
				return nil
			}
			rs = append(rs, r)
		case <-t.C:
			v.table(rs)
			rs = rs[:0]
		}
	}
}

func (v *flowView) table(rs []flowlog.Record) {
	slices.SortStableFunc(rs, func(a, b flowlog.Record) int { return cmp.Compare(b.Packets, a.Packets) })
	if v.out.color { // a terminal
		fmt.Fprint(v.out.out, "\x1b[H\x1b[2J")
	}
	var packets, bytes uint64
	for _, r := range rs {
		packets += r.Packets
		bytes += r.Bytes
	}
	fmt.Fprintf(v.out.out, "%s  %d flows, %d packets, %d bytes\n", time.Now().Format("15:04:05"), len(rs), packets, bytes)
	var rows [][]cell
	for _, r := range rs[:min(shown, len(rs))] {
		c := recordCells(&r)
		rows = append(rows, []cell{c[5], c[6], c[1], c[2], c[3], c[4], c[7]})
	}
	v.out.table([]string{"PACKETS", "BYTES", "EVENT", "INTERFACE", "FLOW", "ORIGIN", "SOURCE"}, rows)
	fmt.Fprintln(v.out.out)
}

// events returns where the dataplane reports. The function releases what it took.
func (t *target) events(c policy.Config) (flowlog.Source, func(), error) {
	if t.backend != "ebpf" {
		if !slices.Contains(backendNames, t.backend) {
			return nil, nil, t.unknown()
		}
		return flowlog.NFLOG{NetNS: t.fd, Group: t.group}, func() {}, nil
	}
	t.renderFlags.events = "none" // of a program that is not applied
	b, err := t.connect(c, t.fd)
	if err != nil {
		return nil, nil, err
	}
	x := b.(*ebpf.Backend)
	return x.FlowLog(), func() { _ = x.Close() }, nil
}
