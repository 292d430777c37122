package ui

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template/parse"
)

// Field is one thing that --format can show of a row.
type Field[T any] struct {
	Name   string // in templates and as JSON key
	Header string // above its column
	Value  func(row T) any
	// Extra is Podman's: for templates that name it, and not part of {{json .}} or
	// json, which are Docker's.
	Extra bool
}

// RawField is a line of --format raw.
type RawField struct{ Key, Name string }

// Table is a list that a command prints, in any of the forms that --format
// names: table, table TEMPLATE, json, raw, TEMPLATE.
type Table[T any] struct {
	Type    string // as Docker's errors name a row: "*formatter.containerContext"
	Fields  []Field[T]
	Columns []string   // of the table that is printed without --format
	Quiet   string     // the field that -q prints
	Raw     []RawField // raw is an error without
	// Label is the method .Label "key"; nil if rows have none.
	Label func(row T, key string) string
}

// TableOptions are the choices of one call.
type TableOptions struct {
	Format    string // --format; empty is "table"
	Quiet     bool   // -q; it has no say over a template
	NoHeading bool   // --noheading
}

// Uses reports whether printing in this format needs the field named name, so
// that a command can spare itself what is expensive to find out. It is true if
// in doubt.
func (t Table[T]) Uses(o TableOptions, name string) bool { return t.of(nil).uses(o, name) }

// Write prints the rows. A template that names a field which rows do not have
// is an error even if there are no rows.
func (t Table[T]) Write(w io.Writer, rows []T, o TableOptions) error {
	buf := bufio.NewWriter(w) // else each cell is a system call
	return errors.Join(t.of(rows).write(buf, o), buf.Flush())
}

// Rows are what a template sees of the rows, for one that is given all of them.
func (t Table[T]) Rows(rows []T) []any { return t.of(rows).rows() }

// of is the table with its rows, of whatever type: all that follows is compiled
// once and not for each list.
func (t Table[T]) of(rows []T) list {
	l := list{typ: t.Type, columns: t.Columns, quiet: t.Quiet, raw: t.Raw, n: len(rows)}
	for _, f := range t.Fields {
		l.fields = append(l.fields, field{f.Name, f.Header, f.Extra, func(i int) any { return f.Value(rows[i]) }})
	}
	if t.Label != nil {
		l.label = func(i int, key string) string { return t.Label(rows[i], key) }
	}
	return l
}

// list is a Table with n rows, which are known by their index.
type list struct {
	typ     string
	fields  []field
	columns []string
	quiet   string
	raw     []RawField
	n       int
	label   func(row int, key string) string // nil if rows have none
}

type field struct {
	name, header string
	extra        bool
	value        func(row int) any
}

func (t list) uses(o TableOptions, name string) bool {
	kind, text := split(o.Format)
	switch {
	case kind == "json":
		return true
	case kind == "raw":
		return !o.Quiet && slices.ContainsFunc(t.raw, func(f RawField) bool { return f.Name == name })
	case text != "":
		return strings.Contains(text, name) || usesAll(text)
	case o.Quiet:
		return t.quiet == name
	}
	return slices.Contains(t.columns, name)
}

// usesAll reports whether a template may use a whole row, as {{json .}} does.
func usesAll(text string) bool {
	t, err := newTemplate(text, functions)
	if err != nil || t.Tree == nil {
		return true
	}
	return anyNode(t.Tree.Root, func(n parse.Node) bool { return n.Type() == parse.NodeDot })
}

// anyNode reports whether is holds for n or for a node below it.
func anyNode(n parse.Node, is func(parse.Node) bool) bool {
	if is(n) {
		return true
	}
	below := func(b *parse.BranchNode) bool {
		return anyNode(b.Pipe, is) || anyNode(b.List, is) || b.ElseList != nil && anyNode(b.ElseList, is)
	}
	switch n := n.(type) {
	case *parse.ListNode:
		return slices.ContainsFunc(n.Nodes, func(n parse.Node) bool { return anyNode(n, is) })
	case *parse.ActionNode:
		return anyNode(n.Pipe, is)
	case *parse.PipeNode:
		return slices.ContainsFunc(n.Cmds, func(c *parse.CommandNode) bool { return anyNode(c, is) })
	case *parse.CommandNode:
		return slices.ContainsFunc(n.Args, func(a parse.Node) bool { return anyNode(a, is) })
	case *parse.ChainNode:
		return anyNode(n.Node, is)
	case *parse.IfNode:
		return below(&n.BranchNode)
	case *parse.RangeNode:
		return below(&n.BranchNode)
	case *parse.WithNode:
		return below(&n.BranchNode)
	}
	return false
}

func (t list) write(w io.Writer, o TableOptions) error {
	kind, text := split(o.Format)
	switch kind {
	case "json":
		return t.json(w)
	case "raw":
		return t.lines(w, o.Quiet)
	}
	if text != "" {
		return t.template(w, text, kind == "table", o)
	}
	if o.Quiet {
		f := t.field(t.quiet)
		for r := range t.n {
			if _, err := fmt.Fprintln(w, f.value(r)); err != nil {
				return err
			}
		}
		return nil
	}
	return t.table(w, o)
}

func (t list) field(name string) field {
	i := slices.IndexFunc(t.fields, func(f field) bool { return f.name == name })
	return t.fields[i]
}

