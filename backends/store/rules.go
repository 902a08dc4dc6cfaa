// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// MetadataAnnotation is the annotation in which Calico keeps metadata that a datastore has no other place for. No object
// may have it of its own.
const MetadataAnnotation = "projectcalico.org/metadata"

// prepare returns the copy of o that is to be written: defaulted, typed, and without what a datastore assigns.
//
// Deviation: the label of the tier default, which reading adds, is not written. Calico writes it after one
// read-modify-write, and then no longer finds the policy by its tier in Kubernetes.
func (s *rules) prepare(o hostendpoint.Object) (hostendpoint.Object, error) {
	c, err := Clone(hostendpoint.Default(o))
	if err != nil {
		return nil, err
	}
	if _, ok := o.Meta().Annotations[MetadataAnnotation]; ok {
		// Deviation: Calico lets it overwrite what it stores there itself, and loses labels or the whole object.
		return nil, invalid(o, "metadata.annotations", field.ErrForbidden, MetadataAnnotation+" is where datastores keep metadata")
	}
	setSource(c, nil)
	SetType(c, o.ID().Kind)
	m := c.Meta()
	m.SelfLink = ""
	if tier, ok := policyTier(c); ok && tier == hostendpoint.DefaultTierName && m.Labels[hostendpoint.TierLabel] == tier {
		delete(m.Labels, hostendpoint.TierLabel)
		if len(m.Labels) == 0 {
			m.Labels = nil
		}
	}
	if !hostendpoint.Namespaced(o.ID().Kind) {
		m.Namespace = ""
	}
	if t := m.CreationTimestamp; t != nil {
		norm, err := hostendpoint.NormalizeTimestamp(*t)
		if err != nil {
			return nil, invalid(o, "metadata.creationTimestamp", field.ErrInvalid, err.Error())
		}
		m.CreationTimestamp = &norm
	}
	return c, nil
}

func (s *rules) prepareCreate(o hostendpoint.Object) (hostendpoint.Object, error) {
	if err := s.supported("create", o.ID()); err != nil {
		return nil, err
	}
	if g := o.Meta().GenerateName; g != "" && o.Meta().Name == "" {
		return nil, &Error{Op: "create", ID: o.ID(), Err: ErrUnsupported, Reason: "generateName: an object needs a name"}
	}
	if err := hostendpoint.ValidateCreate(o); err != nil {
		return nil, err
	}
	c, err := s.prepare(o)
	if err != nil {
		return nil, err
	}
	if m := c.Meta(); true {
		if m.UID == "" {
			m.UID = s.opts.UID()
		}
		if m.CreationTimestamp == nil {
			now := s.opts.Now().UTC().Format(time.RFC3339)
			m.CreationTimestamp = &now
		}
	}
	return c, nil
}

func (s *rules) prepareUpdate(o hostendpoint.Object) (hostendpoint.Object, error) {
	if err := s.supported("update", o.ID()); err != nil {
		return nil, err
	}
	if err := hostendpoint.ValidateUpdate(o); err != nil {
		return nil, err
	}
	return s.prepare(o)
}

// supported refuses what no object, or not this one, allows.
func (s *rules) supported(op string, id hostendpoint.ID) error {
	if err := s.kind(op, id.Kind); err != nil {
		return err
	}
	if id.Kind == hostendpoint.KindProfile && id.Name == hostendpoint.DefaultAllowProfileName {
		switch op {
		case "create":
			return &Error{Op: op, ID: id, Err: ErrAlreadyExists, Reason: "it is built in", Current: hostendpoint.DefaultAllowProfile()}
		case "update", "delete":
			return &Error{Op: op, ID: id, Err: ErrUnsupported, Reason: "it is built in"}
		}
	}
	if op == "delete" && id.Kind == hostendpoint.KindTier && builtinTier(id.Name) {
		return &Error{Op: op, ID: id, Err: ErrUnsupported, Reason: "the tier is built in"}
	}
	return nil
}

func (s *rules) kind(op, kind string) error {
	if kind == "" && op == "watch" {
		return nil
	}
	for _, k := range s.kinds {
		if k == kind {
			return nil
		}
	}
	return &Error{Op: op, ID: hostendpoint.ID{Kind: kind}, Err: ErrUnsupported, Reason: "the datastore has no such kind"}
}

func builtinTier(name string) bool {
	return name == hostendpoint.DefaultTierName || name == hostendpoint.AdminTierName
}

// policyTier returns the tier of a policy; false for other kinds.
func policyTier(o hostendpoint.Object) (string, bool) {
	switch o := o.(type) {
	case *hostendpoint.GlobalNetworkPolicy:
		return o.Spec.Tier, true
	case *hostendpoint.NetworkPolicy:
		return o.Spec.Tier, true
	}
	return "", false
}

// shown fills in what Calico's client adds to what it reads: the tier of a policy and its label, order and default action
// of a tier. It changes o.
//
// The types of a policy are left alone: one that was stored without any, by a writer that went around the client, governs
// both directions.
func shown(o hostendpoint.Object) hostendpoint.Object {
	var types []hostendpoint.PolicyType
	switch p := o.(type) {
	case *hostendpoint.Tier:
		return p.Default()
	case *hostendpoint.GlobalNetworkPolicy:
		types = p.Spec.Types
		d := p.Default()
		d.Spec.Types = types
		d.Metadata.Labels = readLabels(p.Metadata.Labels, d.Spec.Tier)
		return d
	case *hostendpoint.NetworkPolicy:
		types = p.Spec.Types
		d := p.Default()
		d.Spec.Types = types
		d.Metadata.Labels = readLabels(p.Metadata.Labels, d.Spec.Tier)
		return d
	}
	return o
}

// readLabels adds the label of the tier default where there is none.
func readLabels(labels map[string]string, tier string) map[string]string {
	if _, ok := labels[hostendpoint.TierLabel]; ok || tier != hostendpoint.DefaultTierName {
		return labels
	}
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	out[hostendpoint.TierLabel] = hostendpoint.DefaultTierName
	return out
}

// classify makes an *Error of what a driver returned, and leaves validation errors as they are.
func classify(op string, id hostendpoint.ID, err error) error {
	if err == nil {
		return nil
	}
	var invalid *field.Errors
	if errors.As(err, &invalid) {
		return err
	}
	if e, ok := errors.AsType[*Error](err); ok {
		c := *e
		c.Op = op
		if c.ID.Name == "" {
			c.ID = id
		}
		if c.ID.Stored() == id.Stored() {
			c.ID = id // by the name that the caller used
		}
		if c.Current != nil {
			c.Current = shown(c.Current)
		}
		return &c
	}
	for _, kind := range [...]error{ErrNotFound, ErrAlreadyExists, ErrConflict, ErrUnauthorized, ErrForbidden, ErrExpired,
		ErrUnsupported, ErrCorrupt, ErrRefused, ErrUnavailable, ErrStopped} {
		if err == kind {
			return &Error{Op: op, ID: id, Err: kind}
		}
		if errors.Is(err, kind) {
			return &Error{Op: op, ID: id, Err: kind, Cause: err, Reason: strings.TrimPrefix(err.Error(), kind.Error()+": ")}
		}
	}
	return &Error{Op: op, ID: id, Err: ErrUnavailable, Cause: err}
}
