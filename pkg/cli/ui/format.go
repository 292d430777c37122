package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"cais.dev/cais/pkg/tmpl"
)

// split tells the forms of a --format apart.
func split(format string) (kind, text string) {
	format = strings.TrimSpace(format)
	switch {
	case format == "" || format == "table":
		return "table", ""
	case format == "json" || format == "raw":
		return format, ""
	}
	if rest, ok := strings.CutPrefix(format, "table "); ok {
		return "table", unescape(strings.TrimSpace(rest))
	}
	return "template", unescape(format)
}

// unescape expands the two escapes that people type into formats.
func unescape(s string) string { return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s) }

func newTemplate(text string, f tmpl.Funcs) (*tmpl.Template, error) {
	t, err := tmpl.Parse(text, f)
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return t, nil
}

// functions are what Docker adds to Go's own.
var functions = tmpl.Funcs{
	"json":     compact,
	"split":    strings.Split,
	"join":     strings.Join,
	"title":    title,
	"lower":    strings.ToLower,
	"upper":    strings.ToUpper,
	"pad":      pad,
	"truncate": truncate,
}

// headerFunctions leave a header's text as it is.
var headerFunctions = tmpl.Funcs{
	"json":     func(v any) any { return v },
	"split":    func(v any, _ string) any { return v },
	"join":     func(v any, _ string) any { return v },
	"title":    func(v any) any { return v },
	"lower":    func(v any) any { return v },
	"upper":    func(v any) any { return v },
	"pad":      func(v any, _, _ int) any { return v },
	"truncate": func(v any, _ int) any { return v },
}

// compact is v as JSON on one line, without escapes for HTML.
func compact(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSpace(b.String()), nil
}

// title makes the first letter of each word upper case.
func title(s string) string {
	start := true
	return strings.Map(func(r rune) rune {
		was := start
		start = unicode.IsSpace(r)
		if was {
			return unicode.ToTitle(r)
		}
		return r
	}, s)
}

// pad adds spaces before and after what is not empty.
func pad(s string, before, after int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
}

// truncate cuts s to n bytes, never within a character.
func truncate(s string, n int) string {
	if n < 0 || len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Print prints v once in a format that is json or a template, for commands
// that print one object. code is the exit code for a template that does not
// parse.
func Print(w io.Writer, v any, format string, code int) error {
	kind, text := split(format)
	if kind == "json" {
		line, err := compact(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, line)
		return err
	}
	t, err := newTemplate(text, functions)
	if err != nil {
		return Exit(code, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, v); err != nil {
		return fmt.Errorf("template parsing error: %w", err)
	}
	_, err = fmt.Fprintln(w, b.String())
	return err
}

// Inspect prints objects as inspect does: a JSON array with four spaces, or one
// line per object made by format. A template that names a field which the Go
// value does not have is tried on its JSON form, so that JSON keys work.
func Inspect(w io.Writer, objects []any, format string) error {
	if format == "" {
		return inspectJSON(w, objects)
	}
	kind, text := split(format)
	if kind == "json" {
		for _, o := range objects {
			line, err := compact(o)
			if err != nil {
				return err
			}
			fmt.Fprintln(w, line)
		}
		return nil
	}
	t, err := newTemplate(text, functions)
	if err != nil {
		return Exit(CodeTemplate, err)
	}
	for _, o := range objects {
		var b bytes.Buffer
		if err := t.Execute(&b, o); err != nil {
			b.Reset()
			if err := executeRaw(&b, t, o); err != nil {
				return fmt.Errorf("template parsing error: %w", err)
			}
		}
		fmt.Fprintln(w, b.String())
	}
	return nil
}

func inspectJSON(w io.Writer, objects []any) error {
	if len(objects) == 0 {
		_, err := fmt.Fprintln(w, "[]")
		return err
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ")
	return e.Encode(objects)
}

// executeRaw executes a template on the JSON form of o.
func executeRaw(w io.Writer, t *tmpl.Template, o any) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	var raw any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // 9007199254740993 stays what it is
	if err := d.Decode(&raw); err != nil {
		return err
	}
	addHidden(raw, reflect.ValueOf(o))
	return t.Strict().Execute(w, raw)
}

// addHidden adds to the JSON form of o the fields that only templates see.
func addHidden(raw any, o reflect.Value) {
	m, ok := raw.(map[string]any)
	for o.Kind() == reflect.Pointer || o.Kind() == reflect.Interface {
		o = o.Elem()
	}
	if !ok || o.Kind() != reflect.Struct {
		return
	}
	for f, v := range o.Fields() {
		if f.Tag.Get("json") == "-" {
			m[f.Name] = v.Interface()
		} else if below, ok := m[f.Name]; ok {
			addHidden(below, v)
		}
	}
}

// InspectAll prints what find returns for each reference. What was found is
// printed also if something is missing; if nothing is found and there is no
// format, "[]" is.
func InspectAll(w io.Writer, refs []string, format string, find func(ref string) (any, error)) error {
	if format != "" && strings.TrimSpace(format) != "json" {
		if _, err := newTemplate(unescape(format), functions); err != nil {
			return Exit(CodeTemplate, err)
		}
	}
	var objects []any
	var failed []error
	for _, ref := range refs {
		o, err := find(ref)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		objects = append(objects, o)
	}
	if err := Inspect(w, objects, format); err != nil {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}
