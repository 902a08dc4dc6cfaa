// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Reachability says of every origin of a program whether it can decide anything.
type Reachability struct {
	Rules []Rule // in the order of Program.Origins
	Extent
}

// Rule is what is known of one origin: of a rule, or of the end of a tier, a failsafe and so on.
type Rule struct {
	Origin flow.Origin
	Status Status
	// Redundant says of the rule of a policy or profile that without it every packet would have the verdict that it has.
	// True of those that are Shadowed or Empty. Rules that log are never called redundant otherwise.
	Redundant bool
	// By are the rules that take its packets, in the order in which packets meet them. If it is Shadowed, they come before
	// it, and none can be left out: without all other rules that take packets of it it would still be dead, and without
	// any one of them more it would not be (unless the work was stopped: then there may be more of them than it takes).
	// If it is Redundant and not dead, they are all those that would decide instead of it.
	By []flow.Origin
	// Through are the rules with action Pass one of which every packet met that reaches this rule; nil if some packet
	// reaches it without.
	Through []flow.Origin
	// Witness is a packet that the rule decides, or that it matches if it is Matches; nil otherwise.
	Witness *flow.Packet
}

// Status says what a rule does. The zero value is Unknown.
type Status uint8

// The statuses.
const (
	Unknown  Status = iota // the work was stopped before it was known
	Decides                // it has the last word on some packet
	Matches                // it takes some packet, but never has the last word: it passes, logs, or a later hook overrules it
	Shadowed               // other rules take all of its packets before
	Empty                  // it can match nothing, whatever stands around it
)

var statusNames = [...]string{Unknown: "unknown", Decides: "decides", Matches: "matches", Shadowed: "shadowed", Empty: "empty"}

// String returns a lower-case word such as "shadowed".
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status(%d)", s)
}

// MarshalText returns the status's String.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Dead reports whether the rule takes no packet at all.
func (s Status) Dead() bool { return s == Shadowed || s == Empty }

// Reach returns what each rule of a program can do. A rule that it calls dead takes no packet whatever; if the work was
// stopped, rules of which that is not known are Unknown. Options.By means nothing. The error is that of Diff.
func Reach(ctx context.Context, in Input, o Options) (*Reachability, error) {
	a, err := newAnalysis(ctx, o, true, in)
	if err != nil {
		return nil, err
	}
	r := &reacher{analysis: a, ps: newPlaces(a.sides, nil), rules: make([]reached, len(a.sides[0].origins)+1)}
	if err := r.eachChain(r.walk); err != nil {
		return nil, err
	}
	complete := a.reason == ""
	if complete {
		if err := r.eachChain(r.explain); err != nil {
			return nil, err
		}
	}
	out := &Reachability{Extent: a.extent()}
	whole := a.reason == ""
	if complete {
		r.shadows()
	}
	logs := logging(in.Program)
	for i, origin := range a.sides[0].origins {
		x := &r.rules[i+1]
		rule := Rule{Origin: origin, Witness: x.decides}
		switch {
		case x.decides != nil:
			rule.Status = Decides
		case !complete:
		case x.matches != nil:
			rule.Status, rule.Witness = Matches, x.matches
		case x.present:
			rule.Status = Shadowed
		default:
			rule.Status = Empty
		}
		if complete {
			rule.By = r.named(x.by)
			isRule := origin.Kind == flow.OriginPolicy || origin.Kind == flow.OriginProfile
			rule.Redundant = isRule && (rule.Status.Dead() || whole && !x.matters && !logs[i+1])
			if !rule.Redundant && !rule.Status.Dead() {
				rule.By = nil
			}
			if x.matches != nil && !x.direct {
				rule.Through = r.named(x.through)
			}
		}
		out.Rules = append(out.Rules, rule)
	}
	return out, nil
}

// logging returns which origins log.
func logging(p *ir.Program) map[int]bool {
	logs := map[int]bool{}
	if p == nil {
		return logs
	}
	for _, b := range p.Blocks {
		for _, s := range b.Steps {
			if r, ok := s.(ir.Rule); ok && slices.Contains(r.Do, ir.Log) {
				logs[int(r.Origin)] = true
			}
		}
	}
	return logs
}

// reacher collects what is known of each origin.
type reacher struct {
	*analysis
	ps    *places
	rules []reached // by OriginID
	dead  []shadow  // in the order of chains

	// Of the chain at hand.
	d       *diagram
	classes []int32
	group   *group
	family  inet.Family
	visited map[string]bool
	cur     [numDims]*key // the packet on the way, as far as it is settled
	portful bool
	buf     []byte
}

type reached struct {
	present          bool // some packet matches it if nothing stands before it
	decides, matches *flow.Packet
	direct           bool    // some packet matches it that met no Pass before
	through          []int32 // origins that pass, one of which some packet met before; sorted
	by               []int32 // origins, in order
	matters          bool    // without it some packet would fare differently
}

