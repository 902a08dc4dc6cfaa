// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"bytes"
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Compare returns how the memory of a generation differs from a: Old is what a has. Numbers of generations and counters may
// differ. The error says that memory is none.
func (a *Artifact) Compare(memory []byte) ([]Change, error) {
	n, counted, err := ReadOrigins(memory)
	if err != nil {
		return nil, err
	}
	slots := map[flow.RuleKey]uint32{}
	for _, c := range counted {
		slots[c.Key] = c.Slot
	}
	mine := make([]uint32, len(a.Keys))
	for i, k := range a.Keys {
		mine[i] = slots[k]
	}
	want := bytes.Clone(a.Memory)
	a.Stamp(want, n, mine)
	if len(memory) < len(want) || !bytes.Equal(want, memory[:len(want)]) {
		return []Change{{"generation", fmt.Sprintf("%d bytes", len(want)), fmt.Sprintf("%d others", len(memory))}}, nil
	}
	return nil, nil
}
