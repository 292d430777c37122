package plainjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Unmarshal fills what v points to, as json.Unmarshal fills a zero value.
func Unmarshal(text []byte, v any) error { return new(Decoder).Unmarshal(text, v) }

// Decoder reads values of the same types one after the other: it remembers their
// fields. The zero value is ready.
type Decoder struct {
	types map[reflect.Type][]field
	text  string // what is being read: strings are parts of it
}

// field is one that a struct's JSON may have; index is its number.
type field struct {
	name  string
	index int
	own   bool // it reads itself
}

// Unmarshal fills what v points to, as json.Unmarshal fills a zero value. It
// reads what [Marshal] writes: without blanks, fields in the struct's order. With
// anything else, and with any mistake, encoding/json begins again.
func (d *Decoder) Unmarshal(text []byte, v any) error {
	to := reflect.ValueOf(v).Elem()
	to.SetZero()
	d.text = string(text)
	if rest, ok := d.value(text, to, listens(to.Type())); !ok || len(rest) > 0 {
		to.SetZero()
		return json.Unmarshal(text, v)
	}
	return nil
}

// value reads a value from the beginning of p, which is the end of d.text, into v,
// which is zero, and returns what follows it. own is what listens says of v's type.
func (d *Decoder) value(p []byte, v reflect.Value, own bool) (rest []byte, ok bool) {
	if len(p) == 0 {
		return nil, false
	}
	if own {
		return other(p, v)
	}
	t := v.Type()
	switch v.Kind() {
	case reflect.Bool:
		if rest, ok = bytes.CutPrefix(p, []byte("true")); ok {
			v.SetBool(true)
			return rest, true
		}
		return bytes.CutPrefix(p, []byte("false"))
	case reflect.String:
		s, rest, ok := readString(p)
		if begin := len(d.text) - len(p) + len(`"`); ok && len(s) == len(p)-len(rest)-len(`""`) { // it has no escapes
			v.SetString(d.text[begin : begin+len(s)])
		} else {
			v.SetString(string(s))
		}
		return rest, ok
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		digits, rest, ok := number(p)
		n, err := strconv.ParseInt(digits, 10, t.Bits())
		v.SetInt(n)
		return rest, ok && err == nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		digits, rest, ok := number(p)
		n, err := strconv.ParseUint(digits, 10, t.Bits())
		v.SetUint(n)
		return rest, ok && err == nil
	}
	if rest, ok = bytes.CutPrefix(p, []byte("null")); ok && (v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice || v.Kind() == reflect.Map) {
		return rest, true
	}
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		return d.value(p, v.Elem(), listens(t.Elem()))
	case v.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		return d.list(p, v)
	case v.Kind() == reflect.Map && t.Key().Kind() == reflect.String && !listens(t.Key()):
		return d.dict(p, v)
	case v.Kind() == reflect.Struct:
		return d.object(p, v)
	}
	return other(p, v)
}

// listens reports whether a value of type t reads itself.
func listens(t reflect.Type) bool {
	if t.PkgPath() == "" {
		return false
	}
	t = reflect.PointerTo(t)
	return t.NumMethod() > 0 && (t.Implements(reflect.TypeFor[json.Unmarshaler]()) || t.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()))
}

// other leaves a value to encoding/json, but for a time, which takes no text that
// is not JSON.
func other(p []byte, v reflect.Value) (rest []byte, ok bool) {
	end := extent(p)
	to := v.Addr().Interface()
	if t, ok := to.(*time.Time); ok {
		return p[end:], t.UnmarshalJSON(p[:end]) == nil
	}
	return p[end:], json.Unmarshal(p[:end], to) == nil
}

// extent is the length of the value at the beginning of p, if it is one.
func extent(p []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case quoted:
			if c == '\\' {
				i++
			} else if c == '"' {
				quoted = false
			}
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
		case depth == 0 && (c == ',' || c == '}' || c == ']'):
			return i
		case c == '}' || c == ']':
			depth--
		}
	}
	return len(p)
}

