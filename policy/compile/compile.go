// SPDX-License-Identifier: Apache-2.0

// Package compile turns a Snapshot into the rule IR. It is the one place where the quirks of Calico's policy model
// become explicit clauses and steps: what is not written in the program, no renderer does.
//
// Blocks have these IDs, in which "/" and "%" inside a name are written %2f and %25:
//
//	hook/HOOK                    what an entry asks: which endpoint governs the interface
//	workload/normal-in           what comes before everything for packets of the host's own workloads
//	endpoint/ENDPOINT/HOOK       everything one endpoint says at one hook
//	failsafe/HOOK                the failsafes, the same for all endpoints
//	tier/TIER/HOOK/HASH          a tier; HASH tells apart different lists of policies
//	policy/TIER/NAME/HOOK        the rules of a policy in one direction and stage
//	profile/NAME/HOOK            the rules of a profile in one direction
package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Compile returns the program that enforces s, and the members of its sets. The result is canonical, valid in the sense
// of ir.Validate, and depends on nothing but s, to the byte. Blocks whose policies did not change keep their IDs and
// contents, whatever else changes.
//
// Compile reads s.Config as policy.Resolve leaves it, with defaults filled in: a nil list of failsafes is none. An
// error is a *field.Errors; it means that s does not come from Resolve (an unknown action, a set that is missing, two
// endpoints on one interface), and that there is no program.
func Compile(s *policy.Snapshot) (*ir.Program, ir.Members, error) {
	if s == nil {
		l := field.List{{Object: "Snapshot", Reason: "is nil", Err: field.ErrRequired}}
		return nil, ir.Members{}, l.Err()
	}
	c := &compiler{
		config: s.Config,
		s:      s,
		prog:   &ir.Program{},
		blocks: map[ir.BlockID]ir.Fingerprint{},
		sets:   map[string]*policy.Set{},
		done:   map[ruleList]ir.BlockID{},
	}
	for _, set := range s.Sets {
		if set != nil {
			c.sets[set.ID] = set
		}
	}
	c.declared = func(id string) (ports, ok bool) {
		set := c.sets[id]
		return set != nil && set.Ports, set != nil
	}
	for _, ep := range s.Endpoints {
		if ep == nil {
			c.errorf("Snapshot", "Endpoints", field.Pos{}, "holds a nil endpoint")
		}
	}
	c.workloads = c.workloadNames()
	if len(c.errs) == 0 {
		c.entries()
	}
	members := c.members()
	if err := c.errs.Err(); err != nil {
		return nil, ir.Members{}, err
	}
	return ir.Canonical(c.prog), members, nil
}

// compiler makes steps. Compile makes all of a program with one of them; Incremental makes one block at a time.
type compiler struct {
	config    policy.Config
	workloads []ir.NamePattern                 // interfaces that belong to workloads
	declared  func(id string) (ports, ok bool) // the sets that rules may name
	prog      *ir.Program                      // holds the origins of all steps made
	origins   map[flow.Origin]ir.OriginID      // by ID, once there are many
	used      map[string]bool                  // IDs of sets that a rule names
	errs      field.List

	// Of a whole program.
	s      *policy.Snapshot
	sets   map[string]*policy.Set        // by ID
	blocks map[ir.BlockID]ir.Fingerprint // those in prog
	done   map[ruleList]ir.BlockID
}

// ruleList is a *policy.Policy or *policy.Profile at a hook: endpoints share them, and it is compiled once.
type ruleList struct {
	owner any
	hook  flow.Hook
}

func (c *compiler) errorf(object, path string, pos field.Pos, format string, args ...any) {
	c.errs = append(c.errs, &field.Error{Object: object, Path: path, Pos: pos, Reason: fmt.Sprintf(format, args...), Err: field.ErrInvalid})
}

