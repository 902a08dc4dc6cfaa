// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/lab"
)

// runEnforces has hep run enforce a datastore by every backend, while hep changes what is in there.
func runEnforces(t *testing.T, a place) {
	t.Setenv("KUBECONFIG", a.kubeconfig)
	flags := []string{"--datastore=" + a.datastore}
	if a.native {
		flags = append(flags, "--native")
	}
	doc := filepath.Join(t.TempDir(), "shop.yaml")
	write := func(action string) {
		t.Helper()
		require.NoError(t, os.WriteFile(doc, []byte(strings.Replace(fmt.Sprintf(shopPolicy, action), ", profiles: [gone]", "", 1)), 0o600))
		hep(t, append([]string{"apply", "-f", doc}, flags...)...)
	}
	for _, backend := range backendNames {
		t.Run(backend, func(t *testing.T) {
			pair, err := lab.NewPair()
			require.NoError(t, err, "this test needs root")
			defer pair.Close()
			write("Allow")
			here := []string{"--netns", fmt.Sprintf("/proc/self/fd/%d", pair.Host.FD()), "--backend", backend, "--state", t.TempDir()}
			ctx, cancel := context.WithCancel(t.Context())
			var said safeBuffer
			defer cancel()
			ended := make(chan int, 1)
			go func() {
				ended <- run(ctx, append(append([]string{"run", "--node", "host-a", "--on-stop", "open"}, flags...), here...), &output{out: &said, err: &said, format: "table"}, nil)
			}()
			// The host may change, too, and takes generations of its own.
			generation := regexp.MustCompile(`(?m)  enforced +(\d+) .* GlobalNetworkPolicy\(default\.access\)`)
			until := func(n int) uint64 {
				t.Helper()
				var all [][]string
				require.Eventually(t, func() bool {
					all = generation.FindAllStringSubmatch(said.String(), -1)
					return len(all) >= n
				}, time.Minute, 20*time.Millisecond, "%d changes: %s", n, &said)
				require.Len(t, all, n, "one change, one generation: %s", &said)
				g, err := strconv.ParseUint(all[n-1][1], 10, 64)
				require.NoError(t, err)
				return g
			}
			until(1)
			write("Deny")
			until(2)
			hep(t, append([]string{"delete", "gnp", "access"}, flags...)...)
			last := until(3)
			require.Contains(t, hep(t, append([]string{"status"}, here...)...), "enforcing generation ")
			var st statusResult
			require.NoError(t, json.Unmarshal([]byte(hep(t, append([]string{"status", "-o", "json"}, here...)...)), &st))
			require.GreaterOrEqual(t, st.Agent.Enforced, last)
			require.Contains(t, st.Interfaces[0].Addresses, "10.9.0.1/24")
			require.NotEmpty(t, st.Counters)
			cancel()
			require.Zero(t, <-ended, said.String())
			require.NotContains(t, said.String(), "not enforced")
		})
	}
	hep(t, append([]string{"delete", "hep", "hep-eth0"}, flags...)...) // others list what there is
}
