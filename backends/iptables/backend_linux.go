// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// Backend enforces programs in one network namespace. It is safe for concurrent use; calls are serialised. It must not be
// copied. It holds nothing that has to be released.
type Backend struct {
	opts     Options
	log      *slog.Logger
	tools    *tools
	families []inet.Family

	mu      sync.Mutex
	last    *applied // nil before the first success
	suspect bool     // the kernel may have something else than last
	gens    uint64
	carried counts // of chains that were deleted
}

// applied is what the kernel has.
type applied struct {
	program *ir.Program
	rules   *render.Ruleset
	kernel  uint32 // the generation behind our last transaction
	counted bool   // nobody else had a transaction in between
}

var _ backends.Backend = (*Backend)(nil)

// New returns a Backend for a network namespace. It changes nothing there, and makes no table where there is none. The
// error wraps ErrUnavailable if the tools are not there or too old (*VersionError); it is an *AmbiguousError or a
// *ConflictError if the namespace has rules in both variants. With chains of this instance in both, and a variant named
// in o, New succeeds so that they can be torn down there; Apply returns the *ConflictError then.
func New(o Options) (*Backend, error) {
	if o.Variant > Legacy {
		return nil, errors.New("iptables: unknown " + o.Variant.String())
	}
	r, err := render.Render(&ir.Program{}, ir.Members{}, o.Render)
	if err != nil {
		return nil, err
	}
	if r.Marks.Generation == 0 {
		return nil, errors.New("iptables: the mark mask needs two bits or more")
	}
	ctx := context.Background()
	t, families, err := probe(ctx, o, r.Prefix)
	if err != nil {
		return nil, err
	}
	o.Render.Prefix = r.Prefix
	b := &Backend{opts: o, log: o.Logger, tools: t, families: families}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if t.variant == NFT {
		for _, f := range families {
			if loaded, err := legacyTables(t.netns, f); err == nil && loaded {
				b.log.Warn("there are tables of iptables-legacy, too; packets meet the rules of both", "prefix", r.Prefix, "tool", toolName(f))
			}
		}
	}
	b.log.Debug("iptables found", "variant", t.variant, "prefix", r.Prefix, "ipv6", len(families) > 1)
	return b, nil
}

// Variant returns the variant that the Backend uses: NFT or Legacy.
func (b *Backend) Variant() Variant { return b.tools.variant }

// Apply implements backends.Backend. All or nothing holds for each family, IPv4 and IPv6, by itself.
//
// A program that was applied before must be the same value and not a copy for changes of members to be cheap: then Apply
// changes sets only, and looks at those only whose slice of elements is another one. What somebody else did to our rules
// it notices in the variant nft, where the kernel counts changes. In legacy, and for elements of sets in both, Observe
// finds it, and the Apply behind that repairs it.
func (b *Backend) Apply(ctx context.Context, p *ir.Program, m ir.Members) (backends.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return backends.Receipt{}, err
	}
	if b.tools.conflict != nil {
		return backends.Receipt{}, b.tools.conflict
	}
	if err := b.noticeIPv6(); err != nil {
		return backends.Receipt{}, err
	}
	start := time.Now()
	known := b.last != nil && !b.suspect && b.last.program == p
	membersOnly := known && (b.tools.variant == Legacy || b.undisturbed())
	var rules *render.Ruleset
	var err error
	c := &commit{Backend: b, ctx: ctx}
	if b.last == nil || b.suspect {
		reading, stop := context.WithCancel(ctx)
		c.ahead = b.readAhead(reading)
		defer c.ahead.wg.Wait()
		defer stop()
	}
	if known {
		rules, err = b.last.rules.Refill(m)
	} else {
		rules, err = render.Render(p, m, b.opts.Render)
	}
	if err != nil {
		return backends.Receipt{}, err
	}
	c.rules = rules
	if err := c.prepare(membersOnly); err != nil {
		return backends.Receipt{}, err
	}
	rendered := time.Now()
	if err := c.run(membersOnly); err != nil {
		b.suspect = true
		return backends.Receipt{}, err
	}
	a := &applied{program: p, rules: rules}
	if !membersOnly {
		var ok bool
		a.kernel, ok = b.generation()
		a.counted = ok && a.kernel-c.base == uint32(c.commits)
	} else {
		a.kernel, a.counted = b.last.kernel, b.last.counted
	}
	b.last, b.suspect = a, c.left.Load()
	b.gens++
	r := backends.Receipt{
		Generation: b.gens, Fingerprint: rules.Fingerprint(), Changes: c.changes,
		Rendered: rendered.Sub(start), Committed: time.Since(rendered),
	}
	b.log.Debug("applied", "prefix", rules.Prefix, "generation", r.Generation, "changes", r.Changes, "rendered", r.Rendered, "committed", r.Committed)
	return r, nil
}

// Teardown implements backends.Backend. It removes what is there in the variant of the Backend.
func (b *Backend) Teardown(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	const op = "teardown"
	if err := b.noticeIPv6(); err != nil {
		return err
	}
	b.suspect = true
	prefix := b.opts.Render.Prefix
	for _, f := range b.families {
		s, err := b.read(ctx, op, f, false)
		if err != nil {
			return err
		}
		for _, sc := range teardown(f, prefix, s) {
			if err := b.tools.restore(ctx, op, f, &sc); err != nil {
				return err
			}
		}
	}
	sets, err := b.readSets(ctx, op)
	if err != nil {
		return err
	}
	var failed []error
	_, err = b.destroySets(ctx, op, sortedKeys(sets), func(name string, err error) {
		if b.tools.conflict == nil || !says(err, "in use") { // by the other variant
			failed = append(failed, err)
		}
	})
	if err := errors.Join(append(failed, err)...); err != nil {
		return err
	}
	b.last, b.carried = nil, nil
	return nil
}

// read returns what the kernel has in the tables of one family.
func (b *Backend) read(ctx context.Context, op string, f inet.Family, counters bool) (saved, error) {
	if b.tools.variant == Legacy {
		if loaded, err := legacyTables(b.tools.netns, f); err != nil || !loaded {
			return saved{}, err
		}
	}
	out, err := b.tools.save(ctx, op, f, counters)
	if err != nil {
		return nil, err
	}
	s, _, err := parseSaved(out, b.opts.Render.Prefix)
	for n, t := range s {
		if t.hidden {
			return nil, &HiddenError{Op: op, Tool: toolName(f), Table: n.String()}
		}
	}
	return s, err
}

// readSets returns the sets of ours that the kernel has.
func (b *Backend) readSets(ctx context.Context, op string) (map[string]*savedSet, error) {
	out, err := b.tools.saveSets(ctx, op)
	if err != nil {
		return nil, err
	}
	return parseSavedSets(out, b.opts.Render.Prefix)
}
