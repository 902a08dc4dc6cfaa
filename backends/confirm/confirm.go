// SPDX-License-Identifier: Apache-2.0

// Package confirm makes changes that undo themselves unless somebody confirms them in time: what a host firewall needs
// that is administered over the network it filters.
//
// A Guard applies a generation for a while. The deadline is held by a process of its own, the watchdog, which has read the
// last confirmed generation and made sure that it could apply it before anything changes, so that the revert happens
// whether or not the process that applied lives, and whatever became of the connection of who started it. A watchdog
// that is killed, too, is replaced when the next Guard of the directory is made.
//
//	Apply(10 s) ──▶ watchdog is ready ──▶ kernel has the new generation ──┬─ Confirm ──▶ it stays
//	                                                                      └─ 10 s ─────▶ the last confirmed one is back
//
// What is known lies in a directory: the last confirmed program, the provisional one, and the one that was reverted last,
// in the text form of package ir. It must outlive processes, but need not outlive the kernel.
package confirm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// The errors that callers may want to tell apart.
var (
	ErrUnavailable = errors.New("confirm: not on this system")
	// ErrNothing is what Confirm and Revert return if nothing waits to be confirmed.
	ErrNothing = errors.New("confirm: nothing waits to be confirmed")
	// ErrReverted is what Confirm returns if the deadline has passed.
	ErrReverted = errors.New("confirm: too late: the change was reverted")
	// ErrUnknown is what Apply returns if the kernel has something that the directory does not know, to which nothing could
	// go back. Applying something for good ends that.
	ErrUnknown = errors.New("confirm: there is nothing to go back to: the kernel has rules, and no generation is recorded as confirmed")
)

// Options say where a Guard keeps what it knows and how it starts a watchdog.
type Options struct {
	// Dir is the directory of one Backend in one network namespace, made if it is missing. It is needed.
	Dir string
	// Command is the program that calls Watch with the same directory and a Backend of the same kind, with arguments. It
	// is started in a session of its own. Needed for Apply with a deadline.
	Command []string
	// Files are what the watchdog inherits as descriptors 3 and up.
	Files []*os.File
	// Logger gets what an operator may want to know; nil is silence.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("confirm: no directory")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, os.MkdirAll(o.Dir, 0o700)
}

// State is what a directory says.
type State struct {
	Confirmed string   `json:"confirmed,omitempty"` // Key of the last confirmed generation; "" if there is none
	Pending   *Pending `json:"pending,omitempty"`   // what waits to be confirmed; nil if nothing does
	Reverted  *Pending `json:"reverted,omitempty"`  // what was reverted last, if nothing was applied since
}

// Pending is a generation that is not confirmed.
type Pending struct {
	ID       string        `json:"id"`  // of the Apply
	Key      string        `json:"key"` // of the generation
	Within   time.Duration `json:"within"`
	Applied  time.Time     `json:"applied"` // zero while it is being applied
	Watchdog int           `json:"watchdog"`
}

// Deadline is when the generation is reverted.
func (p *Pending) Deadline() time.Time { return p.Applied.Add(p.Within) }

// Key identifies a generation by the text of its program and members.
func Key(p *ir.Program, m ir.Members) string { return key(p.String() + m.String()) }

func key(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// The files of a directory.
const (
	confirmedFile   = "confirmed"
	provisionalFile = "provisional"
	pendingFile     = "pending.json"
	revertedFile    = "reverted.json"
	lockFile        = "lock"
)

// dir is a directory whose lock is held, or that is only read.
type dir string

func (d dir) path(name string) string { return filepath.Join(string(d), name) }

// write makes a file what it should be at once, or not at all.
func (d dir) write(name string, data []byte) error {
	tmp := d.path(name + ".new")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.path(name))
}

func (d dir) remove(names ...string) error {
	var errs []error
	for _, n := range names {
		if err := os.Remove(d.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (d dir) writePending(name string, p *Pending) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return d.write(name, data)
}

// pending reads one of the two files; nil if it is not there.
func (d dir) pending(name string) (*Pending, error) {
	data, err := os.ReadFile(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p Pending
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", d.path(name), err)
	}
	return &p, nil
}

// generation reads a program with its members; a nil program if it is not there.
func (d dir) generation(name string) (*ir.Program, ir.Members, error) {
	data, err := os.ReadFile(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ir.Members{}, nil
	}
	if err != nil {
		return nil, ir.Members{}, err
	}
	p, m, err := parseRecord(data)
	if err != nil {
		return nil, ir.Members{}, fmt.Errorf("%s: %w", d.path(name), err)
	}
	return p, m, nil
}

// Read returns what a directory says. A directory that is not there says nothing.
func Read(directory string) (State, error) {
	d := dir(directory)
	var s State
	data, err := os.ReadFile(d.path(confirmedFile))
	if err == nil {
		s.Confirmed = recordKey(data)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return State{}, err
	}
	if s.Pending, err = d.pending(pendingFile); err != nil {
		return State{}, err
	}
	if s.Reverted, err = d.pending(revertedFile); err != nil {
		return State{}, err
	}
	return s, nil
}
