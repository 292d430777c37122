package tmpl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"text/template"
	"time"
)

type inner struct {
	A int
	P *inner
	//lint:ignore U1000 templates ask for it
	priv int
}

type row map[string]any

func (r row) Label(key string) string { return "label of " + key }

type word string

func (w word) String() string { return "<" + string(w) + ">" }

type object struct {
	inner
	Name   string
	I      inner
	P, Nil *inner
	Map    map[string]string
	NilMap map[string]string
	Any    any
	NilAny any
	List   []string
	Nested []map[string]any
	Ints   map[int]string
	F      float64
	U      uint16
	B      bool
	Num    json.Number
	Word   word
	Err    error
	Row    row
	Func   func()
	Time   time.Time
	Deep   map[string]map[string][]inner
}

func data() *object {
	return &object{
		Name: "web", I: inner{A: 1}, P: &inner{A: 2, P: &inner{A: 3}}, Map: map[string]string{"b": "2", "a": "1"},
		Any: map[string]any{"x": []any{1.5, "s", nil, true}}, List: []string{"p", "q", "r"},
		Nested: []map[string]any{{"k": 1, "n": nil}, {"k": "v"}}, Ints: map[int]string{10: "ten", 2: "two"}, F: 1.25, U: 7, B: true,
		Num: "9007199254740993", Word: "w", Err: errors.New("bad"), Time: time.Unix(1e9, 5).UTC(), Row: row{"ID": "x", "Names": []string{"n"}}, Func: func() {},
		Deep: map[string]map[string][]inner{"80/tcp": {"x": {{A: 8080}}}},
	}
}

func funcs() map[string]any {
	return map[string]any{
		"json":  func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"upper": strings.ToUpper, "join": strings.Join, "split": strings.Split,
		"pad":  func(s string, a, b int) string { return strings.Repeat(" ", a) + s + strings.Repeat(" ", b) },
		"same": func(v any) any { return v },
		"fail": func(s string) (string, error) { return "", errors.New("failed on " + s) },
	}
}

