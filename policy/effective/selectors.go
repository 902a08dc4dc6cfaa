// SPDX-License-Identifier: Apache-2.0

package effective

import (
	"fmt"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/selector"
)

// The labels that Calico gives to workloads and namespaced network sets, and the prefixes of those that they inherit
// from their namespace and service account. No host endpoint has them unless its author wrote them.
const (
	labelNamespace       = "projectcalico.org/namespace"
	labelServiceAccount  = "projectcalico.org/serviceaccount"
	prefixNamespace      = "pcns."
	prefixServiceAccount = "pcsa."
)

// Reader reads selectors of resources. The zero value is useful, and the functions of this package use it.
type Reader struct {
	Parse func(text string) (selector.Selector, error) // selector.Parse, if nil; or something that remembers
}

func (r Reader) parse(text string) (selector.Selector, error) {
	if r.Parse == nil {
		return selector.Parse(text)
	}
	return r.Parse(text)
}

// GlobalNetworkPolicy returns the selector of the endpoints that p applies to.
//
// Calico: a namespace selector turns every all() of p's own selector into a test for a namespace, in quoted strings,
// too, unless it is written with space between the parentheses; a service account selector does the same with what is
// left. Negative terms hold for endpoints without namespace, host endpoints among them; global() has no meaning here.
// Ref: updateprocessors/globalnetworkpolicyprocessor.go.
func GlobalNetworkPolicy(p *hostendpoint.GlobalNetworkPolicy) (selector.Selector, error) {
	return Reader{}.GlobalNetworkPolicy(p)
}

// GlobalNetworkPolicy is the function of that name.
func (r Reader) GlobalNetworkPolicy(p *hostendpoint.GlobalNetworkPolicy) (selector.Selector, error) {
	s, err := r.optional("spec", ".selector", p.Spec.Selector)
	if err != nil {
		return selector.Selector{}, err
	}
	for _, x := range []struct{ path, text, prefix, label string }{
		{"spec.namespaceSelector", p.Spec.NamespaceSelector, prefixNamespace, labelNamespace},
		{"spec.serviceAccountSelector", p.Spec.ServiceAccountSelector, prefixServiceAccount, labelServiceAccount},
	} {
		if x.text == "" {
			continue
		}
		more, err := r.prefixed(x.path, x.text, x.prefix)
		if err != nil {
			return selector.Selector{}, err
		}
		t, err := replaceWords(and(s, &more), word{selector.OpAll, "all()", "has(" + x.label + ")"})
		if err != nil {
			return selector.Selector{}, invalid(x.path, x.text, err)
		}
		s = &t
	}
	if s == nil {
		return selector.All(), nil
	}
	return *s, nil
}

// NetworkPolicy returns the selector of the endpoints that p applies to: those of its namespace that its own selectors
// select.
//
// Calico: all() keeps its meaning here. Ref: updateprocessors/networkpolicyprocessor.go.
func NetworkPolicy(p *hostendpoint.NetworkPolicy) (selector.Selector, error) {
	return Reader{}.NetworkPolicy(p)
}

// NetworkPolicy is the function of that name.
func (r Reader) NetworkPolicy(p *hostendpoint.NetworkPolicy) (selector.Selector, error) {
	s, err := r.optional("spec", ".selector", p.Spec.Selector)
	if err != nil {
		return selector.Selector{}, err
	}
	ns, err := selector.Eq(labelNamespace, p.Metadata.Namespace)
	if err != nil {
		return selector.Selector{}, invalid("metadata.namespace", p.Metadata.Namespace, err)
	}
	out := and(s, &ns)
	if text := p.Spec.ServiceAccountSelector; text != "" {
		sa, err := r.prefixed("spec.serviceAccountSelector", text, prefixServiceAccount)
		if err != nil {
			return selector.Selector{}, err
		}
		out = selector.And(out, sa)
	}
	return out, nil
}

// Side is what the selectors of one side of a rule come to. Nil means that there is no such criterion; the zero value
// has none. If both are present, the address must belong to an endpoint or network set that Pos selects and Neg does
// not; Neg alone also holds for addresses that nobody knows.
type Side struct {
	Pos, Neg *selector.Selector
}

// Rule returns the effective selectors of both sides of r. Namespace is that of the policy; "" for global policies and
// profiles.
//
// Calico: in a namespaced policy any selector, the negated one as well, restricts the side to the namespace, unless it
// has a namespace selector. There, all() means any namespace and global() none, in quoted strings, too. Neither is
// replaced in selector, notSelector and the service account selector. Ref: updateprocessors/rules.go.
func Rule(namespace string, r *hostendpoint.Rule) (src, dst Side, err error) {
	return Reader{}.Rule(namespace, r)
}

// Rule is the function of that name.
func (r Reader) Rule(namespace string, rule *hostendpoint.Rule) (src, dst Side, err error) {
	if src, err = r.side("source", namespace, &rule.Source); err != nil {
		return Side{}, Side{}, err
	}
	if dst, err = r.side("destination", namespace, &rule.Destination); err != nil {
		return Side{}, Side{}, err
	}
	return src, dst, nil
}

