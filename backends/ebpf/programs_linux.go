// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

const memoryFlags = unix.BPF_F_MMAPABLE | unix.BPF_F_INNER_MAP

// memorySpec describes the memory of a generation.
func memorySpec(chunks int) *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "hp_memory", Type: ebpf.Array, KeySize: 4, ValueSize: render.ChunkSize, MaxEntries: uint32(max(1, chunks)), Flags: memoryFlags,
	}
}

// mapSpecs describe the maps that programs refer to.
func mapSpecs(o Options, k *render.Kernel) map[string]*ebpf.MapSpec {
	specs := map[string]*ebpf.MapSpec{
		render.MapGeneration: {Name: "hp_generation", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: memorySpec(1)},
		render.MapCounters:   {Name: "hp_counters", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 16, MaxEntries: uint32(o.Counters)},
		render.MapEvents:     {Name: "hp_events", Type: ebpf.RingBuf, MaxEntries: uint32(o.Buffer)},
		render.MapLimits:     {Name: "hp_limits", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: render.LimitsSize, MaxEntries: 1},
	}
	if k.InOrder {
		specs[render.MapRecent] = &ebpf.MapSpec{
			Name: "hp_recent", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: render.RecentSize, MaxEntries: render.RecentLines,
		}
	}
	return specs
}

// code is a program before it is loaded.
type code struct {
	ins     asm.Instructions
	version string // tells it from the programs of other versions of this package
}

// assemble writes all programs.
func assemble(k *render.Kernel) (map[render.Place]code, error) {
	all := map[render.Place]code{}
	for _, p := range render.Places {
		ins, err := render.Program(p, *k)
		if err != nil {
			return nil, err
		}
		h := sha256.New()
		for _, i := range ins {
			fmt.Fprintf(h, "%v %d\n", i, i.Constant) // the text of some instructions lacks it
		}
		all[p] = code{ins, hex.EncodeToString(h.Sum(nil)[:6])}
	}
	return all, nil
}

// load makes the kernel check a program.
func load(p render.Place, ins asm.Instructions, maps map[string]*ebpf.Map, opts ebpf.ProgramOptions) (*ebpf.Program, error) {
	ins = slices.Clone(ins)
	functions := map[string]bool{"main": true}
	for _, i := range ins {
		if i.IsFunctionReference() {
			functions[i.Reference()] = true
		}
	}
	// The kernel wants to know of every function that it is static, if it is called back.
	word := &btf.Int{Name: "unsigned int", Size: 4}
	for n, i := range ins {
		switch s := i.Symbol(); {
		case !functions[s]:
		case s == render.Consult:
			ctx := btf.Type(word)
			switch {
			case p == render.AtDevice:
				ctx = &btf.Pointer{Target: &btf.Struct{Name: "xdp_md", Size: 24}}
			case !p.Match():
				ctx = &btf.Pointer{Target: &btf.Struct{Name: "bpf_nf_ctx", Size: 16}}
			}
			ins[n] = btf.WithFuncMetadata(i, &btf.Func{Name: s, Linkage: btf.GlobalFunc, Type: &btf.FuncProto{
				Return: word, Params: []btf.FuncParam{
					{Name: "ctx", Type: ctx}, {Name: "view", Type: &btf.Pointer{Target: &btf.Struct{Name: "hp_view", Size: render.ViewSize}}}, {Name: "hook", Type: word},
				},
			}})
		case s == "main":
			ins[n] = btf.WithFuncMetadata(i, &btf.Func{Name: "hp_" + p.String(), Linkage: btf.GlobalFunc, Type: &btf.FuncProto{
				Return: word, Params: []btf.FuncParam{{Name: "ctx", Type: &btf.Pointer{Target: &btf.Void{}}}},
			}})
		default:
			ins[n] = btf.WithFuncMetadata(i, &btf.Func{Name: s, Linkage: btf.StaticFunc, Type: &btf.FuncProto{Return: word}})
		}
	}
	for name, m := range maps {
		if err := ins.AssociateMap(name, m); err != nil && !errors.Is(err, asm.ErrUnreferencedSymbol) {
			return nil, err
		}
	}
	spec := &ebpf.ProgramSpec{Name: "hp_" + p.String(), Type: ebpf.Netfilter, AttachType: ebpf.AttachNetfilter, Instructions: ins, License: "GPL"}
	switch {
	case p.Match():
		spec.Type, spec.AttachType = ebpf.SocketFilter, ebpf.AttachNone
	case p == render.AtDevice:
		spec.Type, spec.AttachType = ebpf.XDP, ebpf.AttachXDP
	}
	prog, err := ebpf.NewProgramWithOptions(spec, opts)
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", p, err)
	}
	return prog, nil
}
