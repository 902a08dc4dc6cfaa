// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// input is what most commands read: resources, and the host they are asked for.
type input struct {
	files []string
	host  string
	node  string
	stdin io.Reader
}

func (in *input) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&in.files, "filename", "f", nil, "a file or directory of YAML or JSON documents, - for standard input (repeatable)")
	cmd.Flags().StringVar(&in.host, "host", "", "a file that describes the host (node, interfaces, ...); without it this host is looked at")
	cmd.Flags().StringVar(&in.node, "node", "", "name of the node; default: the host file's, or this host's name in lower case")
}

// maxInput bounds what is read from one file: more than any real cluster has.
const maxInput = 64 << 20

// load reads resources and host.
func (in *input) load() (hostendpoint.Resources, manifest.HostFile, error) {
	if len(in.files) == 0 {
		return hostendpoint.Resources{}, manifest.HostFile{}, errors.New("nothing to read: give -f FILE, -f DIR or -f -")
	}
	res, err := readResources(in.files, in.stdin)
	if err != nil {
		return res, manifest.HostFile{}, err
	}
	h, err := in.loadHost()
	return res, h, err
}

// loadHost reads the host file, or looks at this host.
func (in *input) loadHost() (manifest.HostFile, error) {
	var h manifest.HostFile
	if in.host != "" {
		data, err := readFile(in.host, in.stdin)
		if err != nil {
			return h, err
		}
		if h, err = manifest.ParseHost(manifest.Source{Name: in.host, Data: data}); err != nil {
			return h, invalid(err)
		}
	} else {
		var err error
		if h.Host, err = thisHost(); err != nil {
			return h, fmt.Errorf("looking at this host: %w (describe one with --host FILE)", err)
		}
	}
	if in.node != "" {
		h.Host.Node = in.node
	}
	return h, nil
}

// snapshot reads everything and resolves it.
func (in *input) snapshot() (*policy.Snapshot, manifest.HostFile, error) {
	res, h, err := in.load()
	if err != nil {
		return nil, h, err
	}
	cfg, err := policytest.ConfigOf(h)
	if err != nil {
		return nil, h, invalid(err)
	}
	s, err := policy.Resolve(res, h.Host, cfg)
	if err != nil {
		return nil, h, invalid(err)
	}
	return s, h, nil
}

func readSources(name string, stdin io.Reader) ([]manifest.Source, error) {
	info, err := os.Stat(name)
	if name == "-" || err == nil && !info.IsDir() {
		data, err := readFile(name, stdin)
		if name == "-" {
			name = "<stdin>"
		}
		return []manifest.Source{{Name: name, Data: data}}, err
	}
	if err != nil {
		return nil, err
	}
	var srcs []manifest.Source
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path))) {
			return err
		}
		data, err := readFile(path, nil)
		srcs = append(srcs, manifest.Source{Name: path, Data: data})
		return err
	})
	if err == nil && len(srcs) == 0 {
		err = fmt.Errorf("%s: no .yaml, .yml or .json file in this directory", name)
	}
	return srcs, err
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxInput {
		return nil, invalid(fmt.Errorf("%s: more than %d MiB", name, maxInput>>20))
	}
	return data, nil
}

// thisHost describes the machine that hep runs on. Felix compares lower-case host names.
func thisHost() (hostendpoint.Host, error) {
	name, err := os.Hostname()
	if err != nil {
		return hostendpoint.Host{}, err
	}
	h := hostendpoint.Host{Node: strings.ToLower(name)}
	ifaces, err := net.Interfaces()
	if err != nil {
		return h, err
	}
	for _, i := range ifaces {
		x := hostendpoint.Interface{Name: i.Name}
		addrs, err := i.Addrs()
		if err != nil {
			return h, fmt.Errorf("addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				x.Addresses = append(x.Addresses, p)
			}
		}
		h.Interfaces = append(h.Interfaces, x)
	}
	return h, nil
}
