// SPDX-License-Identifier: Apache-2.0

package rate

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// OnlyTracking is a ruleset of nftables that makes the kernel track connections.
const OnlyTracking = "table inet t {\n chain c {\n type filter hook input priority 0;\n ct state established accept\n }\n}\n"

// Load has nftables load a ruleset in the host.
func (s *Site) Load(b testing.TB, ruleset string) {
	s.Host.Do(b, func() {
		c := exec.Command("nft", "-f", "-")
		c.Stdin = strings.NewReader(ruleset)
		out, err := c.CombinedOutput()
		require.NoError(b, err, string(out))
	})
}

// Packets compares, for each number of policies, the rate of UDP datagrams that the last one allows with the rate without
// rules, and with connection tracking alone, which nothing that knows of connections can do without.
//
// A program that has a system call for each datagram, as most do, is one case, and one that sends and reads 64 in a call
// another, where the work for a packet is mostly that of the network stack.
func Packets(b *testing.B, policies []int, enforce func(b *testing.B, s *Site, policies string)) {
	for _, percall := range []int{1, batch} {
		for _, n := range policies {
			b.Run(fmt.Sprintf("rules=%d/hit=last/datagrams-a-call=%d", n, percall), func(b *testing.B) {
				text, last := Uniform(n, "UDP")
				PacketsOf(b, text, last, percall == batch, enforce)
			})
		}
	}
}

// PacketsOf is Packets for the datagrams of one flow that the given policies allow, 64 in a call if batched.
func PacketsOf(b *testing.B, policies string, flow Tuple, batched bool, enforce func(b *testing.B, s *Site, policies string)) {
	with, without, tracking := NewSite(b), NewSite(b), NewSite(b)
	for _, s := range []*Site{with, without, tracking} {
		if batched {
			s.Batched()
		}
		s.Receive(b, flow.DstPort)
		s.Own(b, flow)
	}
	tracking.Load(b, OnlyTracking)
	enforce(b, with, policies)
	for b.Loop() {
		of := func(s *Site) func() float64 {
			return func() float64 { return s.Talk(b, 50*time.Millisecond, flow, "InDelivers") }
		}
		r := Compare(of(without), of(with), of(tracking))
		b.ReportMetric(r[0], "empty-pps")
		b.ReportMetric(r[1], "pps")
		b.ReportMetric(r[1]/r[0], "of-empty")
		b.ReportMetric(r[1]/r[2], "of-conntrack")
		b.ReportMetric(r[2]/r[0], "conntrack-of-empty")
	}
}