// templates are carried out by both; each line is one.
const templates = `
{{.}}
{{.Name}} {{.I.A}} {{.A}} {{.P.A}} {{.P.P.A}} {{.Map.a}} {{.Map.none}} {{.Any.x}} {{.F}} {{.U}} {{.B}} {{.Num}} {{.Word}} {{.Err}} {{.Ints}}
{{.Nil}}{{.NilAny}}{{.NilMap}}{{.NilMap.x}}
{{.None}}
{{.Name.x}}
{{.I.None}}
{{.I.priv}}
{{.Nil.A}}
{{.Nil.None}}
{{.P.P.P.A}}
{{.P.P.P}}
{{.NilAny.x}}
{{.Any.none.deeper}}
{{.Func}}
{{if .Name}}y{{else}}n{{end}}{{if .NilMap}}y{{else if .B}}z{{else}}n{{end}}{{if .Nil}}y{{end}}{{if .I}}s{{end}}{{if .NilAny}}a{{end}}{{if not .B}}b{{end}}
{{with .P}}{{.A}}{{$.Name}}{{else}}none{{end}}{{with .Nil}}x{{else}}none{{end}}{{with $x := .Name}}{{$x}}{{end}}{{with .Nil}}x{{else with .Map}}{{.a}}{{end}}
{{range .List}}{{.}},{{end}}{{range $i, $e := .List}}{{$i}}={{$e}};{{end}}{{range $e := .List}}{{$e}}{{end}}
{{range $k, $v := .Map}}{{$k}}={{$v}};{{end}}{{range .NilMap}}x{{else}}empty{{end}}{{range $k, $v := .Ints}}{{$k}}{{$v}} {{end}}
{{range 3}}{{.}}{{end}}{{range $i := 2}}{{$i}}{{end}}{{range $i, $j := 2}}x{{end}}
{{range .Name}}x{{end}}
{{range .F}}x{{end}}
{{range .Nil}}x{{else}}none{{end}}
{{range .List}}{{if eq . "q"}}{{continue}}{{end}}{{.}}{{end}}{{range .List}}{{if eq . "q"}}{{break}}{{end}}{{.}}{{end}}
{{range $i, $e := .List}}{{range $.Ints}}{{if eq . "two"}}{{break}}{{end}}{{end}}{{$i}}{{if eq $i 1}}{{with $e}}{{break}}{{end}}{{end}}{{end}}
{{$x := 1}}{{range .List}}{{$x = .}}{{end}}{{$x}}{{if true}}{{$x := 2}}{{end}}{{$x}}
{{$i := 0}}{{$e := ""}}{{range $i, $e = .List}}{{end}}{{$i}}{{$e}}
{{define "t"}}[{{.}}{{$}}]{{end}}{{template "t" .Name}}{{template "t"}}{{block "b" .P}}{{.A}}{{end}}{{template "none"}}
{{define "t"}}{{.Nope}}{{end}}{{template "t" .}}
{{index .Map "a"}}{{index .Map "none"}}{{index .List 1}}{{index .Any.x 0}}{{index .Deep "80/tcp" "x" 0}}{{(index (index .Deep "80/tcp" "x") 0).A}}
{{index .List 3}}
{{index .List -1}}
{{index .List 9}}
{{index .List "a"}}
{{index .List nil}}
{{index .Map 1}}
{{index .Map nil}}
{{index .Nil 1}}
{{index .NilAny 1}}
{{index nil 1}}
{{index .Ints 2}}{{index .Ints .U}}
{{index .F 1}}
{{index 1}}{{index .Name 1}}
{{slice .Name 1}}{{slice .Name 1 2}}{{slice .List 1}}{{slice .List 0 1 2}}{{slice .Name}}
{{slice .Name 2 1}}
{{slice .Name 0 9}}
{{slice .Name 0 1 2}}
{{slice .F}}
{{slice .List 0 1 2 3}}
{{slice nil}}
{{len .Name}}{{len .List}}{{len .Map}}{{len .NilMap}}{{len .Any}}
{{len 3}}
{{len .Nil}}
{{len}}
{{len 1 2}}
{{not 1 2}}
{{and 1 0}}{{and 0 (fail "x")}}{{or 0 "a"}}{{or 1 (fail "x")}}{{and .B .Name}}{{or .Nil .NilMap}}{{.B | and 1}}{{.Name | or 0}}{{and}}
{{or}}
{{print 1 2 "a" "b" .F nil}}|{{println .Name}}|{{printf "%d %s %v %q %T" 3 .Name .I.A .List 1.5}}|{{printf "%v" nil}}|{{.Name | printf "%s-%s" "a"}}
{{printf 3}}
{{printf .F}}
{{printf}}
{{html "<a href='x'>&\"" .Name}}{{js "it's <a>\\ = & \"" }}{{urlquery "a b&c/d" .F}}{{html .Word .P.A}}
{{js "\n\tü\u2028"}}{{html .Nil}}{{html nil}}
{{eq .Name "web"}}{{eq 1 2 1}}{{eq .U 7}}{{eq .F 1.25}}{{eq .B true}}{{eq .Num "9007199254740993"}}{{eq .NilAny nil}}{{eq .Nil nil}}{{ne .Name "x"}}{{eq .Word "w"}}
{{eq .Name 1}}
{{eq .Num 1}}
{{eq 1}}
{{eq}}
{{eq .Map .Map}}
{{eq .Map nil}}{{eq .NilMap nil}}
{{eq .List .Map}}
{{eq .I .I}}{{eq .P .P}}{{eq .P .Nil}}
{{lt 1 2}}{{lt .U 8}}{{lt -1 .U}}{{lt .U -1}}{{le 2 2}}{{gt "b" "a"}}{{ge 1.5 2.5}}{{lt 1.5 2.5}}{{gt .U 6}}{{ge .U 7}}{{le -1 .U}}
{{lt 1 1.5}}
{{lt true false}}
{{lt .Map 1}}
{{lt 1 nil}}
{{lt 1}}
{{ne 1}}
{{json .Map}}{{json .Nil}}{{json nil}}{{.Any | json}}{{json .NilAny}}{{json .Num}}{{json .Word}}
{{upper .Name}}{{.Name | upper}}{{join .List "-"}}{{split "a,b" "," | len}}{{pad .Name 1 2}}{{range split .Name "e"}}[{{.}}]{{end}}
{{upper 3}}
{{upper .F}}
{{upper nil}}
{{upper .NilAny}}
{{upper .Word}}
{{upper .Map.none}}{{upper .Any.none}}
{{upper .Any}}
{{upper}}
{{upper .Name .Name}}
{{pad .Name "1" 2}}
{{pad .Name 1.0 2}}
{{pad .Name 'a' 0x02}}
{{pad .Name true 2}}
{{fail "x"}}
{{"x" | fail | upper}}
{{.Row.Label "k"}}{{.Row.ID}}{{.Row.Names}}{{"k" | .Row.Label}}{{$r := .Row}}{{$r.Label "z"}}{{(.Row).Label "z"}}
{{.Row.Label}}
{{.Row.Label 1}}
{{.Row.ID 1}}
{{.Name 1}}
{{1 | .Name}}
{{$x := 1}}{{$x 1}}
{{nil}}
{{true}}{{1}}{{1.5}}{{1e3}}{{'a'}}{{0x1F}}{{"s"}}{{1i}}{{0x1p4}}{{1_000}}{{-3}}
{{18446744073709551615}}
{{(.Name)}}{{(print .Name "x") | upper}}{{(.P).A}}{{(index .Nested 0).k}}{{(index .Nested 0).n}}
{{(nil).x}}
{{range .Nested}}{{.k}}{{.z}}{{.n}};{{end}}
{{/* comment */}}a {{- " b " -}} c
{{same .Nil}}{{same nil}}{{same .Map}}{{(same .P).A}}
{{.Name | len | printf "%03d"}}{{$.Name}}{{$.P.P.A}}{{$.None}}
{{call .Name}}
{{range $i, $p := .Deep}}{{$i}}{{range $k, $v := $p}}{{$k}}{{(index $v 0).A}}{{end}}{{end}}
{{with .Row}}{{.Label "a.b"}}{{.None}}{{end}}
{{if and (eq .Name "web") (gt (len .List) 2)}}yes{{end}}
{{.Any.x.y}}
{{range .Any.x}}{{.}} {{end}}{{range $k, $v := .Any}}{{$k}}{{len $v}}{{end}}
{{ .Name
{{nofunc .}}
{{end}}
{{$y}}
{{.Name}}}} {{if}}
{{break}}
{{.Time}} {{.Time.Unix}} {{.Time.Format "2006"}} {{(.Time.UTC).IsZero}} {{.Time.String}} {{json .Time}}
{{.Time.Format}}
{{.Time.Nope}}
`

