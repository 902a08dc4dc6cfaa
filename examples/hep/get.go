// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/selector"
)

// reader is what get, watch and delete have in common.
type reader struct {
	session
	documents
	selector string
	count    int // of watch
}

func (r *reader) readFlags(cmd *cobra.Command, timeout time.Duration) {
	r.session.flags(cmd, timeout)
	r.namespaceFlag(cmd)
	cmd.Flags().StringVarP(&r.selector, "selector", "l", "", "labels: Calico's language (role == 'web' && !has(old)), or kubectl's (role=web,zone!=a)")
}

// labels returns the selector in Calico's language.
func (r *reader) labels() (string, error) {
	_, err := selector.Parse(r.selector)
	if r.selector == "" || err == nil {
		return r.selector, nil
	}
	var out []string
	for _, part := range strings.Split(r.selector, ",") {
		key, value, op := strings.TrimSpace(part), "", ""
		for _, o := range [...]string{"!=", "==", "="} {
			if k, v, ok := strings.Cut(key, o); ok {
				key, value, op = strings.TrimSpace(k), strings.TrimSpace(v), o
				break
			}
		}
		switch not := strings.HasPrefix(key, "!"); {
		case strings.ContainsFunc(value, notInLabel) || not && op != "":
			return "", fmt.Errorf("--selector: %w", err)
		case not:
			out = append(out, "!has("+strings.TrimSpace(key[1:])+")")
		case op == "":
			out = append(out, "has("+key+")")
		case op == "!=":
			out = append(out, key+" != '"+value+"'")
		default:
			out = append(out, key+" == '"+value+"'")
		}
	}
	text := strings.Join(out, " && ")
	if _, bad := selector.Parse(text); bad != nil {
		return "", fmt.Errorf("--selector: %w", err)
	}
	return text, nil
}

// notInLabel reports whether a character cannot be in the value of a label.
func notInLabel(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
}

func getCommand(out *output, stdin *os.File) *cobra.Command {
	r := &reader{documents: documents{stdin: stdin}}
	var follow, exported bool
	cmd := &cobra.Command{
		Use: "get KIND[,KIND] [NAME...] --datastore DATASTORE", Short: "Show resources of a datastore",
		Long: `get shows resources: hep get hep; hep get gnp,np -n prod; hep get hep/web hep/db; hep get all -o yaml. Entries that
cannot be read are reported, and make the exit code 1.
` + datastoreHelp,
		Annotations: namesAndWide,
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow {
				if !cmd.Flags().Changed("timeout") {
					r.timeout = 0
				}
				return r.watch(cmd.Context(), out, args)
			}
			return r.get(cmd.Context(), out, args, exported)
		},
	}
	r.readFlags(cmd, writeTimeout)
	cmd.Flags().StringArrayVarP(&r.files, "filename", "f", nil, "show the resources that these documents name")
	cmd.Flags().BoolVarP(&follow, "watch", "w", false, "go on showing what changes, as hep watch")
	cmd.Flags().BoolVar(&exported, "export", false, "leave out what the datastore has assigned, so that it can be created elsewhere")
	return cmd
}

// chosen returns what the arguments or the documents mean.
func (r *reader) chosen(args []string) (choice, error) {
	if len(r.files) == 0 {
		return choose(args, r.namespace)
	}
	if len(args) > 0 {
		return choice{}, errors.New("give resources or -f FILE, not both")
	}
	docs, err := r.load()
	if err != nil {
		return choice{}, err
	}
	var c choice
	for _, o := range docs {
		c.ids = append(c.ids, o.ID())
	}
	return c, nil
}

func (r *reader) get(ctx context.Context, out *output, args []string, exported bool) error {
	c, err := r.chosen(args)
	if err != nil {
		return err
	}
	labels, err := r.labels()
	if err != nil {
		return err
	}
	if labels != "" && len(c.ids) > 0 {
		return errors.New("a resource is given by its name or by -l, not by both")
	}
	return r.in(ctx, func(ctx context.Context, s store.Store) error {
		found, errs := r.find(ctx, s, c, labels)
		if exported {
			for i, o := range found {
				if found[i], err = export(o); err != nil {
					return err
				}
			}
		}
		if err := printObjects(out, found); err != nil {
			return err
		}
		if len(found) == 0 && len(errs) == 0 {
			fmt.Fprintln(out.err, "no resources found")
		}
		return all(errs)
	})
}

// find reads what is chosen, as far as it can.
func (r *reader) find(ctx context.Context, s store.Store, c choice, labels string) ([]hostendpoint.Object, []error) {
	var found []hostendpoint.Object
	var errs []error
	for _, id := range c.ids {
		o, err := s.Get(ctx, id)
		if err != nil {
			errs = append(errs, err)
			if hopeless(err) {
				break
			}
			continue
		}
		found = append(found, o)
	}
	if len(c.ids) > 0 {
		return found, errs
	}
	for _, k := range c.kinds {
		l, err := s.List(ctx, k.kind, store.ListOptions{Namespace: r.namespace, Selector: labels})
		if err != nil {
			errs = append(errs, err)
			if hopeless(err) {
				break
			}
			continue
		}
		found = append(found, l.Items...)
		for _, p := range l.Problems {
			errs = append(errs, fmt.Errorf("%w: %s", store.ErrCorrupt, p))
		}
	}
	return found, errs
}

