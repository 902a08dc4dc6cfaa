// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// lacks returns a FeatureError about the kernel that runs.
func lacks(feature, since string, err error) error {
	e := &FeatureError{Feature: feature, Since: since, Err: err}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		e.Release = unix.ByteSliceToString(u.Release[:])
	}
	return e
}

// kernel reads from the type information of the running kernel where it keeps what our programs read.
func kernel() (render.Kernel, error) {
	var k render.Kernel
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return k, lacks("type information (CONFIG_DEBUG_INFO_BTF)", "", err)
	}
	conntrack := spec
	find := func(from *btf.Spec, name string) (*btf.Struct, error) {
		var s *btf.Struct
		err := from.TypeByName(name, &s)
		return s, err
	}
	if _, err := find(conntrack, "nf_conn"); errors.Is(err, btf.ErrNotFound) {
		if conntrack, err = btf.LoadKernelModuleSpec("nf_conntrack"); err != nil {
			return k, lacks("connection tracking", "", err)
		}
	}
	for _, f := range []struct {
		from        *btf.Spec
		typ, member string
		to          any
	}{
		{spec, "bpf_nf_ctx", "state", &k.CtxState}, {spec, "bpf_nf_ctx", "skb", &k.CtxSkb},
		{spec, "nf_hook_state", "in", &k.StateIn}, {spec, "nf_hook_state", "out", &k.StateOut},
		{spec, "net_device", "name", &k.DevName},
		{spec, "xdp_buff", "rxq", &k.XdpRxq}, {spec, "xdp_rxq_info", "dev", &k.RxqDev},
		{spec, "sk_buff", "len", &k.SkbLen}, {spec, "sk_buff", "dev", &k.SkbDev},
		{spec, "sk_buff", "_skb_refdst", &k.SkbDst}, {spec, "sk_buff", "_nfct", &k.SkbNfct},
		{spec, "dst_entry", "dev", &k.DstDev},
		{conntrack, "nf_conn", "status", &k.CtStatus}, {conntrack, "nf_conn", "tuplehash", &k.CtTuple},
	} {
		s, err := find(f.from, f.typ)
		if err != nil {
			return k, lacks("struct "+f.typ, "6.4", err)
		}
		off, ok := offset(s.Members, f.member)
		if !ok {
			return k, lacks(fmt.Sprintf("member %s of struct %s", f.member, f.typ), "", nil)
		}
		switch to := f.to.(type) {
		case *int16:
			*to = int16(off)
		case *int32:
			*to = int32(off)
		}
	}
	hash, err := find(conntrack, "nf_conntrack_tuple_hash")
	if err != nil {
		return k, lacks("struct nf_conntrack_tuple_hash", "", err)
	}
	tuple, err := find(conntrack, "nf_conntrack_tuple")
	if err != nil {
		return k, lacks("struct nf_conntrack_tuple", "", err)
	}
	inHash, ok1 := offset(hash.Members, "tuple")
	dst, ok2 := offset(tuple.Members, "dst")
	if !ok1 || !ok2 {
		return k, lacks("struct nf_conntrack_tuple as we know it", "", nil)
	}
	k.CtTuple += int32(inHash)
	k.CtNext = int32(hash.Size)
	k.TupleDst = int32(dst)
	k.TuplePort = -1
	for _, m := range tuple.Members {
		if m.Name != "dst" {
			continue
		}
		if s, ok := btf.UnderlyingType(m.Type).(*btf.Struct); ok {
			if p, ok := offset(s.Members, "u"); ok {
				k.TuplePort = int32(p)
			}
		}
	}
	if k.TuplePort < 0 {
		return k, lacks("struct nf_conntrack_tuple as we know it", "", nil)
	}
	if k.DevUpper, err = upper(spec); err != nil {
		return k, err
	}
	for _, f := range []struct {
		name, since string
		to          *int64
	}{
		{"bpf_dynptr_from_skb", "6.4", &k.DynptrFromSkb}, {"bpf_dynptr_from_xdp", "6.4", &k.DynptrFromXdp}, {"bpf_dynptr_slice", "6.4", &k.DynptrSlice},
		{"bpf_cast_to_kern_ctx", "6.2", &k.CastToKernCtx}, {"bpf_rdonly_cast", "6.2", &k.RdonlyCast},
	} {
		var fn *btf.Func
		if err := spec.TypeByName(f.name, &fn); err != nil {
			return k, lacks("the kfunc "+f.name, f.since, err)
		}
		id, err := spec.TypeID(fn)
		if err != nil {
			return k, lacks("the kfunc "+f.name, f.since, err)
		}
		*f.to = int64(id)
	}
	entry, err := find(spec, "dst_entry")
	if err != nil {
		return k, lacks("struct dst_entry", "", err)
	}
	id, err := spec.TypeID(entry)
	if err != nil {
		return k, lacks("struct dst_entry", "", err)
	}
	k.DstEntry = int64(id)
	k.InOrder = runtime.GOARCH == "amd64"
	return k, nil
}

// upper returns where a device has the list of the devices that stand upon it.
func upper(spec *btf.Spec) (int16, error) {
	var dev *btf.Struct
	if err := spec.TypeByName("net_device", &dev); err != nil {
		return 0, lacks("struct net_device", "", err)
	}
	for _, m := range dev.Members {
		if s, ok := btf.UnderlyingType(m.Type).(*btf.Struct); ok && m.Name == "adj_list" {
			if off, ok := offset(s.Members, "upper"); ok {
				return int16(m.Offset.Bytes() + off), nil
			}
		}
	}
	return 0, lacks("struct net_device as we know it", "", nil)
}

// offset returns where a member is, in bytes; members without a name are looked into.
func offset(ms []btf.Member, name string) (uint32, bool) {
	for _, m := range ms {
		if m.Name == name {
			return m.Offset.Bytes(), true
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if off, ok := offset(inner, name); ok {
			return m.Offset.Bytes() + off, true
		}
	}
	return 0, false
}
