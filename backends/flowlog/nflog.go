// SPDX-License-Identifier: Apache-2.0

package flowlog

// DefaultBuffer is the size of the receive buffer of an NFLOG group, in bytes: some ten thousand events.
const DefaultBuffer = 32 << 20

// NFLOG is the Source of dataplanes that report to a group of NFLOG with the prefixes of flow.LogPrefix: nftables and
// iptables. The zero value reads group 0 of the namespace of the calling thread. A group has one reader; a second one
// fails. It needs Linux and CAP_NET_ADMIN; elsewhere Read returns an error that wraps ErrUnavailable.
type NFLOG struct {
	NetNS  int    // file descriptor of the network namespace, which Read uses and does not keep; 0 is the thread's
	Group  uint16 // as in the options of the renderer
	Buffer int    // of the socket, in bytes; 0 is DefaultBuffer
}

var _ Source = NFLOG{}
