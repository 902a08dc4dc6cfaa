// SPDX-License-Identifier: Apache-2.0

package classify_test

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// pair is a program in both readings. The interpreter says what it means.
type pair struct {
	in *ir.Interpreter
	c  *classify.Classifier
	p  *ir.Program
	m  ir.Members
}

func newPair(t require.TestingT, p *ir.Program, m ir.Members) pair {
	in, err := ir.NewInterpreter(p, m)
	require.NoError(t, err)
	c, err := classify.New(p, m)
	require.NoError(t, err)
	return pair{in, c, p, m}
}

// differ says how the two differ on a packet; "" if they do not.
func (x pair) differ(p *flow.Packet) string {
	want, got := x.in.Explain(p), x.c.Explain(p)
	verdict, by := x.c.Verdict(p)
	if got.Verdict == want.Verdict && got.By == want.By && slices.Equal(got.Logged, want.Logged) && verdict == want.Verdict && by == want.By {
		return ""
	}
	text := x.p.String() + x.m.String()
	if len(text) > 5000 {
		text = text[:5000] + "..."
	}
	return fmt.Sprintf("%+v\ngot  %s %s, logged %v\nwant %s%s", *p, got.Verdict, got.By, got.Logged, want, text)
}

func TestAgreesWithInterpreter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapidly(t)
		p, m := program(s, 5, 5)
		x := newPair(t, p, m)
		for range 40 {
			if d := x.differ(packet(s)); d != "" {
				t.Fatal(d)
			}
		}
	})
}

// Lists of more than 64 rules have pages, and of more than 4096 rules several words of summary.
func TestAgreesWithInterpreterOnLongLists(t *testing.T) {
	longest := 0
	for seed := range uint64(10) {
		s := randomly(seed)
		s.long = true
		p, m := program(s, 2, 20+int(seed)*15)
		x := newPair(t, p, m)
		for _, l := range x.c.Tables().Lists {
			longest = max(longest, len(l.Actions))
		}
		for range 300 {
			require.Empty(t, x.differ(packet(s)), "seed %d", seed)
		}
	}
	require.Greater(t, longest, 4096)
}

// Every packet of a small universe: what a packet does not ask for must not matter either.
func TestAgreesWithInterpreterOnEveryPacket(t *testing.T) {
	for seed := range uint64(12) {
		s := randomly(1000 + seed)
		p, m := program(s, 4, 6)
		x := newPair(t, p, m)
		every(func(p *flow.Packet) {
			if d := x.differ(p); d != "" {
				t.Fatal(d)
			}
		})
	}
}

// every calls f with all packets of a part of the universe.
func every(f func(*flow.Packet)) {
	addrs := slices.Concat(addrs4[1:4], addrs6[3:6])
	for path := flow.Input; path <= flow.Local; path++ {
		for state := flow.New; state <= flow.Untracked; state++ {
			for _, src := range addrs {
				for _, dst := range addrs {
					if src.Is4() != dst.Is4() {
						continue
					}
					for _, proto := range []inet.Protocol{inet.TCP, inet.UDP, inet.ICMP, inet.ICMPv6, 253} {
						for _, n := range []uint8{1, 8} {
							for _, nat := range []netip.AddrPort{{}, netip.AddrPortFrom(addrs[0], 80)} {
								for _, in := range []string{"eth0", "cali123"} {
									p := flow.Packet{
										Path: path, State: state, Src: src, Dst: dst, Protocol: proto, In: in, Out: "eth1",
										SrcPort: 80, DstPort: uint16(n) * 10, ICMPType: n, ICMPCode: 1, NATDst: nat, DstLocal: n == 8,
									}
									f(&p)
								}
							}
						}
					}
				}
			}
		}
	}
}

// What compile makes of resources, in the universes that the other implementations are compared on.
func TestAgreesWithInterpreterOnResources(t *testing.T) {
	for seed := range uint64(60) {
		c := policytest.Generate(seed, policytest.Size{Packets: 400})
		s, err := policy.Resolve(c.Resources, c.Host, c.Config)
		require.NoError(t, err)
		p, m, err := compile.Compile(s)
		require.NoError(t, err)
		x := newPair(t, p, m)
		for i := range c.Packets {
			require.Empty(t, x.differ(&c.Packets[i].Packet), "seed %d", seed)
		}
	}
}

func TestAgreesWithInterpreterOnLargeRuleSets(t *testing.T) {
	for _, n := range []int{63, 64, 700, 4000} {
		rules, packets := mixed(n, uint64(n))
		p, m := hostWith(t, rules)
		x := newPair(t, p, m)
		for _, p := range packets {
			require.Empty(t, x.differ(p), "%d rules", n)
		}
	}
	p, m := hostWith(t, uniform(1500))
	x := newPair(t, p, m)
	for n := 1; n <= 1501; n += 10 {
		require.Empty(t, x.differ(lastOf(n)))
	}
}

