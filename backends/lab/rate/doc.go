// SPDX-License-Identifier: Apache-2.0

// Package rate measures packet rates for benchmarks of dataplanes: sites of a host and its peer, what they send each other,
// and the rule sets to compare.
//
// Rates are compared within one run: short turns with and without rules, in namespaces that differ in nothing else, in
// processor time. It is for tests, and needs root and Linux.
package rate
