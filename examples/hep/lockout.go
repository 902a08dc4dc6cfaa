// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/liveflow"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// gateFlags say which live flows stand in the way of a change, and what becomes of the others.
type gateFlags struct {
	force  bool
	fate   string
	guards []string
}

func (g *gateFlags) flags(cmd *cobra.Command) {
	g.commonFlags(cmd)
	cmd.Flags().BoolVar(&g.force, "force", false, "apply also what would cut guarded flows")
}

func (g *gateFlags) commonFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.fate, "flows", liveflow.Keep.String(), "what becomes of flows that are under way: keep, cut-denied (what the documents would not let begin) or cut-all (every flow must be let in anew)")
	cmd.Flags().StringArrayVar(&g.guards, "guard", nil, "guard more flows: in/tcp/2222 to a port of this host, out/tcp/5432 to one of others (repeatable)")
}

// open returns the gate for a network namespace. By force it says what it lets pass.
func (g *gateFlags) open(netns int, out *output) (*liveflow.Gate, error) {
	fate, err := liveflow.ParseFate(g.fate)
	if err != nil {
		return nil, fmt.Errorf("--flows: %w", err)
	}
	o := liveflow.Options{NetNS: netns, Fate: fate, Force: g.force, Guards: liveflow.DefaultGuards(), Logger: slog.New(slog.NewTextHandler(out.err, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	if s, ok := thisSession(os.Getenv("SSH_CONNECTION")); ok {
		o.Guards = append([]liveflow.Guard{s}, o.Guards...)
	}
	for _, text := range g.guards {
		x, err := parseGuard(text)
		if err != nil {
			return nil, fmt.Errorf("--guard %q: %w", text, err)
		}
		o.Guards = append(o.Guards, x)
	}
	return liveflow.NewGate(o)
}

// parseGuard reads in/tcp/2222 and out/tcp/5432.
func parseGuard(s string) (liveflow.Guard, error) {
	g := liveflow.Guard{Name: s}
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return g, errors.New("want in/PROTOCOL/PORT or out/PROTOCOL/PORT")
	}
	port, err := strconv.ParseUint(parts[2], 10, 16)
	if err != nil {
		return g, fmt.Errorf("port %q: want a number up to 65535", parts[2])
	}
	p, ok := inet.ParseProtocol(parts[1])
	if !ok || !p.HasPorts() {
		return g, fmt.Errorf("protocol %q: want tcp, udp or sctp", parts[1])
	}
	g.Protocol = p
	ports := []inet.PortRange{{Min: uint16(port), Max: uint16(port)}}
	switch parts[0] {
	case "in":
		g.Local = ports
	case "out":
		g.Remote = ports
	default:
		return g, fmt.Errorf("%q: want in or out", parts[0])
	}
	return g, nil
}

// thisSession returns the guard of the session that sshd says this process runs in: "10.9.0.2 40000 10.9.0.1 22".
func thisSession(env string) (liveflow.Guard, bool) {
	var a [2]netip.AddrPort
	words := strings.Fields(env)
	if len(words) != 4 {
		return liveflow.Guard{}, false
	}
	for i := range a {
		addr, err := netip.ParseAddr(words[2*i])
		port, err2 := strconv.ParseUint(words[2*i+1], 10, 16)
		if err != nil || err2 != nil {
			return liveflow.Guard{}, false
		}
		a[i] = netip.AddrPortFrom(addr.Unmap().WithZone(""), uint16(port))
	}
	return liveflow.Guard{Name: "this session", Tuple: flow.Tuple{
		Protocol: inet.TCP, Src: a[0].Addr(), SrcPort: a[0].Port(), Dst: a[1].Addr(), DstPort: a[1].Port(),
	}}, true
}

// lockedOut makes an answer of the refusal of a gate.
func lockedOut(err error) error {
	if errors.Is(err, liveflow.ErrLockout) {
		return invalid(fmt.Errorf("%w\nnothing was changed; --force applies it all the same", err))
	}
	return fmt.Errorf("live flows could not be looked at, so nothing was changed (--force goes without): %w", err)
}

func lockoutCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin}
	var t target
	var g gateFlags
	cmd := &cobra.Command{
		Use:   "lockout -f FILE",
		Short: "Say which live flows apply would cut, and by which rule",
		Long: `lockout looks at the flows that are under way on this host, in the kernel's table of connections and among its sockets,
and lists those that the documents would cut, or would not let begin again. It changes nothing. Exit code 1 means that
some of them are guarded, so that apply would refuse: sessions of ssh, connections to name servers, to the datastore and to
the API server, and what --guard adds.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, prog, members, err := compiled(out, in)
			if err != nil {
				return err
			}
			ctx, done, err := t.enter(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			gate, err := g.open(t.fd, out)
			if err != nil {
				return err
			}
			fs, err := gate.Check(ctx, prog, members)
			if err != nil {
				return err
			}
			return printFindings(out, fs)
		},
	}
	in.flags(cmd)
	t.placeFlags(cmd)
	g.commonFlags(cmd)
	return cmd
}

func printFindings(out *output, fs []liveflow.Finding) error {
	var result error
	if liveflow.Lockout(fs) != nil {
		result = errMismatch
	}
	if out.format != "table" {
		if fs == nil {
			fs = []liveflow.Finding{}
		}
		if err := out.value(map[string]any{"lockout": result != nil, "flows": fs}); err != nil {
			return err
		}
		return result
	}
	if len(fs) == 0 {
		fmt.Fprintln(out.out, out.paint(green, "every flow that is under way goes on, and could be made again"))
		return nil
	}
	var rows [][]cell
	for _, f := range fs {
		st, guard := yellow, cell{f.Guard, red}
		if f.Effect == liveflow.Cuts {
			st = red
		}
		rows = append(rows, []cell{{f.Effect.String(), st}, guard, {f.Flow.Tuple.String(), plain}, {f.Flow.Process, plain}, {f.By.String(), cyan}, {f.By.Pos.String(), dim}})
	}
	out.table([]string{"EFFECT", "GUARDED", "FLOW", "PROCESS", "BY", "SOURCE"}, rows)
	if result != nil {
		fmt.Fprintln(out.out, out.paint(red, "\nguarded flows are concerned: hep apply will refuse without --force"))
	}
	return result
}
