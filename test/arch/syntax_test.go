package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// source is a package's syntax.
type source struct {
	*pkg
	fset  *token.FileSet
	files map[string]*ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, p := range program(t) {
		s := source{pkg: p, fset: token.NewFileSet(), files: map[string]*ast.File{}}
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(s.fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			s.files[name] = f
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b source) int { return strings.Compare(a.rel, b.rel) })
	return all
}

// at prints a position below the module's root.
func (s source) at(pos token.Pos) string {
	p := s.fset.Position(pos)
	return fmt.Sprintf("%s/%s:%d", s.rel, filepath.Base(p.Filename), p.Line)
}

func TestPackageComments(t *testing.T) {
	for _, s := range sources(t) {
		if s.Doc == "" {
			t.Errorf("%s has no package comment", s.rel)
		}
	}
}

// Only the role's dispatch may run before main.
func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		if s.rel == "pkg/run/role" {
			continue
		}
		for _, f := range s.files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s: init", s.at(fn.Pos()))
				}
			}
		}
	}
}

var (
	outsideCmd = func(rel string) bool { return !strings.HasPrefix(rel, "cmd/") && rel != "pkg/run/role" }
	everywhere = func(string) bool { return true }
	pure       = func(rel string) bool {
		return slices.Contains([]string{"pkg/run/plan", "pkg/run/wire", "pkg/oci", "pkg/docker", "pkg/seccomp"}, rel)
	}
	aboveRoles = func(rel string) bool {
		return outsideCmd(rel) && rel != "pkg/run/monitor" && rel != "pkg/run/launch"
	}
)

// forbidden names what a package may not use, and where.
var forbidden = []struct {
	pkg, name string
	where     func(rel string) bool
	why       string
}{
	{"os", "Exit", outsideCmd, "leave by returning: undo and deferred calls count"},
	{"syscall", "Exit", func(rel string) bool { return outsideCmd(rel) && !strings.HasPrefix(rel, "pkg/run/") }, "leave by returning"},
	{"log", "Fatal", everywhere, "leave by returning"},
	{"log", "Fatalf", everywhere, "leave by returning"},
	{"os", "Stdout", outsideCmd, "streams are parameters"},
	{"os", "Stderr", outsideCmd, "streams are parameters"},
	{"os", "Stdin", outsideCmd, "streams are parameters"},
	{"fmt", "Print", everywhere, "streams are parameters"},
	{"fmt", "Printf", everywhere, "streams are parameters"},
	{"fmt", "Println", everywhere, "streams are parameters"},
	{"time", "Now", pure, "pure functions do not ask for the time"},
	{"time", "Sleep", everywhere, "wait for the event"},
	{"context", "Background", aboveRoles, "the caller's ctx comes first"},
	{"context", "TODO", everywhere, "the caller's ctx comes first"},
	{"os", "IsNotExist", everywhere, "blind to wrapping: errors.Is(err, fs.ErrNotExist)"},
	{"os", "IsExist", everywhere, "blind to wrapping: errors.Is(err, fs.ErrExist)"},
	{"os", "Create", everywhere, "truncates what it finds: atomicfile, or OpenFile with flags"},
	{"os", "Getenv", pure, "pure functions are given what they depend on"},
}

func TestForbidden(t *testing.T) {
	for _, s := range sources(t) {
		for name, f := range s.files {
			imports := map[string]string{} // local name → path
			for _, i := range f.Imports {
				path := strings.Trim(i.Path.Value, `"`)
				local := path[strings.LastIndexByte(path, '/')+1:]
				if i.Name != nil {
					local = i.Name.Name
				}
				imports[local] = path
			}
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := sel.X.(*ast.Ident)
				if !ok || x.Obj != nil {
					return true
				}
				for _, r := range forbidden {
					if imports[x.Name] == r.pkg && sel.Sel.Name == r.name && r.where(s.rel) && excused[s.rel+"/"+name+" "+r.pkg+"."+r.name] == "" {
						t.Errorf("%s: %s.%s: %s", s.at(sel.Pos()), r.pkg, r.name, r.why)
					}
				}
				return true
			})
		}
	}
}

