// Package plainjson writes and reads the JSON that encoding/json writes, sooner:
// that package first looks at every type that a value could contain, and makes an
// encoder for each, for reading too, which pays when a value is written twice. A
// command writes and reads its two or three files once, and what a container could
// be made of is large while what it is made of is small.
package plainjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Marshal returns what json.Marshal returns for v, which must hold no pointer
// back to itself.
func Marshal(v any) ([]byte, error) {
	return appendValue(make([]byte, 0, 4<<10), reflect.ValueOf(v))
}

// appendValue appends v. What is rare is left to encoding/json: values with a
// text of their own, embedded structs, floating-point numbers and bytes.
func appendValue(b []byte, v reflect.Value) ([]byte, error) {
	if !v.IsValid() {
		return append(b, "null"...), nil
	}
	t := v.Type()
	if t.PkgPath() != "" && (speaks(t) || v.CanAddr() && speaks(reflect.PointerTo(t))) {
		return appendOther(b, v)
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case reflect.String:
		return appendString(b, v.String())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		if v.Kind() == reflect.Pointer && speaks(t) {
			return appendOther(b, v)
		}
		return appendValue(b, v.Elem())
	case reflect.Slice:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		if t.Elem().Kind() == reflect.Uint8 {
			return appendOther(b, v)
		}
		return appendList(b, v)
	case reflect.Array:
		return appendList(b, v)
	case reflect.Map:
		if t.Key().Kind() == reflect.String && !speaks(t.Key()) {
			return appendMap(b, v)
		}
	case reflect.Struct:
		return appendStruct(b, v)
	}
	return appendOther(b, v)
}

// speaks reports whether a value of type t says itself how it is written.
func speaks(t reflect.Type) bool {
	return t.NumMethod() > 0 && (t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]()))
}

// appendOther leaves v to encoding/json.
func appendOther(b []byte, v reflect.Value) ([]byte, error) {
	if v.CanAddr() {
		v = v.Addr() // it may be the pointer that has the methods
	}
	text, err := json.Marshal(v.Interface())
	return append(b, text...), err
}

func appendString(b []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			text, err := json.Marshal(s)
			return append(b, text...), err
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"'), nil
}

func appendList(b []byte, v reflect.Value) (_ []byte, err error) {
	b = append(b, '[')
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendValue(b, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendMap(b []byte, v reflect.Value) (_ []byte, err error) {
	if v.IsNil() {
		return append(b, "null"...), nil
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(x, y reflect.Value) int { return strings.Compare(x.String(), y.String()) })
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendString(b, k.String()); err != nil {
			return nil, err
		}
		b = append(b, ':')
		if b, err = appendValue(b, v.MapIndex(k)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendStruct(b []byte, v reflect.Value) (_ []byte, err error) {
	start, t := len(b), v.Type()
	b = append(b, '{')
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous { // whose fields may hide another's
			return appendOther(b[:start], v)
		}
		tag := f.Tag.Get("json")
		if !f.IsExported() || tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "" {
			name = f.Name
		}
		x := v.Field(i)
		if options != "" {
			if options != "omitempty" && options != "omitzero" { // several, or "string"
				return appendOther(b[:start], v)
			}
			if options == "omitzero" && f.Type.PkgPath() != "" && f.Type.NumMethod() > 0 { // it may say itself what zero is
				return appendOther(b[:start], v)
			}
			if options == "omitempty" && empty(x) || options == "omitzero" && x.IsZero() {
				continue
			}
		}
		if len(b) > start+1 {
			b = append(b, ',')
		}
		if b, err = appendString(b, name); err != nil {
			return nil, err
		}
		b = append(b, ':')
		if b, err = appendValue(b, x); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// empty is what "omitempty" means.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}
