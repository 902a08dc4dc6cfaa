// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/policytest/irtest"
)

// A process that compares rules which cross each other in every field stays below 512 MiB, whether it gets to the end or is
// stopped on the way.
func TestMemoryOfWideRules(t *testing.T) {
	const variable = "ANALYZE_TEST_WIDE"
	if f, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		m := irtest.NewMaker(1, inet.Family(f))
		x, y := hostWith(t, m.Wide(100)), hostWith(t, m.Wide(100))
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		r, err := analyze.Diff(ctx, x, y, analyze.Options{})
		require.NoError(t, err)
		if !r.Partial { // where other work leaves too little time, there may be no sample yet
			require.NotEmpty(t, r.Changes)
			require.Empty(t, r.Samples)
		}
		t.Log(r.Extent, len(r.Changes), "changes")
		return
	}
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryOfWideRules$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"="+strconv.Itoa(int(f)))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		most := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss // KiB
		t.Logf("family %s: %d MiB\n%s", f, most>>10, out)
		require.Less(t, most, int64(512<<10))
	}
}
