// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// Backend enforces programs in one network namespace. It is safe for concurrent use; calls are serialised. It must not be
// copied. Close releases what the process holds; what is pinned goes on to be enforced.
type Backend struct {
	opts Options
	log  *slog.Logger
	ns   *os.File

	mu       sync.Mutex
	kernel   render.Kernel
	maps     map[string]*ebpf.Map
	programs map[render.Place]*ebpf.Program
	links    map[linkID]link.Link
	last     *applied // nil before the first success
	gens     uint64
	slots    slots
}

// linkID names a link: a place and a family.
type linkID struct {
	place  render.Place
	family link.NetfilterProtocolFamily
}

func (l linkID) String() string {
	f := "4"
	if l.family == link.NetfilterProtoIPv6 {
		f = "6"
	}
	return l.place.String() + "_" + f
}

// applied is what the kernel has.
type applied struct {
	artifact *render.Artifact
	memory   *memory
	origins  []flow.Origin
}

// hooks are where the programs stand. Priorities are those of nftables; where somebody else stands already, the next ones
// behind are tried. Ref: linux/netfilter_ipv4.h, enum nf_ip_hook_priorities.
var hooks = map[render.Place]struct {
	hook     link.NetfilterInetHook
	priority int32
}{
	render.AtUntrackedIn:  {link.NetfilterInetPreRouting, -320},
	render.AtPreDNAT:      {link.NetfilterInetPreRouting, -150},
	render.AtInput:        {link.NetfilterInetLocalIn, 0},
	render.AtForward:      {link.NetfilterInetForward, 0},
	render.AtUntrackedOut: {link.NetfilterInetLocalOut, -320},
	render.AtOutput:       {link.NetfilterInetLocalOut, 0},
	render.AtTranslated:   {link.NetfilterInetPostRouting, -150},
}

// maxShift is how many priorities are tried.
const maxShift = 19

var families = [...]link.NetfilterProtocolFamily{link.NetfilterProtoIPv4, link.NetfilterProtoIPv6}

var _ backends.Backend = (*Backend)(nil)

