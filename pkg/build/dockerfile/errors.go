package dockerfile

import (
	"errors"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/errs"
)

// Error is a mistake in a Dockerfile, or one that a place in it led to.
type Error struct {
	Source graph.Source
	Lines  []graph.Range // where; none if it is the whole of it
	Err    error         // never nil
}

// Error returns the mistake in BuildKit's words; the place is Excerpt's.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e *Error) Unwrap() error { return e.Err }

// Excerpt shows the lines, see graph.Source.Excerpt.
func (e *Error) Excerpt() string { return e.Source.Excerpt(e.Lines) }

// located gives err the place that the parser's packages noted in it.
func located(src graph.Source, err error) error {
	var at *parser.LocationError
	if !errors.As(err, &at) {
		if errs.KindOf(err) == errs.Internal {
			return errs.E("", errs.Invalid, err)
		}
		return err
	}
	var lines []graph.Range
	seen := map[graph.Range]bool{}
	for _, l := range at.Locations {
		for _, r := range l {
			n := toRange(r)
			n.StartLine = max(n.StartLine, 1) // of the first line's directive it is 0
			if !seen[n] {
				seen[n] = true
				lines = append(lines, n)
			}
		}
	}
	if errs.KindOf(err) == errs.Internal {
		err = errs.E("", errs.Invalid, err)
	}
	if len(lines) == 0 {
		return err
	}
	return &Error{Source: src, Lines: pointTo(src, lines, err.Error()), Err: err}
}

func toRange(r parser.Range) graph.Range {
	return graph.Range{
		StartLine: r.Start.Line, StartColumn: r.Start.Character,
		EndLine: r.End.Line, EndColumn: r.End.Character,
	}
}

func toRanges(list []parser.Range) []graph.Range {
	out := make([]graph.Range, len(list))
	for i, r := range list {
		out[i] = toRange(r)
	}
	return out
}

// pointTo narrows the place down to the word that the message is about, if it
// stands in the lines once: the parser knows lines only.
func pointTo(src graph.Source, lines []graph.Range, msg string) []graph.Range {
	text := strings.Split(string(src.Data), "\n")
	for _, word := range words(msg) {
		if len(word) < 2 {
			continue
		}
		found := []graph.Range{}
		for _, r := range lines {
			for n := r.StartLine; n <= max(r.StartLine, r.EndLine) && n <= len(text); n++ {
				for at := 0; ; {
					i := strings.Index(text[n-1][at:], word)
					if i < 0 {
						break
					}
					i += at
					at = i + len(word)
					if !wordByte(text[n-1], i-1) && !wordByte(text[n-1], at) {
						found = append(found, graph.Range{StartLine: n, StartColumn: i, EndLine: n, EndColumn: at})
					}
				}
			}
		}
		if len(found) == 1 {
			out := slices.Clone(lines)
			for i, r := range out {
				if r.StartLine <= found[0].StartLine && found[0].StartLine <= max(r.StartLine, r.EndLine) {
					if r.StartLine == max(r.StartLine, r.EndLine) {
						out[i] = found[0]
					} else {
						out = append(out, found[0])
					}
					break
				}
			}
			return out
		}
	}
	return lines
}

func wordByte(s string, i int) bool {
	return i >= 0 && i < len(s) && (s[i] == '_' || s[i] == '-' || s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z')
}

// words lists what a message may be about: what it quotes, and what comes last
// before the suggestion.
func words(msg string) []string {
	msg, _, _ = strings.Cut(msg, " (did you mean ")
	var list []string
	for _, q := range []string{`"`, "'", "`"} {
		parts := strings.Split(msg, q)
		for i := 1; i < len(parts)-1; i += 2 {
			if parts[i] != "" {
				list = append(list, parts[i])
			}
		}
	}
	if i := strings.LastIndex(msg, ": "); i >= 0 && i+2 < len(msg) {
		list = append(list, msg[i+2:])
	}
	return list
}
