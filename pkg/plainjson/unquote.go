package plainjson

import (
	"bytes"
	"unicode/utf8"
)

// Unquote appends the inside of a JSON string, which p begins with, to dst, up to
// the closing quote, and returns what follows that. Surrogates, and what is not
// UTF-8, it refuses: encoding/json has to be asked. Control characters pass.
func Unquote(p, dst []byte) (text, rest []byte, ok bool) {
	start := len(dst)
	for {
		quote := bytes.IndexByte(p, '"')
		if quote < 0 {
			return nil, nil, false
		}
		escape := bytes.IndexByte(p[:quote], '\\')
		if escape < 0 {
			dst = append(dst, p[:quote]...)
			return dst, p[quote+1:], utf8.Valid(dst[start:])
		}
		dst = append(dst, p[:escape]...)
		p = p[escape+1:] // not empty: the quote is in it
		n := 1
		switch p[0] {
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case '"', '\\', '/':
			dst = append(dst, p[0])
		case 'u':
			r, ok := hex4(p[1:])
			if !ok || r >= 0xd800 && r < 0xe000 {
				return nil, nil, false
			}
			dst = utf8.AppendRune(dst, r)
			n = 5
		default:
			return nil, nil, false
		}
		p = p[n:]
	}
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
