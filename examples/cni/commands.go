// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/file"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// patience is how long one command waits for the directory, which other processes write, too.
const patience = 30 * time.Second

// tryAgain is an error after which the runtime may repeat the command.
func tryAgain(what string, err error) error {
	return types.NewError(types.ErrTryAgainLater, what, err.Error())
}

// with calls f with the store of the agent.
func (c *config) with(f func(context.Context, store.Store) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	d, err := file.Open(ctx, c.Directory, file.Options{})
	if err != nil {
		cancel()
		return tryAgain("the directory of the agent cannot be read", err)
	}
	defer func() { cancel(); <-d.Done() }()
	return f(ctx, store.New(d, store.Options{}))
}

func add(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	r, err := c.result()
	if err != nil {
		return err
	}
	if _, err := c.hostInterfaces(r); err != nil {
		return err
	}
	o, err := c.workload(args, r)
	if err != nil {
		return err
	}
	err = c.with(func(ctx context.Context, s store.Store) error {
		made, err := s.Create(ctx, o)
		if errors.Is(err, store.ErrAlreadyExists) { // of an ADD that was killed: the addresses are others
			if _, err = s.Delete(ctx, o.ID(), store.DeleteOptions{}); err == nil || errors.Is(err, store.ErrNotFound) {
				made, err = s.Create(ctx, o)
			}
		}
		if err != nil {
			return tryAgain("the workload cannot be filed", err)
		}
		if err := c.enforced(context.WithoutCancel(ctx), made); err != nil {
			return tryAgain("the workload is filed, but not known to be enforced", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return types.PrintResult(c.PrevResult, c.CNIVersion)
}

// ours returns the objects of the network, of all attachments.
func (c *config) ours(ctx context.Context, s store.Store) ([]hostendpoint.Object, error) {
	l, err := s.List(ctx, hostendpoint.KindNetworkSet, store.ListOptions{})
	if err != nil {
		return nil, tryAgain("the workloads cannot be listed", err)
	}
	return slices.DeleteFunc(l.Items, func(o hostendpoint.Object) bool { return o.Meta().Annotations[ofNetwork] != c.Name }), nil
}

// remove deletes the objects of attachments; those that are gone are no error.
func (c *config) remove(gone func(container, iface string) bool) error {
	if _, err := os.Stat(c.Directory); errors.Is(err, os.ErrNotExist) {
		return nil // nothing was ever filed
	}
	return c.with(func(ctx context.Context, s store.Store) error {
		os, err := c.ours(ctx, s)
		if err != nil {
			return err
		}
		var errs []error
		for _, o := range os {
			a := o.Meta().Annotations
			if !gone(a[ofContainer], a[ofInterface]) {
				continue
			}
			if _, err := s.Delete(ctx, o.ID(), store.DeleteOptions{UID: o.Meta().UID}); err != nil && !errors.Is(err, store.ErrNotFound) {
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return tryAgain("workloads cannot be removed", err)
		}
		return nil
	})
}

// del removes an attachment, whatever namespace it is in: DEL need not be told what ADD was.
func del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	return c.remove(func(container, iface string) bool { return container == args.ContainerID && iface == args.IfName })
}

func gc(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	return c.remove(func(container, iface string) bool {
		return !slices.Contains(c.ValidAttachments, types.GCAttachment{ContainerID: container, IfName: iface})
	})
}

func check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	r, err := c.result()
	if err != nil {
		return err
	}
	ifaces, err := c.hostInterfaces(r)
	if err != nil {
		return err
	}
	for _, name := range ifaces {
		if _, err := net.InterfaceByName(name); err != nil {
			return types.NewError(types.ErrInternal, "the interface of the workload is gone", name)
		}
	}
	want, err := c.workload(args, r)
	if err != nil {
		return err
	}
	return c.with(func(ctx context.Context, s store.Store) error {
		o, err := s.Get(ctx, want.ID())
		if errors.Is(err, store.ErrNotFound) {
			return types.NewError(types.ErrUnknownContainer, "the workload is not filed", want.ID().String())
		}
		if err != nil {
			return tryAgain("the workload cannot be read", err)
		}
		got, ok := o.(*hostendpoint.NetworkSet)
		if !ok || !slices.Equal(got.Spec.Nets, want.Spec.Nets) || !maps.Equal(got.Metadata.Labels, want.Metadata.Labels) {
			return types.NewError(types.ErrInternal, "the workload is filed with other addresses or labels", fmt.Sprintf("%s: want %v %v", want.ID(), want.Spec.Nets, want.Metadata.Labels))
		}
		return nil
	})
}

// status says whether ADD would work. Ref: CNI 1.1, STATUS, error code 50.
func status(args *skel.CmdArgs) error {
	const notAvailable = 50
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	unavailable := func(err error) error {
		return types.NewError(notAvailable, "workloads cannot be filed", err.Error())
	}
	info, err := os.Stat(c.Directory)
	if err != nil {
		return unavailable(err)
	}
	if !info.IsDir() {
		return unavailable(fmt.Errorf("%s is no directory", c.Directory))
	}
	probe, err := os.CreateTemp(c.Directory, ".cni-status-")
	if err != nil {
		return unavailable(err)
	}
	_ = probe.Close()
	if err := os.Remove(probe.Name()); err != nil {
		return unavailable(err)
	}
	return nil
}
