// SPDX-License-Identifier: Apache-2.0

// Package manifest reads resources from YAML and JSON documents, and writes them. It is strict where a mistake could
// change what a policy says: unknown and wrongly spelled fields, duplicate keys, YAML tags and values of the wrong type
// are errors, all of them reported at once with file and line.
package manifest

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// Source is one file, or what stands for one.
type Source struct {
	Name string // for errors and positions; "" is allowed
	Data []byte // UTF-8; not changed and not kept
}

// Options bound what Parse accepts. The zero value of each limit is its default; the limits hold for all sources of one
// call together.
type Options struct {
	MaxBytes int // of input; default 16 MiB
	MaxDepth int // of nesting; default 64
	MaxNodes int // YAML nodes, estimated before parsing and counted, aliases included, while reading; default 2,000,000
	MaxErrs  int // reading stops after so many errors; default 1,000

	// Stored takes objects as a datastore may hold them: they are not validated, and only what does not fit the types of
	// the fields is an error. Whoever uses them must look at hostendpoint.Object.Check; policy.Resolve does.
	Stored bool
}

// The defaults of Options.
const (
	defaultMaxBytes = 16 << 20
	defaultMaxDepth = 64
	defaultMaxNodes = 2_000_000
	defaultMaxErrs  = 1_000
)

func (o Options) withDefaults() Options {
	for _, f := range [...]struct {
		limit *int
		value int
	}{{&o.MaxBytes, defaultMaxBytes}, {&o.MaxDepth, defaultMaxDepth}, {&o.MaxNodes, defaultMaxNodes}, {&o.MaxErrs, defaultMaxErrs}} {
		if *f.limit <= 0 {
			*f.limit = f.value
		}
	}
	return o
}

// Parse reads all documents of all sources and validates the objects. A document is one resource, a
// sequence of resources, or a List (apiVersion v1) or HostEndpointList (and so on) of them; empty documents are skipped. Defaults are not filled in: see
// hostendpoint.Default.
//
// The error is a *field.Errors with everything that is wrong, two objects of one name included; the resources are then
// empty. Each object knows the position of each of its fields (Object.At).
func Parse(srcs ...Source) (hostendpoint.Resources, error) { return Options{}.Parse(srcs...) }

// Parse is the function Parse with these options.
func (o Options) Parse(srcs ...Source) (hostendpoint.Resources, error) {
	p := parser{opts: o.withDefaults(), seen: map[hostendpoint.ID]field.Pos{}}
	p.run(srcs, p.document)
	if err := p.errs.Err(); err != nil {
		return hostendpoint.Resources{}, err
	}
	return p.out, nil
}

// parser is the state of one call.
type parser struct {
	opts    Options
	used    int // nodes that the sources have, by estimate
	visited int // nodes that were read, with repetitions
	bytes   int // of their values
	errs    field.List
	full    bool // a limit was reached: nothing more is read or reported

	out  hostendpoint.Resources
	seen map[hostendpoint.ID]field.Pos
}

// run calls do for the root node of each document, unless limits say otherwise.
func (p *parser) run(srcs []Source, do func(*document)) {
	total := 0
	for _, s := range srcs {
		total += len(s.Data)
		if total > p.opts.MaxBytes {
			p.report(&field.Error{Pos: field.Pos{File: s.Name}, Err: field.ErrTooLarge, Reason: fmt.Sprintf("the input has more than %d bytes", p.opts.MaxBytes)})
			return
		}
	}
	for _, s := range srcs {
		p.source(s, do)
		if p.full {
			return
		}
	}
}

// report adds an error, and stops the parser when there are too many.
func (p *parser) report(e *field.Error) {
	if p.full {
		return
	}
	if len(p.errs) >= p.opts.MaxErrs {
		p.full = true
		e = &field.Error{Pos: e.Pos, Err: field.ErrTooLarge, Reason: fmt.Sprintf("more than %d errors: the rest is not read", p.opts.MaxErrs)}
	}
	p.errs = append(p.errs, e)
}
