// SPDX-License-Identifier: Apache-2.0

// Package agent keeps a kernel as the resources of a datastore say, for as long as it runs.
//
//	Store ──┐
//	        ├─▶ engine.Engine ─▶ BeforeApply ─▶ Backend ─▶ AfterApply, Receipt
//	Host ───┘
//
// An Agent follows a datastore and the host, gathers what changes into generations, and has a Backend enforce them. It
// never ends by itself and never leaves the kernel worse than it was: what cannot be applied is tried again with growing
// pauses while the last generation stays in force; an object that no program can hold is held back alone, in its last
// good version; what others do to the kernel's rules is noticed and mended. What an earlier process left in the kernel is
// taken over, not rebuilt.
//
// All time-consuming work is in Run. The other methods are safe for concurrent use and return at once, or wait for their
// context. Several Agents can live in one process and in one network namespace, if the options of their Backends keep
// them apart.
package agent
