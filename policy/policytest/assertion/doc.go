// SPDX-License-Identifier: Apache-2.0

// Package assertion runs policy tests: statements about what must become of traffic, kept beside the policies and
// checked by CI. A test file is YAML:
//
//	tests:
//	- name: the web servers reach the database
//	  from: {selector: role == 'web'}       # every host endpoint that it selects
//	  to: db-1                              # a host endpoint by name
//	  protocol: TCP
//	  port: postgres                        # 5432, a range "8000:8010", a name of a port of "to", or a list of these
//	  expect: allow                         # allow, deny or none (no policy has an opinion)
//	  by: policy:default/db/ingress[0]      # optional: the origin that decides, or the beginning of it
//	- name: nobody else does
//	  from: [203.0.113.7, {networkSet: office}, {selector: "!has(role)"}]
//	  to: {selector: role == 'db'}
//	  protocol: TCP
//	  port: [5432, 22]
//	  expect: deny
//	- name: the gateway does not forward telnet
//	  node: gw-1
//	  packet: forward eth0>eth1 tcp 10.9.0.2:40000 > 10.8.0.2:23
//	  expect: deny
//
// Optional fields are sourcePort, icmp {type, code} (an echo request if it is not given), ipVersion (4 or 6; both where
// both ends have addresses of both) and state (of the connection: new unless given).
//
// Traffic is judged where it leaves a host endpoint (its egress policy) and where it arrives at one (its ingress
// policy): it is denied if either denies, allowed if all that are asked allow, and none otherwise. Addresses that no
// known host has are outside: only the other end is asked. Every address of From is tried with every address of To; the
// test holds if it holds for all. A CIDR or a network set stands for its first and last addresses. Between two endpoints
// of one host traffic goes through lo; a selector does not pair endpoints of one host with each other. A test that
// comes to no packet at all is an error, since it could not fail.
package assertion
