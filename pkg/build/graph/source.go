package graph

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Source is a Dockerfile's text.
type Source struct {
	Name string // as the user gave it, for messages
	Data []byte
}

// Range is a piece of a Source, from 1; columns from 0, in bytes, 0 to 0 if
// whole lines are meant.
type Range struct {
	StartLine, StartColumn int
	EndLine, EndColumn     int
}

// String returns the place: "3", or "3:14".
func (r Range) String() string {
	if r.StartColumn == 0 && r.EndColumn == 0 {
		return fmt.Sprint(r.StartLine)
	}
	return fmt.Sprintf("%d:%d", r.StartLine, r.StartColumn+1)
}

// Excerpt shows the lines of ranges with some around them, two on each side of a
// single line and otherwise one, in the form of Docker's. What has columns is
// pointed at, which Docker does not:
//
//	Dockerfile:3
//	--------------------
//	   1 |     FROM debian
//	   2 |
//	   3 | >>> RUN --mout=type=tmpfs,target=/x make
//	     |         ^^^^^^
//	--------------------
//
// It is empty if there is nothing to show.
func (s Source) Excerpt(ranges []Range) string {
	if len(ranges) == 0 || len(s.Data) == 0 {
		return ""
	}
	lines := strings.Split(string(s.Data), "\n")
	start, end := ranges[0].StartLine, 0
	for _, r := range ranges {
		start, end = min(start, r.StartLine), max(end, r.StartLine, r.EndLine)
	}
	if start < 1 || start > len(lines) {
		return ""
	}
	marked, pointed := map[int]bool{}, map[int]Range{}
	for _, r := range ranges {
		for i := r.StartLine; i <= min(max(r.StartLine, r.EndLine), len(lines)); i++ {
			marked[i] = true
		}
		if r.EndColumn > r.StartColumn {
			pointed[r.StartLine] = r
		}
	}
	around := 1
	if start == end {
		around = 2
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d\n--------------------\n", s.Name, start)
	for i := max(start-around, 1); i <= min(end+around, len(lines)); i++ {
		mark := "   "
		if marked[i] {
			mark = ">>>"
		}
		line := strings.TrimSuffix(lines[i-1], "\r")
		fmt.Fprintf(&b, " %3d | %s %s\n", i, mark, strings.Map(visible, line))
		if r, ok := pointed[i]; ok {
			b.WriteString(under(line, r.StartColumn, r.EndColumn))
		}
	}
	b.WriteString("--------------------\n")
	return b.String()
}

// visible replaces what would steer a terminal: the file may be of anybody.
func visible(c rune) rune {
	if c != '\t' && unicode.IsControl(c) {
		return unicode.ReplacementChar
	}
	return c
}

// under points at line[from:to]. Tabs before it stay tabs, so that it is under it.
func under(line string, from, to int) string {
	if from > len(line) || to > len(line) {
		return ""
	}
	blank := strings.Map(func(c rune) rune {
		if c == '\t' {
			return c
		}
		return ' '
	}, line[:from])
	return "     |     " + blank + strings.Repeat("^", utf8.RuneCountInString(line[from:to])) + "\n"
}
