// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/etcd"
	"github.com/hostpolicy/hostpolicy/backends/store/file"
	"github.com/hostpolicy/hostpolicy/backends/store/kube"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// datastoreHelp is the part that the commands on datastores have in common.
const datastoreHelp = `
DATASTORE is one of
  file:DIR        a directory of YAML and JSON files
  etcd:URL[,URL]  Calico's etcdv3 datastore. ETCD_USERNAME and ETCD_PASSWORD, and ETCD_CA_CERT_FILE, ETCD_CERT_FILE and
                  ETCD_KEY_FILE of the environment are used as calicoctl does
  kube[:CONTEXT]  the Kubernetes API server, reached as kubectl does; --native for projectcalico.org/v3 resources instead
                  of Calico's crd.projectcalico.org/v1. See hep crds

Exit codes: 0 done; 1 the datastore or the rules say no (invalid, does not exist, exists, conflict, refused); 2 no answer
(usage, a datastore that cannot be reached or does not let in).`

// datastore is where --datastore points.
type datastore struct {
	at     string
	native bool
	log    *slog.Logger // nil is silence
}

func (d *datastore) flags(cmd *cobra.Command, name, usage string) {
	cmd.Flags().StringVar(&d.at, name, "", usage+": file:DIR, etcd:URL[,URL] or kube[:CONTEXT]")
}

func (d *datastore) nativeFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&d.native, "native", false, "with kube: the resources of projectcalico.org/v3, not of crd.projectcalico.org/v1")
}

// kube returns the configuration of a datastore in Kubernetes, and whether it is one.
func (d *datastore) kube() (kube.Config, bool, error) {
	kind, context, _ := strings.Cut(d.at, ":")
	if kind != "kube" {
		return kube.Config{}, false, nil
	}
	rc, err := kube.Kubectl(context)
	return kube.Config{REST: rc, Native: d.native}, true, err
}

// open returns a driver, and the function that ends it.
func (d *datastore) open(ctx context.Context) (store.Driver, func(), error) {
	kind, rest, _ := strings.Cut(d.at, ":")
	if d.native && kind != "kube" {
		return nil, nil, errors.New("--native is for kube datastores only")
	}
	switch {
	case d.at == "":
		return nil, nil, errors.New("no datastore: give --datastore file:DIR, etcd:URL or kube[:CONTEXT]")
	case kind == "kube":
		cfg, _, err := d.kube()
		if err != nil {
			return nil, nil, err
		}
		driver, err := kube.Open(cfg)
		return driver, func() {}, err
	case kind == "file" && rest != "":
		ctx, cancel := context.WithCancel(ctx)
		driver, err := file.Open(ctx, rest, file.Options{Log: d.log})
		if err != nil {
			cancel()
			if errors.Is(err, os.ErrNotExist) {
				err = fmt.Errorf("%w (make the directory first: mkdir %s)", err, rest)
			}
			return nil, nil, err
		}
		return driver, func() { cancel(); <-driver.Done() }, nil
	case kind == "etcd" && rest != "":
		driver, err := etcd.Open(etcd.Config{
			Endpoints: strings.Split(rest, ","), Username: os.Getenv("ETCD_USERNAME"), Password: os.Getenv("ETCD_PASSWORD"),
			CAFile: os.Getenv("ETCD_CA_CERT_FILE"), CertFile: os.Getenv("ETCD_CERT_FILE"), KeyFile: os.Getenv("ETCD_KEY_FILE"),
		})
		if err != nil {
			return nil, nil, err
		}
		return driver, func() { _ = driver.Close() }, nil
	}
	return nil, nil, fmt.Errorf("datastore %q: want file:DIR, etcd:URL[,URL] or kube[:CONTEXT]", d.at)
}

// session is what commands on one datastore have in common.
type session struct {
	datastore
	timeout time.Duration
	dryRun  bool
}

func (s *session) flags(cmd *cobra.Command, timeout time.Duration) {
	s.datastore.flags(cmd, "datastore", "the datastore")
	s.nativeFlag(cmd)
	what := "how long to wait for the datastore"
	if timeout == 0 {
		what = "how long to go on; 0 is until interrupted"
	}
	cmd.Flags().DurationVar(&s.timeout, "timeout", timeout, what)
}

func (s *session) dryRunFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&s.dryRun, "dry-run", false, "say what would be done, by the same rules, and change nothing")
}

// in calls do with the store.
func (s *session) in(ctx context.Context, do func(context.Context, store.Store) error) error {
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	driver, done, err := s.open(ctx)
	if err != nil {
		return answer(err)
	}
	defer done()
	if s.dryRun {
		driver = newTrial(driver)
	}
	return answer(do(ctx, store.New(driver, store.Options{})))
}

// answer gives an error of a datastore its exit code.
func answer(err error) error {
	if err == nil || errors.Is(err, errMismatch) {
		return err
	}
	if x := (*exitError)(nil); errors.As(err, &x) {
		return err
	}
	for _, no := range [...]error{store.ErrNotFound, store.ErrAlreadyExists, store.ErrConflict, store.ErrUnsupported, store.ErrRefused, store.ErrCorrupt} {
		if errors.Is(err, no) {
			return invalid(err)
		}
	}
	if errors.As(err, new(*field.Errors)) {
		return invalid(err)
	}
	return &exitError{exitFailed, err}
}

// all makes one error of several, with the worst exit code.
func all(errs []error) error {
	code := 0
	for _, err := range errs {
		x := (*exitError)(nil)
		if errors.As(answer(err), &x) {
			code = max(code, x.code)
		}
	}
	if code == 0 {
		return nil
	}
	return &exitError{cmp.Or(code, exitFailed), errors.Join(errs...)}
}