func (r *reacher) named(ids []int32) []flow.Origin {
	var out []flow.Origin
	for _, id := range ids {
		out = append(out, r.sides[0].origins[id-1])
	}
	return out
}

func (r *reacher) eachChain(f func(g *group, c chain)) error {
	for i := range r.ps.groups {
		g := &r.ps.groups[i]
		for _, g.family = range families {
			chains, err := r.chains(&g.place)
			if err != nil {
				return err
			}
			f(g, chains[0])
			if r.reason != "" {
				return nil
			}
		}
	}
	return nil
}

// walk finds packets for the rules of a chain, until nothing new can be found.
func (r *reacher) walk(g *group, c chain) {
	r.begin(g, g.family, c)
	noPorts := span.Minus(allL4, portProtocols)
	for i := range c {
		l4 := allL4
		if id := c[i].sets[dimL4]; id != 0 {
			l4 = r.sets.list[id]
		}
		x := &r.rules[c[i].origin]
		x.present = x.present || !r.d.modes[0].dead[i] && span.Overlap(l4, portProtocols) || !r.d.modes[1].dead[i] && span.Overlap(l4, noPorts)
	}
	all := make([]int32, len(c))
	for i := range all {
		all[i] = int32(i)
	}
	r.visitL4(all, func(trace []int32) {
		var passes []int32
		for _, id := range trace {
			line := &r.d.rules[id]
			if line.origin != 0 {
				x := &r.rules[line.origin]
				if x.matches == nil {
					x.matches = r.packet()
				}
				if len(passes) == 0 {
					x.direct = true
				} else if !x.direct {
					for _, p := range passes {
						x.through = insert(x.through, p)
					}
				}
				if line.pass {
					passes = append(passes, line.origin)
				}
			}
		}
		if by := r.decider(trace[len(trace)-1]); by != 0 && r.rules[by].decides == nil {
			r.rules[by].decides = r.packet()
		}
	}, r.known)
}

func insert(s []int32, v int32) []int32 {
	i, ok := slices.BinarySearch(s, v)
	if ok {
		return s
	}
	return slices.Insert(s, i, v)
}

// decider returns the origin that decides if a packet ends with a line; 0 if none does.
func (r *reacher) decider(line int32) int32 {
	to := r.d.rules[line].to
	if to >= 0 {
		return 0
	}
	return r.by[^to]
}

// known reports whether a list can tell nothing new.
func (r *reacher) known(list []int32) bool {
	var passes []int32
	for _, id := range list {
		line := &r.d.rules[id]
		if by := r.decider(id); by != 0 && r.rules[by].decides == nil {
			return false
		}
		if line.origin == 0 {
			continue
		}
		x := &r.rules[line.origin]
		if x.matches == nil {
			return false
		}
		if !x.direct {
			if len(passes) == 0 {
				return false
			}
			for _, p := range passes {
				if _, ok := slices.BinarySearch(x.through, p); !ok {
					return false
				}
			}
		}
		if line.pass {
			passes = append(passes, line.origin)
		}
	}
	return true
}

func (r *reacher) begin(g *group, f inet.Family, c chain) {
	r.group, r.family = g, f
	if len(r.classes) != len(r.decisions) {
		r.classes = r.class(true)
	}
	r.d = newDiagram(r.budget, r.sets, f, r.classes, c)
	r.visited = map[string]bool{}
}

// visitL4 calls leaf with what packets meet: the lines that match, in order. It passes over lists that done is true of.
func (r *reacher) visitL4(list []int32, leaf func([]int32), done func([]int32) bool) {
	f := r.d.fields[dimL4]
	if !r.spend(0) {
		return
	}
	r.d.split(f, pairOf{a: list, all: true}, func(rs []ranks, p pairOf) {
		with, without := r.d.byPorts(rs)
		for m, rs := range [...][]ranks{with, without} {
			if len(rs) > 0 {
				r.cur[dimL4], r.portful = &f.cuts[rs[0].lo], m == 0
				mode := &r.d.modes[m]
				r.visit(mode, 0, mode.alive(p.a), leaf, done)
			}
		}
	})
}