// readString returns the text of the string that p begins with. It may be a part
// of p.
func readString(p []byte) (text, rest []byte, ok bool) {
	if p[0] != '"' {
		return nil, nil, false
	}
	p = p[1:]
	for i, c := range p {
		switch {
		case c == '"':
			return p[:i], p[i+1:], true
		case c < ' ':
			return nil, nil, false
		case c == '\\' || c >= utf8.RuneSelf:
			text, rest, ok = Unquote(p, nil)
			bad := bytes.ContainsFunc(p[:len(p)-len(rest)], func(r rune) bool { return r < ' ' })
			return text, rest, ok && !bad
		}
	}
	return nil, nil, false
}

// number reads a whole number as JSON writes it.
func number(p []byte) (digits string, rest []byte, ok bool) {
	n := 0
	for n < len(p) && (p[n] >= '0' && p[n] <= '9' || p[n] == '-' && n == 0) {
		n++
	}
	digits = string(p[:n])
	rest = p[n:]
	plain := strings.TrimPrefix(digits, "-")
	return digits, rest, plain == "0" || plain != "" && plain[0] != '0'
}

// items calls item where each of the values between two brackets begins.
func items(p []byte, open, closing byte, item func(p []byte) (rest []byte, ok bool)) (rest []byte, ok bool) {
	if p[0] != open || len(p) < 2 {
		return nil, false
	}
	if p[1] == closing {
		return p[2:], true
	}
	for {
		if p, ok = item(p[1:]); !ok || len(p) == 0 {
			return nil, false
		}
		switch p[0] {
		case closing:
			return p[1:], true
		case ',':
		default:
			return nil, false
		}
	}
}

func (d *Decoder) list(p []byte, v reflect.Value) (rest []byte, ok bool) {
	own := listens(v.Type().Elem())
	if bytes.HasPrefix(p, []byte("[]")) {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	}
	return items(p, '[', ']', func(p []byte) ([]byte, bool) {
		n := v.Len()
		v.Grow(1)
		v.SetLen(n + 1)
		return d.value(p, v.Index(n), own)
	})
}

func (d *Decoder) dict(p []byte, v reflect.Value) (rest []byte, ok bool) {
	t := v.Type()
	v.Set(reflect.MakeMap(t))
	own := listens(t.Elem())
	return items(p, '{', '}', func(p []byte) ([]byte, bool) {
		key, p, ok := readKey(p)
		if !ok {
			return nil, false
		}
		elem := reflect.New(t.Elem()).Elem()
		rest, ok := d.value(p, elem, own)
		v.SetMapIndex(reflect.ValueOf(string(key)).Convert(t.Key()), elem)
		return rest, ok
	})
}

// readKey reads a key and the colon.
func readKey(p []byte) (key, rest []byte, ok bool) {
	if len(p) == 0 {
		return nil, nil, false
	}
	key, rest, ok = readString(p)
	if !ok || len(rest) == 0 || rest[0] != ':' {
		return nil, nil, false
	}
	return key, rest[1:], true
}

func (d *Decoder) object(p []byte, v reflect.Value) (rest []byte, ok bool) {
	fields, ok := d.fields(v.Type())
	if !ok {
		return nil, false
	}
	return items(p, '{', '}', func(p []byte) ([]byte, bool) {
		key, p, ok := readKey(p)
		for ok && len(fields) > 0 {
			f := fields[0]
			fields = fields[1:]
			if f.name == string(key) {
				return d.value(p, v.Field(f.index), f.own)
			}
		}
		return nil, false // unknown, a second time, in another order or in other letters
	})
}

// fields are those of the struct t; not ok if encoding/json has more to say of them.
func (d *Decoder) fields(t reflect.Type) (list []field, ok bool) {
	if list, ok = d.types[t]; ok {
		return list, list != nil
	}
	if d.types == nil {
		d.types = make(map[reflect.Type][]field)
	}
	d.types[t] = nil
	list = make([]field, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if f.Anonymous || strings.Contains(options, "string") {
			return nil, false
		}
		if !f.IsExported() || tag == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		list = append(list, field{name, i, listens(f.Type)})
	}
	d.types[t] = list
	return list, true
}
