// SPDX-License-Identifier: Apache-2.0

// Package effective computes what the selectors of policies and rules come to: namespace and service account selectors
// become terms on the labels that Calico gives to workloads (pcns., pcsa., projectcalico.org/namespace), and each side
// of a rule comes to the sets that its packets are looked up in, with Calico's identities.
//
// Calico rewrites selectors as text, in its syncer. This package does it on the syntax tree. The result is the same
// selector, with the same canonical text and so the same identity, wherever Calico's text is a selector.
//
// Deviation: where it is none, Calico drops the policy or crashes. A selector of nothing but white space is all() here,
// wherever it stands; a service account name with a quote in it, which Calico drops together with all the other names
// of the rule and so widens the rule, is an error; so is a label that its prefix makes longer than 512 bytes.
//
// All functions are pure and safe for concurrent use. Their errors are *field.Error without an object, and with paths
// that begin where the argument does: "spec.selector" of a policy, "source.notSelector" of a rule.
//
// Ref: libcalico-go/lib/backend/syncersv1/updateprocessors, felix/calc/rule_scanner.go.
package effective
