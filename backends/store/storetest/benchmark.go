// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Benchmark measures, with 10,000 host endpoints, how long a new client waits for its first snapshot, and how long it
// takes from the start of a write by one client until another client's watch has the event.
func Benchmark(b *testing.B, in *Instance) {
	const many = 10_000
	stamp := "2024-01-02T03:04:05Z"
	var objects []hostendpoint.Object
	for i := range many {
		h := hep(fmt.Sprintf("h%05d", i), "v", "0")
		h.Metadata.UID, h.Metadata.CreationTimestamp = fmt.Sprintf("11111111-2222-4333-8444-%012d", i), &stamp
		objects = append(objects, h)
	}
	if in.Fill != nil {
		in.Fill(b, objects)
	} else {
		d := in.Open(b)
		for _, o := range objects {
			_, err := d.Create(b.Context(), o)
			require.NoError(b, err)
		}
	}
	b.Run(fmt.Sprintf("FirstSnapshot/objects=%d", many), func(b *testing.B) {
		for b.Loop() {
			for snap, err := range store.Snapshots(b.Context(), open(in.Open(b)), store.SnapshotOptions{}) {
				require.NoError(b, err)
				require.GreaterOrEqual(b, len(snap.Resources.HostEndpoints), many)
				break
			}
		}
	})
	b.Run(fmt.Sprintf("Change/objects=%d", many), func(b *testing.B) {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		w, err := open(in.Open(b)).Watch(ctx, "", store.WatchOptions{Buffer: 2 * many})
		require.NoError(b, err)
		defer func() { cancel(); <-w.Done() }()
		seen := 0
		for e := range w.Events() {
			if seen += btoi(e.Type == store.Added); e.Type == store.Synced && seen >= many {
				break
			}
		}
		writer := store.For[*hostendpoint.HostEndpoint](open(in.Open(b)))
		h, err := writer.Get(ctx, "", "h00007")
		require.NoError(b, err)
		var took []time.Duration
		for i := 0; b.Loop(); i++ {
			h.Metadata.Labels["v"] = itoa(i + 1)
			start := time.Now()
			h, err = writer.Update(ctx, h)
			require.NoError(b, err)
			for {
				e, err := w.Next(ctx)
				require.NoError(b, err)
				if e.Type == store.Modified && e.Object.Meta().ResourceVersion == h.Metadata.ResourceVersion {
					break
				}
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		for _, p := range []int{50, 99} {
			b.ReportMetric(float64(took[(len(took)-1)*p/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", p))
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