// TestAgainstTextTemplate compares output and errors with the real ones.
func TestAgainstTextTemplate(t *testing.T) {
	var raw any
	if err := json.Unmarshal([]byte(`{"Name":"web","Map":{"b":"2","a":"1"},"List":["p","q","r"],"F":1.25,"Any":{"x":[1,null]},"P":{"A":2},"Nil":null,"B":true}`), &raw); err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(templates) {
		text = strings.TrimSuffix(text, "\n")
		for name, d := range map[string]any{"struct": data(), "value": *data(), "raw": raw, "nil": nil, "row": row{"ID": 1, "Name": "n", "List": []string{"x"}}} {
			for _, strict := range []bool{false, true} {
				got, want := ours(text, d, strict), theirs(text, d, strict)
				if got != want {
					t.Errorf("%s on %s, strict %t:\n got %s\nwant %s", text, name, strict, got, want)
				}
			}
		}
	}
}

func ours(text string, d any, strict bool) string {
	var b bytes.Buffer
	x, err := Parse(text, funcs())
	if err == nil {
		if strict {
			x = x.Strict()
		}
		err = x.Execute(&b, d)
	}
	return fmt.Sprintf("%q, %v", b.String(), err)
}

func theirs(text string, d any, strict bool) string {
	var b bytes.Buffer
	x, err := template.New("").Funcs(funcs()).Parse(text)
	if err == nil {
		if strict {
			x.Option("missingkey=error")
		}
		err = x.Execute(&b, d)
	}
	return fmt.Sprintf("%q, %v", b.String(), err)
}
