// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

const (
	matchName      = "bpf"
	matchRevision  = 1
	conntrackChain = "conntrack"
	pathSize       = 512 // Ref: linux/netfilter/xt_bpf.h, XT_BPF_PATH_MAX
	infoSize       = 2 + 2 + 4 + pathSize + 8
	modePathPinned = 1 // XT_BPF_MODE_PATH_PINNED
)

// tableFamilies are those in which we have a table. The chains that ask programs stand in one for each version of IP and
// not in one for both: kernels look for the module of a match by the family of the table, and some take no match of
// x_tables in family inet. Ref: linux/net/netfilter/nft_compat.c, nft_match_validate.
var tableFamilies = [...]struct {
	family nftables.TableFamily
	name   string
}{{nftables.TableFamilyINet, "inet"}, {nftables.TableFamilyIPv4, "ip"}, {nftables.TableFamilyIPv6, "ip6"}}

// matchChains are the chains that ask a program which packets to leave alone.
var matchChains = [...]struct {
	place render.Place
	name  string
	hook  *nftables.ChainHook
}{
	{render.MatchIn, "untracked-in", nftables.ChainHookPrerouting},
	{render.MatchOut, "untracked-out", nftables.ChainHookOutput},
}

// wantChains returns the chains that a generation needs in our tables, by family and name, with the pin of the program
// that each asks.
func (b *Backend) wantChains(a *render.Artifact) map[string]string {
	want := map[string]string{"inet " + conntrackChain: ""}
	for _, m := range matchChains {
		if a.Needs(m.place) {
			want["ip "+m.name], want["ip6 "+m.name] = b.programPin(m.place), b.programPin(m.place)
		}
	}
	return want
}

// installTables replaces our tables, in one transaction: a rule that asks for the state of connections, which keeps
// connection tracking and reassembly on, and chains before it that take out what programs name, as wantChains has them.
func installTables(ns *os.File, name string, want map[string]string) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	for _, f := range tableFamilies {
		t := &nftables.Table{Family: f.family, Name: name}
		c.AddTable(t) // which is no error if there is one
		c.DelTable(t)
		if f.family == nftables.TableFamilyINet {
			c.AddTable(t)
			chain := c.AddChain(&nftables.Chain{Table: t, Name: conntrackChain})
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
				&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
			}})
		}
		for _, m := range matchChains {
			pin, ok := want[f.name+" "+m.name]
			if !ok {
				continue
			}
			if len(pin) >= pathSize {
				return fmt.Errorf("path of %d bytes", len(pin))
			}
			c.AddTable(t)
			info := make([]byte, infoSize)
			info[0] = modePathPinned
			copy(info[8:], pin)
			data := xt.Unknown(info)
			chain := c.AddChain(&nftables.Chain{
				Table: t, Name: m.name, Type: nftables.ChainTypeFilter, Hooknum: m.hook, Priority: nftables.ChainPriorityRaw,
			})
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
				&expr.Match{Name: matchName, Rev: matchRevision, Info: &data},
				&expr.Notrack{},
			}})
		}
	}
	err = c.Flush()
	if errors.Is(err, unix.ENOENT) && len(want) > 1 {
		return lacks("the match bpf of nftables (CONFIG_NFT_COMPAT, CONFIG_NETFILTER_XT_MATCH_BPF)", "", err)
	}
	if err != nil {
		return fmt.Errorf("nftables: table %s: %w", name, err)
	}
	return nil
}

// ours returns the family of a table if it is one of those called name that are ours; "" if it is not.
func ours(t *nftables.Table, name string) string {
	for _, f := range tableFamilies {
		if t.Family == f.family && t.Name == name {
			return f.name
		}
	}
	return ""
}

// removeTables removes our tables, where they are.
func removeTables(ns *os.File, name string) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	found := false
	for _, t := range tables {
		if ours(t, name) != "" {
			c.DelTable(t)
			found = true
		}
	}
	if !found {
		return nil
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nftables: table %s: %w", name, err)
	}
	return nil
}

// changedChain is what tableChains returns for a chain that is not as we make it.
const changedChain = "?"

// tableChains returns the chains of our tables and the program that each asks, as wantChains does.
func tableChains(ns *os.File, name string) (map[string]string, error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	names := map[string]string{}
	for _, ch := range chains {
		family := ours(ch.Table, name)
		if family == "" {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return nil, fmt.Errorf("nftables: %w", err)
		}
		key := family + " " + ch.Name
		names[key] = changedChain
		if len(rules) == 1 {
			names[key] = ruleProgram(ch, rules[0])
		}
	}
	return names, nil
}

// ruleProgram returns the pin that the rule of one of our chains asks, "" for the rule that keeps connection tracking on.
func ruleProgram(ch *nftables.Chain, r *nftables.Rule) string {
	if len(r.Exprs) != 2 {
		return changedChain
	}
	if ch.Name == conntrackChain {
		if ct, ok := r.Exprs[0].(*expr.Ct); ok && ct.Key == expr.CtKeySTATE {
			return ""
		}
		return changedChain
	}
	m, ok := r.Exprs[0].(*expr.Match)
	if _, notrack := r.Exprs[1].(*expr.Notrack); !ok || !notrack || m.Name != matchName || ch.Hooknum == nil {
		return changedChain
	}
	info, ok := m.Info.(*xt.Unknown)
	if !ok || len(*info) < 8+pathSize {
		return changedChain
	}
	pin, _, _ := strings.Cut(string((*info)[8:8+pathSize]), "\x00")
	return pin
}
