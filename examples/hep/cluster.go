// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// cluster is what commands read that look at all hosts: resources, and descriptions of hosts if there are any.
type cluster struct {
	files  []string
	hosts  []string
	native bool // datastores in Kubernetes hold projectcalico.org/v3
	stdin  io.Reader
}

func (in *cluster) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&in.files, "filename", "f", nil, "a file or directory of YAML or JSON documents, - for standard input, or a datastore as in hep get (repeatable)")
	in.hostFlags(cmd)
}

func (in *cluster) hostFlags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&in.hosts, "host", nil, "a file that describes a host, or a directory of them (repeatable); other hosts are concluded from the documents")
	cmd.Flags().BoolVar(&in.native, "native", false, "with kube: the resources of projectcalico.org/v3, not of crd.projectcalico.org/v1")
}

// load reads the resources, and says which hosts they are for.
func (in *cluster) load(ctx context.Context) (hostendpoint.Resources, []fleet.Host, error) {
	if len(in.files) == 0 {
		return hostendpoint.Resources{}, nil, errors.New("nothing to read: give -f FILE, -f DIR or -f -")
	}
	r, err := in.readPolicies(ctx, in.files)
	if err != nil {
		return r, nil, err
	}
	known, err := in.known()
	if err != nil {
		return r, nil, err
	}
	hosts := fleet.Hosts(r, known, policy.Config{})
	if len(hosts) == 0 {
		return r, nil, errors.New("no host: the documents hold no HostEndpoint and no Node; describe a host with --host FILE")
	}
	return r, hosts, nil
}

// storeTimeout is how long a datastore may take to list everything.
const storeTimeout = time.Minute

// readPolicies reads documents from files, directories and datastores.
func (in *cluster) readPolicies(ctx context.Context, names []string) (hostendpoint.Resources, error) {
	var files []string
	var out hostendpoint.Resources
	for _, name := range names {
		kind, _, _ := strings.Cut(name, ":")
		if _, err := os.Stat(name); err == nil || !slices.Contains([]string{"file", "etcd", "kube"}, kind) {
			files = append(files, name)
			continue
		}
		s := session{datastore: datastore{at: name, native: in.native && kind == "kube"}, timeout: storeTimeout}
		if err := s.in(ctx, func(ctx context.Context, st store.Store) error { return readStore(ctx, st, &out) }); err != nil {
			return out, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(files) > 0 {
		r, err := readResources(files, in.stdin)
		if err != nil {
			return r, err
		}
		out.Add(slices.Collect(r.All())...)
	}
	return out, nil
}

// readStore adds all objects of a datastore. An entry that cannot be read is an error: nobody knows what it would do.
func readStore(ctx context.Context, st store.Store, out *hostendpoint.Resources) error {
	var errs []error
	for _, kind := range hostendpoint.Kinds() {
		l, err := st.List(ctx, kind, store.ListOptions{})
		if errors.Is(err, store.ErrUnsupported) {
			continue
		}
		if err != nil {
			return err
		}
		for _, p := range l.Problems {
			errs = append(errs, fmt.Errorf("%w: %s", store.ErrCorrupt, p))
		}
		for _, o := range l.Items {
			if id := o.ID(); id.Kind != hostendpoint.KindProfile || id.Name != hostendpoint.DefaultAllowProfileName { // stores list the built-in profile
				out.Add(o)
			}
		}
	}
	return errors.Join(errs...)
}

// readResources reads documents from files and directories.
func readResources(names []string, stdin io.Reader) (hostendpoint.Resources, error) {
	srcs, err := readAll(names, stdin)
	if err != nil {
		return hostendpoint.Resources{}, err
	}
	r, err := manifest.Parse(srcs...)
	if err != nil {
		return r, invalid(err)
	}
	return r, nil
}

func readAll(names []string, stdin io.Reader) ([]manifest.Source, error) {
	var srcs []manifest.Source
	for _, name := range names {
		s, err := readSources(name, stdin)
		if err != nil {
			return nil, err
		}
		srcs = append(srcs, s...)
	}
	return srcs, nil
}

// known reads the files that describe hosts.
func (in *cluster) known() ([]fleet.Host, error) {
	srcs, err := readAll(in.hosts, in.stdin)
	if err != nil {
		return nil, err
	}
	var out []fleet.Host
	seen := map[string]string{}
	for _, s := range srcs {
		f, err := manifest.ParseHost(s)
		if err != nil {
			return nil, invalid(err)
		}
		h := fleet.Host{Host: f.Host}
		if h.Config, err = policytest.ConfigOf(f); err != nil {
			return nil, invalid(fmt.Errorf("%s: %w", s.Name, err))
		}
		for _, d := range f.DNAT {
			h.DNAT = append(h.DNAT, fleet.DNAT(d))
		}
		if first := seen[h.Node]; first != "" {
			return nil, invalid(fmt.Errorf("%s: node %s is described in %s already", s.Name, h.Node, first))
		}
		seen[h.Node] = s.Name
		out = append(out, h)
	}
	return out, nil
}
