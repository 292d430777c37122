// Package tmpl carries out templates in the language of text/template over plain
// data: maps, slices, structs, pointers to them, numbers and strings.
//
// It is here for the size of the program. text/template calls methods by names
// that are known only when it runs, so the linker must keep every exported method
// of every type in the program: 2.7 MB, and their share of each start. The parser
// is text/template's own, and so are the words of errors; a test carries out the
// same templates with both. Of methods there are Label, see Labelled, and some of
// a time.Time's.
package tmpl

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/template/parse"
)

// Funcs are functions by name, each with one result, or two of which the second
// is an error.
type Funcs map[string]any

// Labelled is data with the method that Docker's rows have: {{.Label "key"}}.
type Labelled interface{ Label(key string) string }

// Methods is data with more methods that templates may call. It looks them up
// itself: by reflection, the linker would have to keep every method there is.
type Methods interface {
	// Method is the function of that name, nil if there is none.
	Method(name string) any
}

// Template is a parsed template. It may be executed any number of times.
type Template struct {
	Tree   *parse.Tree
	trees  map[string]*parse.Tree
	funcs  Funcs
	strict bool
}

// Parse reads a template. Errors are text/template's: "template: :1: …".
func Parse(text string, f Funcs) (*Template, error) {
	known := make(map[string]any, len(f))
	for name := range f {
		known[name] = true
	}
	for _, name := range strings.Fields(builtins) {
		known[name] = true
	}
	trees, err := parse.Parse("", text, "", "", known)
	if err != nil {
		return nil, err
	}
	return &Template{Tree: trees[""], trees: trees, funcs: f}, nil
}

// Strict returns the template with missing keys of maps as errors
// (missingkey=error) instead of "<no value>".
func (t *Template) Strict() *Template {
	s := *t
	s.strict = true
	return &s
}

// Execute writes what the template makes of data. What was written before an
// error stays written.
func (t *Template) Execute(w io.Writer, data any) (err error) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			err = f.err
		}
	}()
	dot := reflect.ValueOf(data)
	r := &run{t: t, tree: t.Tree, w: w, vars: []variable{{"$", dot}}}
	if t.Tree == nil || t.Tree.Root == nil {
		r.fail(`"" is an incomplete or empty template`)
	}
	r.walk(dot, t.Tree.Root)
	return nil
}

// failure is what ends an execution, from however deep in an expression.
type failure struct{ err error }

type variable struct {
	name  string
	value reflect.Value
}

// run is one template's execution; {{template}} makes another one.
type run struct {
	t     *Template
	tree  *parse.Tree
	w     io.Writer
	node  parse.Node // where errors are
	vars  []variable
	depth int
}

// maxDepth is text/template's.
const maxDepth = 100000

func (r *run) fail(format string, args ...any) {
	text := fmt.Errorf(format, args...)
	if r.node == nil {
		panic(failure{fmt.Errorf("template: : %w", text)})
	}
	where, context := r.tree.ErrorContext(r.node)
	panic(failure{fmt.Errorf("template: %s: executing %q at <%s>: %w", where, r.tree.Name, context, text)})
}

func (r *run) write(b []byte) {
	if _, err := r.w.Write(b); err != nil {
		panic(failure{err})
	}
}

// flow is how a list of nodes ended.
type flow int

const (
	next  flow = iota
	stop       // {{break}}
	again      // {{continue}}
)

func (r *run) walk(dot reflect.Value, node parse.Node) flow {
	r.node = node
	switch n := node.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			if f := r.walk(dot, child); f != next {
				return f
			}
		}
	case *parse.TextNode:
		r.write(n.Text)
	case *parse.ActionNode:
		v := r.pipeline(dot, n.Pipe)
		if len(n.Pipe.Decl) == 0 {
			r.node = n
			r.print(n, v)
		}
	case *parse.IfNode:
		return r.branch(dot, &n.BranchNode, false)
	case *parse.WithNode:
		return r.branch(dot, &n.BranchNode, true)
	case *parse.RangeNode:
		return r.loop(dot, n)
	case *parse.TemplateNode:
		r.call(dot, n)
	case *parse.BreakNode:
		return stop
	case *parse.ContinueNode:
		return again
	case *parse.CommentNode:
	default:
		r.fail("unknown node: %s", node)
	}
	return next
}

func (r *run) branch(dot reflect.Value, n *parse.BranchNode, with bool) flow {
	defer r.forget(len(r.vars))
	v := r.pipeline(dot, n.Pipe)
	switch {
	case truth(throughInterface(v)):
		if with {
			dot = v
		}
		return r.walk(dot, n.List)
	case n.ElseList != nil:
		return r.walk(dot, n.ElseList)
	}
	return next
}

