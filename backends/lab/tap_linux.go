// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// tapPlace is where the lab sees a packet.
type tapPlace byte

const (
	tapInput tapPlace = 'i' // about to be delivered
	tapOut   tapPlace = 'o' // about to leave
	tapFwd   tapPlace = 'f' // being forwarded; it will be seen leaving, too
)

// tapPriority comes behind every dataplane, and before connection tracking keeps what it has seen: that is the last
// priority, for IPv6 to the host the last but one. Ref: net/netfilter/nf_conntrack_proto.c, ipv6_conntrack_ops.
const tapPriority = math.MaxInt32 - 16

var tapPlaces = map[tapPlace]*nftables.ChainHook{
	tapInput: nftables.ChainHookInput, tapOut: nftables.ChainHookPostrouting, tapFwd: nftables.ChainHookForward,
}

var tapStates = map[flow.ConnState]uint32{
	flow.New: expr.CtStateBitNEW, flow.Established: expr.CtStateBitESTABLISHED, flow.Related: expr.CtStateBitRELATED,
	flow.Invalid: expr.CtStateBitINVALID, flow.Untracked: expr.CtStateBitUNTRACKED,
}

// tapPrefix is the log prefix of a record of the lab; parseTapPrefix reads it.
func tapPrefix(at tapPlace, st flow.ConnState) string { return "lab:" + string(at) + ":" + st.String() }

func parseTapPrefix(s string) (at tapPlace, st flow.ConnState, ok bool) {
	if len(s) < 7 || s[:4] != "lab:" || s[5] != ':' {
		return 0, 0, false
	}
	st, err := flow.ParseConnState(s[6:])
	return tapPlace(s[4]), st, err == nil
}

// installTap makes the tables of the lab: the one that reports and drops, and the one that does the host's NAT.
func installTap(ns Netns, logGroup uint16, dnat []policytest.DNAT) error {
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	tap := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "hostpolicy-lab"})
	for _, at := range []tapPlace{tapInput, tapFwd, tapOut} {
		chain := c.AddChain(&nftables.Chain{
			Table: tap, Name: string(at), Type: nftables.ChainTypeFilter, Hooknum: tapPlaces[at], Priority: nftables.ChainPriorityRef(tapPriority),
		})
		for st := flow.New; st <= flow.Untracked; st++ {
			c.AddRule(&nftables.Rule{Table: tap, Chain: chain, Exprs: []expr.Any{
				&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native32(tapStates[st]), Xor: native32(0)},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native32(0)},
				&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX, Group: logGroup, Data: []byte(tapPrefix(at, st))},
			}})
		}
		if at != tapFwd {
			c.AddRule(&nftables.Rule{Table: tap, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
		}
	}
	if len(dnat) > 0 {
		nat := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "hostpolicy-lab-nat"})
		for name, hook := range map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput} {
			chain := c.AddChain(&nftables.Chain{
				Table: nat, Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest,
			})
			for _, d := range dnat {
				c.AddRule(&nftables.Rule{Table: nat, Chain: chain, Exprs: dnatRule(d)})
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install the tables of the lab: %w", err)
	}
	return nil
}

// The fence is a packet that only the lab sees: sent when everything that is of interest has been logged, it makes the
// kernel hand out what it has collected, and arrives behind it.
const fencePrefix = "lab:fence"

var fenceDst = netip.AddrFrom4([4]byte{127, 0, 0, 254})

// installFence makes the kernel log fences to the given groups, and to no others.
func installFence(ns Netns, groups ...uint16) error {
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "hostpolicy-lab-fence"}
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	chain := c.AddChain(&nftables.Chain{
		Table: t, Name: "output", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFirst,
	})
	isFence := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: fenceDst.AsSlice()},
	}
	for _, g := range groups {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(isFence[:2:2], &expr.Log{
			Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_QTHRESHOLD,
			Group: g, QThreshold: 1, Data: []byte(fencePrefix),
		})})
	}
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: append(isFence[:2:2], &expr.Verdict{Kind: expr.VerdictDrop})})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install the fence: %w", err)
	}
	return nil
}

func dnatRule(d policytest.DNAT) []expr.Any {
	family, offset := byte(unix.NFPROTO_IPV4), uint32(16)
	if d.To.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, 24
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(d.Protocol)}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: addrLen(d.To.Addr())},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: d.To.Addr().AsSlice()},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, d.To.Port())},
		&expr.Immediate{Register: 1, Data: d.Becomes.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, d.Becomes.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	}
}

func addrLen(a netip.Addr) uint32 { return uint32(a.BitLen() / 8) }

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
