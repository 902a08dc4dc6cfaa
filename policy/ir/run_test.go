// SPDX-License-Identifier: Apache-2.0

package ir_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// tcp is a packet that rule tests change.
func tcp() flow.Packet {
	return flow.Packet{
		Path: flow.Input, In: "eth0", Protocol: inet.TCP,
		Src: netip.MustParseAddr("10.9.0.2"), Dst: netip.MustParseAddr("10.9.0.1"), SrcPort: 40000, DstPort: 443,
	}
}

func interpret(t *testing.T, text string) *ir.Interpreter {
	t.Helper()
	in, err := ir.NewInterpreter(parse(t, text))
	require.NoError(t, err)
	return in
}

func TestFinalVerdict(t *testing.T) {
	const (
		allow = "  rule -> allow by policy:t/p/ingress[0]\n"
		deny  = "  rule -> deny by policy:t/p/ingress[1]\n"
		pass  = "  rule -> pass by no-verdict\n"
	)
	forward := func(p *flow.Packet) { p.Path, p.Out = flow.Forward, "eth1" }
	output := func(p *flow.Packet) { p.Path, p.In, p.Out = flow.Output, "", "eth1" }
	local := func(p *flow.Packet) { p.Path, p.In = flow.Local, "cali1" }
	tests := map[string]struct {
		change func(*flow.Packet)
		text   string
		want   string
	}{
		"no entry has no opinion":             {nil, "", "none no-endpoint"},
		"an undecided block has no opinion":   {nil, "entry normal-in b\nblock b\n", "none no-endpoint"},
		"deny is final":                       {nil, "entry prednat b\nentry normal-in a\nblock a\n" + allow + "block b\n" + deny, "deny policy:t/p/ingress[1]"},
		"allow is asked again later":          {nil, "entry prednat b\nentry normal-in a\nblock a\n" + deny + "block b\n" + allow, "deny policy:t/p/ingress[1]"},
		"unless it settles":                   {nil, "entry prednat b settles normal-in\nentry normal-in a\nblock a\n" + deny + "block b\n" + allow, "allow policy:t/p/ingress[0]"},
		"the last allow is named":             {nil, "entry prednat b\nentry normal-in a\nblock a\n  rule -> allow by failsafe:nd\nblock b\n" + allow, "allow failsafe:nd"},
		"pass before NAT is no verdict yet":   {nil, "entry prednat b\nblock b\n  rule -> pass by no-verdict@prednat\n", "none no-endpoint"},
		"pass untracked is no verdict yet":    {nil, "entry untracked-in b\nblock b\n" + pass, "none no-endpoint"},
		"pass of a stage that counts":         {nil, "entry normal-in b\nblock b\n  rule -> pass by workload\n", "none workload"},
		"pass of a failsafe is not named":     {nil, "entry normal-in b\nblock b\n  rule -> pass by failsafe:nd\n", "none no-endpoint"},
		"the default of an entry":             {nil, "entry prednat a\nentry normal-in b default pass\nblock a\n" + allow + "block b\n", "none no-endpoint"},
		"forward-in allows, nothing further":  {forward, "entry forward-in a\nblock a\n" + allow, "allow policy:t/p/ingress[0]"},
		"forward-out without opinion":         {forward, "entry forward-in a\nentry forward-out b\nblock a\n" + allow + "block b\n", "allow policy:t/p/ingress[0]"},
		"forward-out takes the allow back":    {forward, "entry forward-in a\nentry forward-out b\nblock a\n" + allow + "block b\n" + pass, "none no-verdict"},
		"forward-out allows after a pass":     {forward, "entry forward-in b\nentry forward-out a\nblock a\n" + allow + "block b\n" + pass, "allow policy:t/p/ingress[0]"},
		"forward-in passes, nothing further":  {forward, "entry forward-in b\nblock b\n" + pass, "none no-verdict"},
		"untracked allow and forward-out":     {forward, "entry untracked-in a settles forward-in\nentry forward-in c\nentry forward-out b\nblock a\n" + allow + "block b\n" + deny + "block c\n" + pass, "deny policy:t/p/ingress[1]"},
		"input asks no forward hook":          {nil, "entry forward-in b\nentry forward-out b\nentry untracked-out b\nentry normal-out b\nblock b\n" + deny, "none no-endpoint"},
		"output asks its own hooks":           {output, "entry untracked-in b\nentry prednat b\nentry normal-in b\nblock b\n" + deny, "none no-endpoint"},
		"output asks normal-out":              {output, "entry normal-out b\nblock b\n" + deny, "deny policy:t/p/ingress[1]"},
		"a workload's own rules come first":   {local, "entry prednat a settles normal-in\nentry normal-in b always w\nblock a\n" + allow + "block b\n" + deny + "block w\n  rule iif=cali* -> pass by workload\n", "none workload"},
		"and nobody else's":                   {nil, "entry prednat a settles normal-in\nentry normal-in b always w\nblock a\n" + allow + "block b\n" + deny + "block w\n  rule iif=cali* -> pass by workload\n", "allow policy:t/p/ingress[0]"},
		"an undecided always changes nothing": {nil, "entry normal-in b always w\nblock b\n" + deny + "block w\n", "deny policy:t/p/ingress[1]"},
		"an invalid path is denied":           {func(p *flow.Packet) { p.Path = 0 }, "entry normal-in b\nblock b\n" + allow, "deny "},
		"an invalid address is denied":        {func(p *flow.Packet) { p.Dst = netip.Addr{} }, "entry normal-in b\nblock b\n" + allow, "deny "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := tcp()
			if tt.change != nil {
				tt.change(&p)
			}
			in := interpret(t, tt.text)
			v, by := in.Verdict(&p)
			require.Equal(t, tt.want, v.String()+" "+by.String())
			r := in.Explain(&p)
			require.Equal(t, v, r.Verdict)
			require.Equal(t, by, r.By)
		})
	}
}

