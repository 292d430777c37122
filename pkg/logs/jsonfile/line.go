package jsonfile

import "time"

const hex = "0123456789abcdef"

// AppendString appends s as the inside of a JSON string, escaped as Docker's
// json-file does: also the characters that are special in HTML, and the two line
// ends of Unicode that JavaScript knows. What is not UTF-8 becomes U+FFFD.
func AppendString(dst, s []byte) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < 0x80 {
			if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		n := runeLen(s[i:])
		switch {
		case n == 0:
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\ufffd`...)
			i++
			start = i
		case n == 3 && c == 0xe2 && s[i+1] == 0x80 && s[i+2]&^1 == 0xa8: // U+2028, U+2029
			dst = append(dst, s[start:i]...)
			dst = append(dst, '\\', 'u', '2', '0', '2', hex[s[i+2]&15])
			i += 3
			start = i
		default:
			i += n
		}
	}
	return append(dst, s[start:]...)
}

// runeLen returns the length of the UTF-8 sequence that s, which is not ASCII,
// begins with; 0 if it is none. Shortest form only, no surrogates: RFC 3629.
func runeLen(s []byte) int {
	n, low, high := 0, byte(0x80), byte(0xbf)
	switch c := s[0]; {
	case c >= 0xc2 && c <= 0xdf:
		n = 2
	case c >= 0xe0 && c <= 0xef:
		n = 3
		if c == 0xe0 {
			low = 0xa0
		} else if c == 0xed {
			high = 0x9f
		}
	case c >= 0xf0 && c <= 0xf4:
		n = 4
		if c == 0xf0 {
			low = 0x90
		} else if c == 0xf4 {
			high = 0x8f
		}
	}
	if n == 0 || len(s) < n || s[1] < low || s[1] > high {
		return 0
	}
	for _, c := range s[2:n] {
		if c&0xc0 != 0x80 {
			return 0
		}
	}
	return n
}

// cut returns where to cut s, at limit or up to three bytes before it, so that
// no UTF-8 sequence is torn. s is longer than limit.
func cut(s []byte, limit int) int {
	for i := limit; i > limit-4 && i > 0; i-- {
		if s[i] < 0x80 || s[i] >= 0xc0 { // a sequence, or an ASCII character, begins here
			if n := runeLen(s[i:]); i == limit || n > limit-i {
				return i
			}
			return limit
		}
	}
	return limit
}

// clock formats times; it keeps the text of the second it formatted last.
type clock struct {
	second int64
	text   [20]byte // 2006-01-02T15:04:05.
}

// append appends t in RFC 3339 with nine digits behind the second, in UTC.
func (c *clock) append(dst []byte, t time.Time) []byte {
	if sec := t.Unix(); sec != c.second || c.text[0] == 0 {
		c.second = sec
		u := t.UTC()
		year, month, day := u.Date()
		hour, minute, second := u.Clock()
		digits(c.text[0:4], year)
		digits(c.text[5:7], int(month))
		digits(c.text[8:10], day)
		digits(c.text[11:13], hour)
		digits(c.text[14:16], minute)
		digits(c.text[17:19], second)
		c.text[4], c.text[7], c.text[10], c.text[13], c.text[16], c.text[19] = '-', '-', 'T', ':', ':', '.'
	}
	dst = append(dst, c.text[:]...)
	n := len(dst)
	dst = append(dst, "000000000Z"...)
	digits(dst[n:n+9], t.Nanosecond())
	return dst
}

// digits writes v into p, right-aligned.
func digits(p []byte, v int) {
	for i := len(p) - 1; i >= 0; i-- {
		p[i] = byte('0' + v%10)
		v /= 10
	}
}