func (r *run) loop(dot reflect.Value, n *parse.RangeNode) flow {
	defer r.forget(len(r.vars))
	over, _ := indirect(r.pipeline(dot, n.Pipe))
	mark, ran := len(r.vars), false
	turn := func(key, elem reflect.Value) flow {
		ran = true
		defer r.forget(mark)
		r.assign(n.Pipe, key, elem)
		return r.walk(elem, n.List)
	}
	switch over.Kind() {
	case reflect.Invalid: // an empty map, most likely
	case reflect.Array, reflect.Slice:
		for i := range over.Len() {
			if turn(reflect.ValueOf(i), over.Index(i)) == stop {
				break
			}
		}
	case reflect.Map:
		for _, key := range sortedKeys(over) {
			if turn(key, over.MapIndex(key)) == stop {
				break
			}
		}
	default:
		if !over.CanInt() && !over.CanUint() {
			r.fail("range can't iterate over %v", over)
		}
		if len(n.Pipe.Decl) > 1 {
			r.fail("can't use %v to iterate over more than one variable", over)
		}
		for v := range over.Seq() {
			if turn(reflect.Value{}, v) == stop {
				break
			}
		}
	}
	if !ran && n.ElseList != nil {
		return r.walk(dot, n.ElseList)
	}
	return next
}

// assign gives a loop's variables their values for one turn: the element, or the
// key and the element. The pipeline has declared them.
func (r *run) assign(p *parse.PipeNode, key, elem reflect.Value) {
	values := []reflect.Value{elem}
	if len(p.Decl) > 1 {
		values = []reflect.Value{key, elem}
	}
	for i, d := range p.Decl {
		if p.IsAssign {
			r.set(d.Ident[0], values[i])
		} else {
			r.vars[len(r.vars)-len(p.Decl)+i].value = values[i]
		}
	}
}

func (r *run) call(dot reflect.Value, n *parse.TemplateNode) {
	tree := r.t.trees[n.Name]
	if tree == nil {
		r.fail("template %q not defined", n.Name)
	}
	if r.depth == maxDepth {
		r.fail("exceeded maximum template depth (%v)", maxDepth)
	}
	dot = r.pipeline(dot, n.Pipe)
	inner := &run{t: r.t, tree: tree, w: r.w, vars: []variable{{"$", dot}}, depth: r.depth + 1}
	inner.walk(dot, tree.Root)
}

// forget ends the scope of all variables but the first n.
func (r *run) forget(n int) { r.vars = r.vars[:n] }

func (r *run) set(name string, v reflect.Value) {
	*r.variable(name) = v
}

func (r *run) variable(name string) *reflect.Value {
	for i := len(r.vars) - 1; i >= 0; i-- {
		if r.vars[i].name == name {
			return &r.vars[i].value
		}
	}
	r.fail("undefined variable: %s", name)
	return nil
}

// print writes a value as fmt.Print does.
func (r *run) print(n parse.Node, v reflect.Value) {
	shown, ok := printable(v)
	if !ok {
		r.fail("can't print %s of type %s", n, v.Type())
	}
	if _, err := fmt.Fprint(r.w, shown); err != nil {
		panic(failure{err})
	}
}

func printable(v reflect.Value) (any, bool) {
	if v.Kind() == reflect.Pointer {
		v, _ = indirect(v)
	}
	if !v.IsValid() {
		return "<no value>", true
	}
	if speaks(v.Type()) {
		return v.Interface(), true
	}
	if v.CanAddr() && speaks(reflect.PointerTo(v.Type())) {
		return v.Addr().Interface(), true
	}
	if k := v.Kind(); k == reflect.Chan || k == reflect.Func {
		return nil, false
	}
	return v.Interface(), true
}

// speaks reports whether fmt would ask the type itself for its text.
func speaks(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[error]()) || t.Implements(reflect.TypeFor[fmt.Stringer]())
}

// indirect follows pointers and interfaces to what they lead to, and reports
// whether that is nil.
func indirect(v reflect.Value) (reflect.Value, bool) {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return v, true
		}
		v = v.Elem()
	}
	return v, false
}

func throughInterface(v reflect.Value) reflect.Value {
	if v.Kind() != reflect.Interface {
		return v
	}
	return v.Elem() // invalid if nil
}

// truth is what {{if}} asks: whether v is not its type's empty value.
func truth(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Invalid:
		return false
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() > 0
	case reflect.Struct:
		return true
	}
	return !v.IsZero()
}
