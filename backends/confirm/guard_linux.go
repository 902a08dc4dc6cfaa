// SPDX-License-Identifier: Apache-2.0

package confirm

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Guard applies generations of one Backend, for good or until a deadline. It is safe for concurrent use, also with other
// processes that use the directory.
type Guard struct {
	backend backends.Backend
	opts    Options
}

// New returns a Guard. If the directory holds a change that is not confirmed and whose watchdog has died, it is reverted
// now.
func New(ctx context.Context, b backends.Backend, o Options) (*Guard, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Guard{b, o}
	err = locked(ctx, o.Dir, func(d dir) error {
		p, err := d.pending(pendingFile)
		if err != nil || p == nil || watchdogLocked(d, p) {
			return err
		}
		o.Logger.Warn("the watchdog of an unconfirmed change has died: reverting", "change", p.ID)
		return errors.Join(revert(ctx, b, d, p), os.Remove(lifeFile(d, p.ID)))
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// locked does something while nobody else does anything in the directory.
func locked(ctx context.Context, directory string, do func(dir) error) error {
	d := dir(directory)
	f, err := os.OpenFile(d.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return do(d)
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", d.path(lockFile), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s: %w", d.path(lockFile), ctx.Err())
		case <-time.After(wait):
		}
	}
}

// Apply applies p with m. With a deadline the last confirmed generation comes back unless Confirm is called within that
// time after the kernel has taken the new one; ErrUnknown says that there is none. Without a deadline, 0, the generation
// is confirmed at once, unless another one waits to be: then it takes part in its fate.
//
// On error the kernel has what it had, and nothing waits that did not before.
func (g *Guard) Apply(ctx context.Context, p *ir.Program, m ir.Members, within time.Duration) (r backends.Receipt, err error) {
	err = locked(ctx, g.opts.Dir, func(d dir) error {
		before, err := d.pending(pendingFile)
		if err != nil {
			return err
		}
		if within <= 0 {
			if r, err = g.backend.Apply(ctx, p, m); err != nil {
				return err
			}
			if before != nil {
				before.Key = Key(p, m)
				return errors.Join(d.write(provisionalFile, record(p, m)), d.writePending(pendingFile, before))
			}
			return errors.Join(d.write(confirmedFile, record(p, m)), d.remove(revertedFile))
		}
		if err := g.baseline(ctx, d, before); err != nil {
			return err
		}
		w, err := g.start(ctx)
		if err != nil {
			return err
		}
		next := &Pending{ID: w.id, Key: Key(p, m), Within: within, Watchdog: w.cmd.Process.Pid}
		if err := d.writePending(pendingFile, next); err != nil {
			w.end()
			return errors.Join(err, restore(d, before))
		}
		w.send("pending " + within.String()) // from here on it reverts, also if this process ends
		if r, err = g.backend.Apply(ctx, p, m); err != nil {
			w.end()
			return errors.Join(err, restore(d, before))
		}
		next.Applied = time.Now()
		err = errors.Join(d.write(provisionalFile, record(p, m)), d.writePending(pendingFile, next), d.remove(revertedFile))
		w.send("applied")
		w.leave()
		return err
	})
	if err != nil {
		return backends.Receipt{}, err
	}
	return r, nil
}

// baseline makes sure that there is something to go back to.
func (g *Guard) baseline(ctx context.Context, d dir, before *Pending) error {
	if before != nil {
		return nil
	}
	st, err := g.backend.Observe(ctx)
	if err != nil {
		return err
	}
	p, _, err := d.generation(confirmedFile)
	if err != nil {
		return err
	}
	if !st.Present {
		return d.remove(confirmedFile) // it is of another time
	}
	if p == nil {
		return ErrUnknown
	}
	return nil
}

// restore puts back what was pending before an Apply that failed.
func restore(d dir, before *Pending) error {
	if before == nil {
		return d.remove(pendingFile)
	}
	return d.writePending(pendingFile, before)
}

// watchdog is the process that holds a deadline.
type watchdog struct {
	id  string
	cmd *exec.Cmd
	in  io.WriteCloser
}

// start starts a watchdog, and waits until it is ready to revert.
func (g *Guard) start(ctx context.Context) (*watchdog, error) {
	if len(g.opts.Command) == 0 {
		return nil, errors.New("confirm: no command for the watchdog")
	}
	w := &watchdog{id: rand.Text(), cmd: exec.Command(g.opts.Command[0], g.opts.Command[1:]...)}
	w.cmd.ExtraFiles = g.opts.Files
	w.cmd.Dir = "/"
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal that ends takes it along
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	w.cmd.Stdout = theirs
	w.cmd.Stderr = theirs
	err = w.cmd.Start()
	theirs.Close()
	if err != nil {
		w.in.Close()
		return nil, fmt.Errorf("confirm: watchdog: %w", err)
	}
	go func() { _ = w.cmd.Wait() }()
	stop := context.AfterFunc(ctx, func() { _ = out.SetReadDeadline(time.Now()) })
	defer stop()
	w.send("hold " + w.id)
	var said strings.Builder
	for s := bufio.NewScanner(out); s.Scan(); {
		if s.Text() == "ready "+w.id {
			return w, nil
		}
		said.WriteString(s.Text() + "\n")
		if said.Len() > 1<<12 {
			break
		}
	}
	w.end()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("confirm: the watchdog is not ready, so nothing was changed: %s", strings.TrimSpace(said.String()))
}

// send tells the watchdog something. That it cannot be told means that it has ended, which it does not before its time.
func (w *watchdog) send(line string) { _, _ = io.WriteString(w.in, line+"\n") }

// end ends the watchdog without a revert.
func (w *watchdog) end() {
	w.send("never mind")
	w.in.Close()
}

// leave lets it go on alone.
func (w *watchdog) leave() { w.in.Close() }

// Confirm makes what waits the confirmed generation. It needs no Backend. Errors are ErrNothing and ErrReverted, and those
// of files.
func Confirm(ctx context.Context, directory string) error {
	if _, err := os.Stat(directory); err != nil {
		return errors.Join(ErrNothing, err)
	}
	return locked(ctx, directory, func(d dir) error {
		p, err := d.pending(pendingFile)
		if err != nil {
			return err
		}
		if p == nil {
			if r, err := d.pending(revertedFile); err != nil || r != nil {
				return errors.Join(ErrReverted, err)
			}
			return ErrNothing
		}
		if p.Applied.IsZero() {
			return fmt.Errorf("%w: who applied it has died, and it is being reverted", ErrReverted)
		}
		// In this order a watchdog that wakes between the two has nothing to do.
		if err := os.Rename(d.path(provisionalFile), d.path(confirmedFile)); err != nil {
			return err
		}
		return d.remove(pendingFile)
	})
}

// Forget is the function of that name for the Guard's directory.
func (g *Guard) Forget(ctx context.Context) error { return Forget(ctx, g.opts.Dir) }

// Confirm is the function of that name for the Guard's directory.
func (g *Guard) Confirm(ctx context.Context) error { return Confirm(ctx, g.opts.Dir) }

// State returns what the directory says.
func (g *Guard) State() (State, error) { return Read(g.opts.Dir) }

// Revert brings the last confirmed generation back now.
func (g *Guard) Revert(ctx context.Context) error {
	return locked(ctx, g.opts.Dir, func(d dir) error {
		p, err := d.pending(pendingFile)
		if err == nil && p == nil {
			err = ErrNothing
		}
		if err != nil {
			return err
		}
		return revert(ctx, g.backend, d, p)
	})
}

// Forget makes nothing wait, and no generation confirmed: it belongs to a Teardown. It needs no Backend.
func Forget(ctx context.Context, directory string) error {
	if _, err := os.Stat(directory); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return locked(ctx, directory, func(d dir) error {
		return d.remove(pendingFile, provisionalFile, confirmedFile, revertedFile)
	})
}

// revert brings the last confirmed generation back; none is what was before the first. The lock is held.
func revert(ctx context.Context, b backends.Backend, d dir, p *Pending) error {
	prog, m, err := d.generation(confirmedFile)
	if err != nil {
		return err
	}
	if prog == nil {
		err = b.Teardown(ctx)
	} else {
		_, err = b.Apply(ctx, prog, m)
	}
	if err != nil {
		return fmt.Errorf("confirm: revert: %w", err)
	}
	return errors.Join(d.writePending(revertedFile, p), d.remove(pendingFile, provisionalFile))
}
