// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/hostpolicy/hostpolicy/backends"
)

func printStatus(out *output, r statusResult) error {
	var result error
	if !r.State.Present || len(r.State.Drift) > 0 {
		result = errMismatch
	}
	slices.SortStableFunc(r.Counters, func(a, b backends.Counter) int { return cmp.Compare(b.Packets, a.Packets) })
	if out.format != "table" {
		if err := out.value(r); err != nil {
			return err
		}
		return result
	}
	switch {
	case !r.State.Present:
		fmt.Fprintln(out.out, out.paint(red, "nothing of ours is in the kernel: this host is unprotected; run hep apply"))
		return result
	case len(r.State.Drift) > 0:
		fmt.Fprintln(out.out, out.paint(red, "the kernel differs from the documents; hep apply mends it"))
		var rows [][]cell
		for _, d := range r.State.Drift {
			rows = append(rows, []cell{{string(d.Kind), yellow}, {d.Object, plain}, {d.Origin, cyan}, {d.Want, green}, {d.Got, red}})
		}
		out.table([]string{"DRIFT", "OBJECT", "ORIGIN", "WANT", "GOT"}, rows)
	default:
		fmt.Fprintln(out.out, out.paint(green, "the kernel enforces exactly these documents"), out.paint(dim, short(r.State.Fingerprint)))
	}
	var rows [][]cell
	for _, c := range r.Counters {
		st := dim
		if c.Packets > 0 {
			st = plain
		}
		rows = append(rows, []cell{{strconv.FormatUint(c.Packets, 10), st}, {strconv.FormatUint(c.Bytes, 10), st}, {c.Origin.String(), cyan}, {c.Origin.Pos.String(), dim}})
	}
	if len(rows) > 0 {
		fmt.Fprintln(out.out)
		out.table([]string{"PACKETS", "BYTES", "ORIGIN", "SOURCE"}, rows)
	}
	return result
}
