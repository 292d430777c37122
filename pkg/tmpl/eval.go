package tmpl

import (
	"reflect"
	"strings"
	"text/template/parse"
	"time"
)

// piped is the value that the command before in a pipeline left; nil if there
// is none.
type piped *reflect.Value

func (r *run) pipeline(dot reflect.Value, p *parse.PipeNode) (v reflect.Value) {
	if p == nil {
		return v
	}
	r.node = p
	var last piped
	for _, c := range p.Cmds {
		v = r.command(dot, c, last)
		if v.Kind() == reflect.Interface && v.NumMethod() == 0 {
			v = v.Elem()
		}
		last = &v
	}
	for _, d := range p.Decl {
		if p.IsAssign {
			r.set(d.Ident[0], v)
		} else {
			r.vars = append(r.vars, variable{d.Ident[0], v})
		}
	}
	return v
}

func (r *run) command(dot reflect.Value, c *parse.CommandNode, last piped) reflect.Value {
	switch n := c.Args[0].(type) {
	case *parse.FieldNode:
		return r.chain(dot, dot, n, n.Ident, c.Args, last)
	case *parse.ChainNode:
		return r.chained(dot, n, c.Args, last)
	case *parse.IdentifierNode:
		return r.function(dot, n, c, c.Args, last)
	case *parse.PipeNode:
		r.noArguments(c.Args, last)
		return r.pipeline(dot, n)
	case *parse.VariableNode:
		return r.variableChain(dot, n, c.Args, last)
	}
	r.node = c.Args[0]
	r.noArguments(c.Args, last)
	if _, ok := c.Args[0].(*parse.NilNode); ok {
		r.fail("nil is not a command")
	}
	v, ok := r.constant(dot, c.Args[0])
	if !ok {
		r.fail("can't evaluate command %q", c.Args[0])
	}
	return v
}

func (r *run) noArguments(args []parse.Node, last piped) {
	if len(args) > 1 || last != nil {
		r.fail("can't give argument to non-function %s", args[0])
	}
}

// constant is the value of dot and of what is written out.
func (r *run) constant(dot reflect.Value, n parse.Node) (reflect.Value, bool) {
	switch n := n.(type) {
	case *parse.BoolNode:
		return reflect.ValueOf(n.True), true
	case *parse.DotNode:
		return dot, true
	case *parse.NumberNode:
		return r.number(n), true
	case *parse.StringNode:
		return reflect.ValueOf(n.Text), true
	}
	return reflect.Value{}, false
}

// number gives a constant the type that Go would give it.
func (r *run) number(n *parse.NumberNode) reflect.Value {
	r.node = n
	hex := len(n.Text) > 2 && n.Text[0] == '0' && (n.Text[1] == 'x' || n.Text[1] == 'X') && !strings.ContainsAny(n.Text, "pP")
	switch {
	case n.IsComplex:
		return reflect.ValueOf(n.Complex128)
	case n.IsFloat && !hex && !strings.HasPrefix(n.Text, "'") && strings.ContainsAny(n.Text, ".eEpP"):
		return reflect.ValueOf(n.Float64)
	case n.IsInt:
		if int64(int(n.Int64)) != n.Int64 {
			r.fail("%s overflows int", n.Text)
		}
		return reflect.ValueOf(int(n.Int64))
	case n.IsUint:
		r.fail("%s overflows int", n.Text)
	}
	return reflect.Value{}
}

// variableChain evaluates $x, or $x.Field.Field.
func (r *run) variableChain(dot reflect.Value, n *parse.VariableNode, args []parse.Node, last piped) reflect.Value {
	r.node = n
	v := *r.variable(n.Ident[0])
	if len(n.Ident) == 1 {
		r.noArguments(args, last)
		return v
	}
	return r.chain(dot, v, n, n.Ident[1:], args, last)
}

