// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// OriginKind says what kind of thing decided. The zero value is invalid. The list is closed.
type OriginKind uint8

// The kinds, with the text of their origins.
const (
	OriginPolicy         OriginKind = iota + 1 // policy:TIER/NAME/DIR[i]
	OriginProfile                              // profile:NAME/DIR[i]
	OriginTier                                 // tier:TIER/DIR (end of tier)
	OriginDefault                              // default:ENDPOINT/DIR (nothing allowed)
	OriginFailsafe                             // failsafe:in/PROTO/PORT, failsafe:out/PROTO/PORT
	OriginND                                   // failsafe:nd
	OriginEstablished                          // conntrack:established
	OriginInvalid                              // conntrack:invalid
	OriginProfileMissing                       // profile-missing:NAME
	OriginWorkload                             // workload (between host and own workload)
	OriginForwardDefault                       // forward-default (no apply-on-forward policy)
	OriginNoVerdict                            // no-verdict
	OriginNoEndpoint                           // no-endpoint
)

// Origin names what decided a verdict. Two Origins are the same decider if their ID is equal. Comparable; the zero
// value names nothing.
type Origin struct {
	Kind     OriginKind
	Tier     string        // policy, tier
	Name     string        // policy (NAME or NAMESPACE.NAME, without tier prefix), profile, endpoint
	Dir      Direction     // policy, profile, tier, default, failsafe
	Index    int           // policy, profile: index of the rule, from 0
	Protocol inet.Protocol // failsafe
	Port     uint16        // failsafe
	Stage    Stage         // the stage it decided in; written behind an @ unless normal

	Pos field.Pos // where it is written; not part of the identity
}

// ID returns o without its position: what the canonical text holds.
func (o Origin) ID() Origin {
	o.Pos = field.Pos{}
	return o
}
