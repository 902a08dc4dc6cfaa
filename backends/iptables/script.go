// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"bytes"
	"slices"

	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

var newline = []byte("\n")

// scriptBuilder writes the input of iptables-restore --noflush. What is written for a table takes effect at its commit.
type scriptBuilder struct {
	p       *plan
	done    []byte
	origins []lineOrigin // of done
	lines   int          // of done
	changes int
	commits int

	decls, adds, removes []byte // of the table at work
	declared             []string
	addOrigins           []lineOrigin
	addLines             int
}

func (p *plan) builder() *scriptBuilder { return &scriptBuilder{p: p} }

// decl makes a chain, or makes it empty.
func (b *scriptBuilder) decl(_ render.TableName, name string) {
	b.decls = render.AppendChainDecl(b.decls, name)
}

// chain writes a chain, whatever was in it.
func (b *scriptBuilder) chain(_ render.TableName, c *render.Chain) {
	b.decls = render.AppendChainDecl(b.decls, c.Name)
	b.adds = c.AppendText(b.adds)
	for i := range c.Rules {
		b.addLines++
		if o := c.Rules[i].Origin; o != nil {
			b.addOrigins = append(b.addOrigins, lineOrigin{b.addLines, o})
		}
	}
}

// static writes a chain with a fixed name.
func (b *scriptBuilder) static(key hookKey, lines ...string) {
	name := b.p.rules.Prefix + key.kernel
	b.decls = render.AppendChainDecl(b.decls, name)
	for _, l := range lines {
		b.adds = append(b.adds, "-A "+name+" "+l+"\n"...)
		b.addLines++
	}
}

// jump makes the kernel's chain jump to ours, once, and at the right place: no custom rule stands before it, or none
// behind it.
func (b *scriptBuilder) jump(key hookKey, lenient bool) {
	if b.p.sure && b.p.jumps(key) > 0 {
		return
	}
	rules := b.p.have.table(key.table).kernel[key.kernel]
	chain := b.p.rules.Prefix + key.kernel
	h := render.Hook{Kernel: key.kernel, Chain: chain}
	body := string(h.AppendJumpBody(nil))
	var at []int
	for i, r := range rules {
		if isJump(r, chain) {
			at = append(at, i)
		}
	}
	if len(at) > 0 && lenient {
		return
	}
	if len(at) == 1 && rules[at[0]] == body && b.wellPlaced(rules, at[0]) {
		return
	}
	for _, i := range at {
		b.unjump(key, rules[i])
	}
	b.removes = h.AppendJump(b.removes, b.p.rules.Insert)
}

func (b *scriptBuilder) wellPlaced(rules []string, at int) bool {
	others := rules[:at]
	if b.p.rules.Insert == render.Append {
		others = rules[at+1:]
	}
	for _, r := range others {
		if !isInstance(r) {
			return false
		}
	}
	return true
}

// remove deletes the jump and the chain with a fixed name.
func (b *scriptBuilder) remove(key hookKey, jumps int) {
	chain := b.p.rules.Prefix + key.kernel
	rules := b.p.have.table(key.table).kernel[key.kernel]
	n := 0
	for _, r := range rules {
		if isJump(r, chain) {
			b.unjump(key, r)
			n++
		}
	}
	if n == 0 && jumps > 0 { // added by an earlier script
		h := render.Hook{Kernel: key.kernel, Chain: chain}
		b.unjump(key, string(h.AppendJumpBody(nil)))
	}
	if b.p.static[key].exists || jumps > 0 {
		b.decls = render.AppendChainDecl(b.decls, chain)
		b.removes = append(b.removes, "-X "+chain+"\n"...)
	}
}

// unjump deletes a rule of the kernel's chain by its text: its number may be another one by now.
func (b *scriptBuilder) unjump(key hookKey, rule string) {
	b.removes = append(b.removes, "-D "+key.kernel+" "+rule+"\n"...)
}

// delete deletes a chain that nothing but deleted chains leads to.
func (b *scriptBuilder) delete(_ render.TableName, name string) {
	b.decls = render.AppendChainDecl(b.decls, name)
	b.removes = append(b.removes, "-X "+name+"\n"...)
}

// commit ends what is written for a table; nothing if that is nothing.
func (b *scriptBuilder) commit(n render.TableName) {
	if len(b.decls)+len(b.adds)+len(b.removes) > 0 {
		b.done = slices.Grow(b.done, len(b.decls)+len(b.adds)+len(b.removes)+32)
		b.append([]byte("*" + n.String() + "\n"))
		b.append(b.decls)
		for _, o := range b.addOrigins {
			b.origins = append(b.origins, lineOrigin{b.lines + o.line, o.origin})
		}
		b.append(b.adds)
		b.append(b.removes)
		b.changes += bytes.Count(b.decls, newline) + b.addLines + bytes.Count(b.removes, newline)
		b.append([]byte("COMMIT\n"))
		b.commits++
	}
	b.decls, b.adds, b.removes, b.addOrigins, b.addLines, b.declared = b.decls[:0], b.adds[:0], b.removes[:0], nil, 0, nil
}

func (b *scriptBuilder) append(text []byte) {
	b.done = append(b.done, text...)
	b.lines += bytes.Count(text, newline)
}

// scripts returns what was committed; nil if that is nothing.
func (b *scriptBuilder) scripts() []script {
	if len(b.done) == 0 {
		return nil
	}
	return []script{{text: b.done, origins: b.origins, changes: b.changes, commits: b.commits}}
}
