// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// Backend enforces programs in one table of one network namespace. It is safe for concurrent use; calls are
// serialised. It must not be copied. Close releases its socket and leaves the table alone.
type Backend struct {
	opts Options
	log  *slog.Logger

	mu       sync.Mutex
	sock     *socket
	renderer render.Renderer
	last     *applied // nil before the first success, and when nobody knows what the kernel has
	gens     uint64
}

// applied is what the kernel has.
type applied struct {
	program   *ir.Program
	rules     *render.Ruleset // its Elements are those of the first Apply of this program
	structure [32]byte
	sum       render.ElementSum
	sets      map[ir.SetID]*appliedSet
	kernel    uint32 // generation of the namespace behind our transaction
	suspect   bool   // somebody changed our table
}

// appliedSet is a set of the program, of which the kernel has one for each family that rules use.
type appliedSet struct {
	source   []ir.Element // what the last Apply was given, if known: ApplyMembers may have changed the set since
	known    bool
	families []*familySet
}

type familySet struct {
	set   *render.Set
	store *store
}

var _ backends.Backend = (*Backend)(nil)

// New returns a Backend for a network namespace. It changes nothing there; the error wraps ErrUnavailable if there is no
// nftables, or no right to use it.
func New(o Options) (*Backend, error) {
	if _, err := render.Render(&ir.Program{}, ir.Members{}, o.Render); err != nil {
		return nil, err
	}
	if o.Render.Table == "" {
		o.Render.Table = render.DefaultTable
	}
	s, err := dial(o.NetNS)
	if err != nil {
		return nil, errors.Join(ErrUnavailable, err)
	}
	if _, err := s.generation(context.Background(), "probe"); err != nil {
		s.close()
		return nil, errors.Join(ErrUnavailable, err)
	}
	o.Render.Caps.ConcatRanges = true // since Linux 5.6; the package demands a later one
	b := &Backend{opts: o, sock: s, log: o.Logger}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	return b, nil
}

// Close releases what the Backend holds in this process. The table goes on to be enforced.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sock.close()
}

// Apply implements backends.Backend.
//
// A program that was applied before must be the same value and not a copy for changes of members to be cheap: then Apply
// compares members only, and those of sets whose slice of elements is the same not at all.
func (b *Backend) Apply(ctx context.Context, p *ir.Program, m ir.Members) (backends.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return backends.Receipt{}, err
	}
	start := time.Now()
	if err := b.verify(ctx); err != nil {
		return backends.Receipt{}, err
	}
	if b.last != nil && b.last.program == p && !b.last.suspect {
		return b.commitMembers(ctx, start, b.membersChanges(m), &m)
	}
	rules, err := b.renderer.Render(p, m, b.opts.Render)
	if err != nil {
		return backends.Receipt{}, err
	}
	return b.commitRules(ctx, start, p, rules, m)
}

// verify looks whether somebody else has changed our table since our last transaction. It is cheap as long as nobody
// has changed any table of the namespace.
func (b *Backend) verify(ctx context.Context) error {
	if b.last == nil || b.last.suspect {
		return nil
	}
	gen, err := b.sock.generation(ctx, "apply")
	if err != nil || gen == b.last.kernel {
		return err
	}
	drift, err := b.drift(ctx, "apply", false)
	if err != nil {
		return err
	}
	if len(drift) > 0 {
		b.log.Warn("table was changed by somebody else", "table", b.opts.Render.Table, "differences", len(drift), "first", drift[0].Object)
		b.last.suspect = true
		return nil
	}
	b.last.kernel = gen
	return nil
}

