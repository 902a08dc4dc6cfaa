// SPDX-License-Identifier: Apache-2.0

package iptables

import "github.com/hostpolicy/hostpolicy/hostendpoint/inet"

// WithoutIPv6 makes b what New returns in a namespace without IPv6.
func WithoutIPv6(b *Backend) { b.families = []inet.Family{inet.IPv4} }
