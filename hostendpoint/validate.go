// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/selector"
)

// Validate returns nil for an Object that may be written, and otherwise an error that holds everything that is wrong
// with it (a *field.Errors). Anything that is not an Object is an error.
func Validate(obj any) error {
	o, ok := obj.(Object)
	if !ok {
		return &field.Error{Err: field.ErrUnknown, Reason: fmt.Sprintf("%T is not a resource of this package", obj)}
	}
	return o.Validate().Err()
}

// ValidateCreate is Validate for an object that a client wants to create: its resourceVersion must be empty.
// Ref: libcalico-go/lib/clientv3/resources.go.
func ValidateCreate(o Object) error {
	c := checker{object: o}
	if v := o.Meta().ResourceVersion; v != "" {
		c.add(unusable, field.ErrForbidden, "metadata.resourceVersion", v, "must not be set on an object that is to be created")
	}
	return append(o.Validate(), c.list()...).Err()
}

// ValidateUpdate is Validate for an object that a client wants to update: it must have the resourceVersion, creation
// time and UID that it was read with. Ref: libcalico-go/lib/clientv3/resources.go.
func ValidateUpdate(o Object) error {
	c := checker{object: o}
	m := o.Meta()
	for _, f := range [...]struct {
		path string
		set  bool
	}{
		{"metadata.resourceVersion", m.ResourceVersion != ""},
		{"metadata.creationTimestamp", m.CreationTimestamp != nil},
		{"metadata.uid", m.UID != ""},
	} {
		if !f.set {
			c.add(unusable, field.ErrRequired, f.path, "", "must be set on an object that is to be updated, as it was read")
		}
	}
	return append(o.Validate(), c.list()...).Err()
}

// grade says how bad a fault is.
type grade uint8

const (
	unusable  grade = iota // refused when written; when stored, the object cannot be used at all
	tolerated              // refused when written; used when stored, without the faulty part if need be
	advice                 // accepted
)

// checker collects the faults of one object. Its methods report and go on, so that a user sees all of them at once.
type checker struct {
	object Object
	faults []fault
	parse  func(text string) (selector.Selector, error) // selector.Parse, if nil
	blind  bool                                         // paths are not needed; see rules
}

type fault struct {
	grade grade
	err   *field.Error
}

func validate(o Object) field.List {
	c := checker{object: o}
	o.check(&c)
	return c.list()
}

// list returns the faults for which an object is refused.
func (c *checker) list() field.List {
	var out field.List
	for _, f := range c.faults {
		if f.grade != advice {
			out = append(out, f.err)
		}
	}
	return out
}

// CheckWith is the Check of an object whose selectors parse reads, which must do what selector.Parse does: a caller that
// needs them anyway can remember them. Nil is selector.Parse.
func CheckWith(o Object, parse func(text string) (selector.Selector, error)) (errs, warnings field.List) {
	c := checker{object: o, parse: parse}
	o.check(&c)
	for _, f := range c.faults {
		if f.grade == unusable {
			errs = append(errs, f.err)
		} else {
			warnings = append(warnings, f.err)
		}
	}
	return errs, warnings
}

// add reports a fault. Kind is a sentinel of package field or a more special error; value is "" if there is none.
func (c *checker) add(g grade, kind error, path, value, format string, args ...any) {
	reason := format
	if len(args) > 0 {
		reason = fmt.Sprintf(format, args...)
	}
	c.faults = append(c.faults, fault{g, &field.Error{
		Object: c.object.ID().String(), Path: path, Pos: c.object.At(path), Value: shorten(value), Reason: reason, Err: kind,
	}})
}

// at returns the path of a field of what is at path.
func (c *checker) at(path, field string) string {
	if c.blind {
		return ""
	}
	return path + field
}

// longestValue bounds what an error repeats of its input.
const longestValue = 80

func shorten(s string) string {
	if len(s) <= longestValue {
		return s
	}
	cut := longestValue
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}

// selector reports text that is not a selector. It returns the parsed selector, and whether there is one: text that is
// empty leaves a criterion out, and means all() where one is needed.
func (c *checker) selector(path, text string) (selector.Selector, bool) {
	if text == "" {
		return selector.Selector{}, false
	}
	parse := c.parse
	if parse == nil {
		parse = selector.Parse
	}
	s, err := parse(text)
	if err != nil {
		c.add(unusable, err, path, text, "not a selector: %v", err)
		return selector.Selector{}, false
	}
	return s, true
}

// noGlobal reports the text global() in a selector that may not use it.
//
// Calico: the test is textual. It refuses the text inside a string too, and lets "global( )" pass, which then means
// all(). Ref: libcalico-go/lib/validator/v3/validator.go.
func (c *checker) noGlobal(path, text string) {
	if strings.Contains(text, "global()") {
		c.add(tolerated, field.ErrForbidden, path, text, "global() may only be used in the namespaceSelector of a rule")
	}
}

// Validate implements Object.
func (h *HostEndpoint) Validate() field.List { return validate(h) }

// Check implements Object.
//
// Deviation: Felix discards a stored host endpoint with one bad port, label or profile name, and so leaves its interface
// open. Here only an endpoint that cannot govern any interface is unusable.
func (h *HostEndpoint) Check() (errs, warnings field.List) { return CheckWith(h, nil) }

// Validate implements Object.
func (p *Profile) Validate() field.List { return validate(p) }

// Check implements Object.
//
// Deviation: in Calico a profile with one rule that cannot be used denies all that reaches it. Here that rule does.
func (p *Profile) Check() (errs, warnings field.List) { return CheckWith(p, nil) }

// Validate implements Object.
func (t *Tier) Validate() field.List { return validate(t) }

// Check implements Object.
func (t *Tier) Check() (errs, warnings field.List) { return CheckWith(t, nil) }

// Validate implements Object.
func (p *GlobalNetworkPolicy) Validate() field.List { return validate(p) }

// Check implements Object.
//
// Deviation: in Calico one rule that cannot be used makes the whole policy unusable. Here that rule denies what reaches it.
func (p *GlobalNetworkPolicy) Check() (errs, warnings field.List) { return CheckWith(p, nil) }

// Validate implements Object.
func (p *NetworkPolicy) Validate() field.List { return validate(p) }

// Check implements Object.
//
// Deviation: in Calico one rule that cannot be used makes the whole policy unusable. Here that rule denies what reaches it.
func (p *NetworkPolicy) Check() (errs, warnings field.List) { return CheckWith(p, nil) }

// Validate implements Object.
func (s *GlobalNetworkSet) Validate() field.List { return validate(s) }

// Check implements Object. Entries that are not CIDRs are left out of the set.
func (s *GlobalNetworkSet) Check() (errs, warnings field.List) { return CheckWith(s, nil) }

// Validate implements Object.
func (s *NetworkSet) Validate() field.List { return validate(s) }

// Check implements Object. Entries that are not CIDRs are left out of the set.
func (s *NetworkSet) Check() (errs, warnings field.List) { return CheckWith(s, nil) }

// Validate implements Object.
func (n *Node) Validate() field.List { return validate(n) }

// Check implements Object.
func (n *Node) Check() (errs, warnings field.List) { return CheckWith(n, nil) }