// New returns a Backend for a network namespace. It changes nothing there but the directory, which it makes. The error
// wraps ErrUnavailable if the kernel lacks what is needed.
func New(o Options) (_ *Backend, err error) {
	if _, err := render.Render(&ir.Program{}, ir.Members{}, o.Render); err != nil {
		return nil, err
	}
	if o.Path == "" {
		o.Path = DefaultPath
	}
	if o.Counters <= 0 {
		o.Counters = DefaultCounters
	}
	if o.Buffer <= 0 {
		o.Buffer = DefaultBuffer
	}
	if o.Table == "" {
		o.Table = "hostpolicy-ebpf"
	}
	b := &Backend{opts: o, log: o.Logger, maps: map[string]*ebpf.Map{}, programs: map[render.Place]*ebpf.Program{}, links: map[linkID]link.Link{}}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			b.release()
		}
	}()
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, &FeatureError{"memory for maps", "", err}
	}
	if b.kernel, err = kernel(); err != nil {
		return nil, err
	}
	if err := provideFS(o.Path); err != nil {
		return nil, err
	}
	if b.ns, err = openNetNS(o.NetNS); err != nil {
		return nil, err
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// provideFS makes the directory, and mounts the file system if it is missing.
func provideFS(path string) error {
	isBPF := func(dir string) bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && st.Type == unix.BPF_FS_MAGIC
	}
	dir := path
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	const usual = "/sys/fs/bpf"
	if !isBPF(dir) && (path == usual || strings.HasPrefix(path, usual+"/")) {
		if err := unix.Mount("bpf", usual, "bpf", 0, "mode=0700"); err != nil {
			return &FeatureError{"a BPF file system at " + usual, "", err}
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return &Error{"open", "directory " + path, err}
	}
	if !isBPF(path) {
		return &Error{"open", "directory " + path, errors.New("not in a BPF file system")}
	}
	return nil
}

func (b *Backend) pin(kind, name string) string { return filepath.Join(b.opts.Path, kind+"_"+name) }

// open takes over what is pinned, or makes it.
func (b *Backend) open() error {
	for name, spec := range mapSpecs(b.opts) {
		m, err := ebpf.LoadPinnedMap(b.pin("map", name), nil)
		if err == nil && (m.Type() != spec.Type || m.KeySize() != spec.KeySize || m.ValueSize() != spec.ValueSize) {
			m.Close()
			err = errors.New("it has another shape")
		}
		if errors.Is(err, fs.ErrNotExist) {
			if m, err = ebpf.NewMap(spec); err == nil {
				if err = m.Pin(b.pin("map", name)); err != nil {
					m.Close()
				}
			}
		}
		if err != nil {
			return &Error{"open", "map " + name, err}
		}
		b.maps[name] = m
	}
	b.slots.limit = b.maps[render.MapCounters].MaxEntries()
	for id := range b.allLinks() {
		l, err := link.LoadPinnedLink(b.pin("link", id.String()), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return &Error{"open", "link " + id.String(), err}
		}
		b.links[id] = l
	}
	return b.adopt()
}

// allLinks are the links that there may be.
func (b *Backend) allLinks() map[linkID]bool {
	ids := map[linkID]bool{}
	for p := range hooks {
		for _, f := range families {
			ids[linkID{p, f}] = true
		}
	}
	return ids
}

// adopt takes over what counts where from the generation in force.
func (b *Backend) adopt() error {
	m, err := b.inForce()
	if err != nil || m == nil {
		return err
	}
	defer m.close()
	os, err := render.ReadOrigins(m.bytes)
	if err != nil {
		b.log.Warn("the generation in force cannot be read", "error", err)
		return nil
	}
	b.slots.adopt(os)
	return nil
}

// inForce returns the memory of the generation in force; nil if there is none.
func (b *Backend) inForce() (*memory, error) {
	var m *ebpf.Map
	err := b.maps[render.MapGeneration].Lookup(uint32(0), &m)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{"open", "the generation in force", err}
	}
	return mapMemory(m)
}

// Close releases what the Backend holds in this process. What is pinned goes on to be enforced.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release()
	return nil
}

func (b *Backend) release() {
	if b.last != nil {
		b.last.memory.close()
		b.last = nil
	}
	for id, l := range b.links {
		l.Close()
		delete(b.links, id)
	}
	for p, prog := range b.programs {
		prog.Close()
		delete(b.programs, p)
	}
	for n, m := range b.maps {
		m.Close()
		delete(b.maps, n)
	}
	if b.ns != nil {
		b.ns.Close()
		b.ns = nil
	}
}

var errClosed = errors.New("ebpf: the backend is closed")

// Apply implements backends.Backend.
//
// The new memory is complete before the programs see it, and they see it at once. Programs that the new policy needs
// stand at their hooks before, and let everything pass that the old one did not ask about; programs that it needs no
// more go afterwards.
func (b *Backend) Apply(ctx context.Context, p *ir.Program, m ir.Members) (backends.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return backends.Receipt{}, err
	}
	start := time.Now()
	a, err := render.Render(p, m, b.opts.Render)
	if err != nil {
		return backends.Receipt{}, err
	}
	rendered := time.Now()
	if err := ctx.Err(); err != nil {
		return backends.Receipt{}, err
	}
	slots, lost := b.slots.assign(a.Origins)
	if lost > 0 {
		b.log.Warn("not all origins are counted", "without", lost, "counters", b.slots.limit)
	}
	mem, err := newMemory(len(a.Memory))
	if err != nil {
		return backends.Receipt{}, &Error{"apply", "memory", err}
	}
	copy(mem.bytes, a.Memory)
	a.Recount(mem.bytes, slots)
	made, err := b.provide(a)
	if err == nil {
		if err = b.maps[render.MapGeneration].Put(uint32(0), mem.m); err != nil {
			err = &Error{"apply", "map " + render.MapGeneration, err}
		}
	}
	if err != nil {
		mem.close()
		return backends.Receipt{}, errors.Join(err, b.remove(made))
	}
	if b.last != nil {
		b.last.memory.close()
	}
	b.slots.keep(a.Origins, b.maps[render.MapCounters])
	b.last = &applied{artifact: a, memory: mem, origins: a.Origins}
	b.gens++
	var spare []linkID
	for id := range b.links {
		if !a.Needs(id.place) {
			spare = append(spare, id)
		}
	}
	err = b.remove(spare)
	if err == nil {
		err = b.table(a)
	}
	return backends.Receipt{
		Generation: b.gens, Fingerprint: a.Fingerprint(), Changes: 1 + len(made) + len(spare),
		Rendered: rendered.Sub(start), Committed: time.Since(rendered),
	}, err
}

