// SPDX-License-Identifier: Apache-2.0

package confirm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
)

// poll is how often a watchdog looks whether it is still needed.
const poll = 200 * time.Millisecond

// Watch is what a watchdog does: the program that Options.Command names calls it with its standard input and output, the
// directory, and a Backend like that of the Guard. It returns when the change that it was started for was confirmed,
// replaced or reverted. It ignores hangups and interrupts, and reverts at once on SIGTERM: who ends it without confirming
// does not know whether anybody can still get in.
func Watch(in io.Reader, out io.Writer, b backends.Backend, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()

	lines := bufio.NewScanner(in)
	word := func(first string) (string, bool) {
		if !lines.Scan() {
			return "", false
		}
		w, rest, _ := strings.Cut(lines.Text(), " ")
		return rest, w == first
	}
	id, ok := word("hold")
	if !ok {
		return errors.New("confirm: a watchdog is started by a Guard")
	}
	lock, err := holdLife(dir(o.Dir), id)
	if err != nil {
		return err
	}
	defer lock.Close()
	defer os.Remove(lock.Name())
	// Whatever can fail about going back should fail now.
	p, m, err := dir(o.Dir).generation(confirmedFile)
	if err != nil {
		return err
	}
	if c, ok := b.(backends.Checker); ok && p != nil {
		if err := c.Check(p, m); err != nil {
			return err
		}
	}
	if _, err := b.Observe(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "ready "+id); err != nil {
		return err
	}
	text, ok := word("pending")
	if !ok {
		return nil // nothing was applied
	}
	within, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	// "applied", or the end of the process that would have said it.
	if lines.Scan() && lines.Text() != "applied" {
		return nil
	}
	return hold(ctx, b, o, id, within)
}

// hold waits for the deadline, and reverts.
func hold(ctx context.Context, b backends.Backend, o Options, id string, within time.Duration) error {
	end := time.Now().Add(within)
	// Without the directory nobody can say any more what to go back to, nor whether to.
	vanished := func() error {
		if _, err := os.Stat(o.Dir); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("confirm: what waits to be confirmed is unknown: %w", err)
		}
		return nil
	}
	for ctx.Err() == nil {
		if err := vanished(); err != nil {
			return err
		}
		if p, err := dir(o.Dir).pending(pendingFile); err == nil && (p == nil || p.ID != id) {
			// Unless the change that takes our place fails, and is undone.
			err = locked(ctx, o.Dir, func(d dir) (err error) { p, err = d.pending(pendingFile); return err })
			if err == nil && (p == nil || p.ID != id) {
				return nil
			}
		}
		left := time.Until(end)
		if left <= 0 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(poll, left)):
		}
	}
	ctx = context.Background()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		attempt, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := locked(attempt, o.Dir, func(d dir) error {
			p, err := d.pending(pendingFile)
			if err != nil || p == nil || p.ID != id {
				return err
			}
			o.Logger.Warn("not confirmed in time: reverting", "change", id, "within", within)
			return revert(attempt, b, d, p)
		})
		cancel()
		if err == nil {
			return nil
		}
		if err := vanished(); err != nil {
			return err
		}
		o.Logger.Error("the revert failed; trying again", "error", err, "retry", wait)
		time.Sleep(wait)
	}
}

func lifeFile(d dir, id string) string { return d.path("watchdog-" + id) }

// holdLife takes the lock that tells a living watchdog.
func holdLife(d dir, id string) (*os.File, error) {
	f, err := os.OpenFile(lifeFile(d, id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// watchdogLocked reports whether the watchdog of a change lives.
func watchdogLocked(d dir, p *Pending) bool {
	f, err := os.Open(lifeFile(d, p.ID))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
