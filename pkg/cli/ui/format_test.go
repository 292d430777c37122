package ui

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

type thing struct{ id, name string }

func things() Table[thing] {
	return Table[thing]{
		Type: "*formatter.thingContext",
		Fields: []Field[thing]{
			{Name: "ID", Header: "THING ID", Value: func(t thing) any { return t.id }},
			{Name: "Names", Header: "NAMES", Value: func(t thing) any { return t.name }},
			{Name: "Size", Header: "SIZE", Value: func(t thing) any { return "0B" }},
			{Name: "Other", Header: "OTHER", Value: func(t thing) any { return t.id }, Extra: true},
		},
		Columns: []string{"ID", "Names"},
		Quiet:   "ID",
		Raw:     []RawField{{"thing_id", "ID"}, {"name", "Names"}},
		Label:   func(t thing, key string) string { return t.name + ":" + key },
	}
}

func TestTable(t *testing.T) {
	rows := []thing{{"0123456789ab", "web"}, {"ba9876543210", "a>b"}}
	tests := []struct {
		name string
		o    TableOptions
		want string
	}{
		{"default", TableOptions{}, "THING ID       NAMES\n0123456789ab   web\nba9876543210   a>b\n"},
		{"table", TableOptions{Format: "table"}, "THING ID       NAMES\n0123456789ab   web\nba9876543210   a>b\n"},
		{"no heading", TableOptions{NoHeading: true}, "0123456789ab   web\nba9876543210   a>b\n"},
		{"quiet", TableOptions{Quiet: true}, "0123456789ab\nba9876543210\n"},
		{"json", TableOptions{Format: "json"}, `{"ID":"0123456789ab","Names":"web","Size":"0B"}` + "\n" + `{"ID":"ba9876543210","Names":"a\u003eb","Size":"0B"}` + "\n"},
		{"json function", TableOptions{Format: "{{json .}}"}, `{"ID":"0123456789ab","Names":"web","Size":"0B"}` + "\n" + `{"ID":"ba9876543210","Names":"a\u003eb","Size":"0B"}` + "\n"},
		{"extra", TableOptions{Format: "{{.Other}}"}, "0123456789ab\nba9876543210\n"},
		{"raw", TableOptions{Format: "raw"}, "thing_id: 0123456789ab\nname: web\n\nthing_id: ba9876543210\nname: a>b\n\n"},
		{"raw quiet", TableOptions{Format: "raw", Quiet: true}, "thing_id: 0123456789ab\nthing_id: ba9876543210\n"},
		{"template", TableOptions{Format: ` {{.Names}}\t{{upper .ID}} `}, "web\t0123456789AB\na>b\tBA9876543210\n"},
		{"template beats quiet", TableOptions{Format: "{{.Names}}", Quiet: true}, "web\na>b\n"},
		{"table template", TableOptions{Format: `table {{.Names}}\t{{upper .ID}}\t{{.Size}}`}, "NAMES     THING ID       SIZE\nweb       0123456789AB   0B\na>b       BA9876543210   0B\n"},
		{"label", TableOptions{Format: `table {{.Label "com.example.my-key"}}\t{{.ID}}`}, "my key                   THING ID\nweb:com.example.my-key   0123456789ab\na>b:com.example.my-key   ba9876543210\n"},
		{"functions", TableOptions{Format: `{{json .Names}} {{join (split .Names ">") "-"}} {{title .Names}} {{pad .Names 1 2}}| {{truncate .ID 3}} {{len .ID}}`}, "\"web\" web Web  web  | 012 12\n\"a>b\" a-b A>b  a>b  | ba9 12\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := things().Write(&b, rows, tt.o); err != nil || b.String() != tt.want {
				t.Errorf("got %q, %v; want %q", b.String(), err, tt.want)
			}
		})
	}
}

// An image has a say in cells: its history, its labels. What a template asks for is
// as it is.
func TestTableObeysNobody(t *testing.T) {
	rows := []thing{{"1", "a\x1b]0;x\a\n2\tb"}}
	for format, want := range map[string]string{
		"":           "1         a\\x1b]0;x\\x07\\x0a2\\x09b\n",
		"{{.Names}}": rows[0].name + "\n",
	} {
		var b bytes.Buffer
		if err := things().Write(&b, rows, TableOptions{Format: format, NoHeading: true}); err != nil || b.String() != want {
			t.Errorf("%q: got %q, %v; want %q", format, b.String(), err, want)
		}
	}
}

