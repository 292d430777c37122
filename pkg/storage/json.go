package storage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"cais.dev/cais/pkg/plainjson"
)

// scanner walks a JSON document and hands out only what is asked for. The
// store's files hold kilobytes of fields that nobody here wants: encoding/json
// takes 10 ms for a megabyte of them, this about one.
//
// It accepts some documents that are not JSON (in parts that are skipped); they
// come from our own user's files and are only read.
type scanner struct {
	b    []byte
	i    int
	fail error // the first error; everything after it is a no-op
}

func (s *scanner) errorf(format string, args ...any) {
	if s.fail == nil {
		s.fail = fmt.Errorf("byte %d: %s", s.i, fmt.Sprintf(format, args...))
		s.i = len(s.b)
	}
}

// peek returns the next byte that is not white space, 0 at the end.
func (s *scanner) peek() byte {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.i++
	return true
}

// object calls f for each member; f consumes the value. null is an empty one.
func (s *scanner) object(f func(key string)) {
	s.list('{', '}', func() {
		key := s.str()
		if !s.take(':') {
			s.errorf("no colon after a name")
			return
		}
		f(key)
	})
}

// array calls f for each element; f consumes it. null is an empty one.
func (s *scanner) array(f func()) { s.list('[', ']', f) }

func (s *scanner) list(open, end byte, f func()) {
	if s.peek() == 'n' {
		s.skip()
		return
	}
	if !s.take(open) {
		s.errorf("want %q", open)
		return
	}
	if s.take(end) {
		return
	}
	for s.fail == nil {
		f()
		if s.take(end) {
			return
		}
		if !s.take(',') {
			s.errorf("want %q or a comma", end)
		}
	}
}

// rawString returns what is between the quotes and whether it has escapes.
func (s *scanner) rawString() (raw []byte, escaped bool) {
	if !s.take('"') {
		s.errorf("want a string")
		return nil, false
	}
	start := s.i
	for {
		n := bytes.IndexByte(s.b[s.i:], '"')
		if n < 0 {
			s.errorf("a string does not end")
			return nil, false
		}
		part := s.b[s.i : s.i+n]
		if bytes.IndexByte(part, '\\') >= 0 {
			escaped = true
		}
		s.i += n + 1
		backslashes := 0
		for k := s.i - 2; k >= start && s.b[k] == '\\'; k-- {
			backslashes++
		}
		if backslashes%2 == 0 {
			return s.b[start : s.i-1], escaped
		}
	}
}

// str returns a string; null is empty.
func (s *scanner) str() string {
	if s.peek() == 'n' {
		s.skip()
		return ""
	}
	raw, escaped := s.rawString()
	if !escaped {
		return string(raw)
	}
	if text, _, ok := plainjson.Unquote(s.b[s.i-len(raw)-1:], nil); ok {
		return string(text)
	}
	var v string
	if err := json.Unmarshal(s.b[s.i-len(raw)-2:s.i], &v); err != nil {
		s.errorf("%v", err)
	}
	return v
}

func (s *scanner) strings() []string {
	var v []string
	s.array(func() { v = append(v, s.str()) })
	return v
}

// integer returns a number without fraction; null is 0.
func (s *scanner) integer() int64 {
	raw := s.raw()
	if string(raw) == "null" {
		return 0
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		s.errorf("%q is not an integer", raw)
	}
	return n
}

// raw returns the next value as it stands.
func (s *scanner) raw() []byte {
	s.peek()
	start := s.i
	s.skip()
	if s.fail != nil {
		return nil
	}
	return s.b[start:s.i]
}

// skip passes over one value without looking at its parts.
func (s *scanner) skip() {
	depth := 0
	for s.fail == nil {
		switch c := s.peek(); c {
		case 0:
			s.errorf("the document ends in the middle")
		case '"':
			s.rawString()
		case '{', '[':
			s.i++
			depth++
			continue
		case '}', ']':
			if depth == 0 {
				s.errorf("unexpected %q", c)
				return
			}
			s.i++
			depth--
		case ',', ':':
			if depth == 0 {
				s.errorf("unexpected %q", c)
				return
			}
			s.i++
			continue
		default:
			start := s.i
			for s.i < len(s.b) && bytes.IndexByte([]byte(" \t\r\n,:]}[{\""), s.b[s.i]) < 0 {
				s.i++
			}
			if s.i == start {
				s.errorf("unexpected %q", c)
			}
		}
		if depth == 0 {
			return
		}
	}
}