func (b *Backend) ready(ctx context.Context) error {
	if b.ns == nil {
		return errClosed
	}
	return ctx.Err()
}

// provide makes the programs, links and rules that a generation needs and that are not there, and returns the new links.
func (b *Backend) provide(a *render.Artifact) (made []linkID, err error) {
	for _, p := range render.Places {
		if !a.Needs(p) {
			continue
		}
		if err := b.program(p); err != nil {
			return made, err
		}
	}
	// What keeps connection tracking on comes before what asks for it.
	if a.Hooks != 0 {
		if err := b.table(a); err != nil {
			return made, err
		}
	}
	for _, p := range render.Places {
		if !a.Needs(p) || p.Match() {
			continue
		}
		for _, f := range families {
			id := linkID{p, f}
			if b.links[id] != nil {
				continue
			}
			if err := b.attach(id); err != nil {
				return made, err
			}
			made = append(made, id)
		}
	}
	return made, nil
}

// program loads the program at a place, unless it is there.
func (b *Backend) program(p render.Place) error {
	if b.programs[p] != nil {
		return nil
	}
	prog, err := load(p, b.kernel, b.maps, ebpf.ProgramOptions{})
	if err != nil {
		return &FeatureError{"what the program " + p.String() + " needs", "6.4", err}
	}
	if p.Match() {
		pin := b.pin("prog", p.String())
		if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
			prog.Close()
			return &Error{"apply", "program " + p.String(), err}
		}
		if err := prog.Pin(pin); err != nil {
			prog.Close()
			return &Error{"apply", "program " + p.String(), err}
		}
	}
	b.programs[p] = prog
	return nil
}

// attach makes a link and pins it.
func (b *Backend) attach(id linkID) error {
	at := hooks[id.place]
	var l link.Link
	err := inNetNS(b.ns, func() (err error) {
		for shift := int32(0); shift <= maxShift; shift++ {
			l, err = link.AttachNetfilter(link.NetfilterOptions{
				Program: b.programs[id.place], ProtocolFamily: id.family, Hook: at.hook, Priority: at.priority + shift,
			})
			if !errors.Is(err, unix.EBUSY) {
				return err
			}
		}
		return err
	})
	if err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return &FeatureError{"netfilter BPF links", "6.4", err}
		}
		return &Error{"apply", "link " + id.String(), err}
	}
	if err := l.Pin(b.pin("link", id.String())); err != nil {
		l.Close()
		return &Error{"apply", "link " + id.String(), err}
	}
	b.links[id] = l
	return nil
}

// remove takes links away.
func (b *Backend) remove(ids []linkID) error {
	var errs []error
	for _, id := range ids {
		l := b.links[id]
		if l == nil {
			continue
		}
		if err := errors.Join(l.Unpin(), l.Close()); err != nil {
			errs = append(errs, &Error{"apply", "link " + id.String(), err})
		}
		delete(b.links, id)
	}
	return errors.Join(errs...)
}

// table makes our table of nftables what a generation needs, if it is not.
func (b *Backend) table(a *render.Artifact) error {
	pins := map[render.Place]string{}
	want := map[string]bool{conntrackChain: true}
	for _, m := range matchChains {
		if a.Needs(m.place) {
			pins[m.place] = b.pin("prog", m.place.String())
			want[m.name] = true
		}
	}
	have, err := tableChains(b.ns, b.opts.Table)
	if err == nil && equal(have, want) {
		return nil
	}
	if err == nil {
		err = installTable(b.ns, b.opts.Table, pins)
	}
	if err != nil {
		return &Error{"apply", "table " + b.opts.Table, err}
	}
	return nil
}