// printObject prints an object as a document.
func printObject(out *output, o hostendpoint.Object) error {
	if out.format == "json" {
		data, err := store.Encode(o)
		if err != nil {
			return err
		}
		fmt.Fprintf(out.out, "%s\n", data)
		return nil
	}
	data, err := manifest.Marshal(o)
	if err != nil {
		return err
	}
	fmt.Fprintf(out.out, "---\n%s", strings.TrimPrefix(string(data), "---\n"))
	return nil
}

// printObjects prints documents, names, or one table for each kind.
func printObjects(out *output, objects []hostendpoint.Object) error {
	switch out.format {
	case "json", "yaml":
		for _, o := range objects {
			if err := printObject(out, o); err != nil {
				return err
			}
		}
		return nil
	case "name":
		for _, o := range objects {
			fmt.Fprintln(out.out, resourceName(o.ID()))
		}
		return nil
	}
	now := time.Now()
	first := true
	for _, k := range resourceKinds() {
		titles, row := k.table(out.format == "wide", now)
		var rows [][]cell
		for _, o := range objects {
			if o.ID().Kind == k.kind {
				rows = append(rows, row(o))
			}
		}
		if len(rows) == 0 {
			continue
		}
		if several := slices.ContainsFunc(objects, func(o hostendpoint.Object) bool { return o.ID().Kind != k.kind }); several {
			if !first {
				fmt.Fprintln(out.out)
			}
			titles[slices.Index(titles, "NAME")] = strings.ToUpper(k.kind)
		}
		first = false
		out.table(titles, rows)
	}
	return nil
}

func deleteCommand(out *output, stdin *os.File) *cobra.Command {
	r := &reader{documents: documents{stdin: stdin}}
	var every, ignore bool
	cmd := &cobra.Command{
		Use: "delete (KIND NAME... | KIND -l SELECTOR | KIND --all | -f FILE) --datastore DATASTORE", Short: "Delete resources of a datastore",
		Long:        "delete deletes resources: policies before the tiers that they are in.\n" + datastoreHelp,
		Annotations: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.delete(cmd.Context(), out, args, every, ignore)
		},
	}
	r.readFlags(cmd, writeTimeout)
	r.dryRunFlag(cmd)
	cmd.Flags().StringArrayVarP(&r.files, "filename", "f", nil, "delete the resources that these documents name")
	cmd.Flags().BoolVar(&every, "all", false, "delete all resources of the kinds, except for those that are built in")
	cmd.Flags().BoolVar(&ignore, "ignore-not-found", false, "what does not exist is no error")
	return cmd
}

func (r *reader) delete(ctx context.Context, out *output, args []string, every, ignore bool) error {
	c, err := r.chosen(args)
	if err != nil {
		return err
	}
	labels, err := r.labels()
	if err != nil {
		return err
	}
	switch {
	case len(c.ids) > 0 && (labels != "" || every):
		return errors.New("a resource is given by its name, by -l or by --all, not by several of them")
	case len(c.ids) == 0 && labels == "" && !every:
		return errors.New("which ones? Give names, -l SELECTOR or --all")
	}
	return r.in(ctx, func(ctx context.Context, s store.Store) error {
		var errs []error
		if len(c.ids) == 0 {
			var found []hostendpoint.Object
			found, errs = r.find(ctx, s, c, labels)
			for _, o := range found {
				if !builtIn(o.ID()) {
					c.ids = append(c.ids, o.ID())
				}
			}
		}
		// Backwards, so that tiers come after their policies.
		kinds := hostendpoint.Kinds()
		slices.SortStableFunc(c.ids, func(a, b hostendpoint.ID) int { return slices.Index(kinds, b.Kind) - slices.Index(kinds, a.Kind) })
		for _, id := range c.ids {
			o, err := s.Delete(ctx, id, store.DeleteOptions{})
			switch {
			case isNotFound(err) && ignore:
			case err != nil:
				errs = append(errs, err)
				if hopeless(err) {
					return all(errs)
				}
			default:
				if err := r.done(out, id, o, "deleted"); err != nil {
					return err
				}
			}
		}
		return all(errs)
	})
}

// builtIn reports whether a resource cannot be deleted.
func builtIn(id hostendpoint.ID) bool {
	return id.Kind == hostendpoint.KindProfile && id.Name == hostendpoint.DefaultAllowProfileName ||
		id.Kind == hostendpoint.KindTier && (id.Name == hostendpoint.DefaultTierName || id.Name == hostendpoint.AdminTierName)
}
