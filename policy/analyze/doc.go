// SPDX-License-Identifier: Apache-2.0

// Package analyze answers questions about all packets at once: what changes between two programs ([Diff]), which rules
// can decide anything ([Reach]), and who is let in ([Who]).
//
// The answers are exact. They are computed over the rules themselves, not over samples: the lists of a program are
// flattened (package classify), and an interval decision diagram is built over one or two of them, field by field, which
// stops wherever nothing is left to find out. That can take long for sets of rules that cross each other in many fields;
// Options bound it, and a bounded answer says that it is partial.
//
// # The packets
//
// The universe are the packets of flow.Packet on the four paths, as a kernel could show them: with an interface name
// where the path has one, addresses of one family that are not IPv4-mapped, ports for TCP, UDP, SCTP and UDPLite alone,
// types and codes for ICMP of the packet's family alone, and one of the five connection states. Their destination may be
// translated on the way: see Box.
//
// Everything here is a pure function of its arguments, but for the context, of which only Err is asked.
package analyze