// What each hook sees of a packet: the term holds where its hook is listed, and its negation where it is not.
func TestFieldsAsSeenAtEachHook(t *testing.T) {
	nat := func(p *flow.Packet) { p.NATDst = netip.MustParseAddrPort("10.65.0.2:8055") }
	forward := func(p *flow.Packet) { p.Path, p.Out = flow.Forward, "eth1" }
	output := func(p *flow.Packet) { p.Path, p.In, p.Out = flow.Output, "", "eth1" }
	both := func(fs ...func(*flow.Packet)) func(*flow.Packet) {
		return func(p *flow.Packet) {
			for _, f := range fs {
				f(p)
			}
		}
	}
	udplite := func(p *flow.Packet) { p.Protocol = inet.UDPLite }
	icmp := func(p *flow.Packet) {
		p.Protocol, p.SrcPort, p.DstPort, p.ICMPType, p.ICMPCode = inet.ICMP, 0, 0, 8, 3
	}
	icmp6 := func(p *flow.Packet) {
		icmp(p)
		p.Protocol, p.Src, p.Dst = inet.ICMPv6, netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1")
	}
	mapped := func(p *flow.Packet) { p.Dst = netip.MustParseAddr("::ffff:10.9.0.1") }
	tests := map[string]struct {
		change func(*flow.Packet)
		term   string
		want   []flow.Hook
	}{
		"the interface it comes from":        {nil, "iif=eth0", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.NormalIn}},
		"the beginning of its name":          {nil, "iif=eth*", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.NormalIn}},
		"no interface to leave by":           {nil, "oif=eth0,eth1", nil},
		"both interfaces when forwarded":     {forward, "oif=eth1", []flow.Hook{flow.ForwardIn, flow.ForwardOut}},
		"the one it came from, at all":       {forward, "iif=eth0", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.ForwardIn, flow.ForwardOut}},
		"nothing it came from, on output":    {output, "iif=eth0,eth1", nil},
		"the interface it leaves by":         {output, "oif=eth1", []flow.Hook{flow.UntrackedOut, flow.NormalOut}},
		"state, behind conntrack":            {nil, "state=new", []flow.Hook{flow.PreDNAT, flow.NormalIn}},
		"state on output":                    {output, "state=new", []flow.Hook{flow.NormalOut}},
		"destination before NAT":             {nat, "dst=10.9.0.1", []flow.Hook{flow.UntrackedIn, flow.PreDNAT}},
		"destination behind NAT":             {nat, "dst=10.65.0.2", []flow.Hook{flow.NormalIn}},
		"port before NAT":                    {nat, "dport=443", []flow.Hook{flow.UntrackedIn, flow.PreDNAT}},
		"port behind NAT":                    {nat, "dport=8055", []flow.Hook{flow.NormalIn}},
		"destination behind NAT, forwarded":  {both(nat, forward), "dst=10.65.0.2", []flow.Hook{flow.ForwardIn, flow.ForwardOut}},
		"destination before NAT, output":     {both(nat, output), "dst=10.9.0.1", []flow.Hook{flow.UntrackedOut}},
		"the route before NAT, output":       {both(nat, output, func(p *flow.Packet) { p.RouteOut = "eth9" }), "oif=eth9", []flow.Hook{flow.UntrackedOut}},
		"the route behind NAT, output":       {both(nat, output, func(p *flow.Packet) { p.RouteOut = "eth9" }), "oif=eth1", []flow.Hook{flow.NormalOut}},
		"ports of UDPLite":                   {udplite, "sport=40000", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.NormalIn}},
		"no ports of ICMP":                   {icmp, "dport=0-65535", nil},
		"type of ICMP":                       {icmp, "icmp-type=8", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.NormalIn}},
		"code of ICMPv6":                     {icmp6, "icmp-code=3", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.NormalIn}},
		"no type of ICMPv6 in IPv4":          {both(icmp, func(p *flow.Packet) { p.Protocol = inet.ICMPv6 }), "icmp-type=0-255", nil},
		"no type of TCP":                     {nil, "icmp-type=0-255", nil},
		"family":                             {icmp6, "family=6", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.NormalIn}},
		"IPv4-mapped addresses are IPv4":     {mapped, "dst=10.9.0.0/16", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.NormalIn}},
		"IPv4 addresses are in no IPv6 net":  {nil, "dst=::/0", nil},
		"no set holds what it does not hold": {nil, "dst=@s:1", nil},
		"a set holds a net":                  {nil, "src=@s:1", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.NormalIn}},
		"a set holds an endpoint":            {nil, "dst.protocol.dport=@n:1", []flow.Hook{flow.UntrackedIn, flow.PreDNAT, flow.NormalIn}},
		"no endpoint has a port of ICMP":     {icmp, "dst.protocol.dport=@n:1", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := tcp()
			if tt.change != nil {
				tt.change(&p)
			}
			text := ""
			for _, h := range flow.Hooks {
				text += "entry " + h.String() + " b\n"
			}
			text += "set n:1 endpoints\nset s:1 prefixes\nblock b\n  rule " + tt.term + " log by policy:t/p/ingress[0]\n"
			text += "  rule " + negated(tt.term) + " log by policy:t/p/ingress[1]\n"
			text += "  switch family\n    case 4-6 -> pass by workload\n"
			text += "members n:1\n  10.9.0.1 icmp 0\n  10.9.0.1 tcp 443\nmembers s:1\n  10.9.0.2\n"
			r := interpret(t, text).Explain(&p)
			var got []flow.Hook
			for i, h := range r.Hooks {
				if r.Logged[i].Index == 0 {
					got = append(got, h.Hook)
				}
			}
			require.Len(t, r.Logged, len(r.Hooks), "at each hook either the term or its negation holds")
			require.Equal(t, tt.want, got)
		})
	}
}