// origin returns the number of o. The position of the first of equal origins counts.
func (c *compiler) origin(o flow.Origin) ir.OriginID {
	const few = 8 // a map for less costs more than it saves
	key := o.ID()
	if c.origins == nil && len(c.prog.Origins) < few {
		for i := range c.prog.Origins {
			if c.prog.Origins[i].ID() == key {
				return ir.OriginID(i + 1)
			}
		}
	} else {
		if c.origins == nil {
			c.origins = make(map[flow.Origin]ir.OriginID, 2*few)
			for i := range c.prog.Origins {
				c.origins[c.prog.Origins[i].ID()] = ir.OriginID(i + 1)
			}
		}
		if id, ok := c.origins[key]; ok {
			return id
		}
		c.origins[key] = ir.OriginID(len(c.prog.Origins) + 1)
	}
	c.prog.Origins = append(c.prog.Origins, o)
	return ir.OriginID(len(c.prog.Origins))
}

// then returns the step that decides for every packet.
func (c *compiler) then(outcome ir.Outcome, o flow.Origin) ir.Step {
	return ir.Rule{Then: outcome, Origin: c.origin(o)}
}

// block adds a block. Blocks that share an ID must be the same: otherwise two objects have one name, and one of them
// would silently be enforced in place of the other.
func (c *compiler) block(id ir.BlockID, steps []ir.Step) ir.BlockID {
	b := ir.Block{ID: id, Steps: steps}
	f := c.prog.BlockFingerprint(b)
	if old, ok := c.blocks[id]; ok {
		if old != f {
			c.errorf("Snapshot", string(id), field.Pos{}, "two different objects have this name")
		}
		return id
	}
	c.blocks[id] = f
	c.prog.Blocks = append(c.prog.Blocks, b)
	return id
}

// blockID joins names to an ID that no other names give.
func blockID(kind string, names ...string) ir.BlockID {
	var w strings.Builder
	w.WriteString(kind)
	for _, n := range names {
		w.WriteByte('/')
		w.WriteString(strings.ReplaceAll(strings.ReplaceAll(n, "%", "%25"), "/", "%2f"))
	}
	return ir.BlockID(w.String())
}

// members declares the sets that rules name, and returns what is in them.
func (c *compiler) members() ir.Members {
	var m ir.Members
	for _, id := range slices.Sorted(maps.Keys(c.used)) {
		set := c.sets[id]
		c.prog.Sets = append(c.prog.Sets, setDecl(set))
		elements := make([]ir.Element, 0, len(set.Members))
		for _, x := range set.Members {
			p, ok := ir.PlainPrefix(x.Prefix)
			switch {
			case !ok:
				c.errorf("Snapshot", "Sets["+id+"]", field.Pos{}, "has the invalid member %s", x.Prefix)
			case set.Ports && (!p.IsSingleIP() || x.Protocol == 0):
				c.errorf("Snapshot", "Sets["+id+"]", field.Pos{}, "%s %s %d is not an address with protocol and port", p, x.Protocol, x.Port)
			case set.Ports:
				elements = append(elements, ir.Element{Prefix: p, Protocol: x.Protocol, Port: x.Port})
			default:
				elements = append(elements, ir.Element{Prefix: p})
			}
		}
		m.Sets = append(m.Sets, ir.SetMembers{ID: ir.SetID(id), Elements: elements})
	}
	return m.Canonical()
}

func setDecl(s *policy.Set) ir.SetDecl {
	d := ir.SetDecl{ID: ir.SetID(s.ID), Kind: ir.SetOfPrefixes, Note: s.Selector}
	if s.Ports {
		d.Kind = ir.SetOfEndpoints
	}
	return d
}

// sortedByName returns the endpoints that want accepts, sorted by name. Resolve sorts them already; the text of a
// program must not depend on that.
func (c *compiler) sortedByName(want func(*policy.Endpoint) bool) []*policy.Endpoint {
	var eps []*policy.Endpoint
	for _, ep := range c.s.Endpoints {
		if len(ep.Interfaces) > 0 && want(ep) {
			eps = append(eps, ep)
		}
	}
	slices.SortStableFunc(eps, func(a, b *policy.Endpoint) int { return cmp.Compare(a.Name, b.Name) })
	return eps
}
