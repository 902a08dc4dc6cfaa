// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// The program at a device only does early what the hook behind it would do, so that a device without it is judged all the
// same: one that has just appeared, or that takes no program.

const devicePrefix = "device_"

// syncDevices gives each device on which something may be denied early its program, and takes it from the others.
func (b *Backend) syncDevices(a *render.Artifact) error {
	want := map[int]string{}
	if b.opts.XDP != XDPOff && a.Needs(render.AtDevice) {
		err := inNetNS(b.ns, func() error {
			links, err := netlink.LinkList()
			for _, l := range links {
				if n := l.Attrs().Name; a.DeniesEarly(n) {
					want[l.Attrs().Index] = n
				}
			}
			return err
		})
		if err != nil {
			return &Error{"apply", "devices", err}
		}
	}
	var errs []error
	for index, l := range b.devices {
		if _, ok := want[index]; ok && l.standsAt(index) {
			delete(want, index)
			continue
		}
		if err := l.remove(); err != nil {
			errs = append(errs, &Error{"apply", "link " + l.pin, err})
		}
		delete(b.devices, index)
	}
	for index, name := range want {
		if err := b.attachDevice(index); err != nil {
			b.log.Info("no program at the device; the hook behind it judges its packets", "interface", name, "error", err)
		}
	}
	return errors.Join(errs...)
}

// standsAt reports whether the program is at a device still, which may be gone.
func (h *held) standsAt(index int) bool {
	info, err := h.Info()
	if err != nil || info.XDP() == nil {
		return false
	}
	return int(info.XDP().Ifindex) == index
}

func (b *Backend) attachDevice(index int) error {
	if err := b.program(render.AtDevice); err != nil {
		return err
	}
	var l link.Link
	err := inNetNS(b.ns, func() (err error) {
		modes := []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode}
		if b.opts.XDP == XDPGeneric {
			modes = modes[1:]
		}
		var errs []error
		for _, m := range modes {
			if l, err = link.AttachXDP(link.XDPOptions{Program: b.programs[render.AtDevice], Interface: index, Flags: m}); err == nil {
				return nil
			}
			errs = append(errs, err)
			if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
				break // somebody else's program is there
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return err
	}
	pin := b.pin("link", fmt.Sprintf("%s%d-%s", devicePrefix, index, b.code[render.AtDevice].version))
	if err := l.Pin(pin); err != nil {
		l.Close()
		return err
	}
	b.devices[index] = &held{l, pin}
	return nil
}

// pinnedDevice reads the name of the pin of a link at a device.
func pinnedDevice(file string) (index int, version string, ok bool) {
	name, version, ok := strings.Cut(strings.TrimPrefix(file, "link_"+devicePrefix), "-")
	if !ok || !strings.HasPrefix(file, "link_"+devicePrefix) {
		return 0, "", false
	}
	index, err := strconv.Atoi(name)
	return index, version, err == nil
}

// watcher keeps the programs at devices where they belong while devices come, go and are renamed.
type watcher struct{ done chan struct{} }

// settle is how long a watcher waits for more changes.
const settle = 20 * time.Millisecond

// watch starts the watcher that a generation needs, and ends one that it does not need.
func (b *Backend) watch(a *render.Artifact) {
	need := b.opts.XDP != XDPOff && a.Needs(render.AtDevice)
	if need == (b.watcher != nil) {
		return
	}
	if !need {
		b.unwatch()
		return
	}
	w := &watcher{make(chan struct{})}
	b.watcher = w
	ns := netns.NsHandle(int(b.ns.Fd()))
	go w.run(b, ns)
}

func (b *Backend) unwatch() {
	if b.watcher != nil {
		close(b.watcher.done)
		b.watcher = nil
	}
}

// run follows the devices until it is told to end. After an error it begins anew, with all devices there are.
func (w *watcher) run(b *Backend, ns netns.NsHandle) {
	for {
		updates := make(chan netlink.LinkUpdate, 64)
		ended := make(chan struct{})
		b.mu.Lock()
		live := b.watcher == w // and so the namespace is open
		var err error
		if live {
			err = netlink.LinkSubscribeWithOptions(updates, ended, netlink.LinkSubscribeOptions{
				Namespace: &ns, ListExisting: true, ErrorCallback: func(err error) { b.log.Debug("changes of devices", "error", err) },
			})
		}
		b.mu.Unlock()
		if !live {
			return
		}
		if err != nil {
			b.log.Warn("no news of devices", "error", err)
		} else {
			w.follow(b, updates)
		}
		close(ended)
		if err == nil {
			for range updates { // whoever sends them waits for us, and would for ever
			}
		}
		select {
		case <-w.done:
			return
		case <-time.After(time.Second):
		}
	}
}

// follow returns when there are no more updates.
func (w *watcher) follow(b *Backend, updates <-chan netlink.LinkUpdate) {
	for {
		select {
		case <-w.done:
			return
		case _, ok := <-updates:
			if !ok {
				return
			}
		}
		for quiet := time.After(settle); quiet != nil; {
			select {
			case <-w.done:
				return
			case <-updates:
			case <-quiet:
				quiet = nil
			}
		}
		b.mu.Lock()
		if b.watcher == w && b.last != nil {
			if err := b.syncDevices(b.last.artifact); err != nil {
				b.log.Warn("programs at devices", "error", err)
			}
		}
		b.mu.Unlock()
	}
}