// A panic is for a bug of the caller that no test of his can miss.
func TestNoPanic(t *testing.T) {
	for _, s := range sources(t) {
		for name, f := range s.files {
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "panic" && id.Obj == nil && excused[s.rel+"/"+name+" panic"] == "" {
					t.Errorf("%s: panic", s.at(call.Pos()))
				}
				return true
			})
		}
	}
}

// A package variable is an error, something computed once, a table that nobody
// changes, an embedded file, or a check that a type has a method set.
func TestPackageVariables(t *testing.T) {
	for _, s := range sources(t) {
		vars := map[string]bool{}
		decls := map[any]bool{}
		for _, f := range s.files {
			for _, d := range f.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.VAR {
					continue
				}
				for _, spec := range g.Specs {
					v := spec.(*ast.ValueSpec)
					decls[v] = true
					for i, id := range v.Names {
						if id.Name == "_" {
							continue
						}
						vars[id.Name] = true
						embedded := g.Doc != nil && strings.Contains(docText(g.Doc), "//go:embed") ||
							v.Doc != nil && strings.Contains(docText(v.Doc), "//go:embed")
						if embedded || excused[s.rel+" "+id.Name] != "" || strings.HasPrefix(s.rel, "cmd/") && len(v.Values) <= 1 {
							continue // cmd/: the version that the linker sets
						}
						if len(v.Values) <= i || !harmless(v.Values[i]) {
							t.Errorf("%s: package variable %s", s.at(id.Pos()), id.Name)
						}
					}
				}
			}
		}
		for _, f := range s.files {
			ast.Inspect(f, func(n ast.Node) bool {
				var targets []ast.Expr
				switch n := n.(type) {
				case *ast.AssignStmt:
					if n.Tok != token.DEFINE {
						targets = n.Lhs
					}
				case *ast.IncDecStmt:
					targets = []ast.Expr{n.X}
				}
				for _, x := range targets {
					if id := root(x); id != nil && vars[id.Name] && (id.Obj == nil || decls[id.Obj.Decl]) && excused[s.rel+" "+id.Name] == "" {
						t.Errorf("%s: package variable %s changes", s.at(x.Pos()), id.Name)
					}
				}
				return true
			})
		}
	}
}

func docText(g *ast.CommentGroup) string {
	var b strings.Builder
	for _, c := range g.List {
		b.WriteString(c.Text)
	}
	return b.String()
}

// harmless reports whether a package variable may have the value x.
func harmless(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.CompositeLit, *ast.BasicLit, *ast.FuncLit:
		return true
	case *ast.UnaryExpr:
		return harmless(x.X)
	case *ast.BinaryExpr:
		return harmless(x.X) && harmless(x.Y)
	case *ast.Ident:
		return true // a constant or another such variable
	case *ast.CallExpr:
		switch fn := x.Fun.(type) {
		case *ast.ArrayType:
			return true // a conversion: []byte("…")
		case *ast.IndexExpr:
			return harmless(&ast.CallExpr{Fun: fn.X})
		case *ast.SelectorExpr:
			id, ok := fn.X.(*ast.Ident)
			if !ok {
				return false
			}
			switch id.Name + "." + fn.Sel.Name {
			case "errors.New", "fmt.Errorf", "errs.New", "errs.E", "errs.WithHint", "sync.OnceValue", "crc64.MakeTable", "sync.OnceValues", "sync.OnceFunc":
				return true
			}
		}
	}
	return false
}

// root is the variable that an assignment to x changes.
func root(x ast.Expr) *ast.Ident {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e
		case *ast.SelectorExpr:
			x = e.X
		case *ast.IndexExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// excused are the exceptions, each with its reason: "package variable",
// "package/file.go pkg.Name" or "package/file.go panic".
var excused = map[string]string{
	"pkg/tmpl/tmpl.go panic":                "how an error leaves an expression, however deep; Execute returns it",
	"pkg/storage opening":                   "guards what the storage library has once for a process",
	"pkg/run/launch/nofile inherited":       "read before package syscall changes it",
	"pkg/storage writes":                    "a counter that the lock file's form asks for: unique in the process",
	"pkg/run/cgroups.go context.Background": "cleaning up for a caller that gave up",
}
