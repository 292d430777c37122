// Package ignore decides what an ignore file (.dockerignore) leaves out of a
// build context, by Docker's rules, which differ from git's: patterns are
// relative to the root, "*" stops at a slash, "**" does not, the last pattern
// that matches a path or one of its parents decides, and "!" takes back even what
// is below a directory that is left out.
package ignore

import (
	"bytes"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"cais.dev/cais/pkg/errs"
)

// Parse reads the patterns of an ignore file: one on each line, "#" begins a
// comment, blanks around it and a slash before it mean nothing.
func Parse(data []byte) []string {
	var out []string
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		p := strings.TrimSpace(line)
		if p == "" {
			continue
		}
		p, not := strings.CutPrefix(p, "!")
		if p = strings.TrimSpace(p); p != "" {
			p = path.Clean(p)
			if len(p) > 1 {
				p = strings.TrimPrefix(p, "/")
			}
		}
		if not {
			p = "!" + p
		}
		out = append(out, p)
	}
	return out
}

// Matcher knows what is left out. It does not change, and several goroutines may
// use it.
type Matcher struct {
	patterns []pattern
	inverted bool // there is a "!"
}

// New compiles patterns. nil, which leaves nothing out, comes of no patterns.
func New(patterns []string) (*Matcher, error) {
	m := &Matcher{}
	for _, text := range patterns {
		p := strings.TrimSpace(text)
		if p == "" {
			continue
		}
		p = path.Clean(p)
		p, not := strings.CutPrefix(p, "!")
		if p == "" {
			return nil, errs.New(errs.Invalid, `illegal exclusion pattern: "!"`)
		}
		if _, err := path.Match(p, "."); err != nil {
			return nil, errs.New(errs.Invalid, "ignore pattern \""+text+"\": "+err.Error())
		}
		c, err := compile(p)
		if err != nil {
			return nil, errs.New(errs.Invalid, "ignore pattern \""+text+"\": "+err.Error())
		}
		c.not = not
		m.inverted = m.inverted || not
		m.patterns = append(m.patterns, c)
	}
	if len(m.patterns) == 0 {
		return nil, nil
	}
	return m, nil
}

// Inverted reports whether a pattern takes back what others leave out.
func (m *Matcher) Inverted() bool { return m != nil && m.inverted }

// State is what is known of a directory, for what is in it. nil is the root's.
type State []bool

// Match reports whether name is left out: a path relative to the root, without
// "./" before it. parent is its directory's state; the result's is for what is in
// it, if it is a directory.
func (m *Matcher) Match(name string, parent State) (ignored bool, s State) {
	if m == nil {
		return false, nil
	}
	s = make(State, len(m.patterns))
	for i := range m.patterns {
		p := &m.patterns[i]
		hit := parent != nil && parent[i]
		if !hit {
			if p.not != ignored {
				continue // it would change nothing
			}
			hit = p.match(name)
		}
		s[i] = hit
		if hit {
			ignored = !p.not
		}
	}
	return ignored, s
}

// Ignored reports whether name, or a directory that it is in, is left out.
func (m *Matcher) Ignored(name string) bool {
	if m == nil || name == "" || name == "." {
		return false
	}
	var s State
	var ignored bool
	for i := 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '/' {
			ignored, s = m.Match(name[:i], s)
		}
	}
	return ignored
}

// Below returns the state of directory dir, and whether it is left out.
func (m *Matcher) Below(dir string) (ignored bool, s State) {
	if m == nil || dir == "" || dir == "." {
		return false, nil
	}
	for i := 0; i <= len(dir); i++ {
		if i == len(dir) || dir[i] == '/' {
			ignored, s = m.Match(dir[:i], s)
		}
	}
	return ignored, s
}

// MayReturn reports whether something below dir, which is left out, may be taken
// back by a "!": if not, nobody needs to look.
func (m *Matcher) MayReturn(dir string) bool {
	if m == nil || !m.inverted {
		return false
	}
	for i := range m.patterns {
		if p := &m.patterns[i]; p.not && p.mayReach(dir) {
			return true
		}
	}
	return false
}

// pattern is compiled: plain text, a text before or after anything, or a list
// of tokens; a character class is left to regexp.
type pattern struct {
	not    bool
	kind   kind
	text   string
	tokens []token
	expr   *regexp.Regexp
	whole  string // as it was, clean
}

type kind uint8

const (
	exact kind = iota
	prefix
	suffix
	tokens
	expression
)

type token struct {
	kind tokenKind
	text string // of literal
}

type tokenKind uint8