func (r *reacher) visit(m *mode, level int, list []int32, leaf func([]int32), done func([]int32) bool) {
	if r.reason != "" {
		return
	}
	list = r.d.work.reachable(r.d.rules, m.suffix[level], list, r.d.lists[2*level][:0])
	r.d.lists[2*level] = list
	if done(list) {
		return
	}
	if !slices.ContainsFunc(list, func(id int32) bool { return m.suffix[level][id] != 0 }) {
		leaf(list)
		return
	}
	for trivial(r.d.rules, m.order[level], list) {
		level++
	}
	r.buf = append(r.buf[:0], byte(level))
	if r.portful {
		r.buf[0] |= 0x80
	}
	for _, id := range list {
		r.buf = append(r.buf, byte(id), byte(id>>8), byte(id>>16))
	}
	if r.visited[string(r.buf)] {
		return
	}
	if !r.spend(len(r.buf) + 32) {
		return
	}
	r.visited[string(r.buf)] = true
	f := r.d.fields[m.order[level]]
	r.d.split(f, pairOf{a: list, all: true}, func(rs []ranks, p pairOf) {
		before := r.cur[f.dim]
		r.cur[f.dim] = &f.cuts[rs[0].lo]
		r.visit(m, level+1, p.a, leaf, done)
		r.cur[f.dim] = before
	})
}

// packet returns the packet on the way.
func (r *reacher) packet() *flow.Packet {
	c := newCollector(r.ps, r.sets, r.budget, Options{})
	p := c.packet(r.group, r.family, r.cur, func(int) int { return 0 })
	return &p
}

// shadow are the lines of a chain that a rule stands for which takes nothing.
type shadow struct {
	group  *group
	family inet.Family
	chain  chain
	origin int32
	lines  []int32
}

// explain notes the rules of a chain that take nothing, and finds whether the others matter.
func (r *reacher) explain(g *group, c chain) {
	lines := map[int32][]int32{}
	var origins []int32
	for i := range c {
		if o := c[i].origin; o != 0 {
			if lines[o] == nil {
				origins = append(origins, o)
			}
			lines[o] = append(lines[o], int32(i))
		}
	}
	var d *diagram
	for _, o := range origins {
		x := &r.rules[o]
		kind := r.sides[0].origins[o-1].Kind
		switch {
		case x.matches == nil:
			r.dead = append(r.dead, shadow{g, g.family, c, o, lines[o]})
		case (kind == flow.OriginPolicy || kind == flow.OriginProfile) && !x.matters:
			if d == nil {
				d = newDiagram(r.budget, r.sets, g.family, r.class(true), c)
			}
			// What matches none of its packets makes no difference.
			var near []int32
			for i := range c {
				if slices.ContainsFunc(lines[o], func(line int32) bool { return r.overlap(&c[i], &c[line]) }) {
					near = append(near, int32(i))
				}
			}
			r.without(d, near, lines[o], o)
		}
		if r.reason != "" {
			return
		}
	}
}

// without finds what decides if a rule is taken away.
func (r *reacher) without(d *diagram, all, lines []int32, origin int32) {
	x := &r.rules[origin]
	rest := slices.DeleteFunc(slices.Clone(all), func(id int32) bool {
		_, ok := slices.BinarySearch(lines, id)
		return ok
	})
	verdict := func(i int32) flow.Verdict { return r.decisions[i].Verdict }
	d.ended = false
	d.enough = func(a, b int32) bool {
		if verdict(a) != verdict(b) {
			x.matters = true
		} else if by := r.by[b]; by != 0 && !slices.Contains(x.by, by) {
			x.by = append(x.by, by)
		}
		return x.matters
	}
	if root := d.build(pairOf{a: all, b: rest, focus: lines}); !x.matters {
		// Leaves that were known already were not asked of.
		d.eachLeaf(root, map[int32]bool{}, func(a, b int32) { d.enough(a, b) })
	}
}

// Policies returns the policies and profiles none of whose rules takes a packet: an Origin with the tier and the name for
// each, in order. Those with a rule of which nothing is known are left out.
func (r *Reachability) Policies() []flow.Origin {
	return r.dead(func(o flow.Origin) (flow.Origin, bool) {
		return flow.Origin{Kind: o.Kind, Tier: o.Tier, Name: o.Name, Pos: o.Pos}, o.Kind == flow.OriginPolicy || o.Kind == flow.OriginProfile
	})
}

// Tiers returns the tiers that take no packet, neither by a rule nor at their end.
func (r *Reachability) Tiers() []flow.Origin {
	return r.dead(func(o flow.Origin) (flow.Origin, bool) {
		return flow.Origin{Kind: flow.OriginTier, Tier: o.Tier}, o.Kind == flow.OriginPolicy || o.Kind == flow.OriginTier
	})
}

// dead returns the things all of whose origins are dead.
func (r *Reachability) dead(of func(flow.Origin) (flow.Origin, bool)) []flow.Origin {
	first := map[flow.Origin]flow.Origin{}
	alive := map[flow.Origin]bool{}
	for _, x := range r.Rules {
		o, ok := of(x.Origin)
		if !ok {
			continue
		}
		if _, ok := first[o.ID()]; !ok {
			first[o.ID()] = o
		}
		alive[o.ID()] = alive[o.ID()] || !x.Status.Dead()
	}
	var out []flow.Origin
	for id, o := range first {
		if !alive[id] {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b flow.Origin) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Name, b.Name))
	})
	return out
}
