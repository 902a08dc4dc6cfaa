// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// documents is the input of commands that write to a datastore.
type documents struct {
	files     []string
	namespace string
	stdin     *os.File
}

func (d *documents) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&d.files, "filename", "f", nil, "a file or directory of YAML or JSON documents, - for standard input (repeatable)")
	d.namespaceFlag(cmd)
}

func (d *documents) namespaceFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&d.namespace, "namespace", "n", "", "the namespace of what does not say its own")
}

// load reads the documents: tiers come before policies. What is wrong with an object, not with its text, is found when
// it is written.
func (d *documents) load() ([]hostendpoint.Object, error) {
	if len(d.files) == 0 {
		return nil, errors.New("nothing to read: give -f FILE, -f DIR or -f -")
	}
	var srcs []manifest.Source
	for _, name := range d.files {
		s, err := readSources(name, d.stdin)
		if err != nil {
			return nil, err
		}
		srcs = append(srcs, s...)
	}
	r, err := manifest.Options{Stored: true, MaxBytes: maxInput}.Parse(srcs...)
	if err != nil {
		return nil, invalid(err)
	}
	out := slices.Collect(r.All())
	for _, o := range out {
		if m := o.Meta(); d.namespace != "" && m.Namespace == "" && hostendpoint.Namespaced(o.ID().Kind) {
			m.Namespace = d.namespace
		}
	}
	if len(out) == 0 {
		return nil, invalid(errors.New("there is no document in what was read"))
	}
	return out, nil
}

// result is what was done with one object, for machines.
type result struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Action    string `json:"action"`
	DryRun    bool   `json:"dryRun,omitempty"`
}

// resourceName is the name that -o name prints and that arguments may have.
func resourceName(id hostendpoint.ID) string {
	s := strings.ToLower(id.Kind) + "/"
	if id.Namespace != "" {
		s += id.Namespace + "/"
	}
	return s + id.Name
}

// done prints what was done with an object; for machines the object, as it is now, if it is there.
func (s *session) done(out *output, id hostendpoint.ID, o hostendpoint.Object, action string) error {
	switch out.format {
	case "name":
		fmt.Fprintln(out.out, resourceName(id))
	case "json", "yaml":
		if action != "deleted" && !s.dryRun {
			return printObject(out, o)
		}
		return out.value(result{id.Kind, id.Namespace, id.Name, action, s.dryRun})
	default:
		st := green
		if action == "unchanged" {
			st = dim
		}
		trial := ""
		if s.dryRun {
			trial = " (dry run)"
		}
		fmt.Fprintln(out.out, resourceName(id), out.paint(st, action)+trial)
	}
	return nil
}

// writer does one of the verbs with every document.
type writer struct {
	session
	documents
}

func (w *writer) run(ctx context.Context, out *output, do func(context.Context, store.Store, hostendpoint.Object) (hostendpoint.Object, string, error)) error {
	docs, err := w.load()
	if err != nil {
		return err
	}
	return w.in(ctx, func(ctx context.Context, s store.Store) error {
		var errs []error
		for _, o := range docs {
			got, action, err := do(ctx, s, o)
			if err != nil {
				errs = append(errs, at(o, err))
				if hopeless(err) {
					break // what follows would fail the same way
				}
				continue
			}
			if err := w.done(out, o.ID(), got, action); err != nil {
				return err
			}
		}
		return all(errs)
	})
}

// at says where the document of an error is, unless the error does.
func at(o hostendpoint.Object, err error) error {
	if e := (*store.Error)(nil); errors.As(err, &e) && o.At("").Line > 0 {
		return fmt.Errorf("%v: %w", o.At(""), err)
	}
	return err
}

// hopeless reports whether the datastore itself is the problem.
func hopeless(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrUnauthorized)
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

const (
	writeTimeout = time.Minute
	maxTries     = 10 // against others who write the same object
)

func createCommand(out *output, stdin *os.File) *cobra.Command {
	w := &writer{documents: documents{stdin: stdin}}
	cmd := &cobra.Command{
		Use: "create -f FILE --datastore DATASTORE", Short: "Create resources in a datastore",
		Long: "create writes documents to a datastore. One that exists is an error, and stays as it is.\n" + datastoreHelp,
		Args: cobra.NoArgs, Annotations: names,
		RunE: func(cmd *cobra.Command, _ []string) error { return w.run(cmd.Context(), out, create) },
	}
	w.writeFlags(cmd)
	return cmd
}

func (w *writer) writeFlags(cmd *cobra.Command) {
	w.documents.flags(cmd)
	w.session.flags(cmd, writeTimeout)
	w.dryRunFlag(cmd)
}

func create(ctx context.Context, s store.Store, o hostendpoint.Object) (hostendpoint.Object, string, error) {
	got, err := s.Create(ctx, o)
	return got, "created", err
}

func replaceCommand(out *output, stdin *os.File) *cobra.Command {
	w := &writer{documents: documents{stdin: stdin}}
	cmd := &cobra.Command{
		Use: "replace -f FILE --datastore DATASTORE", Short: "Replace resources of a datastore",
		Long: `replace writes documents over resources that exist; one that does not exist is an error. A document with a
resourceVersion replaces that version only, so that nobody else's change is lost.
` + datastoreHelp,
		Args: cobra.NoArgs, Annotations: names,
		RunE: func(cmd *cobra.Command, _ []string) error { return w.run(cmd.Context(), out, replace) },
	}
	w.writeFlags(cmd)
	return cmd
}

