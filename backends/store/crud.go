// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/selector"
)

// rules is the Store that New makes: a driver, and Calico's client on top of it.
type rules struct {
	driver Driver
	traits Traits
	kinds  []string
	opts   Options
}

var _ Store = (*rules)(nil)

// New returns a Store that keeps its objects with d. It starts nothing; what d holds is d's owner's to close.
func New(d Driver, o Options) Store {
	s := &rules{driver: d, traits: d.Traits(), opts: o.withDefaults()}
	s.kinds = s.traits.Kinds
	if s.kinds == nil {
		s.kinds = hostendpoint.Kinds()
	}
	return s
}

// Create implements Store.
func (s *rules) Create(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	if err := s.tierExists(ctx, o); err != nil {
		return nil, err
	}
	c, err := s.prepareCreate(o)
	if err != nil {
		return nil, err
	}
	out, err := s.driver.Create(ctx, c)
	if err != nil {
		return nil, classify("create", o.ID(), err)
	}
	return shown(out), nil
}

// tierExists reports a new policy whose tier does not exist, before anything else that is wrong with it.
//
// Deviation: the tiers that Calico's client makes when it starts count as existing.
func (s *rules) tierExists(ctx context.Context, o hostendpoint.Object) error {
	tier, ok := policyTier(o)
	if !ok {
		return nil
	}
	if tier == "" {
		tier = hostendpoint.TierOfPolicy(o.ID().Name)
	}
	if builtinTier(tier) {
		return nil
	}
	id := hostendpoint.ID{Kind: hostendpoint.KindTier, Name: tier}
	if _, err := s.driver.Get(ctx, id); err != nil && !errors.Is(err, ErrCorrupt) {
		err = classify("create", id, err)
		if e, ok := errors.AsType[*Error](err); ok && e.Err == ErrNotFound {
			e.Reason = "it is the tier of " + o.ID().String()
		}
		return err
	}
	return nil
}

// Update implements Store.
func (s *rules) Update(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	c, err := s.prepareUpdate(o)
	if err != nil {
		return nil, err
	}
	out, err := s.driver.Update(ctx, c)
	if err != nil {
		return nil, classify("update", o.ID(), err)
	}
	return shown(out), nil
}

// Delete implements Store. A tier is only deleted when no policy is in it; a policy that is created at the same instant
// can be missed, as with Calico.
func (s *rules) Delete(ctx context.Context, id hostendpoint.ID, opts DeleteOptions) (hostendpoint.Object, error) {
	if err := s.supported("delete", id); err != nil {
		return nil, err
	}
	if err := addressable("delete", id); err != nil {
		return nil, err
	}
	if id.Kind == hostendpoint.KindTier {
		if err := s.tierEmpty(ctx, id); err != nil {
			return nil, err
		}
	}
	out, err := s.driver.Delete(ctx, stored(id), opts)
	if err != nil {
		return nil, classify("delete", id, err)
	}
	return shown(out), nil
}

func (s *rules) tierEmpty(ctx context.Context, id hostendpoint.ID) error {
	for _, kind := range [...]string{hostendpoint.KindGlobalNetworkPolicy, hostendpoint.KindNetworkPolicy} {
		if !slices.Contains(s.kinds, kind) {
			continue
		}
		// Found by name alone: it is the name that puts a policy in a tier.
		l, err := s.driver.List(ctx, kind, ListOptions{Name: id.Name + ".", Prefix: true, Limit: 1})
		if err != nil {
			return classify("delete", id, err)
		}
		if len(l.Items)+len(l.Problems) > 0 {
			what := kind
			if len(l.Items) > 0 {
				what = l.Items[0].ID().String()
			}
			return &Error{Op: "delete", ID: id, Err: ErrUnsupported, Reason: "the tier is not empty: it has " + what}
		}
	}
	return nil
}

// Get implements Store.
//
// Deviation: a policy is found by both of its names. Calico fails to read "default.x" where "x" was created.
func (s *rules) Get(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error) {
	if id.Kind == hostendpoint.KindProfile && id.Name == hostendpoint.DefaultAllowProfileName {
		return hostendpoint.DefaultAllowProfile(), nil
	}
	if err := s.kind("get", id.Kind); err != nil {
		return nil, err
	}
	if err := addressable("get", id); err != nil {
		return nil, err
	}
	out, err := s.driver.Get(ctx, stored(id))
	if err != nil {
		return nil, classify("get", id, err)
	}
	return shown(out), nil
}

