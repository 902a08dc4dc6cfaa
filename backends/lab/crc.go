// SPDX-License-Identifier: Apache-2.0

package lab

import "hash/crc32"

// crc32c is the checksum of SCTP, RFC 9260 appendix A. It covers the packet with the checksum field zero.
func crc32c(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
