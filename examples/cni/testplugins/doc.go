// SPDX-License-Identifier: Apache-2.0

// Package testplugins pins the programs that the test of the CNI plugin runs: cnitool, and the plugins of the CNI project
// that it stands behind. It is a module of its own, outside of the workspace, so that nothing else has their dependencies.
package testplugins
