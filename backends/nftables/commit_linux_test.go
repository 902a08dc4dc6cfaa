// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

func freshBackend(t testing.TB) *Backend {
	t.Helper()
	var f *os.File
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with its goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	require.NoError(t, <-done, "these tests need root")
	t.Cleanup(func() { f.Close() })
	b, err := New(Options{NetNS: int(f.Fd())})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// TestErrorsNameTheRuleAndChangeNothing puts an invalid object at the end of a transaction that is fine otherwise.
func TestErrorsNameTheRuleAndChangeNothing(t *testing.T) {
	t.Parallel()
	origin := &flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "bad", Index: 4}
	for name, c := range map[string]struct {
		add    func(*batch) error
		object string
		origin string
		errno  syscall.Errno
	}{
		"a jump to nowhere": {func(t *batch) error {
			return t.newRule("normal-in", 3, &render.Rule{Origin: origin, Exprs: []render.Expr{render.Verdict{Op: render.Jump, Chain: "nowhere"}}}, 0)
		}, "rule normal-in[3]", "policy:t/bad/ingress[4]", unix.ENOENT},
		"a rule in no chain": {func(t *batch) error {
			return t.newRule("nowhere", 0, &render.Rule{Origin: origin, Exprs: []render.Expr{render.Verdict{}}}, 0)
		}, "rule nowhere[0]", "policy:t/bad/ingress[4]", unix.ENOENT},
		"a jump to a base chain": {func(t *batch) error {
			return t.newRule("normal-in", 0, &render.Rule{Exprs: []render.Expr{render.Verdict{Op: render.Jump, Chain: "normal-in"}}}, 0)
		}, "rule normal-in[0]", "", unix.EOPNOTSUPP},
		"an element twice": {func(t *batch) error {
			s := &render.Set{Name: "double", Kind: ir.SetOfPrefixes, Family: 4}
			if err := t.newSet(s); err != nil {
				return err
			}
			t.setElements(unix.NFT_MSG_NEWSETELEM, s, rendertestPrefixes(4))
			t.start(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, object{kind: objElements, name: "double"})
			t.str(unix.NFTA_SET_ELEM_LIST_TABLE, t.table)
			t.str(unix.NFTA_SET_ELEM_LIST_SET, "elsewhere")
			t.end()
			return nil
		}, "elements of set double", "", unix.EINVAL},
		"a set that is not there": {func(t *batch) error {
			t.delSet("nowhere")
			return nil
		}, "set nowhere", "", unix.ENOENT},
		"an anonymous set of no size": {func(t *batch) error {
			return t.newRule("normal-in", 7, &render.Rule{Origin: origin, Exprs: []render.Expr{render.VerdictMap{Keys: []render.Key{render.Src6, render.Dst6, render.InIface, render.OutIface, render.Src4}}}}, 0)
		}, "set in rule normal-in[7]", "policy:t/bad/ingress[4]", unix.EINVAL},
		"thousands of errors": {func(t *batch) error {
			for i := range 20000 {
				if err := t.newRule("nowhere", i, &render.Rule{Origin: origin, Exprs: []render.Expr{render.Verdict{}}}, 0); err != nil {
					return err
				}
			}
			return nil
		}, "rule nowhere[0]", "policy:t/bad/ingress[4]", unix.ENOENT},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := freshBackend(t)
			p, m, err := ir.Parse("entry normal-in a\nset s:a prefixes\nblock a\n  rule src=@s:a -> allow by policy:t/p/ingress[0]\nmembers s:a\n  10.0.0.0/8\n")
			require.NoError(t, err)
			_, err = b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			before, err := b.sock.generation(t.Context(), "test")
			require.NoError(t, err)

			q, n := rendertest.Program(5, rendertest.Size{})
			r, err := render.Render(q, n, b.opts.Render)
			require.NoError(t, err)
			batch, err := b.whole(r)
			require.NoError(t, err)
			batch.buf = batch.buf[:batch.msg] // take back the end
			batch.objects = batch.objects[:len(batch.objects)-1]
			batch.seq--
			require.NoError(t, c.add(batch))
			batch.finish()
			err = b.sock.commit("apply", batch)
			var e *Error
			require.True(t, errors.As(err, &e), "%v", err)
			require.ErrorIs(t, err, c.errno)
			require.Equal(t, c.object, e.Object)
			require.Equal(t, c.origin, e.Origin.String())
			require.Contains(t, err.Error(), c.object)

			after, err := b.sock.generation(t.Context(), "test")
			require.NoError(t, err)
			require.Equal(t, before, after)
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.Empty(t, st.Drift)
		})
	}
}

