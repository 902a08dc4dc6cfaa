// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// linkID names a link: a place and a family.
type linkID struct {
	place  render.Place
	family link.NetfilterProtocolFamily
}

func (l linkID) String() string {
	f := "4"
	if l.family == link.NetfilterProtoIPv6 {
		f = "6"
	}
	return l.place.String() + "_" + f
}

// held is a link and its pin. The name of the pin ends in the version of the program, so that another version of this
// package knows that the program is not its own.
type held struct {
	link.Link
	pin string // "" if somebody took it away
}

// remove takes the program away from where it stands.
func (h *held) remove() error {
	if h.pin == "" { // where it was, there may be that of another link
		return h.Close()
	}
	return errors.Join(h.Unpin(), h.Close())
}

// hooks are where the programs stand. Priorities are those of nftables; where somebody else stands already, the next ones
// behind are tried. Ref: linux/netfilter_ipv4.h, enum nf_ip_hook_priorities.
var hooks = map[render.Place]struct {
	hook     link.NetfilterInetHook
	priority int32
}{
	render.AtUntrackedIn:  {link.NetfilterInetPreRouting, -320},
	render.AtPreDNAT:      {link.NetfilterInetPreRouting, -150},
	render.AtInput:        {link.NetfilterInetLocalIn, 0},
	render.AtForward:      {link.NetfilterInetForward, 0},
	render.AtUntrackedOut: {link.NetfilterInetLocalOut, -320},
	render.AtOutput:       {link.NetfilterInetLocalOut, 0},
	render.AtTranslated:   {link.NetfilterInetPostRouting, -150},
}

// maxShift is how many priorities are tried.
const maxShift = 19

var families = [...]link.NetfilterProtocolFamily{link.NetfilterProtoIPv4, link.NetfilterProtoIPv6}

// allLinks are the netfilter links that there may be.
func allLinks() []linkID {
	var ids []linkID
	for _, p := range render.Places {
		if _, ok := hooks[p]; ok {
			for _, f := range families {
				ids = append(ids, linkID{p, f})
			}
		}
	}
	return ids
}

// pinnedLink reads the name of a pin.
func pinnedLink(file string) (id linkID, version string, ok bool) {
	name, version, ok := strings.Cut(strings.TrimPrefix(file, "link_"), "-")
	if !ok || !strings.HasPrefix(file, "link_") {
		return id, "", false
	}
	for _, id := range allLinks() {
		if id.String() == name {
			return id, version, true
		}
	}
	return id, "", false
}

func (b *Backend) linkPin(id linkID) string {
	return b.pin("link", id.String()+"-"+b.code[id.place].version)
}

// attach makes a link and pins it.
func (b *Backend) attach(id linkID) error {
	if err := b.program(id.place); err != nil {
		return err
	}
	at := hooks[id.place]
	var l link.Link
	err := inNetNS(b.ns, func() (err error) {
		for shift := int32(0); shift <= maxShift; shift++ {
			l, err = link.AttachNetfilter(link.NetfilterOptions{
				Program: b.programs[id.place], ProtocolFamily: id.family, Hook: at.hook, Priority: at.priority + shift,
			})
			if !errors.Is(err, unix.EBUSY) {
				return err
			}
		}
		return fmt.Errorf("priorities %d to %d are taken: %w", at.priority, at.priority+maxShift, err)
	})
	if err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return lacks("netfilter BPF links (CONFIG_NETFILTER_BPF_LINK)", "6.4", err)
		}
		return &Error{"apply", "link " + id.String(), err}
	}
	pin := b.linkPin(id)
	if err := l.Pin(pin); err != nil {
		l.Close()
		return &Error{"apply", "link " + id.String(), err}
	}
	b.links[id] = &held{l, pin}
	return nil
}

// remove takes links away.
func (b *Backend) remove(ids []linkID) error {
	var errs []error
	for _, id := range ids {
		l := b.links[id]
		if l == nil {
			continue
		}
		if err := l.remove(); err != nil {
			errs = append(errs, &Error{"apply", "link " + id.String(), err})
		}
		delete(b.links, id)
	}
	return errors.Join(errs...)
}

// removeOutdated takes the links of other versions away.
func (b *Backend) removeOutdated() error {
	var errs []error
	for _, l := range b.outdated {
		if err := l.remove(); err != nil {
			errs = append(errs, &Error{"apply", "link " + l.pin, err})
		}
	}
	b.outdated = nil
	return errors.Join(errs...)
}
