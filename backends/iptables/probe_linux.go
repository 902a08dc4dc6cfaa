// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// probe finds the commands of a variant, or the right variant.
func probe(ctx context.Context, o Options, prefix string) (*tools, []inet.Family, error) {
	families := []inet.Family{inet.IPv4}
	six, err := hasIPv6(o.NetNS)
	if err != nil {
		return nil, nil, err
	}
	if six {
		families = append(families, inet.IPv6)
	}
	ipset, err := find("ipset")
	if err != nil {
		return nil, nil, err
	}
	v, err := versionOf(ctx, o.NetNS, ipset)
	if err != nil {
		return nil, nil, err
	}
	if !v.atLeast(6, 38) {
		return nil, nil, &VersionError{"ipset", v.text, "6.38"}
	}
	sets := map[Variant]*tools{}
	errs := map[Variant]error{}
	for _, variant := range []Variant{NFT, Legacy} {
		t := &tools{netns: o.NetNS, variant: variant, paths: map[string]string{"ipset": ipset}}
		if err := t.find(ctx); err != nil {
			errs[variant] = err
			continue
		}
		sets[variant] = t
	}
	variant := o.Variant
	if variant == Auto {
		if variant, err = choose(ctx, sets, families, prefix); err != nil {
			return nil, nil, err
		}
	}
	t := sets[variant]
	if t == nil {
		if err := errs[variant]; err != nil {
			return nil, nil, err
		}
		return nil, nil, errors.Join(ErrUnavailable, errs[NFT], errs[Legacy])
	}
	if other := sets[NFT+Legacy-variant]; other != nil {
		u, err := usage(ctx, other, families, prefix)
		if err != nil {
			return nil, nil, err
		}
		if u.ours {
			conflict := &ConflictError{prefix, other.variant}
			mine, err := usage(ctx, t, families, prefix)
			if err != nil {
				return nil, nil, err
			}
			if !mine.ours || o.Variant == Auto {
				return nil, nil, conflict
			}
			t.conflict = conflict // in both: it must be possible to tear one of them down
		}
	}
	return t, families, nil
}

// hasIPv6 reports whether a network namespace has IPv6.
func hasIPv6(netns int) (has bool, err error) {
	err = inNamespace(netns, func() error {
		_, err := os.Stat("/proc/thread-self/net/if_inet6")
		has = err == nil
		return nil
	})
	return has, err
}

// noticeIPv6 finds out whether the namespace has IPv6 by now: its module may be loaded at any time.
func (b *Backend) noticeIPv6() error {
	if slices.Contains(b.families, inet.IPv6) {
		return nil
	}
	has, err := hasIPv6(b.opts.NetNS)
	if err == nil && has {
		b.log.Warn("there is IPv6 now", "prefix", b.opts.Render.Prefix)
		b.families = append(b.families, inet.IPv6)
		b.suspect = true
	}
	return err
}

// find finds the commands of the variant and asks for their version.
func (t *tools) find(ctx context.Context) error {
	says := "nf_tables"
	if t.variant == Legacy {
		says = "legacy"
	}
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		for what, suffix := range map[string]string{"tool": "", "restore": "-restore", "save": "-save"} {
			path, err := find(toolName(f) + "-" + t.variant.String() + suffix)
			if err != nil { // a system with one variant may not name it
				if path, err = find(toolName(f) + suffix); err != nil {
					return err
				}
			}
			t.paths[what+f.String()] = path
		}
	}
	v, err := versionOf(ctx, t.netns, t.paths["restore4"])
	if err != nil {
		return err
	}
	if v.variant == "" && t.variant == Legacy && !v.atLeast(1, 8) {
		v.variant = says // before there were two
	}
	switch {
	case v.variant != says:
		return errors.Join(ErrUnavailable, errors.New("iptables-"+t.variant.String()+" is not installed"))
	case t.variant == NFT && !v.atLeast(1, 8, 4):
		return &VersionError{filepath.Base(t.paths["restore4"]), v.text, "1.8.4"}
	case !v.atLeast(1, 6, 2):
		return &VersionError{filepath.Base(t.paths["restore4"]), v.text, "1.6.2"}
	}
	return nil
}

// used says what a variant has in the namespace.
type used struct {
	others int
	ours   bool
}

// usage looks what a variant has, without making it have something: iptables-legacy-save makes a table where it looks for
// one that is not loaded, and so does the nft variant of old versions.
func usage(ctx context.Context, t *tools, families []inet.Family, prefix string) (used, error) {
	var u used
	for _, f := range families {
		if t.variant == Legacy {
			loaded, err := legacyTables(t.netns, f)
			if err != nil {
				return u, err
			}
			if !loaded {
				continue
			}
		}
		out, err := t.save(ctx, "probe", f, false)
		if err != nil {
			return u, err
		}
		s, others, err := parseSaved(out, prefix)
		if err != nil {
			return u, err
		}
		u.others += others
		for _, table := range s {
			u.ours = u.ours || len(table.chains) > 0
		}
	}
	return u, nil
}

// legacyTables reports whether the legacy variant has any table in the namespace.
func legacyTables(netns int, f inet.Family) (loaded bool, err error) {
	name := "/proc/thread-self/net/ip_tables_names"
	if f == inet.IPv6 {
		name = "/proc/thread-self/net/ip6_tables_names"
	}
	err = inNamespace(netns, func() error {
		b, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		loaded = len(bytes.TrimSpace(b)) > 0
		return err
	})
	return loaded, err
}

// choose returns the variant that is in use.
func choose(ctx context.Context, sets map[Variant]*tools, families []inet.Family, prefix string) (Variant, error) {
	has := map[Variant]used{}
	for v, t := range sets {
		u, err := usage(ctx, t, families, prefix)
		if err != nil {
			return Auto, err
		}
		has[v] = u
	}
	nft, legacy := has[NFT], has[Legacy]
	switch {
	case nft.ours != legacy.ours && nft.ours:
		return NFT, nil
	case nft.ours != legacy.ours:
		return Legacy, nil
	case nft.others > 0 && legacy.others > 0:
		return Auto, &AmbiguousError{nft.others, legacy.others}
	case nft.others > 0:
		return NFT, nil
	case legacy.others > 0:
		return Legacy, nil
	case sets[Legacy] == nil:
		return NFT, nil
	case sets[NFT] == nil:
		return Legacy, nil
	}
	for _, t := range sets {
		if path, err := find("iptables"); err == nil {
			if v, err := versionOf(ctx, t.netns, path); err == nil && strings.HasPrefix(v.variant, "legacy") {
				return Legacy, nil
			}
		}
		break
	}
	return NFT, nil
}