func replace(ctx context.Context, s store.Store, o hostendpoint.Object) (hostendpoint.Object, string, error) {
	got, _, err := set(ctx, s, o)
	return got, "replaced", err
}

// The flags of hep apply that are for a datastore, and that both forms have.
const datastoreFlags, bothFlags = "datastore native namespace dry-run", "filename timeout output help"

func (w *writer) applyFlags(cmd *cobra.Command) {
	w.datastore.flags(cmd, "datastore", "write to this datastore, not to the kernel")
	w.nativeFlag(cmd)
	w.namespaceFlag(cmd)
	w.dryRunFlag(cmd)
}

// wanted reports whether hep apply was given any flag that is for a datastore.
func (w *writer) wanted(cmd *cobra.Command) bool {
	return slices.ContainsFunc(strings.Fields(datastoreFlags), cmd.Flags().Changed)
}

// alone returns an error if hep apply was also given a flag that is for the kernel.
func (w *writer) alone(cmd *cobra.Command) error {
	if w.at == "" {
		return errors.New("--native, --namespace and --dry-run are for datastores: give --datastore too")
	}
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if !slices.Contains(strings.Fields(datastoreFlags+" "+bothFlags), f.Name) {
			err = fmt.Errorf("--%s is for the kernel, and --datastore leaves the kernel alone", f.Name)
		}
	})
	return err
}

// apply creates an object or makes it what the document says.
func apply(ctx context.Context, s store.Store, o hostendpoint.Object) (hostendpoint.Object, string, error) {
	for tries := 0; ; tries++ {
		got, changed, err := set(ctx, s, o)
		if isNotFound(err) && o.Meta().ResourceVersion == "" {
			got, err = s.Create(ctx, o)
			if errors.Is(err, store.ErrAlreadyExists) && tries < maxTries {
				continue // another was faster
			}
			return got, "created", err
		}
		if err == nil && !changed {
			return got, "unchanged", nil
		}
		return got, "configured", err
	}
}

// set makes an existing object what the document says, and reports whether that was anything new.
func set(ctx context.Context, s store.Store, o hostendpoint.Object) (hostendpoint.Object, bool, error) {
	for tries := 0; ; tries++ {
		cur, err := s.Get(ctx, o.ID())
		if err != nil {
			return nil, false, err
		}
		same, err := equal(cur, o)
		if err != nil {
			return nil, false, err
		}
		next, err := over(o, cur)
		if err != nil {
			return nil, false, err
		}
		if same && next.Meta().ResourceVersion == cur.Meta().ResourceVersion && next.Meta().UID == cur.Meta().UID {
			if err := hostendpoint.ValidateUpdate(next); err != nil {
				return nil, false, err
			}
			return cur, false, nil
		}
		got, err := s.Update(ctx, next)
		if errors.Is(err, store.ErrConflict) && o.Meta().ResourceVersion == "" && tries < maxTries {
			continue // written meanwhile, and the document does not say what it expects
		}
		return got, true, err
	}
}

// over returns the document with what the datastore assigned to the object that it replaces.
func over(o, cur hostendpoint.Object) (hostendpoint.Object, error) {
	c, err := store.Clone(o)
	if err != nil {
		return nil, err
	}
	m, now := c.Meta(), cur.Meta()
	if m.UID != "" && m.UID != now.UID {
		return nil, &store.Error{Op: "update", ID: o.ID(), Err: store.ErrConflict, Reason: "the object of this name has another uid: it was deleted and made again", Current: cur}
	}
	m.UID, m.CreationTimestamp, m.Generation, m.ManagedFields = now.UID, now.CreationTimestamp, now.Generation, now.ManagedFields
	if m.ResourceVersion == "" {
		m.ResourceVersion = now.ResourceVersion
	}
	return c, nil
}

// equal reports whether two objects say the same, apart from what datastores assign.
func equal(a, b hostendpoint.Object) (bool, error) {
	x, err := essence(a)
	if err != nil {
		return false, err
	}
	y, err := essence(b)
	return err == nil && string(x) == string(y), err
}

// essence is an object as text without what datastores assign.
func essence(o hostendpoint.Object) ([]byte, error) {
	c, err := export(o)
	if err != nil {
		return nil, err
	}
	return store.Encode(hostendpoint.Default(c))
}

// export returns a copy of an object that can be created elsewhere.
func export(o hostendpoint.Object) (hostendpoint.Object, error) {
	c, err := store.Clone(o)
	if err != nil {
		return nil, err
	}
	store.SetType(c, o.ID().Kind)
	m := c.Meta()
	*m = hostendpoint.ObjectMeta{Name: m.Name, Labels: maps.Clone(m.Labels), Annotations: m.Annotations, OwnerReferences: m.OwnerReferences, Finalizers: m.Finalizers}
	if hostendpoint.Namespaced(o.ID().Kind) {
		m.Namespace = o.Meta().Namespace
	}
	if m.Labels[hostendpoint.TierLabel] == hostendpoint.DefaultTierName {
		delete(m.Labels, hostendpoint.TierLabel) // reading adds it
	}
	return c, nil
}