func (r Reader) side(path, namespace string, e *hostendpoint.EntityRule) (Side, error) {
	own, err := r.optional(path, ".selector", e.Selector)
	if err != nil {
		return Side{}, err
	}
	neg, err := r.optional(path, ".notSelector", e.NotSelector)
	if err != nil {
		return Side{}, err
	}
	var sa *selector.Selector
	if e.ServiceAccounts != nil {
		if sa, err = r.serviceAccounts(path+".serviceAccounts", e.ServiceAccounts); err != nil {
			return Side{}, err
		}
	}
	pos := own
	if sa != nil {
		s := and(sa, own)
		pos = &s
	}
	switch {
	case e.NamespaceSelector != "":
		ns, err := r.namespaces(path+".namespaceSelector", e.NamespaceSelector)
		if err != nil {
			return Side{}, err
		}
		ns = and(&ns, pos)
		pos = &ns
	case namespace != "" && (pos != nil || neg != nil):
		ns, err := selector.Eq(labelNamespace, namespace)
		if err != nil {
			return Side{}, invalid("metadata.namespace", namespace, err)
		}
		ns = and(&ns, pos)
		pos = &ns
	}
	return Side{Pos: pos, Neg: neg}, nil
}

// namespaces rewrites the namespace selector of a rule.
func (r Reader) namespaces(path, text string) (selector.Selector, error) {
	s, err := r.prefixed(path, text, prefixNamespace)
	if err != nil {
		return s, err
	}
	has := "has(" + labelNamespace + ")"
	s, err = replaceWords(s, word{selector.OpAll, "all()", has}, word{selector.OpGlobal, "global()", "!" + has})
	if err != nil {
		return s, invalid(path, text, err)
	}
	// The text is read again after this, and !!has(...) then loses both its signs.
	return s.Reparse(), nil
}

// serviceAccounts returns nil if m asks for nothing.
func (r Reader) serviceAccounts(path string, m *hostendpoint.ServiceAccountMatch) (*selector.Selector, error) {
	var labels, names *selector.Selector
	if m.Selector != "" {
		s, err := r.prefixed(path+".selector", m.Selector, prefixServiceAccount)
		if err != nil {
			return nil, err
		}
		labels = &s
	}
	if len(m.Names) > 0 {
		for i, n := range m.Names {
			// Deviation: Calico puts the names between single quotes. Where that gives no selector, it goes on without
			// the names; where it does, the selector asks for other names.
			if strings.Contains(n, "'") {
				return nil, &field.Error{
					Path: fmt.Sprintf("%s.names[%d]", path, i), Value: clip(n), Err: field.ErrInvalid,
					Reason: "the name of a service account cannot hold a quote",
				}
			}
		}
		s, err := selector.In(labelServiceAccount, m.Names...)
		if err != nil {
			return nil, invalid(path+".names", "", err)
		}
		names = &s
	}
	switch {
	case labels == nil:
		return names, nil
	case names == nil:
		return labels, nil
	}
	s := selector.And(*labels, *names)
	return &s, nil
}

// prefixed reads text and puts prefix before its labels. Calico writes the result as text and reads it again.
func (r Reader) prefixed(path, text, prefix string) (selector.Selector, error) {
	s, err := r.parse(text)
	if err == nil {
		s, err = s.PrefixLabels(prefix)
	}
	if err != nil {
		return selector.Selector{}, invalid(path, text, err)
	}
	return s.Reparse(), nil
}

// optional reads the text of a field of path; nil if it is empty.
func (r Reader) optional(path, field, text string) (*selector.Selector, error) {
	if text == "" {
		return nil, nil
	}
	s, err := r.parse(text)
	if err != nil {
		return nil, invalid(path+field, text, err)
	}
	return &s, nil
}

// and returns the conjunction of those of a and b that are present; one of them must be.
func and(a, b *selector.Selector) selector.Selector {
	switch {
	case a == nil:
		return *b
	case b == nil:
		return *a
	}
	return selector.And(*a, *b)
}

// word is a term that Calico replaces wherever its text occurs.
type word struct {
	op   selector.Op
	old  string
	text string // a selector
}

// replaceWords replaces words where they are terms, unless written with space inside, and in quoted strings.
func replaceWords(s selector.Selector, words ...word) (selector.Selector, error) {
	return s.Map(func(t selector.Term) (selector.Selector, error) {
		var in []string
		for _, w := range words {
			if t.Op == w.op && !t.Spaced {
				return selector.Parse(w.text)
			}
			in = append(in, w.old, w.text)
		}
		replacer := strings.NewReplacer(in...)
		t.Value = replacer.Replace(t.Value)
		if t.Values != nil {
			vs := make([]string, len(t.Values))
			for i, v := range t.Values {
				vs[i] = replacer.Replace(v)
			}
			t.Values = vs
		}
		return t.Selector()
	})
}

func invalid(path, value string, err error) error {
	return &field.Error{Path: path, Value: clip(value), Reason: err.Error(), Err: err}
}

// clip shortens text for errors.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
