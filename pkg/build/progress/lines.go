package progress

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// lines cuts output into lines as a terminal would show them: what a carriage
// return went back over is left out, control characters are spelled out.
func lines(data []byte) []string {
	var out []string
	for line := range bytes.Lines(data) {
		line = bytes.TrimRight(line, "\r\n")
		if i := bytes.LastIndexByte(line, '\r'); i >= 0 {
			line = line[i+1:]
		}
		out = append(out, string(line))
	}
	return out
}

// plainText is a line without what would steer a terminal: escape sequences are
// left out, other control characters but the tab too.
func plainText(s string) string {
	clean := true
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f || c >= utf8.RuneSelf {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] == 0x1b {
			i += escape(s[i:])
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == '\t' || r >= ' ' && r != 0x7f && (r < 0x80 || r >= 0xa0) {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// escape returns how long the escape sequence is that s begins with.
func escape(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[': // CSI: parameters, then one final byte
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']', 'P', '_', '^', 'X': // strings, ended by BEL or ST
		for i := 2; i < len(s); i++ {
			if s[i] == 7 {
				return i + 1
			}
			if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
		}
		return len(s)
	}
	return 2
}

// size is a number of bytes as BuildKit writes it.
func size(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%dB", n)
	}
	v, names := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB"}
	i := 0
	for v >= unit && i < len(names)-1 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.2f%s", v, names[i])
}

// tail keeps the last lines of a step's output, for the error.
type tail struct {
	lines []string
}

const tailLines = 20

func (t *tail) add(s string) {
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, s)
}

// failure is what is shown again, at the end, of the step that failed.
func failure(name string, t *tail) string {
	var b strings.Builder
	fmt.Fprintf(&b, "------\n > %s:\n", plainText(name))
	for _, l := range t.lines {
		b.WriteString(l + "\n")
	}
	b.WriteString("------\n")
	return b.String()
}
