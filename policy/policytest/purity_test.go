// SPDX-License-Identifier: Apache-2.0

package policytest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/hostpolicy/hostpolicy"

// The core is pure: what a function returns depends on what it is given, and nothing else happens. Test support is not
// part of the core, although it stands among it.
var (
	coreFolders = []string{"selector", "hostendpoint", "policy", "render"}
	testSupport = []string{"policy/policytest", "render/rendertest"}
)

// coreStd is what the core may import of the standard library: what computes, and nothing that looks around.
var coreStd = strings.Fields(`bytes cmp crypto/sha256 encoding encoding/base64 encoding/binary encoding/hex encoding/json errors fmt
	hash io iter maps math math/bits net/netip slices sort strconv strings unicode unicode/utf8`)

// coreExtra lists further imports of single packages of the core, with the reason.
var coreExtra = map[[2]string]string{
	{"hostendpoint/inet", "go4.org/netipx"}:         "prefix sets, behind types of our own",
	{"hostendpoint/manifest", "go.yaml.in/yaml/v3"}: "the only reader of YAML",
	{"policy/analyze", "context"}:                   "questions about all packets can take long: its Err says when to stop",
	{"policy/fleet", "context"}:                     "the same, for the analyses that it runs",
	{"policy/lint", "context"}:                      "likewise",
	{"hostendpoint", "regexp"}:                      "Calico states what names are as regular expressions, and the same text is used here",
	{"render/ebpf", "github.com/cilium/ebpf/asm"}:   "instructions as values; nothing in it loads them",
}

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath, Dir, Export string
	GoFiles, Imports        []string
	Standard                bool
}

// short is the import path within the module.
func (p *goPackage) short() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func (p *goPackage) inModule() bool {
	return p.ImportPath == module || strings.HasPrefix(p.ImportPath, module+"/")
}

func inFolder(pkg, folder string) bool { return pkg == folder || strings.HasPrefix(pkg, folder+"/") }

func (p *goPackage) inCore() bool {
	in := func(f string) bool { return inFolder(p.short(), f) }
	return slices.ContainsFunc(coreFolders, in) && !slices.ContainsFunc(testSupport, in)
}

// goList lists packages as the go command sees them on an operating system.
func goList(t *testing.T, goos string, args ...string) []*goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOOS="+goos)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.String())
	var ps []*goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else {
			require.NoError(t, err)
		}
		ps = append(ps, &p)
	}
}

func TestTheCoreIsPure(t *testing.T) {
	listed := goList(t, "linux", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,Imports,Standard", "./...")
	exports := map[string]string{}
	for _, p := range listed {
		exports[p.ImportPath] = p.Export
	}
	c := purity{fset: token.NewFileSet()}
	c.importer = importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data for %s", path)
		}
		return os.Open(exports[path])
	})
	core := 0
	for _, p := range listed {
		if p.inModule() {
			before := len(c.found)
			c.check(t, p)
			for _, what := range c.found[before:] {
				t.Errorf("%s/%s", p.short(), what)
			}
		}
		if p.inCore() {
			core++
			checkCoreImports(t, p)
		}
	}
	require.Greater(t, core, 10)
}

func checkCoreImports(t *testing.T, p *goPackage) {
	for _, i := range p.Imports {
		if inFolder(i, module) || slices.Contains(coreStd, i) || coreExtra[[2]string{p.short(), i}] != "" {
			continue
		}
		t.Errorf("%s imports %s: the core is pure; say why in coreExtra if this one is", p.short(), i)
	}
}

// purity looks at the source of packages.
type purity struct {
	fset     *token.FileSet
	importer types.Importer
	found    []string
}

func (c *purity) errorf(n ast.Node, format string, args ...any) {
	pos := c.fset.Position(n.Pos())
	c.found = append(c.found, fmt.Sprintf("%s:%d: %s", filepath.Base(pos.Filename), pos.Line, fmt.Sprintf(format, args...)))
}

// check looks at the files of a package.
func (c *purity) check(t *testing.T, p *goPackage) {
	t.Helper()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(c.fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
	}
	c.checkFiles(t, p, files)
}

func (c *purity) checkFiles(t *testing.T, p *goPackage, files []*ast.File) {
	t.Helper()
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
	conf := types.Config{Importer: c.importer}
	_, err := conf.Check(p.ImportPath, c.fset, files, info)
	require.NoError(t, err)
	for _, f := range files {
		if p.inCore() {
			c.declarations(f, info)
		}
		c.writes(f, info)
	}
}

// declarations rejects init, go statements and package variables that are not constants in all but name.
func (c *purity) declarations(f *ast.File, info *types.Info) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Recv == nil && n.Name.Name == "init" {
				c.errorf(n, "init in the core")
			}
		case *ast.GoStmt:
			c.errorf(n, "a goroutine in the core")
		}
		return true
	})
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, s := range g.Specs {
			s := s.(*ast.ValueSpec)
			for _, name := range s.Names {
				switch {
				case name.Name == "_": // an interface assertion
				case len(s.Values) == 0:
					c.errorf(name, "variable %s has no value, so somebody must write it", name.Name)
				default:
					if why := mutable(info.Defs[name].Type()); why != "" {
						c.errorf(name, "variable %s is %s", name.Name, why)
					}
				}
			}
		}
	}
}

// mutable says why a variable of a type cannot be a table, "" if it can.
func mutable(t types.Type) string {
	switch u := t.Underlying().(type) {
	case *types.Chan:
		return "a channel"
	case *types.Signature:
		return "a function that could be exchanged"
	case *types.Struct:
		if n, ok := t.(*types.Named); ok && n.Obj().Pkg() != nil {
			if p := n.Obj().Pkg().Path(); p == "sync" || p == "sync/atomic" {
				return "made to be changed"
			}
		}
		for i := range u.NumFields() {
			if why := mutable(u.Field(i).Type()); why == "made to be changed" || why == "a channel" {
				return why
			}
		}
	}
	return ""
}