func rendertestPrefixes(f int) (out []ir.Element) {
	for _, e := range rendertest.Elements(3, ir.SetOfPrefixes) {
		if e.Prefix.Addr().Is4() == (f == 4) {
			out = append(out, e)
		}
	}
	return render.Elements(out, ir.SetOfPrefixes, 4)
}

func TestErrorText(t *testing.T) {
	e := &Error{Op: "apply", Object: "rule tier/default[3]", Text: "No such chain", Errno: syscall.ENOENT}
	e.Origin = flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p", Index: 1}
	e.Origin.Pos.File, e.Origin.Pos.Line = "web.yaml", 31
	require.EqualError(t, e, "nftables: apply: rule tier/default[3] (policy:t/p/ingress[1] at web.yaml:31): No such chain: no such file or directory")
	require.EqualError(t, &Error{Op: "observe", Errno: syscall.EPERM}, "nftables: observe: operation not permitted")
}

// TestLargeSetsAreSentInListsThatFit loads more elements than a message can hold.
func TestLargeSetsAreSentInListsThatFit(t *testing.T) {
	t.Parallel()
	b := freshBackend(t)
	p, m := rendertest.Large(10, 20000)
	r, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	require.Greater(t, r.Changes, 20000)
	st, err := b.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Drift)
	require.NoError(t, b.Teardown(t.Context()))
}

// TestMessagesThatAreCutOff feeds the readers with parts of real answers. None may panic.
func TestMessagesThatAreCutOff(t *testing.T) {
	r, err := render.Render(mustParse(t, "entry normal-in a\nblock a\n  rule dport=1,2 log -> allow by policy:t/p/ingress[0]\n"), ir.Members{}, render.Options{Counters: true})
	require.NoError(t, err)
	b := &Backend{sock: &socket{}, opts: Options{Render: render.Options{Table: "hostpolicy"}}}
	batch, err := b.whole(r)
	require.NoError(t, err)
	whole := 0
	for n := range batch.buf {
		seen := newSeen()
		_ = messages(batch.buf[:n], func(m message) error {
			whole++
			for cut := range m.data {
				d := m.data[:cut]
				_ = seen.table(d)
				_ = seen.chain(d, "hostpolicy")
				_ = seen.set(d, "hostpolicy", true)
				_ = seen.elements(d, "hostpolicy", true)
				_ = seen.rule(d, "hostpolicy", true)
				_ = seen.object(d, "hostpolicy", "object")
				_ = seen.counter(d, "hostpolicy")
				_, _ = parseError(message{data: d})
			}
			return nil
		})
		if n > 1000 {
			break
		}
	}
	require.Positive(t, whole)
}

func mustParse(t testing.TB, text string) *ir.Program {
	p, _, err := ir.Parse(text)
	require.NoError(t, err)
	return p
}

func FuzzAttrs(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 'a', 'b', 'c', 0})
	f.Add([]byte{3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_ = attrs(b, func(_ uint16, d []byte) error { n += 4 + len(d); return nil })
		if n > len(b) {
			t.Fatal("more than there is")
		}
		t1 := newSeen()
		t1.chains["c"] = &seenChain{}
		_ = t1.rule(b, "", false)
		_ = fmt.Sprint(elementText(b))
		_ = messages(b, func(m message) error { _, err := parseError(m); return err })
	})
}
