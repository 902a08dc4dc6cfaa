// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"fmt"

	"golang.org/x/sys/unix"

	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// The second print of a ruleset: typed expressions to the expressions of the kernel, with the same loads and
// comparisons that nft makes of the text, so that nft lists both alike.
// Ref: linux/netfilter/nf_tables.h; nft --debug=netlink.

// verdictData is NFT_DATA_VERDICT, the type of data in verdict maps.
const verdictData = 0xffffff00

func (b *batch) newTable() {
	b.start(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, object{kind: objTable, name: b.table})
	b.str(unix.NFTA_TABLE_NAME, b.table)
	b.u32(unix.NFTA_TABLE_FLAGS, 0)
	b.comment(nftaTableUserdata, 0, render.TableComment)
	b.end()
	b.changes++
}

const (
	// Newer than the tables of golang.org/x/sys.
	nftaTableUserdata   = 6
	nftaChainUserdata   = 12
	nftaSetElemKeyEnd   = 10
	nftaSetElemListID   = 4
	nftaSetDescConcat   = 2
	nftaSetFieldLen     = 1
	nftSetConcat        = 0x80
	nftSetElemIntervEnd = 1

	// Ref: libnftnl/udata.h.
	udataSetKeyByteorder = 0
	udataSetComment      = 7
	udataElemComment     = 0
	udataElemFlags       = 1
)

func (b *batch) delTable() {
	b.start(unix.NFT_MSG_DELTABLE, 0, object{kind: objTable, name: b.table})
	b.str(unix.NFTA_TABLE_NAME, b.table)
	b.end()
}

// comment writes user data with one string in it; typ is its type within.
func (w *writer) comment(attr uint16, typ uint8, s string) {
	if s == "" {
		return
	}
	w.head(attr, 2+len(s)+1)
	w.buf = append(w.buf, typ, byte(len(s)+1))
	w.buf = append(append(w.buf, s...), 0)
	w.pad()
}

func (b *batch) newChain(c *render.Chain) {
	b.start(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, object{kind: objChain, name: c.Name})
	b.str(unix.NFTA_CHAIN_TABLE, b.table)
	b.str(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Base.Hook != 0 {
		n := b.nest(unix.NFTA_CHAIN_HOOK)
		b.u32(unix.NFTA_HOOK_HOOKNUM, uint32(c.Base.Hook)-1)
		b.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.Base.Priority))
		b.close(n)
		b.u32(unix.NFTA_CHAIN_POLICY, 1) // NF_ACCEPT
		b.str(unix.NFTA_CHAIN_TYPE, "filter")
	}
	b.comment(nftaChainUserdata, 0, c.Comment)
	b.end()
	b.changes++
}

func (b *batch) delChain(name string) {
	b.start(unix.NFT_MSG_DELCHAIN, 0, object{kind: objChain, name: name})
	b.str(unix.NFTA_CHAIN_TABLE, b.table)
	b.str(unix.NFTA_CHAIN_NAME, name)
	b.end()
	b.changes++
}

// delRules deletes all rules of a chain.
func (b *batch) delRules(chain string) {
	b.start(unix.NFT_MSG_DELRULE, 0, object{kind: objRules, name: chain})
	b.str(unix.NFTA_RULE_TABLE, b.table)
	b.str(unix.NFTA_RULE_CHAIN, chain)
	b.end()
	b.changes++
}

func (b *batch) delRule(chain string, index int, handle uint64) {
	b.start(unix.NFT_MSG_DELRULE, 0, object{kind: objRule, name: chain, rule: index})
	b.str(unix.NFTA_RULE_TABLE, b.table)
	b.str(unix.NFTA_RULE_CHAIN, chain)
	b.u64(unix.NFTA_RULE_HANDLE, handle)
	b.end()
	b.changes++
}

// newRule adds a rule in front of the one with handle before, or at the end of the chain if that is 0.
func (b *batch) newRule(chain string, index int, r *render.Rule, before uint64) error {
	o := object{kind: objRule, name: chain, rule: index, origin: r.Origin}
	first := b.sets + 1
	for _, e := range r.Exprs {
		if err := b.anonymousSet(e, o); err != nil {
			return err
		}
	}
	flags := uint16(unix.NLM_F_CREATE)
	if before == 0 {
		flags |= unix.NLM_F_APPEND
	}
	b.start(unix.NFT_MSG_NEWRULE, flags, o)
	b.str(unix.NFTA_RULE_TABLE, b.table)
	b.str(unix.NFTA_RULE_CHAIN, chain)
	if before != 0 {
		b.u64(unix.NFTA_RULE_POSITION, before)
	}
	n := b.nest(unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range r.Exprs {
		if err := b.expr(e, &first); err != nil {
			return err
		}
	}
	if len(b.buf)-n > maxAttrLen {
		return fmt.Errorf("nftables: %s is too large", o)
	}
	b.close(n)
	b.comment(unix.NFTA_RULE_USERDATA, 0, r.Comment)
	b.end()
	b.changes++
	return nil
}

// verdict writes the attribute that holds a verdict.
func (w *writer) verdict(v render.Verdict) {
	n := w.nest(unix.NFTA_DATA_VERDICT)
	w.u32(unix.NFTA_VERDICT_CODE, verdictCode(v.Op))
	if v.Chain != "" {
		w.str(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	w.close(n)
}

func verdictCode(op render.VerdictOp) uint32 {
	switch op {
	case render.Accept:
		return 1
	case render.Jump:
		return 0xfffffffd
	case render.Goto:
		return 0xfffffffc
	case render.Return:
		return 0xfffffffb
	}
	return 0 // drop
}