// NewTabWriter returns a writer with the widths of Docker's tables.
func NewTabWriter(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 10, 1, 3, ' ', 0) }

// table is the form without any template: the one that must be quick.
func (t list) table(w io.Writer, o TableOptions) error {
	tw := NewTabWriter(w)
	columns := make([]field, len(t.columns))
	for i, name := range t.columns {
		columns[i] = t.field(name)
	}
	cells := make([]string, len(columns))
	if !o.NoHeading {
		for i, f := range columns {
			cells[i] = f.header
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	for r := range t.n {
		for i, f := range columns {
			cells[i] = OneLine(fmt.Sprint(f.value(r)))
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

func (t list) json(w io.Writer) error {
	for r := range t.n {
		line, err := json.Marshal(t.row(r, t.plain()).fields)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
			return err
		}
	}
	return nil
}

func (t list) lines(w io.Writer, quiet bool) error {
	if len(t.raw) == 0 {
		return errors.New("this list has no raw form")
	}
	for r := range t.n {
		for _, f := range t.raw {
			if quiet && f.Name != t.quiet {
				continue
			}
			line := strings.TrimSuffix(fmt.Sprintf("%s: %v", f.Key, t.field(f.Name).value(r)), " ")
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
		if !quiet {
			fmt.Fprintln(w)
		}
	}
	return nil
}

// templateRow is what a template sees of a row: a map with a method.
type templateRow struct {
	fields map[string]any
	label  func(key string) string
}

// plain are the fields that Docker has, too.
func (t list) plain() []field {
	return slices.DeleteFunc(slices.Clone(t.fields), func(f field) bool { return f.extra })
}

func (t list) rows() []any {
	all := make([]any, t.n)
	for r := range t.n {
		all[r] = t.row(r, t.plain()).data()
	}
	return all
}

func (t list) row(r int, fields []field) templateRow {
	m := make(map[string]any, len(fields))
	for _, f := range fields {
		m[f.name] = f.value(r)
	}
	var label func(string) string
	if t.label != nil {
		label = func(key string) string { return t.label(r, key) }
	}
	return templateRow{m, label}
}

// header is the row of headers. .Label "com.example.some-key" is headed by
// "some key".
func (t list) header() templateRow {
	m := make(map[string]any, len(t.fields))
	for _, f := range t.fields {
		m[f.name] = f.header
	}
	var label func(string) string
	if t.label != nil {
		label = func(key string) string {
			last := key[strings.LastIndexByte(key, '.')+1:]
			return strings.NewReplacer("-", " ", "_", " ").Replace(last)
		}
	}
	return templateRow{m, label}
}

// plainRow and labelledRow are maps, so that a template can print and index
// them; only the second has the method. As JSON their values are escaped for
// HTML, as Docker's rows are ("\u003cnone\u003e"), though {{json .}} itself is not.
type plainRow map[string]any

// MarshalJSON escapes.
func (r plainRow) MarshalJSON() ([]byte, error) { return json.Marshal(map[string]any(r)) }

// labelKey is where a labelledRow keeps its function; no template can spell it.
const labelKey = "\x00label"

type labelledRow map[string]any

// Label is called by templates.
func (r labelledRow) Label(key string) string {
	label, _ := r[labelKey].(func(string) string)
	return label(key)
}

// MarshalJSON leaves the function out.
func (r labelledRow) MarshalJSON() ([]byte, error) {
	m := maps.Clone(map[string]any(r))
	delete(m, labelKey)
	return json.Marshal(m)
}

func (r templateRow) data() any {
	if r.label == nil {
		return plainRow(r.fields)
	}
	m := labelledRow(r.fields)
	m[labelKey] = r.label
	return m
}

func (t list) template(w io.Writer, text string, table bool, o TableOptions) error {
	lines, err := newTemplate(text, functions)
	if err != nil {
		return err
	}
	head, err := newTemplate(text, headerFunctions)
	if err != nil {
		return err
	}
	var header bytes.Buffer
	if err := head.Strict().Execute(&header, t.header().data()); err != nil && t.unknown(err) != nil {
		return t.unknown(err)
	}
	var out io.Writer = w
	if table {
		tw := NewTabWriter(w)
		defer tw.Flush()
		out = tw
		if !o.NoHeading {
			fmt.Fprintln(out, header.String())
		}
	}
	all := usesAll(text)
	fields := slices.DeleteFunc(slices.Clone(t.fields), func(f field) bool {
		return (!all || f.extra) && !strings.Contains(text, f.name)
	})
	for r := range t.n {
		var line bytes.Buffer
		if err := lines.Strict().Execute(&line, t.row(r, fields).data()); err != nil {
			if e := t.unknown(err); e != nil {
				return e
			}
			return fmt.Errorf("template parsing error: %w", err)
		}
		line.WriteByte('\n')
		if _, err := line.WriteTo(out); err != nil {
			return err
		}
	}
	return nil
}

// unknown is the error for a field that rows do not have, in the words that
// Docker's rows, which are structs, give; nil if err is another one.
func (t list) unknown(err error) error {
	before, key, ok := strings.Cut(err.Error(), "map has no entry for key ")
	if !ok {
		return nil
	}
	return fmt.Errorf("template parsing error: %scan't evaluate field %s in type %s", before, strings.Trim(key, `"`), t.typ)
}
