package tmpl

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"text/template/parse"
)

// builtins are the functions that every template has, but for those with a name
// in Funcs.
const builtins = "and or not len index slice call print printf println html js urlquery eq ne lt le gt ge"

// limits are the least and the most arguments of a builtin; -1 is no limit.
func limits(name string) (least, most int) {
	switch name {
	case "and", "or", "index", "slice", "call", "printf", "eq":
		return 1, -1
	case "not", "len":
		return 1, 1
	case "ne", "lt", "le", "gt", "ge":
		return 2, 2
	}
	return 0, -1
}

func (r *run) builtin(dot reflect.Value, name string, whole parse.Node, args []parse.Node, last piped) reflect.Value {
	if len(args) > 0 {
		args = args[1:]
	}
	got := len(args)
	if last != nil {
		got++
	}
	least, most := limits(name)
	r.count(name, got, least, most)
	if name == "and" || name == "or" {
		return r.logical(dot, name == "or", args, last)
	}
	in := make([]reflect.Value, 0, got)
	for _, a := range args {
		in = append(in, r.argument(dot, a, builtinType(name, len(in))))
	}
	if last != nil {
		in = append(in, r.fit(*last, builtinType(name, len(in))))
	}
	v, err := apply(name, in)
	if name == "call" {
		err = notCallable(whole, in[0])
	}
	if err != nil {
		r.node = whole
		r.fail("error calling %s: %w", name, err)
	}
	return v
}

// builtinType is the type of a builtin's argument; nil is any.
func builtinType(name string, i int) reflect.Type {
	if name == "printf" && i == 0 {
		return reflect.TypeFor[string]()
	}
	return nil
}

// notCallable is what call says of data without functions, which is all there is.
func notCallable(whole parse.Node, v reflect.Value) error {
	if v = throughInterface(v); !v.IsValid() {
		return errors.New("call of nil")
	}
	name := "value"
	if c, ok := whole.(*parse.CommandNode); ok && len(c.Args) > 1 {
		name = c.Args[1].String()
	}
	return fmt.Errorf("non-function %s of type %s", name, v.Type())
}

// logical returns the first argument that decides, and looks at none after it.
func (r *run) logical(dot reflect.Value, or bool, args []parse.Node, last piped) (v reflect.Value) {
	for _, a := range args {
		v = r.argument(dot, a, nil)
		if truth(throughInterface(v)) == or {
			return v
		}
	}
	if last != nil {
		return *last
	}
	return v
}

func apply(name string, in []reflect.Value) (reflect.Value, error) {
	switch name {
	case "not":
		return reflect.ValueOf(!truth(throughInterface(in[0]))), nil
	case "len":
		return length(in[0])
	case "index":
		return index(in[0], in[1:])
	case "slice":
		return slice(in[0], in[1:])
	case "eq", "ne", "lt", "le", "gt", "ge":
		is, err := compare(name, in)
		return reflect.ValueOf(is), err
	}
	list := make([]any, len(in))
	for i, v := range in {
		if v.IsValid() {
			list[i] = v.Interface()
		}
	}
	var text string
	switch name {
	case "print":
		text = fmt.Sprint(list...)
	case "println":
		text = fmt.Sprintln(list...)
	case "printf":
		text = fmt.Sprintf(in[0].String(), list[1:]...)
	case "html":
		text = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;", "\x00", "\uFFFD").Replace(joined(in))
	case "js":
		text = script(joined(in))
	case "urlquery":
		text = url.QueryEscape(joined(in))
	}
	return reflect.ValueOf(text), nil
}

// joined is all of in as one text.
func joined(in []reflect.Value) string {
	list := make([]any, len(in))
	for i, v := range in {
		if shown, ok := printable(throughInterface(v)); ok {
			list[i] = shown
		} else {
			list[i] = v.Interface()
		}
	}
	return fmt.Sprint(list...)
}

