// SPDX-License-Identifier: Apache-2.0

// Package classify answers what a rule program says of a packet in nearly constant time, whatever the number of rules.
//
// [Build] turns a program into [Tables], plain data that any executor can run; [New] adds the lookup structures with
// which a [Classifier] runs them in Go. The steps, which are also those of a dataplane that emits the tables:
//
//  1. The packet's hook, interface and connection state choose a [List]: all rules that such a packet can meet, in
//     order, with blocks inlined. A rule whose outcome does not end the search (the Pass of a tier, a Log) says with
//     which rule the search goes on.
//  2. The list's [Matcher] has a few dimensions, such as the source address. In each one, a lookup turns the packet's
//     value into a class: values that no rule tells apart have the same one. Each class has a row of bits, one for each
//     rule: whether the rule accepts the class in that dimension. Protocol and destination port are one dimension, since
//     nearly every rule that asks about the port asks about the protocol.
//  3. The packet matches the rules whose bits are set in the rows of all dimensions. The first such rule at or behind
//     the point where the search stands is the one that the interpreter of package ir would stop at.
//
// A rule is one bit only if each of its clauses asks about a single dimension. A clause that mixes dimensions, such as
// a named port beside a port number, makes several bits with the same consequence.
//
// A [Follower] says which bits change where when a member of a set comes or goes, for executors that need not build
// everything anew.
//
// Everything here is a pure function of the program and its members. The answers, verdict and origin, are those of
// ir.Interpreter, without exception.
package classify
