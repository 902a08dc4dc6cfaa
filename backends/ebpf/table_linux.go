// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
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

// matchChains are the chains that ask a program which packets to leave alone.
var matchChains = [...]struct {
	place render.Place
	name  string
	hook  *nftables.ChainHook
}{
	{render.MatchIn, "untracked-in", nftables.ChainHookPrerouting},
	{render.MatchOut, "untracked-out", nftables.ChainHookOutput},
}

// installTable replaces our table, in one transaction: a rule that asks for the state of connections, which keeps
// connection tracking and reassembly on, and for each of places a chain before it that takes out what the program there
// names.
func installTable(ns *os.File, name string, want map[string]string) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	chain := c.AddChain(&nftables.Chain{Table: t, Name: conntrackChain})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}})
	for _, m := range matchChains {
		pin, ok := want[m.name]
		if !ok {
			continue
		}
		if len(pin) >= pathSize {
			return fmt.Errorf("path of %d bytes", len(pin))
		}
		if err := loadMatch(ns); err != nil {
			return fmt.Errorf("nftables: match %s: %w", matchName, err)
		}
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
	err = c.Flush()
	if errors.Is(err, unix.ENOENT) && len(want) > 1 {
		return lacks("the match bpf of nftables (CONFIG_NFT_COMPAT, CONFIG_NETFILTER_XT_MATCH_BPF)", "", err)
	}
	if err != nil {
		return fmt.Errorf("nftables: table %s: %w", name, err)
	}
	return nil
}

// loadMatch has the kernel load the match that asks a program, where that is a module. A rule in a table of family inet does
// not: there are modules for ip and for ip6, and the kernel asks for the one of the family of the table. So it is asked
// for the revision of the match first, as iptables does. The module is there when the kernel has taken the question; the
// answer is not waited for, because it claims to be one of many that never come.
// Ref: net/netfilter/nft_compat.c, nfnl_compat_get_rcu and nfnl_compat_fill_info.
func loadMatch(ns *os.File) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Fd())})
	if err != nil {
		return err
	}
	defer c.Close()
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.String(unix.NFTA_COMPAT_NAME, matchName)
	e.Uint32(unix.NFTA_COMPAT_REV, matchRevision)
	e.Uint32(unix.NFTA_COMPAT_TYPE, 0) // a match and not a target
	attrs, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = c.Send(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFT_COMPAT << 8, Flags: netlink.Request},
		Data:   append([]byte{unix.AF_INET, 0, 0, 0}, attrs...),
	})
	return err
}

// removeTable removes our table, if it is there.
func removeTable(ns *os.File, name string) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nftables: table %s: %w", name, err)
	}
	return nil
}

// changedChain is what tableChains returns for a chain that is not as we make it.
const changedChain = "?"

// tableChains returns the chains of our table and the program that each asks; nil if there is none.
func tableChains(ns *os.File, name string) (map[string]string, error) {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	var names map[string]string
	for _, ch := range chains {
		if ch.Table.Name != name {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return nil, fmt.Errorf("nftables: %w", err)
		}
		if names == nil {
			names = map[string]string{}
		}
		names[ch.Name] = changedChain
		if len(rules) == 1 {
			names[ch.Name] = ruleProgram(ch, rules[0])
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