// addressable refuses an identity that names no object, or whose text would change the path of its key.
func addressable(op string, id hostendpoint.ID) error {
	var path string
	switch {
	case id.Name == "" || strings.Contains(id.Name, "/") || id.Name == "." || id.Name == "..":
		path = "metadata.name"
	case hostendpoint.Namespaced(id.Kind) && (id.Namespace == "" || strings.Contains(id.Namespace, "/") || id.Namespace == "." || id.Namespace == ".."):
		path = "metadata.namespace"
	default:
		return nil
	}
	return field.List{{Object: id.String(), Path: path, Err: field.ErrRequired, Reason: op + ": a name and, for some kinds, a namespace are required"}}.Err()
}

// stored is the identity by which drivers know an object; a namespace on a kind that has none is ignored.
func stored(id hostendpoint.ID) hostendpoint.ID {
	if !hostendpoint.Namespaced(id.Kind) {
		id.Namespace = ""
	}
	return id.Stored()
}

// List implements Store.
func (s *rules) List(ctx context.Context, kind string, opts ListOptions) (List[hostendpoint.Object], error) {
	var none List[hostendpoint.Object]
	id := hostendpoint.ID{Kind: kind}
	if err := s.kind("list", kind); err != nil && kind != hostendpoint.KindProfile {
		return none, err
	}
	if opts.Limit < 0 {
		return none, &Error{Op: "list", ID: id, Err: ErrUnsupported, Reason: fmt.Sprintf("a limit of %d", opts.Limit)}
	}
	match, err := newMatcher("list", id, opts.Selector)
	if err != nil {
		return none, err
	}
	if !hostendpoint.Namespaced(kind) {
		opts.Namespace = ""
	}
	if opts.Name != "" && !opts.Prefix {
		opts.Name = stored(hostendpoint.ID{Kind: kind, Name: opts.Name}).Name
	}
	out, ask := none, opts
	ask.Selector = ""
	for {
		var page List[hostendpoint.Object]
		if slices.Contains(s.kinds, kind) {
			if page, err = s.driver.List(ctx, kind, ask); err != nil {
				return none, classify("list", id, err)
			}
		}
		out.ResourceVersion = page.ResourceVersion
		out.Problems = append(out.Problems, page.Problems...)
		for _, o := range page.Items {
			if o = shown(o); match.object(o) {
				out.Items = append(out.Items, o)
			}
		}
		ask.Continue = page.Continue
		if opts.Limit > 0 {
			// What the selector left out makes room for more, so that only the last page is short.
			if ask.Limit = opts.Limit - len(out.Items); ask.Limit <= 0 {
				break
			}
		}
		if page.Continue == "" {
			break
		}
	}
	out.Continue = ask.Continue
	if kind == hostendpoint.KindProfile && out.Continue == "" && opts.wants(hostendpoint.DefaultAllowProfileName) {
		if p := hostendpoint.DefaultAllowProfile(); match.object(p) {
			out.Items = append(out.Items, p) // Calico: last, and beyond any limit
		}
	}
	return out, nil
}

// wants reports whether the name filter lets a stored name through.
func (o ListOptions) wants(name string) bool {
	return o.Name == "" || o.Name == name || o.Prefix && strings.HasPrefix(name, o.Name)
}

// Wants reports whether the filters on namespace and name let a stored identity through. It is for drivers.
func (o ListOptions) Wants(id hostendpoint.ID) bool {
	return (o.Namespace == "" || o.Namespace == id.Namespace) && o.wants(id.Name)
}

// matcher selects objects by label.
type matcher struct {
	all bool
	sel selector.Selector
}

func newMatcher(op string, id hostendpoint.ID, text string) (matcher, error) {
	if text == "" {
		return matcher{all: true}, nil
	}
	sel, err := selector.Parse(text)
	if err != nil {
		return matcher{}, field.List{{Object: id.Kind, Path: "selector", Value: text, Err: err, Reason: op + ": " + err.Error()}}.Err()
	}
	return matcher{sel: sel}, nil
}

func (m matcher) object(o hostendpoint.Object) bool {
	return m.all || m.sel.Matches(selector.MapLabels(o.Meta().Labels))
}

// EnsureInitialized creates the tiers that Calico's client creates when it starts, where they do not exist.
// Ref: libcalico-go/lib/clientv3/client.go.
func EnsureInitialized(ctx context.Context, s Store) error {
	for _, t := range hostendpoint.BuiltinTiers() {
		if _, err := s.Create(ctx, t); err != nil && !errors.Is(err, ErrAlreadyExists) {
			return err
		}
	}
	return nil
}
