// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
)

// Receipt says that a generation is enforced. Generations of an Agent count what came in, batch by batch; one Receipt may
// stand for several of them.
type Receipt struct {
	Generation uint64           `json:"generation"` // the newest that is enforced
	Kernel     backends.Receipt `json:"kernel"`     // of the Backend. Changes is 0 if the kernel had it already
	Objects    []ObjectVersion  `json:"objects,omitempty"`
	Posture    Posture          `json:"posture"`
	Repair     bool             `json:"repair,omitempty"`
	Noticed    time.Time        `json:"noticed"`  // when the first change came in that it stands for
	Enforced   time.Time        `json:"enforced"` // when the kernel had it
}

// Latency returns the time from the first change to enforcement.
func (r *Receipt) Latency() time.Duration { return r.Enforced.Sub(r.Noticed) }

// keptReceipts is how many receipts WaitEnforced can still return.
const keptReceipts = 256

// ErrStopped is what WaitEnforced returns after the end of Run.
var ErrStopped = errors.New("the agent has stopped")

// Generation returns the newest generation, enforced or not. Everything that the Agent has heard of until now is part of
// it, or of the next.
func (a *Agent) Generation() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status.Wanted
}

// WaitEnforced returns the Receipt of the first enforced generation that is not older than the given one, waiting for it.
// When ctx ends before, the error holds what kept the Agent from enforcing it, too, if anything did.
func (a *Agent) WaitEnforced(ctx context.Context, generation uint64) (Receipt, error) {
	return a.WaitReceipt(ctx, func(r *Receipt) bool { return r.Generation >= generation })
}

// WaitReceipt returns the first Receipt of the most recent ones, or of those to come, of which found says so.
func (a *Agent) WaitReceipt(ctx context.Context, found func(*Receipt) bool) (Receipt, error) {
	seen := uint64(0)
	for {
		a.mu.Lock()
		list, n, changed, stopped, reason := a.receipts, a.receiptCount, a.changed, a.stopped, a.status.Err
		a.mu.Unlock()
		list = list[len(list)-int(min(uint64(len(list)), n-seen)):]
		seen = n
		if i := slices.IndexFunc(list, func(r Receipt) bool { return found(&r) }); i >= 0 {
			return list[i], nil
		}
		if stopped {
			return Receipt{}, ErrStopped
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if reason != nil {
				return Receipt{}, fmt.Errorf("%w: %w", ctx.Err(), reason)
			}
			return Receipt{}, ctx.Err()
		}
	}
}

// note files a receipt. The caller holds mu.
func (a *Agent) note(r Receipt) {
	a.receiptCount++
	if len(a.receipts) >= keptReceipts {
		a.receipts = slices.Clone(a.receipts[len(a.receipts)-keptReceipts+1:])
	}
	a.receipts = append(a.receipts, r)
}
