package ignore

import (
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

func TestParse(t *testing.T) {
	got := Parse([]byte("\ufeff# comment\n  a  \r\n/b/c/\n!  /d\n\n #x\n!\n/\n./e/../f\n"))
	want := []string{"a", "b/c", "!d", "#x", "!", "/", "f"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestIgnored(t *testing.T) {
	for _, c := range []struct {
		patterns string
		ignored  string
		kept     string
	}{
		{"a", "a a/b a/b/c", "b b/a ab"},
		{"*", "a a/b .x", ""},
		{"*.md !README.md", "x.md", "README.md d/x.md"},
		{"**/*.md", "x.md d/x.md d/e/x.md", "x.mdx"},
		{"**", "a a/b", ""},
		{"a/** !a/b", "a/c a/c/d", "a/b a/b/c a"},
		{"* !a/b/c", "a a/b x a/b/d", "a/b/c a/b/c/d"},
		{"**/foo", "foo a/foo a/b/foo a/foo/x", "foox a/xfoo"},
		{"**foo", "foo xfoo a/xfoo", "foox"},
		{"foo**", "foo foobar foo/x", "fo"},
		{"a/*/c", "a/b/c a/x/c/d", "a/c a/b/b/c"},
		{"a/**/c", "a/c a/b/c a/b/b/c", "a/b"},
		{"[a-c]x", "ax bx", "dx"},
		{"[^a-c]x", "dx", "ax"},
		{`a\*b`, "a*b", "axb"},
		{"a?b", "axb aéb", "a/b ab"},
		{"node_modules !node_modules/keep", "node_modules node_modules/x", "node_modules/keep node_modules/keep/y"},
		{".git", ".git .git/config", ".gitignore a/.git"},
		{"a !a a/b", "a/b", "a a/c"},
	} {
		m, err := New(strings.Fields(c.patterns))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range strings.Fields(c.ignored) {
			if !m.Ignored(n) {
				t.Errorf("%q does not leave out %q", c.patterns, n)
			}
		}
		for _, n := range strings.Fields(c.kept) {
			if m.Ignored(n) {
				t.Errorf("%q leaves out %q", c.patterns, n)
			}
		}
	}
	for _, bad := range []string{"!", "[", `a\`} {
		if _, err := New([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestMayReturn(t *testing.T) {
	m, _ := New([]string{"*", "!src/*/lib", "!**/x.go"})
	if !m.MayReturn("anything") {
		t.Error("** may be anywhere")
	}
	m, _ = New([]string{"*", "!src/*/lib"})
	for dir, want := range map[string]bool{"src": true, "src/a": true, "src/a/lib": true, "src/a/lib/b": true, "src/a/bin": false, "doc": false} {
		if m.MayReturn(dir) != want {
			t.Errorf("%s: %v", dir, !want)
		}
	}
}

// What Docker's own matcher says, ours says.
func FuzzAgainstDocker(f *testing.F) {
	f.Add("*\n!a/b", "a/b/c")
	f.Add("**/*.go\n!x**", "x/y.go")
	f.Add("a/**/b?\n[a-z]*", "a/x/bc")
	f.Add("**a**\n!\\*", "*")
	f.Add("/**/", "a")
	f.Add("a**b*c**", "ax/bc/d")
	f.Fuzz(func(t *testing.T, file, name string) {
		if strings.ContainsAny(name, "\n\x00\\") || name == "" || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") ||
			strings.Contains("/"+name+"/", "/./") || strings.Contains("/"+name+"/", "/../") || strings.Contains(name, "//") || len(name) > 200 {
			return
		}
		if len(file) > 200 || strings.ContainsAny(file, "[]\r\\|{}^") || strings.ContainsRune(file, 0xfffd) || strings.Count(file, "*") > 12 {
			return // classes go to the same regexp; a backslash before a letter, and these signs, are special there by mistake
		}
		if !isText(file) || !isText(name) {
			return
		}
		want, err := ignorefile.ReadAll(strings.NewReader(file))
		if err != nil {
			return
		}
		if got := Parse([]byte(file)); !slices.Equal(got, want) {
			t.Fatalf("%q is %q, want %q", file, got, want)
		}
		theirs, err := patternmatcher.New(want)
		ours, ourErr := New(want)
		if (err == nil) != (ourErr == nil) {
			t.Fatalf("%q: %v, want %v", want, ourErr, err)
		}
		if err != nil {
			return
		}
		var is bool // as BuildKit asks: from the root down
		var info patternmatcher.MatchInfo
		for i := 0; i <= len(name); i++ {
			if i == len(name) || name[i] == '/' {
				if is, info, err = theirs.MatchesUsingParentResults(name[:i], info); err != nil {
					return
				}
			}
		}
		if got := ours.Ignored(name); got != is {
			t.Errorf("patterns %q leave out %q: %v, want %v", want, name, got, is)
		}
	})
}

func isText(s string) bool {
	for _, r := range s {
		if r < ' ' && r != '\n' || r == 0x7f || r == 0xfffd || r == 0x85 || r == 0xa0 {
			return false
		}
	}
	return true
}