func negated(term string) string {
	i := slices.Index([]byte(term), '=')
	return term[:i] + "!" + term[i:]
}

// A packet that policy let in untracked bypasses NAT. Ref: raw table, CT --notrack; nf_nat_inet_fn does nothing
// without a conntrack entry.
func TestUntrackedAllowBypassesNAT(t *testing.T) {
	const text = `entry untracked-in u settles prednat,normal-in,forward-in notrack
entry normal-in n always seen
entry forward-out seen
entry untracked-out u notrack
entry normal-out seen
block n
  rule -> deny by policy:t/n/ingress[0]
block seen
  rule dst=10.65.0.2 log by policy:t/translated/ingress[0]
  rule state=untracked log by policy:t/untracked/ingress[0]
  rule oif=eth9 log by policy:t/route/ingress[0]
block u
  rule dport=443 -> allow by policy:t/u/ingress[0]@untracked
`
	in := interpret(t, text)
	logged := func(p flow.Packet) (names []string) {
		r := in.Explain(&p)
		require.Equal(t, "allow policy:t/u/ingress[0]@untracked", r.Verdict.String()+" "+r.By.String())
		for _, o := range r.Logged {
			names = append(names, o.Name)
		}
		return names
	}
	p := tcp()
	p.NATDst = netip.MustParseAddrPort("10.65.0.2:443")
	p.Path, p.Out = flow.Forward, "eth1"
	require.Equal(t, []string{"untracked"}, logged(p), "forwarded, to the address written on it")
	p.DstLocal = true
	require.Equal(t, []string{"untracked"}, logged(p), "delivered to this host")
	require.Equal(t, []flow.Hook{flow.UntrackedIn, flow.NormalIn}, hooksOf(in.Explain(&p)), "the hooks of input, settled")

	p.Path, p.In, p.Out, p.RouteOut, p.DstLocal = flow.Output, "", "eth1", "eth9", false
	require.Equal(t, []string{"untracked", "route"}, logged(p))

	p.DstPort = 80
	v, _ := in.Verdict(&p)
	require.Equal(t, flow.None, v, "other packets are translated")
	require.Equal(t, "translated", in.Explain(&p).Logged[0].Name)
}