// script escapes for a string of JavaScript.
func script(s string) string {
	var b strings.Builder
	for _, c := range s {
		switch {
		case c == '\\' || c == '\'' || c == '"':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || strings.ContainsRune("<>&=", c) || c == 0x2028 || c == 0x2029:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

func length(v reflect.Value) (reflect.Value, error) {
	v, null := indirect(v)
	if null {
		return v, errors.New("len of nil pointer")
	}
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return reflect.ValueOf(v.Len()), nil
	case reflect.Invalid:
		return v, errors.New("reflect: call of reflect.Value.Type on zero Value") // text/template's words
	}
	return v, fmt.Errorf("len of type %s", v.Type())
}

// position is an index into something of n elements.
func position(v reflect.Value, n int) (int, error) {
	var x int64
	switch v = throughInterface(v); {
	case v.CanInt():
		x = v.Int()
	case v.CanUint():
		x = int64(v.Uint())
	case !v.IsValid():
		return 0, errors.New("cannot index slice/array with nil")
	default:
		return 0, fmt.Errorf("cannot index slice/array with type %s", v.Type())
	}
	if x < 0 || x > int64(n) {
		return 0, fmt.Errorf("index out of range: %d", x)
	}
	return int(x), nil
}

func index(v reflect.Value, by []reflect.Value) (reflect.Value, error) {
	if v = throughInterface(v); !v.IsValid() {
		return v, errors.New("index of untyped nil")
	}
	for _, i := range by {
		i = throughInterface(i)
		var null bool
		if v, null = indirect(v); null {
			return v, errors.New("index of nil pointer")
		}
		switch v.Kind() {
		case reflect.Array, reflect.Slice, reflect.String:
			x, err := position(i, v.Len())
			if err == nil && x == v.Len() {
				err = fmt.Errorf("reflect: %s index out of range", v.Kind())
			}
			if err != nil {
				return v, err
			}
			v = v.Index(x)
		case reflect.Map:
			key, err := mapKey(i, v.Type().Key())
			if err != nil {
				return v, err
			}
			found := v.MapIndex(key)
			if !found.IsValid() {
				found = reflect.Zero(v.Type().Elem())
			}
			v = found
		default:
			return v, fmt.Errorf("can't index item of type %s", v.Type())
		}
	}
	return v, nil
}

func mapKey(v reflect.Value, want reflect.Type) (reflect.Value, error) {
	switch {
	case !v.IsValid() && nillable(want):
		return reflect.Zero(want), nil
	case !v.IsValid():
		return v, fmt.Errorf("value is nil; should be of type %s", want)
	case v.Type().AssignableTo(want):
		return v, nil
	case (v.CanInt() || v.CanUint()) && want.Kind() >= reflect.Int && want.Kind() <= reflect.Uintptr:
		return v.Convert(want), nil
	}
	return v, fmt.Errorf("value has type %s; should be %s", v.Type(), want)
}

func slice(v reflect.Value, by []reflect.Value) (reflect.Value, error) {
	if v = throughInterface(v); !v.IsValid() {
		return v, errors.New("slice of untyped nil")
	}
	v, null := indirect(v)
	switch {
	case null:
		return v, errors.New("slice of nil pointer")
	case len(by) > 3:
		return v, fmt.Errorf("too many slice indexes: %d", len(by))
	case v.Kind() == reflect.String && len(by) == 3:
		return v, errors.New("cannot 3-index slice a string")
	}
	most := 0
	switch v.Kind() {
	case reflect.String:
		most = v.Len()
	case reflect.Array, reflect.Slice:
		most = v.Cap()
	default:
		return v, fmt.Errorf("can't slice item of type %s", v.Type())
	}
	at := [3]int{0, v.Len(), most}
	for i, b := range by {
		x, err := position(b, most)
		if err != nil {
			return v, err
		}
		at[i] = x
	}
	switch {
	case at[0] > at[1]:
		return v, fmt.Errorf("invalid slice index: %d > %d", at[0], at[1])
	case at[1] > at[2]:
		return v, fmt.Errorf("invalid slice index: %d > %d", at[1], at[2])
	case len(by) == 3:
		return v.Slice3(at[0], at[1], at[2]), nil
	}
	return v.Slice(at[0], at[1]), nil
}

func compare(name string, in []reflect.Value) (bool, error) {
	if len(in) < 2 {
		return false, errors.New("missing argument for comparison")
	}
	a, b := throughInterface(in[0]), throughInterface(in[1])
	switch name {
	case "eq":
		for _, v := range in[1:] {
			if is, err := equal(a, throughInterface(v)); is || err != nil {
				return is, err
			}
		}
		return false, nil
	case "ne":
		is, err := equal(a, b)
		return !is, err
	}
	by, err := order(a, b)
	if err != nil {
		return false, err
	}
	switch name {
	case "lt":
		return by < 0, nil
	case "le":
		return by <= 0, nil
	case "gt":
		return by > 0, nil
	}
	return by >= 0, nil
}

// sort is one kind for all sizes of a number; Invalid for what has no order.
func sort(v reflect.Value) reflect.Kind {
	switch {
	case v.CanInt():
		return reflect.Int
	case v.CanUint():
		return reflect.Uint
	case v.CanFloat():
		return reflect.Float64
	case v.Kind() == reflect.Bool || v.Kind() == reflect.String:
		return v.Kind()
	case v.CanComplex():
		return reflect.Complex128
	}
	return reflect.Invalid
}

func equal(a, b reflect.Value) (bool, error) {
	ka, kb := sort(a), sort(b)
	switch {
	case ka == kb && ka == reflect.Bool:
		return a.Bool() == b.Bool(), nil
	case ka == kb && ka == reflect.Complex128:
		return a.Complex() == b.Complex(), nil
	case ka == kb && ka != reflect.Invalid, ka == reflect.Int && kb == reflect.Uint, ka == reflect.Uint && kb == reflect.Int:
		by, err := order(a, b)
		return by == 0, err
	case ka != kb && a.IsValid() && b.IsValid():
		return false, fmt.Errorf("incompatible types for comparison: %v and %v", a.Type(), b.Type())
	case ka != kb:
		return false, nil
	case a.IsValid() && b.IsValid() && a.Kind() != b.Kind():
		return false, fmt.Errorf("non-comparable types %s: %v, %s: %v", a, a.Type(), b.Type(), b)
	case null(a) || null(b):
		return null(a) == null(b), nil
	case !b.Type().Comparable():
		return false, fmt.Errorf("non-comparable type %s: %v", b, b.Type())
	}
	return a.Interface() == b.Interface(), nil
}

func null(v reflect.Value) bool { return !v.IsValid() || nillable(v.Type()) && v.IsNil() }

func order(a, b reflect.Value) (int, error) {
	ka, kb := sort(a), sort(b)
	bad := func(k reflect.Kind) bool {
		return k == reflect.Invalid || k == reflect.Bool || k == reflect.Complex128
	}
	switch {
	case ka == reflect.Invalid || kb == reflect.Invalid || ka == kb && bad(ka):
		return 0, errors.New("invalid type for comparison")
	case ka == kb && ka == reflect.Int:
		return cmp.Compare(a.Int(), b.Int()), nil
	case ka == kb && ka == reflect.Uint:
		return cmp.Compare(a.Uint(), b.Uint()), nil
	case ka == kb && ka == reflect.Float64:
		return cmp.Compare(a.Float(), b.Float()), nil
	case ka == kb:
		return cmp.Compare(a.String(), b.String()), nil
	case ka == reflect.Int && kb == reflect.Uint:
		if a.Int() < 0 {
			return -1, nil
		}
		return cmp.Compare(uint64(a.Int()), b.Uint()), nil
	case ka == reflect.Uint && kb == reflect.Int:
		by, err := order(b, a)
		return -by, err
	}
	return 0, fmt.Errorf("incompatible types for comparison: %v and %v", a.Type(), b.Type())
}

// sortedKeys returns a map's keys in the order that fmt prints them.
func sortedKeys(m reflect.Value) []reflect.Value {
	keys := m.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		a, b = throughInterface(a), throughInterface(b)
		if by, err := order(a, b); err == nil {
			return by
		}
		return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
	return keys
}
