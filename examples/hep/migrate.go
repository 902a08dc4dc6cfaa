// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// step is what migrate does with one resource.
type step struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Action    string `json:"action"` // created, configured, unchanged, differs, skipped, failed
	Reason    string `json:"reason,omitempty"`
	DryRun    bool   `json:"dryRun,omitempty"`
}

// migration is a run of hep migrate.
type migration struct {
	from, to  datastore
	overwrite bool
	dryRun    bool
	timeout   time.Duration
}

func migrateCommand(out *output) *cobra.Command {
	m := &migration{}
	cmd := &cobra.Command{
		Use: "migrate --from DATASTORE --to DATASTORE", Short: "Copy all resources from one datastore to another",
		Long: `migrate copies every resource, with its uid and creation time where the other datastore takes them. What exists there
and says the same is left alone; what says something else is reported, and written over with --overwrite. What a datastore
makes itself (profiles and nodes in Kubernetes) is skipped. Nothing is deleted, and a run that was interrupted can be
repeated. With --dry-run the same rules are applied, and nothing is changed.
` + datastoreHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return m.run(cmd.Context(), out) },
	}
	m.from.flags(cmd, "from", "the datastore to read")
	m.to.flags(cmd, "to", "the datastore to write")
	cmd.Flags().BoolVar(&m.from.native, "from-native", false, "with --from kube: the resources of projectcalico.org/v3, not of crd.projectcalico.org/v1")
	cmd.Flags().BoolVar(&m.to.native, "to-native", false, "the same for --to kube")
	cmd.Flags().BoolVar(&m.overwrite, "overwrite", false, "make what exists and differs as it is in the other datastore")
	cmd.Flags().BoolVar(&m.dryRun, "dry-run", false, "say what would be done, by the same rules, and change nothing")
	cmd.Flags().DurationVar(&m.timeout, "timeout", 10*time.Minute, "how long it may take")
	return cmd
}

func (m *migration) run(ctx context.Context, out *output) error {
	if m.from.at == "" || m.to.at == "" {
		return errors.New("from where to where? Give --from DATASTORE and --to DATASTORE")
	}
	if m.from == m.to {
		return errors.New("--from and --to are one datastore")
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	source, done, err := m.from.open(ctx)
	if err != nil {
		return answer(err)
	}
	defer done()
	target, done, err := m.to.open(ctx)
	if err != nil {
		return answer(err)
	}
	defer done()
	if m.dryRun {
		target = newTrial(target)
	}
	from, to := store.New(source, store.Options{}), store.New(target, store.Options{})
	var steps []step
	var errs []error
	// Everything is read before anything is written, so that a source that cannot be read changes nothing.
	var objects []hostendpoint.Object
	for _, kind := range hostendpoint.Kinds() {
		l, err := from.List(ctx, kind, store.ListOptions{})
		if err != nil {
			return answer(err)
		}
		for _, p := range l.Problems {
			errs = append(errs, fmt.Errorf("%w: %s", store.ErrCorrupt, p))
			steps = append(steps, step{Kind: kind, Namespace: p.ID.Namespace, Name: p.ID.Name, Action: "failed", Reason: "it cannot be read", DryRun: m.dryRun})
		}
		objects = append(objects, l.Items...)
	}
	shown := time.Now()
	for i, o := range objects {
		if time.Since(shown) > 2*time.Second {
			shown = time.Now()
			fmt.Fprintln(out.err, out.paint(dim, fmt.Sprintf("%d of %d", i, len(objects))))
		}
		st := step{Kind: o.ID().Kind, Namespace: o.ID().Namespace, Name: o.ID().Name, DryRun: m.dryRun}
		st.Action, st.Reason, err = m.one(ctx, to, o)
		if err != nil {
			st.Action, st.Reason = "failed", err.Error()
			errs = append(errs, err)
		}
		steps = append(steps, st)
		if hopeless(err) || ctx.Err() != nil {
			break
		}
	}
	if err := m.print(out, steps); err != nil {
		return err
	}
	if len(errs) == 0 && slices.ContainsFunc(steps, func(s step) bool { return s.Action == "differs" }) {
		return errMismatch
	}
	return all(errs)
}

// one migrates one object.
func (m *migration) one(ctx context.Context, to store.Store, o hostendpoint.Object) (action, reason string, err error) {
	if builtIn(o.ID()) && o.ID().Kind == hostendpoint.KindProfile {
		return "skipped", "it is built in", nil
	}
	cur, err := to.Get(ctx, o.ID())
	if isNotFound(err) {
		c, err := export(o)
		if err != nil {
			return "", "", err
		}
		// References to owners hold the UIDs of another datastore's objects; Kubernetes would delete what has them.
		c.Meta().UID, c.Meta().CreationTimestamp, c.Meta().OwnerReferences = o.Meta().UID, o.Meta().CreationTimestamp, nil
		_, err = to.Create(ctx, c)
		switch {
		case errors.Is(err, store.ErrUnsupported):
			return "skipped", "the datastore makes these itself", nil
		case errors.Is(err, store.ErrAlreadyExists):
			return m.one(ctx, to, o)
		}
		return "created", "", err
	}
	if err != nil {
		return "", "", err
	}
	same, err := equal(cur, o)
	switch {
	case err != nil:
		return "", "", err
	case same:
		return "unchanged", "", nil
	case !m.overwrite:
		return "differs", "it exists and says something else; --overwrite replaces it", nil
	}
	c, err := export(o)
	if err != nil {
		return "", "", err
	}
	c.Meta().OwnerReferences = cur.Meta().OwnerReferences
	_, _, err = set(ctx, to, c)
	if errors.Is(err, store.ErrUnsupported) {
		return "skipped", "the datastore makes these itself", nil
	}
	return "configured", "", err
}

func (m *migration) print(out *output, steps []step) error {
	switch out.format {
	case "json", "yaml":
		for _, s := range steps {
			if err := out.value(s); err != nil {
				return err
			}
		}
		return nil
	}
	count := map[string]int{}
	var rows [][]cell
	for _, s := range steps {
		count[s.Action]++
		st := plain
		switch s.Action {
		case "created", "configured":
			st = green
		case "unchanged", "skipped":
			st = dim
		default:
			st = red
		}
		rows = append(rows, []cell{{s.Action, st}, {resourceName(hostendpoint.ID{Kind: s.Kind, Namespace: s.Namespace, Name: s.Name}), cyan}, {s.Reason, dim}})
	}
	if len(rows) > 0 {
		out.table([]string{"ACTION", "RESOURCE", "REASON"}, rows)
		fmt.Fprintln(out.out)
	}
	var sum []string
	for _, a := range [...]string{"created", "configured", "unchanged", "skipped", "differs", "failed"} {
		if count[a] > 0 {
			sum = append(sum, fmt.Sprintf("%d %s", count[a], a))
		}
	}
	if len(sum) == 0 {
		sum = []string{"nothing to migrate"}
	}
	trial := ""
	if m.dryRun {
		trial = " (dry run)"
	}
	fmt.Fprintln(out.out, strings.Join(sum, ", ")+trial)
	return nil
}