func hooksOf(r ir.Result) (hs []flow.Hook) {
	for _, h := range r.Hooks {
		hs = append(hs, h.Hook)
	}
	return hs
}

func TestBlocksReturnAsTheirCallersSay(t *testing.T) {
	tests := map[string]struct{ steps, want string }{
		"a call passes an outcome on":        {"  call a\n", "allow"},
		"a call resumes":                     {"  call a resume allow\n", "deny"},
		"a call resumes other outcomes only": {"  call a resume pass,deny\n", "allow"},
		"an undecided call goes on":          {"  call empty\n", "deny"},
		"a call that does not match":         {"  call a if dport=1\n", "deny"},
		"a call that matches":                {"  call a if dport=443\n", "allow"},
		"a case to a block":                  {"  switch dport\n    case 443 -> call a\n", "allow"},
		"a case to a block that resumes":     {"  switch dport resume allow\n    case 443 -> call a\n", "deny"},
		"a case that decides":                {"  switch dport,iif\n    case 443 eth0 -> allow by workload\n", "allow"},
		"a case that decides and resumes":    {"  switch dport resume allow\n    case 443 -> allow by workload\n", "deny"},
		"a case to an undecided block":       {"  switch dport\n    case 443 -> call empty\n", "deny"},
		"no case":                            {"  switch dport\n    case 444 -> allow by workload\n", "deny"},
		"a key that the packet lacks":        {"  switch dport,icmp-type\n    case * * -> allow by workload\n", "deny"},
		"a rule that does not decide":        {"  rule dport=443 log by workload\n", "deny"},
		"a clause that matches nothing":      {"  rule false -> allow by workload\n", "deny"},
		"clauses are and":                    {"  rule dport=443 sport=1 -> allow by workload\n", "deny"},
		"terms are or":                       {"  rule dport=443|sport=1 -> allow by workload\n", "allow"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := tcp()
			v, _ := interpret(t, "entry normal-in b\nblock a\n  rule -> allow by workload\nblock b\n"+tt.steps+"  rule -> deny by workload\nblock empty\n").Verdict(&p)
			require.Equal(t, tt.want, v.String())
		})
	}
}

// The search in a switch, against a look at every case through its text: a rule for each.
func TestSwitchFindsTheCaseThatHoldsThePacket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := switchOf(t, nil, func() ir.OriginID { return 1 }, 0).(ir.Switch)
		slices.SortFunc(s.Cases, ir.CompareCases)
		entries := make([]ir.Entry, 0, len(flow.Hooks))
		for _, h := range flow.Hooks {
			entries = append(entries, ir.Entry{Hook: h, Block: "b"})
		}
		origins := []flow.Origin{{Kind: flow.OriginWorkload}}
		whole := &ir.Program{Entries: entries, Origins: origins, Blocks: []ir.Block{{ID: "b", Steps: []ir.Step{s}}}}
		apart := &ir.Program{Entries: entries, Origins: origins, Blocks: []ir.Block{{ID: "b"}}}
		for _, c := range s.Cases {
			apart.Blocks[0].Steps = append(apart.Blocks[0].Steps, ir.Switch{Key: s.Key, Cases: []ir.Case{c}})
		}
		a, err := ir.NewInterpreter(whole, ir.Members{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := ir.NewInterpreter(apart, ir.Members{})
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			p := packetGen().Draw(t, "packet")
			v, _ := a.Verdict(p)
			if w, _ := b.Verdict(p); v != w {
				t.Fatalf("%v is not %v in\n%s", v, w, whole)
			}
		}
	})
}

func TestVerdictDoesNotAllocate(t *testing.T) {
	in := interpret(t, sample)
	p := tcp()
	// The list of hooks is the only allocation.
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { in.Verdict(&p) }), 1.0)
}
