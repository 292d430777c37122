package logs

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/plainjson"
)

// Entry is one piece of output: a line, or a part of a long or unfinished one.
type Entry struct {
	Time   time.Time
	Stream string // "stdout" or "stderr"
	Text   []byte // with the newline, if that was written; valid until the next entry
	Attrs  string // the JSON object of --log-opt labels and env; may be empty
}

// parser reads the lines of a log. Its zero value is ready.
type parser struct {
	second []byte // 2006-01-02T15:04:05. of the last entry,
	at     time.Time
}

// parse reads one line; false if it is none, such as what a full disk left of
// one. The text is appended to room.
func (p *parser) parse(line, room []byte) (Entry, bool) {
	if e, ok := p.quick(line, room); ok {
		return e, true
	}
	var v struct {
		Log    string          `json:"log"`
		Stream string          `json:"stream"`
		Attrs  json.RawMessage `json:"attrs"`
		Time   time.Time       `json:"time"`
	}
	if json.Unmarshal(line, &v) != nil {
		return Entry{}, false
	}
	return Entry{v.Time, v.Stream, append(room, v.Log...), string(v.Attrs)}, true
}

// quick is parse for lines as our monitors and Docker write them, which is
// twenty times faster. What it takes it reads as encoding/json does, except that
// it lets control characters pass.
func (p *parser) quick(line, room []byte) (e Entry, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"log":"`))
	if !ok {
		return e, false
	}
	if e.Text, rest, ok = plainjson.Unquote(rest, room); !ok {
		return e, false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"stream":"std`)); !ok || len(rest) < 4 {
		return e, false
	}
	switch string(rest[:4]) {
	case `out"`:
		e.Stream = "stdout"
	case `err"`:
		e.Stream = "stderr"
	default:
		return e, false
	}
	if rest, ok = bytes.CutPrefix(rest[4:], []byte(`,"time":"`)); !ok { // attrs take the slow way
		return e, false
	}
	if rest, ok = bytes.CutSuffix(rest, []byte(`"}`)); !ok {
		return e, false
	}
	e.Time, ok = p.time(rest)
	return e, ok
}

// time reads a time. Most entries are of the second of the one before.
func (p *parser) time(text []byte) (time.Time, bool) {
	const second, whole = len("2006-01-02T15:04:05."), len("2006-01-02T15:04:05.000000000Z")
	if len(text) == whole && text[whole-1] == 'Z' && bytes.Equal(text[:second], p.second) {
		n := 0
		for _, c := range text[second : whole-1] {
			if c < '0' || c > '9' {
				return time.Time{}, false
			}
			n = n*10 + int(c-'0')
		}
		return p.at.Add(time.Duration(n)), true
	}
	t, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return t, false
	}
	if len(text) == whole && text[whole-1] == 'Z' {
		p.second, p.at = append(p.second[:0], text[:second]...), t.Truncate(time.Second)
	}
	return t, true
}

// Printer turns entries into what `logs` prints. Its zero value prints the
// output alone.
type Printer struct {
	Timestamps bool
	Details    bool
	within     [2]bool // stdout, stderr: in the middle of a line
}

// Append appends e to dst. What goes before a line is left out where e goes on
// with one.
func (p *Printer) Append(dst []byte, e Entry) []byte {
	within := &p.within[0]
	if e.Stream == "stderr" {
		within = &p.within[1]
	}
	if !*within {
		if p.Timestamps {
			dst = e.Time.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000000Z07:00")
			dst = append(dst, ' ')
		}
		if p.Details {
			dst = append(dst, details(e.Attrs)...)
			dst = append(dst, ' ')
		}
	}
	*within = len(e.Text) > 0 && e.Text[len(e.Text)-1] != '\n'
	return append(dst, e.Text...)
}

// details returns attrs as Docker prints them: k=v, sorted, escaped as in a URL.
func details(attrs string) string {
	var m map[string]string
	if json.Unmarshal([]byte(attrs), &m) != nil {
		return ""
	}
	list := make([]string, 0, len(m))
	for k, v := range m {
		list = append(list, url.QueryEscape(k)+"="+url.QueryEscape(v))
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}