// chained evaluates (…).Field.
func (r *run) chained(dot reflect.Value, n *parse.ChainNode, args []parse.Node, last piped) reflect.Value {
	r.node = n
	if _, ok := n.Node.(*parse.NilNode); ok {
		r.fail("indirection through explicit nil in %s", n)
	}
	return r.chain(dot, r.argument(dot, n.Node, nil), n, n.Field, args, last)
}

// chain looks up one field after the other; arguments are the last one's.
func (r *run) chain(dot, from reflect.Value, n parse.Node, names []string, args []parse.Node, last piped) reflect.Value {
	r.node = n
	for _, name := range names[:len(names)-1] {
		from = r.field(dot, from, n, name, nil, nil)
	}
	return r.field(dot, from, n, names[len(names)-1], args, last)
}

func (r *run) field(dot, from reflect.Value, n parse.Node, name string, args []parse.Node, last piped) reflect.Value {
	if !from.IsValid() {
		if r.t.strict {
			r.fail("nil data; no entry for key %q", name)
		}
		return from
	}
	typ := from.Type()
	if m := method(from, name); m != nil {
		return r.invoke(dot, n, name, reflect.ValueOf(m), args, last)
	}
	v, null := indirect(from)
	hasArgs := len(args) > 1 || last != nil
	switch {
	case null && v.Kind() == reflect.Interface:
		r.fail("nil pointer evaluating %s.%s", typ, name)
	case null && (v.Type().Elem().Kind() != reflect.Struct || hasField(v.Type().Elem(), name)):
		r.fail("nil pointer evaluating %s.%s", typ, name)
	case v.Kind() == reflect.Struct && hasField(v.Type(), name):
		return r.structField(v, typ, name, hasArgs)
	case v.Kind() == reflect.Map && reflect.TypeFor[string]().AssignableTo(v.Type().Key()):
		if hasArgs {
			r.fail("%s is not a method but has arguments", name)
		}
		found := v.MapIndex(reflect.ValueOf(name))
		if !found.IsValid() && r.t.strict {
			r.fail("map has no entry for key %q", name)
		}
		return found
	}
	r.fail("can't evaluate field %s in type %s", name, typ)
	return v
}

// method is the method of that name, of those that templates may call.
func method(v reflect.Value, name string) any {
	if !v.CanInterface() {
		return nil
	}
	switch x := v.Interface().(type) {
	case Labelled:
		if name == "Label" {
			return x.Label
		}
	case Methods:
		return x.Method(name)
	case time.Time:
		switch name {
		case "Format":
			return x.Format
		case "Unix":
			return x.Unix
		case "UTC":
			return x.UTC
		case "Local":
			return x.Local
		case "String":
			return x.String
		case "IsZero":
			return x.IsZero
		}
	}
	return nil
}

func hasField(t reflect.Type, name string) bool {
	_, ok := t.FieldByName(name)
	return ok
}

func (r *run) structField(v reflect.Value, typ reflect.Type, name string, hasArgs bool) reflect.Value {
	f, _ := v.Type().FieldByName(name)
	found, err := v.FieldByIndexErr(f.Index)
	switch {
	case !f.IsExported():
		r.fail("%s is an unexported field of struct type %s", name, typ)
	case err != nil:
		r.fail("%v", err)
	case hasArgs:
		r.fail("%s has arguments but cannot be invoked as function", name)
	}
	return found
}

// argument evaluates an argument for a parameter of type want; nil takes any.
func (r *run) argument(dot reflect.Value, n parse.Node, want reflect.Type) reflect.Value {
	r.node = n
	switch n := n.(type) {
	case *parse.NilNode:
		switch {
		case want == nil:
			return reflect.Value{}
		case nillable(want):
			return reflect.Zero(want)
		}
		r.fail("cannot assign nil to %s", want)
	case *parse.DotNode:
		return r.fit(dot, want)
	case *parse.FieldNode:
		return r.fit(r.chain(dot, dot, n, n.Ident, nil, nil), want)
	case *parse.VariableNode:
		return r.fit(r.variableChain(dot, n, nil, nil), want)
	case *parse.PipeNode:
		return r.fit(r.pipeline(dot, n), want)
	case *parse.IdentifierNode:
		return r.fit(r.function(dot, n, n, nil, nil), want)
	case *parse.ChainNode:
		return r.fit(r.chained(dot, n, nil, nil), want)
	}
	return r.literal(dot, n, want)
}

