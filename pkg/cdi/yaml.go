package cdi

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// toJSON makes JSON of the YAML that programs write CDI files in: mappings and
// lists by indentation, and scalars on one line. What else YAML has is refused: a
// parser for all of it would be half a megabyte in every command.
func toJSON(text string) ([]byte, error) {
	var p yaml
	for i, l := range strings.Split(text, "\n") {
		body := strings.TrimLeft(l, " ")
		trimmed := strings.TrimSpace(body)
		if trimmed == "" || trimmed[0] == '#' || trimmed == "---" {
			continue
		}
		p.lines = append(p.lines, line{number: i + 1, indent: len(l) - len(body), text: trimmed})
		if body[0] == '\t' { // YAML's rule; read as no indentation, it would mean something else
			p.at = len(p.lines) - 1
			return nil, p.bad("it is indented by a tab")
		}
	}
	if len(p.lines) == 0 {
		return []byte("{}"), nil
	}
	v, err := p.value(p.lines[0].indent)
	if err == nil && p.at < len(p.lines) {
		err = p.bad("it is not indented like what it belongs to")
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

type line struct {
	number, indent int
	text           string
}

type yaml struct {
	lines []line
	at    int
}

func (p *yaml) bad(why string) error {
	n := p.lines[min(p.at, len(p.lines)-1)].number
	return fmt.Errorf("line %d: %s; JSON is always read", n, why)
}

// here reports whether the next line is indented by exactly this much.
func (p *yaml) here(indent int) bool { return p.at < len(p.lines) && p.lines[p.at].indent == indent }

// value reads the mapping or the list whose lines have this indentation.
func (p *yaml) value(indent int) (any, error) {
	if t := p.lines[p.at].text; t == "-" || strings.HasPrefix(t, "- ") {
		return p.list(indent)
	}
	m := map[string]any{}
	for p.here(indent) {
		key, rest, ok := cut(p.lines[p.at].text)
		if !ok {
			return nil, p.bad("a key and a colon were expected")
		}
		if _, twice := m[key]; twice {
			return nil, p.bad("the key " + key + " is there twice")
		}
		var err error
		if m[key], err = p.below(rest, indent, true); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (p *yaml) list(indent int) (any, error) {
	list := []any{}
	for p.here(indent) && (p.lines[p.at].text == "-" || strings.HasPrefix(p.lines[p.at].text, "- ")) {
		l := &p.lines[p.at]
		rest := strings.TrimLeft(l.text[1:], " ")
		var v any
		var err error
		if _, _, mapping := cut(rest); mapping { // "- key: value" begins a mapping at the key's column
			l.indent += len(l.text) - len(rest)
			l.text = rest
			v, err = p.value(l.indent)
		} else {
			v, err = p.below(rest, indent, false)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// below reads what follows a key or a dash: a scalar on its line, or the lines
// after it. A list may stand below its key without being indented.
func (p *yaml) below(rest string, indent int, key bool) (any, error) {
	if rest != "" && rest[0] != '#' {
		v, err := p.scalar(rest)
		p.at++
		return v, err
	}
	p.at++
	if p.at == len(p.lines) {
		return nil, nil
	}
	next := p.lines[p.at]
	if next.indent > indent || key && next.indent == indent && strings.HasPrefix(next.text, "- ") {
		return p.value(next.indent)
	}
	return nil, nil
}

// cut takes "key: value" apart.
func cut(text string) (key, rest string, ok bool) {
	if text != "" && (text[0] == '"' || text[0] == '\'') {
		end := strings.IndexByte(text[1:], text[0]) + 2
		if end < 2 || !strings.HasPrefix(text[end:], ":") {
			return "", "", false
		}
		return text[1 : end-1], strings.TrimSpace(text[end+1:]), true
	}
	if k, ok := strings.CutSuffix(text, ":"); ok && !strings.Contains(k, ": ") {
		return k, "", true
	}
	key, rest, ok = strings.Cut(text, ": ")
	return key, strings.TrimSpace(rest), ok
}

func (p *yaml) scalar(s string) (any, error) {
	switch s[0] {
	case '"':
		var text string
		if err := json.Unmarshal([]byte(s), &text); err != nil {
			return nil, p.bad("the text in quotes is not one")
		}
		return text, nil
	case '\'':
		text, ended := strings.CutSuffix(s[1:], "'")
		if !ended || strings.Contains(strings.ReplaceAll(text, "''", ""), "'") {
			return nil, p.bad("the text in quotes is not one")
		}
		return strings.ReplaceAll(text, "''", "'"), nil
	case '|', '>', '&', '*', '!', '%', '@', '`', '{', '[':
		if s == "[]" || s == "{}" {
			return json.RawMessage(s), nil
		}
		return nil, p.bad("this way to write YAML is not read: " + s)
	}
	if strings.HasPrefix(s, "- ") {
		return nil, p.bad("a list in the line of another is not read")
	}
	if i := strings.Index(s, " #"); i >= 0 {
		s = strings.TrimSpace(s[:i])
	}
	switch s {
	case "true", "false":
		return s == "true", nil
	case "null", "~":
		return nil, nil
	}
	if n, err := strconv.ParseInt(s, 0, 64); err == nil {
		return n, nil
	}
	return s, nil
}