// commitRules makes the kernel have rules: by what differs if it can, or by replacing the table.
func (b *Backend) commitRules(ctx context.Context, start time.Time, p *ir.Program, rules *render.Ruleset, m ir.Members) (backends.Receipt, error) {
	if b.last != nil && !b.last.suspect {
		old := b.current()
		changes := render.Diff(old, rules)
		if changes.Empty() {
			return b.applied(start, start, p, rules, m, 0, b.last.kernel), nil
		}
		if !changes.Replace {
			batch, err := b.incremental(ctx, changes, rules)
			if err == nil {
				rendered := time.Now()
				var kernel uint32
				if kernel, err = b.transact(ctx, batch, b.last.kernel); err == nil {
					return b.applied(start, rendered, p, rules, m, batch.changes, kernel), nil
				}
			}
			if !foreign(err) {
				return backends.Receipt{}, b.failed(err)
			}
			b.log.Warn("table was changed by somebody else", "table", b.opts.Render.Table, "error", err)
		}
	}
	batch, err := b.whole(rules)
	if err != nil {
		return backends.Receipt{}, err
	}
	if err := ctx.Err(); err != nil {
		return backends.Receipt{}, err
	}
	rendered := time.Now()
	kernel, err := b.transact(ctx, batch, b.generation(ctx))
	if err != nil {
		return backends.Receipt{}, b.failed(err)
	}
	return b.applied(start, rendered, p, rules, m, batch.changes, kernel), nil
}

// transact runs a transaction of Apply and returns the generation that it made. If somebody else had a transaction since
// the generation before, that is 0, which is never right: he may have changed our table.
func (b *Backend) transact(ctx context.Context, t *batch, before uint32) (kernel uint32, err error) {
	if err := b.sock.commit("apply", t); err != nil {
		return 0, err
	}
	if after := b.generation(ctx); after == before+1 {
		return after, nil
	}
	return 0, nil
}

// failed takes note of a transaction that failed. If its answer was lost, the next Apply replaces the table.
func (b *Backend) failed(err error) error {
	if errors.Is(err, errUnknown) {
		b.last = nil
	}
	return err
}

// current returns the ruleset that the kernel has, with the elements it has now.
func (b *Backend) current() *render.Ruleset {
	r := *b.last.rules
	r.Sets = slices.Clone(r.Sets)
	for _, s := range b.last.sets {
		for _, f := range s.families {
			for i := range r.Sets {
				if r.Sets[i].Name == f.set.Name {
					r.Sets[i].Elements = f.store.elements()
				}
			}
		}
	}
	return &r
}

// applied takes note of a success.
func (b *Backend) applied(start, rendered time.Time, p *ir.Program, r *render.Ruleset, m ir.Members, changes int, kernel uint32) backends.Receipt {
	committed := time.Now()
	b.take(p, r, m, kernel)
	return b.receipt(start, rendered, committed, changes)
}

// take notes p as what the kernel has in a generation.
func (b *Backend) take(p *ir.Program, r *render.Ruleset, m ir.Members, kernel uint32) {
	a := &applied{program: p, rules: r, kernel: kernel, structure: r.StructureHash(), sets: make(map[ir.SetID]*appliedSet, len(r.Sets))}
	for i := range r.Sets {
		s := &r.Sets[i]
		if s.Values != nil {
			continue
		}
		as := a.sets[s.ID]
		if as == nil {
			as = &appliedSet{source: m.Set(s.ID), known: true}
			a.sets[s.ID] = as
		}
		as.families = append(as.families, &familySet{s, newStore(s, normal(as.source, s))})
		for _, e := range s.Elements {
			a.sum.Add(s.Name, e)
		}
	}
	b.last = a
}

// generation returns the generation of the namespace; 0, which is never right, if it cannot be had.
func (b *Backend) generation(ctx context.Context) uint32 {
	gen, err := b.sock.generation(context.WithoutCancel(ctx), "apply")
	if err != nil {
		return 0
	}
	return gen
}

func (b *Backend) receipt(start, rendered, committed time.Time, changes int) backends.Receipt {
	b.gens++
	r := backends.Receipt{
		Generation: b.gens, Fingerprint: render.Fingerprint(b.last.structure, b.last.sum), Changes: changes,
		Rendered: rendered.Sub(start), Committed: committed.Sub(rendered),
	}
	if changes == 0 {
		r.Rendered, r.Committed = committed.Sub(start), 0
	}
	b.log.Debug("applied", "table", b.opts.Render.Table, "generation", r.Generation, "changes", r.Changes, "rendered", r.Rendered, "committed", r.Committed)
	return r
}

// Teardown implements backends.Backend.
func (b *Backend) Teardown(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	t := newBatch(b.opts.Render.Table, 1<<10, b.sock.seq, 0)
	t.newTable() // so that there is one to delete
	t.delTable()
	b.finish(t)
	if err := b.sock.commit("teardown", t); err != nil {
		return err
	}
	b.last = nil
	return nil
}