// writes rejects everything that changes a package variable of the core, from wherever.
func (c *purity) writes(f *ast.File, info *types.Info) {
	written := func(e ast.Expr, how string) {
		if v := coreVariable(e, info); v != nil {
			c.errorf(e, "%s package variable %s.%s", how, v.Pkg().Name(), v.Name())
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, l := range n.Lhs {
					written(l, "writes")
				}
			}
		case *ast.IncDecStmt:
			written(n.X, "writes")
		case *ast.RangeStmt:
			if n.Tok == token.ASSIGN {
				written(n.Key, "writes")
				written(n.Value, "writes")
			}
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				written(n.X, "takes the address of")
			}
		case *ast.CallExpr:
			c.call(n, info, written)
		}
		return true
	})
}

// call looks for built-in functions that change their argument, and for methods that get a pointer to a variable.
func (c *purity) call(n *ast.CallExpr, info *types.Info, written func(ast.Expr, string)) {
	switch fun := ast.Unparen(n.Fun).(type) {
	case *ast.Ident:
		if b, ok := info.Uses[fun].(*types.Builtin); ok && len(n.Args) > 0 && slices.Contains([]string{"delete", "clear", "copy"}, b.Name()) {
			written(n.Args[0], "changes")
		}
	case *ast.SelectorExpr:
		s := info.Selections[fun]
		if s == nil || s.Kind() != types.MethodVal {
			return
		}
		if _, pointer := info.Types[fun.X].Type.Underlying().(*types.Pointer); pointer {
			return
		}
		if sig, ok := s.Obj().Type().(*types.Signature); ok && sig.Recv() != nil {
			if _, ok := sig.Recv().Type().(*types.Pointer); ok && !s.Indirect() {
				written(fun.X, "calls a pointer method of")
			}
		}
	}
}

// coreVariable returns the package variable of the core that e is a part of, nil if it is none.
func coreVariable(e ast.Expr, info *types.Info) *types.Var {
	for e != nil {
		switch x := e.(type) {
		case *ast.ParenExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.SliceExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.SelectorExpr:
			if v := packageVariable(x.Sel, info); v != nil {
				return v
			}
			e = x.X
		case *ast.Ident:
			return packageVariable(x, info)
		default:
			return nil
		}
	}
	return nil
}

func packageVariable(id *ast.Ident, info *types.Info) *types.Var {
	v, ok := info.Uses[id].(*types.Var)
	if !ok || v.Pkg() == nil || v.Parent() != v.Pkg().Scope() {
		return nil
	}
	if p := (&goPackage{ImportPath: v.Pkg().Path()}); !p.inModule() || !p.inCore() {
		return nil
	}
	return v
}

func TestImpurityIsFound(t *testing.T) {
	fset := token.NewFileSet()
	std := importer.ForCompiler(fset, "source", nil)
	for what, x := range map[string]struct{ source, found string }{
		"tables, sentinels and assertions are pure": {`
			var ErrX = errors.New("x")
			var table = map[string]int{"a": 1}
			var list = [...]string{"a"}
			type T struct{ n int }
			func (T) Error() string { return list[0] }
			func (t *T) set() { t.n = table["a"] }
			var _ error = T{}
			func f() { table := map[string]int{}; table["local"] = 1; var t T; t.set() }`, ""},
		"init":                     {`func init() {}`, "init in the core"},
		"a goroutine":              {`func f() { go f() }`, "a goroutine in the core"},
		"a variable without value": {`var x int`, "has no value"},
		"a lock":                   {`var x = sync.Mutex{}`, "made to be changed"},
		"a lock inside":            {`var x = struct{ mu sync.Mutex }{}`, "made to be changed"},
		"a channel":                {`var x = make(chan int)`, "a channel"},
		"an exchangeable function": {`var x = func() {}`, "a function that could be exchanged"},
		"an assignment":            {`var x = 1; func f() { x = 2 }`, "writes package variable x.x"},
		"an increment":             {`var x = 1; func f() { x++ }`, "writes package variable x.x"},
		"an element":               {`var x = []int{1}; func f() { x[0] += 2 }`, "writes package variable x.x"},
		"a field":                  {`var x = struct{ n []int }{}; func f() { x.n[0] = 2 }`, "writes package variable x.x"},
		"through a pointer":        {`var x = new(int); func f() { *x = 2 }`, "writes package variable x.x"},
		"a loop":                   {`var x = 1; func f() { for x = range 3 {} }`, "writes package variable x.x"},
		"an address":               {`var x = 1; func f() *int { return &x }`, "takes the address of package variable x.x"},
		"delete":                   {`var x = map[int]int{}; func f() { delete(x, 1) }`, "changes package variable x.x"},
		"a method with a pointer":  {`type T struct{}; func (*T) m() {}; var x = T{}; func f() { x.m() }`, "calls a pointer method of package variable x.x"},
	} {
		t.Run(what, func(t *testing.T) {
			c := purity{fset: fset, importer: std}
			f, err := parser.ParseFile(c.fset, "x.go", "package x; import (\"errors\"; \"sync\"); var _ = errors.New; var _ sync.Locker\n"+x.source, parser.SkipObjectResolution)
			require.NoError(t, err)
			c.checkFiles(t, &goPackage{ImportPath: module + "/selector/x"}, []*ast.File{f})
			if x.found == "" {
				require.Empty(t, c.found)
				return
			}
			require.Len(t, c.found, 1)
			require.Contains(t, c.found[0], x.found)
		})
	}
}
