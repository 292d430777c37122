package logs

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Entry is one piece of output: a line, or a part of a long or unfinished one.
type Entry struct {
	Time   time.Time
	Stream string // "stdout" or "stderr"
	Text   []byte // with the newline, if that was written; valid until the next entry
	Attrs  string // the JSON object of --log-opt labels and env; may be empty
}

// parse reads one line of a log; false if it is none, such as what a full disk
// left of one. The text is appended to room.
func parse(line, room []byte) (Entry, bool) {
	if e, ok := quick(line, room); ok {
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

// quick is parse for lines as our monitors and Docker write them, which is ten
// times faster.
func quick(line, room []byte) (e Entry, ok bool) {
	rest, ok := cutPrefix(line, `{"log":"`)
	if !ok {
		return e, false
	}
	if e.Text, rest, ok = unquote(rest, room); !ok {
		return e, false
	}
	if rest, ok = cutPrefix(rest, `,"stream":"`); !ok || len(rest) < 7 {
		return e, false
	}
	switch string(rest[:7]) {
	case `stdout"`:
		e.Stream = "stdout"
	case `stderr"`:
		e.Stream = "stderr"
	default:
		return e, false
	}
	if rest, ok = cutPrefix(rest[7:], `,"time":"`); !ok { // attrs take the slow way
		return e, false
	}
	t, end, ok := strings.Cut(string(rest), `"`)
	if !ok || end != "}" {
		return e, false
	}
	var err error
	e.Time, err = time.Parse(time.RFC3339Nano, t)
	return e, err == nil
}

func cutPrefix(p []byte, prefix string) ([]byte, bool) {
	if len(p) < len(prefix) || string(p[:len(prefix)]) != prefix {
		return p, false
	}
	return p[len(prefix):], true
}

// unquote appends the inside of a JSON string to dst, up to its closing quote,
// and returns what follows that.
func unquote(p, dst []byte) (text, rest []byte, ok bool) {
	start := 0
	for i := 0; i < len(p); {
		switch p[i] {
		case '"':
			return append(dst, p[start:i]...), p[i+1:], true
		case '\\':
			dst = append(dst, p[start:i]...)
			if i+1 >= len(p) {
				return nil, nil, false
			}
			n := 2
			switch p[i+1] {
			case 'n':
				dst = append(dst, '\n')
			case 'r':
				dst = append(dst, '\r')
			case 't':
				dst = append(dst, '\t')
			case '"', '\\', '/':
				dst = append(dst, p[i+1])
			case 'u':
				r, ok := hex4(p[i+2:])
				if !ok || r >= 0xd800 && r < 0xe000 { // surrogates take the slow way
					return nil, nil, false
				}
				dst = utf8.AppendRune(dst, r)
				n = 6
			default:
				return nil, nil, false
			}
			i += n
			start = i
		default:
			i++
		}
	}
	return nil, nil, false
}

func hex4(p []byte) (rune, bool) {
	if len(p) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range p[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// Printer turns entries into what `logs` prints. Its zero value prints the
// output alone.
type Printer struct {
	Timestamps bool
	Details    bool
	within     map[string]bool // streams in the middle of a line
}

// Append appends e to dst. What goes before a line is left out where e goes on
// with one.
func (p *Printer) Append(dst []byte, e Entry) []byte {
	if !p.within[e.Stream] {
		if p.Timestamps {
			dst = e.Time.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000000000Z07:00")
			dst = append(dst, ' ')
		}
		if p.Details {
			dst = append(dst, details(e.Attrs)...)
			dst = append(dst, ' ')
		}
	}
	if p.within == nil {
		p.within = map[string]bool{}
	}
	p.within[e.Stream] = len(e.Text) > 0 && e.Text[len(e.Text)-1] != '\n'
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
