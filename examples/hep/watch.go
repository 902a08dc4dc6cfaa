// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func watchCommand(out *output, stdin *os.File) *cobra.Command {
	r := &reader{documents: documents{stdin: stdin}}
	cmd := &cobra.Command{
		Use: "watch KIND[,KIND] [NAME] --datastore DATASTORE", Short: "Follow resources of a datastore",
		Long: `watch shows what there is, and then every change, until it is interrupted. When the datastore cannot be followed it says
so, goes on trying, and shows what has changed meanwhile.
` + datastoreHelp,
		Annotations: namesAndWide,
		RunE:        func(cmd *cobra.Command, args []string) error { return r.watch(cmd.Context(), out, args) },
	}
	r.readFlags(cmd, 0)
	cmd.Flags().IntVar(&r.count, "count", 0, "stop after so many changes; 0 is never")
	return cmd
}

// watchEvent is one line of hep watch, for machines.
type watchEvent struct {
	Type     string          `json:"type"` // ADDED, MODIFIED, DELETED, SYNCED, STALE
	Kind     string          `json:"kind"`
	Object   json.RawMessage `json:"object,omitempty"`
	Since    *time.Time      `json:"since,omitempty"` // of STALE
	Error    string          `json:"error,omitempty"`
	Problems []string        `json:"problems,omitempty"`
}

type kindEvent struct {
	kind resourceKind
	store.Event[hostendpoint.Object]
}

func (r *reader) watch(ctx context.Context, out *output, args []string) error {
	c, err := r.chosen(args)
	if err != nil {
		return err
	}
	opts := store.WatchOptions{Namespace: r.namespace}
	if opts.Selector, err = r.labels(); err != nil {
		return err
	}
	if len(c.ids) > 1 {
		return errors.New("one name at most can be watched; use -l SELECTOR for several")
	}
	if len(c.ids) == 1 {
		k, err := kindNamed(c.ids[0].Kind)
		if err != nil {
			return err
		}
		c.kinds, opts.Name, opts.Namespace = []resourceKind{k}, c.ids[0].Name, c.ids[0].Namespace
	}
	outer := ctx
	err = r.in(ctx, func(ctx context.Context, s store.Store) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		events := make(chan kindEvent)
		for _, k := range c.kinds {
			w, err := s.Watch(ctx, k.kind, opts)
			if err != nil {
				return err
			}
			defer func() { cancel(); <-w.Done() }()
			go func() {
				for e := range w.Events() {
					select {
					case events <- kindEvent{k, e}:
					case <-ctx.Done():
						return
					}
				}
			}()
		}
		return show(ctx, out, events, len(c.kinds) > 1, r.count)
	})
	if outer.Err() != nil {
		return nil // interrupted
	}
	return err
}

// show prints events until ctx ends, or so many changes have been shown.
func show(ctx context.Context, out *output, events <-chan kindEvent, several bool, count int) error {
	tables := map[string]*eventTable{}
	for {
		select {
		case <-ctx.Done():
			for _, t := range tables {
				t.flush()
			}
			return nil
		case e := <-events:
			var err error
			switch out.format {
			case "json", "yaml":
				err = showValue(out, e)
			case "name":
				if e.Object != nil {
					fmt.Fprintln(out.out, resourceName(e.Object.ID()))
				}
			default:
				t := tables[e.kind.kind]
				if t == nil {
					t = newEventTable(out, e.kind, several)
					tables[e.kind.kind] = t
				}
				t.event(e)
			}
			if err != nil {
				return err
			}
			if e.Object != nil && count > 0 {
				if count--; count == 0 {
					for _, t := range tables {
						t.flush()
					}
					return nil
				}
			}
		}
	}
}

func showValue(out *output, e kindEvent) error {
	x := watchEvent{Type: strings.ToUpper(e.Type.String()), Kind: e.kind.kind}
	if e.Object != nil {
		data, err := store.Encode(e.Object)
		if err != nil {
			return err
		}
		x.Object = data
	}
	if since := e.Status.StaleSince; !since.IsZero() {
		x.Since = &since
	}
	if e.Status.Err != nil {
		x.Error = e.Status.Err.Error()
	}
	for _, p := range e.Status.Problems {
		x.Problems = append(x.Problems, p.String())
	}
	return out.value(x)
}

// eventTable shows the events of one kind. Its first rows wait until all of them are there, so that they are aligned.
type eventTable struct {
	out   *output
	kind  resourceKind
	table *streamTable
	first [][]cell
	begun bool
}

func newEventTable(out *output, k resourceKind, several bool) *eventTable {
	titles, _ := k.table(out.format == "wide", time.Now())
	if several {
		titles[slices.Index(titles, "NAME")] = strings.ToUpper(k.kind)
	}
	return &eventTable{out: out, kind: k, table: out.streamTable(append([]string{"EVENT"}, titles...))}
}

func (t *eventTable) event(e kindEvent) {
	switch e.Type {
	case store.Synced:
		t.flush()
		fmt.Fprintln(t.out.err, t.out.paint(green, "synced"), t.kind.names[0])
	case store.Stale:
		t.flush()
		since := ""
		if !e.Status.StaleSince.IsZero() {
			since = " since " + e.Status.StaleSince.Format(time.TimeOnly)
		}
		fmt.Fprintln(t.out.err, t.out.paint(yellow, "stale"+since), t.kind.names[0]+":", e.Status.Err)
	default:
		_, row := t.kind.table(t.out.format == "wide", time.Now())
		st := map[store.EventType]style{store.Added: green, store.Modified: yellow, store.Deleted: red}[e.Type]
		r := append([]cell{{strings.ToUpper(e.Type.String()), st}}, row(e.Object)...)
		if t.begun {
			t.table.row(r)
		} else {
			t.table.fit(r)
			t.first = append(t.first, r)
		}
	}
	for _, p := range e.Status.Problems {
		fmt.Fprintln(t.out.err, t.out.paint(red, "problem"), p)
	}
}

func (t *eventTable) flush() {
	for _, r := range t.first {
		t.table.row(r)
	}
	t.first, t.begun = nil, true
}
