// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/hostpolicy/hostpolicy/backends"
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
	code     map[render.Place]code
	maps     map[string]*ebpf.Map
	programs map[render.Place]*ebpf.Program // those that had to be loaded
	links    map[linkID]*held
	devices  map[int]*held // links at devices, by index
	outdated []*held       // of another version of the programs
	watcher  *watcher
	unbooted bool     // there is no table of early boot
	last     *applied // nil before the first success
	gens     uint64   // number of the generation in force
	slots    slots
	origins  atomic.Pointer[origins]
}

// applied is what the kernel has.
type applied struct {
	program  *ir.Program
	artifact *render.Artifact
	memory   *memory
	live     *render.Live // what the memory should hold; nil if nobody knows its members
	members  ir.Members   // that the last Apply was given, if known: ApplyMembers may have changed them since
	known    bool
	gone     chan bool // tells when no packet is judged by what was set aside; nil if nothing is waited for
}

var (
	_ backends.Adopter        = (*Backend)(nil)
	_ backends.MembersApplier = (*Backend)(nil)
)

// New returns a Backend for a network namespace, and changes nothing there. The error wraps ErrUnavailable if the kernel
// lacks what is needed.
func New(o Options) (_ *Backend, err error) {
	if _, err := render.Render(&ir.Program{}, ir.Members{}, o.Render); err != nil {
		return nil, err
	}
	if o.XDP > XDPOff {
		return nil, fmt.Errorf("ebpf: unknown choice of XDP %d", o.XDP)
	}
	if o.Counters <= 0 {
		o.Counters = DefaultCounters
	}
	if o.Buffer <= 0 {
		o.Buffer = DefaultBuffer
	}
	if o.Table == "" {
		o.Table = DefaultTable
	}
	b := &Backend{
		opts: o, log: o.Logger, maps: map[string]*ebpf.Map{}, programs: map[render.Place]*ebpf.Program{}, links: map[linkID]*held{},
		devices: map[int]*held{},
	}
	b.origins.Store(&origins{})
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			b.release()
		}
	}()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, lacks("a processor that is little endian", "", nil)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, lacks("memory for maps", "", err)
	}
	if b.kernel, err = kernel(); err != nil {
		return nil, err
	}
	if b.code, err = assemble(&b.kernel); err != nil {
		return nil, err
	}
	if b.ns, err = openNetNS(o.NetNS); err != nil {
		return nil, err
	}
	if o.Path == "" {
		if b.opts.Path, err = defaultPath(b.ns, o.Table); err != nil {
			return nil, err
		}
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// Close releases what the Backend holds in this process. What is pinned goes on to be enforced.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release()
	return nil
}

func (b *Backend) release() {
	b.forget()
	if b.ns != nil {
		b.ns.Close()
		b.ns = nil
	}
}

// forget releases all but the namespace.
func (b *Backend) forget() {
	b.unwatch()
	for i, l := range b.devices {
		l.Close()
		delete(b.devices, i)
	}
	if b.last != nil {
		b.last.memory.close()
		b.last = nil
	}
	for id, l := range b.links {
		l.Close()
		delete(b.links, id)
	}
	for _, l := range b.outdated {
		l.Close()
	}
	b.outdated = nil
	for p, prog := range b.programs {
		prog.Close()
		delete(b.programs, p)
	}
	for n, m := range b.maps {
		m.Close()
		delete(b.maps, n)
	}
	b.slots, b.gens = slots{}, 0
}

var errClosed = errors.New("ebpf: the backend is closed")

func (b *Backend) ready(ctx context.Context) error {
	if b.ns == nil {
		return errClosed
	}
	return ctx.Err()
}