// literal converts a constant to the type that is wanted, as Go does.
func (r *run) literal(dot reflect.Value, n parse.Node, want reflect.Type) reflect.Value {
	kind := reflect.Interface
	if want != nil {
		kind = want.Kind()
	}
	number, _ := n.(*parse.NumberNode)
	switch kind {
	case reflect.Interface:
		if v, ok := r.constant(dot, n); ok && (want == nil || v.Type().AssignableTo(want)) {
			return v
		}
	case reflect.String:
		if s, ok := n.(*parse.StringNode); ok {
			return reflect.ValueOf(s.Text).Convert(want)
		}
		r.fail("expected string; found %s", n)
	case reflect.Int:
		if number != nil && number.IsInt {
			return reflect.ValueOf(number.Int64).Convert(want)
		}
		r.fail("expected integer; found %s", n)
	}
	r.fail("can't handle %s for arg of type %s", n, want)
	return dot
}

func nillable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Interface, reflect.Map, reflect.Pointer, reflect.Slice:
		return true
	}
	return false
}

// fit makes v usable as a want, where following or taking one pointer suffices.
func (r *run) fit(v reflect.Value, want reflect.Type) reflect.Value {
	switch {
	case want == nil:
		return v
	case !v.IsValid() && nillable(want):
		return reflect.Zero(want)
	case !v.IsValid():
		r.fail("invalid value; expected %s", want)
	case v.Type().AssignableTo(want):
		return v
	}
	if v.Kind() == reflect.Interface && !v.IsNil() {
		if v = v.Elem(); v.Type().AssignableTo(want) {
			return v
		}
	}
	switch {
	case v.Kind() == reflect.Pointer && v.Type().Elem().AssignableTo(want):
		if v.IsNil() {
			r.fail("dereference of nil pointer of type %s", want)
		}
		return v.Elem()
	case reflect.PointerTo(v.Type()).AssignableTo(want) && v.CanAddr():
		return v.Addr()
	}
	r.fail("wrong type for value; expected %s; got %s", want, v.Type())
	return v
}

// function calls the one that n names, in whole, the command or n itself.
func (r *run) function(dot reflect.Value, n *parse.IdentifierNode, whole parse.Node, args []parse.Node, last piped) reflect.Value {
	r.node = n
	if f, ok := r.t.funcs[n.Ident]; ok {
		return r.invoke(dot, whole, n.Ident, reflect.ValueOf(f), args, last)
	}
	return r.builtin(dot, n.Ident, whole, args, last)
}

// count checks the number of arguments; most is -1 if there is no limit.
func (r *run) count(name string, got, least, most int) {
	switch {
	case most < 0 && got < least:
		r.fail("wrong number of args for %s: want at least %d got %d", name, least, got)
	case most >= 0 && got != least:
		r.fail("wrong number of args for %s: want %d got %d", name, least, got)
	}
}

// invoke calls a function of Go's. args[0] is its name.
func (r *run) invoke(dot reflect.Value, n parse.Node, name string, f reflect.Value, args []parse.Node, last piped) reflect.Value {
	if len(args) > 0 {
		args = args[1:]
	}
	typ := f.Type()
	got := len(args)
	if last != nil {
		got++
	}
	r.count(name, got, typ.NumIn(), typ.NumIn())
	in := make([]reflect.Value, 0, got)
	for i, a := range args {
		in = append(in, r.argument(dot, a, typ.In(i)))
	}
	if last != nil {
		in = append(in, r.fit(*last, typ.In(len(args))))
	}
	out := f.Call(in)
	if len(out) == 2 && !out[1].IsNil() {
		err, _ := out[1].Interface().(error)
		r.node = n
		r.fail("error calling %s: %w", name, err)
	}
	return out[0]
}