func equal(a, b map[string]bool) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// Observe implements backends.Backend.
func (b *Backend) Observe(ctx context.Context) (backends.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return backends.State{}, err
	}
	s := backends.State{Present: len(b.links) > 0, Generation: b.gens}
	in, err := b.inForce()
	if err != nil {
		return backends.State{}, err
	}
	if in != nil {
		defer in.close()
		s.Present = true
	}
	if b.last == nil {
		return s, nil
	}
	a := b.last.artifact
	s.Fingerprint = a.Fingerprint()
	add := func(kind backends.DriftKind, object string) {
		s.Drift = append(s.Drift, backends.Drift{Kind: kind, Object: object})
	}
	switch {
	case in == nil:
		add(backends.DriftMissing, "generation")
	case string(in.bytes) != string(b.last.memory.bytes):
		add(backends.DriftChanged, "generation")
	}
	for id, l := range b.links {
		info, err := l.Info()
		if err != nil {
			add(backends.DriftMissing, "link "+id.String())
			continue
		}
		if prog, err := b.programs[id.place].Info(); err == nil {
			if want, ok := prog.ID(); ok && want != info.Program {
				add(backends.DriftChanged, "link "+id.String())
			}
		}
		if _, err := os.Stat(b.pin("link", id.String())); err != nil {
			add(backends.DriftMissing, "pin of link "+id.String())
		}
	}
	have, err := tableChains(b.ns, b.opts.Table)
	if err != nil {
		return backends.State{}, &Error{"observe", "table " + b.opts.Table, err}
	}
	want := map[string]bool{conntrackChain: true}
	for _, m := range matchChains {
		if a.Needs(m.place) {
			want[m.name] = true
		}
	}
	for n := range want {
		if !have[n] {
			add(backends.DriftMissing, "chain "+n)
		}
	}
	slices.SortFunc(s.Drift, func(x, y backends.Drift) int { return strings.Compare(x.Object, y.Object) })
	return s, nil
}

// Counters implements backends.Backend. Origins that were never met have a counter of 0. Without an Apply of this Backend
// nobody knows what the numbers in the kernel stand for, and there are none.
func (b *Backend) Counters(ctx context.Context) ([]backends.Counter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	if b.last == nil {
		return nil, nil
	}
	var out []backends.Counter
	m := b.maps[render.MapCounters]
	for _, o := range b.last.origins {
		slot, ok := b.slots.of[o.Key()]
		if !ok {
			continue
		}
		var each []counter
		if err := m.Lookup(slot, &each); err != nil {
			return nil, &Error{"counters", "map " + render.MapCounters, err}
		}
		c := backends.Counter{Origin: o}
		for _, e := range each {
			c.Packets += e.Packets
			c.Bytes += e.Bytes
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(x, y backends.Counter) int { return strings.Compare(x.Origin.String(), y.Origin.String()) })
	return out, nil
}

// Teardown implements backends.Backend.
func (b *Backend) Teardown(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return err
	}
	var ids []linkID
	for id := range b.links {
		ids = append(ids, id)
	}
	errs := []error{b.remove(ids)}
	if err := removeTable(b.ns, b.opts.Table); err != nil {
		errs = append(errs, &Error{"teardown", "table " + b.opts.Table, err})
	}
	// What is left in the directory is ours: maps and programs.
	entries, err := os.ReadDir(b.opts.Path)
	if err != nil {
		errs = append(errs, err)
	}
	for _, e := range entries {
		kind, _, _ := strings.Cut(e.Name(), "_")
		if kind == "map" || kind == "prog" || kind == "link" {
			errs = append(errs, os.Remove(filepath.Join(b.opts.Path, e.Name())))
		}
	}
	if err := os.Remove(b.opts.Path); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ebpf: teardown: %w", err)
	}
	b.release()
	return nil
}