func TestUnknownFieldFailsWithoutRows(t *testing.T) {
	for _, format := range []string{"{{.Nope}}", "table {{.Nope}}"} {
		var b bytes.Buffer
		err := things().Write(&b, nil, TableOptions{Format: format})
		const want = `template parsing error: template: :1:2: executing "" at <.Nope>: can't evaluate field Nope in type *formatter.thingContext`
		if err == nil || err.Error() != want || b.Len() > 0 {
			t.Errorf("%s: %v, printed %q; want %s", format, err, b.String(), want)
		}
	}
	if err := things().Write(&bytes.Buffer{}, nil, TableOptions{Format: "{{.ID"}); err == nil || !strings.HasPrefix(err.Error(), "template parsing error: template: :1: ") {
		t.Error(err)
	}
}

func TestUses(t *testing.T) {
	for format, want := range map[string]bool{
		"": false, "table": false, "json": true, "raw": false, "{{.ID}}": false, "{{.Size}}": true,
		"table {{.ID}}": false, "{{json .}}": true, "{{if .ID}}{{.}}{{end}}": true, "{{range $k, $v := .}}{{$k}}{{end}}": true,
	} {
		if got := things().Uses(TableOptions{Format: format}, "Size"); got != want {
			t.Errorf("Uses(%q) = %t, want %t", format, got, want)
		}
	}
}

func TestInspect(t *testing.T) {
	type config struct {
		Labels map[string]string
		Hidden string `json:"-"`
	}
	type object struct {
		ID     string `json:"Id"`
		Config *config
		Big    int64
		URL    string
	}
	objects := []any{&object{ID: "x", Config: &config{map[string]string{"a": "b"}, "h"}, Big: 9007199254740993, URL: "a&b"}}
	for format, want := range map[string]string{
		"":                             "[\n    {\n        \"Id\": \"x\",\n        \"Config\": {\n            \"Labels\": {\n                \"a\": \"b\"\n            }\n        },\n        \"Big\": 9007199254740993,\n        \"URL\": \"a&b\"\n    }\n]\n",
		"{{.Id}} {{.Big}}":             "x 9007199254740993\n",
		"{{.ID}}":                      "x\n",
		"{{.Id}} {{.Config.Hidden}}":   "x h\n",
		`{{index .Config.Labels "a"}}`: "b\n",
		"{{.Config.Labels.nope}}":      "<no value>\n",
		"json":                         `{"Id":"x","Config":{"Labels":{"a":"b"}},"Big":9007199254740993,"URL":"a&b"}` + "\n",
		"{{json .Config}}":             `{"Labels":{"a":"b"}}` + "\n",
	} {
		var b bytes.Buffer
		if err := Inspect(&b, objects, format); err != nil || b.String() != want {
			t.Errorf("Inspect(%q) printed %q, %v; want %q", format, b.String(), err, want)
		}
	}
	err := Inspect(&bytes.Buffer{}, objects, "{{.Nope}}")
	if err == nil || !strings.Contains(err.Error(), `template parsing error: `) || !strings.Contains(err.Error(), `map has no entry for key "Nope"`) {
		t.Error(err)
	}
}

func TestInspectAll(t *testing.T) {
	find := func(ref string) (any, error) {
		if ref == "no" {
			return nil, errors.New("no such object: no")
		}
		return map[string]string{"Id": ref}, nil
	}
	tests := []struct {
		refs, format, want string
		fails              bool
	}{
		{"no", "", "[]\n", true},
		{"a no b", "{{.Id}}", "a\nb\n", true},
		{"no", "{{.Id}}", "", true},
		{"a", "json", "{\"Id\":\"a\"}\n", false},
	}
	for _, tt := range tests {
		var b bytes.Buffer
		err := InspectAll(&b, strings.Fields(tt.refs), tt.format, find)
		if b.String() != tt.want || (err != nil) != tt.fails {
			t.Errorf("%s %s: printed %q, %v; want %q", tt.refs, tt.format, b.String(), err, tt.want)
		}
	}
}
