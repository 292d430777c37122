// Package tarsplit writes tar-split's description of a tar, from which, with the
// files, the same tar can be made again byte for byte.
package tarsplit

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/maphash"
	"io"
	"path"
	"strconv"
	"unicode/utf8"
)

// Writer writes the description: one JSON line per piece,
// which is either bytes as they stand (headers, padding) or a file's name, size
// and crc64. By hand, as it is a tenth of a pull with encoding/json.
type Writer struct {
	w       *bufio.Writer
	line    []byte
	pos     int
	seen    map[uint64]struct{} // hashes of the names so far
	seed    maphash.Seed
	useless bool
	err     error
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: bufio.NewWriterSize(w, 64<<10), seen: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
}

// Segment writes raw bytes.
func (s *Writer) Segment(raw []byte) {
	if len(raw) == 0 || s.useless {
		return
	}
	s.line = append(s.line[:0], `{"type":2,"payload":"`...)
	s.line = base64.StdEncoding.AppendEncode(s.line, raw)
	s.end(`"`)
}

// File writes an entry's name and sum; read is how many bytes of data it had.
func (s *Writer) File(name string, size, read int64, sum uint64) {
	if s.useless {
		return
	}
	// Readers of tar-split refuse a path that comes twice, and would put data
	// where a header says there is some and there is none. (Two names with one
	// hash only cost the description.)
	h := maphash.String(s.seed, path.Clean(name))
	if _, twice := s.seen[h]; twice || size != read {
		s.useless = true
		return
	}
	s.seen[h] = struct{}{}
	s.line = append(s.line[:0], `{"type":1,`...)
	if utf8.ValidString(name) {
		s.line = append(append(s.line, `"name":`...), quote(name)...)
	} else {
		s.line = append(s.line, `"name_raw":"`...)
		s.line = base64.StdEncoding.AppendEncode(s.line, []byte(name))
		s.line = append(s.line, '"')
	}
	if size == 0 {
		s.line = append(s.line, `,"payload":null`...)
		s.end("")
		return
	}
	s.line = strconv.AppendInt(append(s.line, `,"size":`...), size, 10)
	s.line = append(s.line, `,"payload":"`...)
	s.line = base64.StdEncoding.AppendEncode(s.line, binary.BigEndian.AppendUint64(nil, sum))
	s.end(`"`)
}

// Useless says that the tar cannot be described: a path occurs twice in it, or a
// header lies about its size.
func (s *Writer) Useless() bool { return s.useless }

func quote(name string) []byte {
	for i := range len(name) {
		if c := name[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			b, err := json.Marshal(name)
			if err != nil { // a string always marshals
				return []byte(`""`)
			}
			return b
		}
	}
	return strconv.AppendQuote(nil, name)
}

func (s *Writer) end(quote string) {
	s.line = append(append(s.line, quote...), `,"position":`...)
	s.line = append(strconv.AppendInt(s.line, int64(s.pos), 10), '}', '\n')
	s.pos++
	if _, err := s.w.Write(s.line); err != nil && s.err == nil {
		s.err = err
	}
}

// Flush writes what is buffered and returns the first error.
func (s *Writer) Flush() error {
	if err := s.w.Flush(); s.err == nil {
		s.err = err
	}
	return s.err
}