// A search that goes on behind a rule must not find it again, nor what stands before it, in whichever word and page.
func TestSearchGoesOnBehindARule(t *testing.T) {
	for _, n := range []int{20, 300, 5000} {
		var rules []policy.Rule
		for i := range n {
			log := onePort(i)
			log.Action = hostendpoint.Log
			rules = append(rules, log, onePort(i))
		}
		p, m := hostWith(t, rules)
		x := newPair(t, p, m)
		for i := 1; i <= n; i += 1 + n/200 {
			require.Empty(t, x.differ(lastOf(i)))
			require.Len(t, x.c.Explain(lastOf(i)).Logged, 1)
		}
	}
}

// Where many rules meet the build goes other ways than where few do. Two such places lie here, and each rule is alone in
// asking for its source, so that every packet tells whether one bit is right.
func TestCrowdedPlaces(t *testing.T) {
	const n = 60
	var rules []policy.Rule
	for i := range uint16(n) {
		r := onePort(int(i))
		r.Dest.Ports = []inet.PortRange{{Min: 1000 + i, Max: 2000 - i}, {Min: 3000 + 2*i, Max: 4000 - i}}
		if i%7 == 0 {
			r.Dest.Ports, r.Dest.NotPorts = nil, r.Dest.Ports
		}
		rules = append(rules, r)
	}
	p, m := hostWith(t, rules)
	x := newPair(t, p, m)
	for i := 1; i <= n; i++ {
		pk := lastOf(i)
		for _, from := range []uint16{990, 1930, 2990, 3930} {
			for port := from; port < from+140; port++ {
				pk.DstPort = port
				require.Empty(t, x.differ(pk))
			}
		}
	}
}

func TestVerdictDoesNotAllocate(t *testing.T) {
	s := randomly(7)
	p, m := program(s, 2, 30)
	x := newPair(t, p, m)
	rules, packets := mixed(1000, 1)
	p, m = hostWith(t, rules)
	large := newPair(t, p, m)
	for range 200 {
		packets = append(packets, packet(s))
	}
	allocs := testing.AllocsPerRun(3, func() {
		for _, p := range packets {
			x.c.Verdict(p)
			large.c.Verdict(p)
		}
	})
	require.Zero(t, allocs)
}

// With the race detector, this is the promise that a classifier may be shared.
func TestVerdictIsSafeForConcurrentUse(t *testing.T) {
	rules, packets := mixed(300, 1)
	p, m := hostWith(t, rules)
	x := newPair(t, p, m)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, p := range packets {
				if d := x.differ(p); d != "" {
					t.Error(d)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestZeroClassifierDenies(t *testing.T) {
	var c classify.Classifier
	v, by := c.Verdict(lastOf(1))
	require.Equal(t, flow.Deny, v)
	require.Zero(t, by)
}

func TestNewRefuses(t *testing.T) {
	_, err := classify.New(nil, ir.Members{})
	require.Error(t, err)
	_, err = classify.New(&ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "nowhere"}}}, ir.Members{})
	var fault *ir.Fault
	require.ErrorAs(t, err, &fault)
}

// Each of fifteen blocks calls the next one four times, and the last one holds a rule: a billion rules from a few lines.
func TestNewRefusesProgramsThatExplode(t *testing.T) {
	p := &ir.Program{
		Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b00"}},
		Origins: []flow.Origin{{Kind: flow.OriginWorkload}},
	}
	match := ir.Match{{ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: 1, Max: 1}}}}}
	for i := range 15 {
		b := ir.Block{ID: ir.BlockID(fmt.Sprintf("b%02d", i))}
		for range 4 {
			b.Steps = append(b.Steps, ir.Call{Block: ir.BlockID(fmt.Sprintf("b%02d", i+1))})
		}
		p.Blocks = append(p.Blocks, b)
	}
	p.Blocks = append(p.Blocks, ir.Block{ID: "b15", Steps: []ir.Step{ir.Rule{Match: match, Then: ir.Allow, Origin: 1}}})
	_, err := classify.New(p, ir.Members{})
	require.ErrorIs(t, err, classify.ErrTooLarge)
	require.ErrorContains(t, err, "entry normal-in")
}

// A clause that mixes dimensions becomes several bits; a rule of many such clauses, too many.
func TestNewRefusesRulesThatExplode(t *testing.T) {
	p := &ir.Program{
		Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}},
		Origins: []flow.Origin{{Kind: flow.OriginWorkload}},
	}
	var match ir.Match
	for i := range uint16(13) {
		match = append(match, ir.Clause{
			ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: i, Max: i}}},
			ir.InPorts{Field: ir.SrcPort, Ranges: []inet.PortRange{{Min: i, Max: i}}},
		})
	}
	p.Blocks = []ir.Block{{ID: "b", Steps: []ir.Step{ir.Rule{Match: match, Then: ir.Allow, Origin: 1}}}}
	_, err := classify.New(p, ir.Members{})
	require.ErrorIs(t, err, classify.ErrTooLarge)
	require.ErrorContains(t, err, "block b step 0")
}