const (
	literal tokenKind = iota
	star              // no slash, any number
	one               // one, no slash
	deep              // nothing, or anything and a slash
	rest              // anything
)

// compile follows what Docker makes of a pattern, oddities included: "**" is
// "**/", but at the end of a pattern, and "**x" is everything that ends with x.
func compile(p string) (pattern, error) {
	c := pattern{whole: p, kind: exact}
	var expr, lit strings.Builder
	class := false
	add := func(k tokenKind) {
		if lit.Len() > 0 {
			c.tokens = append(c.tokens, token{literal, lit.String()})
			lit.Reset()
		}
		c.tokens = append(c.tokens, token{kind: k})
	}
	plain := func(s string) {
		lit.WriteString(s)
		expr.WriteString(regexp.QuoteMeta(s))
	}
	expr.WriteString("^")
	for i := 0; i < len(p); {
		first := i == 0
		switch ch := p[i]; {
		case ch == '*' && strings.HasPrefix(p[i:], "**"):
			i += 2
			if i < len(p) && p[i] == '/' {
				i++
			}
			if i == len(p) {
				if c.kind == exact {
					c.kind = prefix
				} else {
					c.kind = tokens
				}
				add(rest)
				expr.WriteString(".*")
			} else {
				c.kind = tokens
				add(deep)
				expr.WriteString("(.*/)?")
			}
			if first {
				c.kind = suffix
			}
			continue
		case ch == '*':
			add(star)
			expr.WriteString("[^/]*")
			c.kind = tokens
		case ch == '?':
			add(one)
			expr.WriteString("[^/]")
			c.kind = tokens
		case ch == '\\':
			c.kind = tokens
			if i+1 < len(p) {
				_, n := utf8.DecodeRuneInString(p[i+1:])
				plain(p[i+1 : i+1+n])
				i += n
			}
		case ch == '[' || ch == ']':
			class, c.kind = true, tokens
			expr.WriteByte(ch)
		default:
			_, n := utf8.DecodeRuneInString(p[i:])
			if class && (ch == '-' || ch == '^') {
				expr.WriteByte(ch)
				lit.WriteByte(ch)
			} else {
				plain(p[i : i+n])
			}
			i += n
			continue
		}
		i++
	}
	if lit.Len() > 0 {
		c.tokens = append(c.tokens, token{literal, lit.String()})
	}
	switch {
	case class:
		e, err := regexp.Compile(expr.String() + "$")
		if err != nil {
			return c, err
		}
		c.kind, c.expr = expression, e
	case c.kind == exact:
		c.text = p
	case c.kind == prefix:
		c.text = p[:len(p)-2]
	case c.kind == suffix:
		c.text = p[2:]
	}
	return c, nil
}

func (p *pattern) match(name string) bool {
	switch p.kind {
	case exact:
		return name == p.text
	case prefix:
		return strings.HasPrefix(name, p.text)
	case suffix: // "**/x" is x too
		return strings.HasSuffix(name, p.text) || p.text[0] == '/' && name == p.text[1:]
	case expression:
		return p.expr.MatchString(name)
	}
	return matchTokens(p.tokens, name)
}

// matchTokens tries what tokens allow; an image's or a user's pattern has few of
// them, and each token's tries are bounded by the name's length.
func matchTokens(list []token, name string) bool {
	for len(list) > 0 {
		t := list[0]
		list = list[1:]
		switch t.kind {
		case literal:
			var ok bool
			if name, ok = strings.CutPrefix(name, t.text); !ok {
				return false
			}
		case one:
			if name == "" || name[0] == '/' {
				return false
			}
			_, n := utf8.DecodeRuneInString(name)
			name = name[n:]
		case rest:
			return true
		case star:
			if len(list) == 0 {
				return strings.IndexByte(name, '/') < 0
			}
			for i := 0; ; i++ {
				if matchTokens(list, name[i:]) {
					return true
				}
				if i == len(name) || name[i] == '/' {
					return false
				}
			}
		case deep:
			if matchTokens(list, name) {
				return true
			}
			for i := range len(name) {
				if name[i] == '/' && matchTokens(list, name[i+1:]) {
					return true
				}
			}
			return false
		}
	}
	return name == ""
}

// mayReach reports whether p may match dir, what is below it, or what it is in.
func (p *pattern) mayReach(dir string) bool {
	want, have := strings.Split(p.whole, "/"), strings.Split(dir, "/")
	for i := range min(len(want), len(have)) {
		if strings.Contains(want[i], "**") {
			return true
		}
		if ok, err := path.Match(want[i], have[i]); err == nil && !ok {
			return false
		}
	}
	return true
}
