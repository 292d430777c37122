package source

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/build/ignore"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/test/trees"
)

func open(t testing.TB, dir, indexDir string, patterns ...string) *Tree {
	t.Helper()
	m, err := ignore.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := OpenTree(dir, TreeOptions{Ignore: m, IndexDir: indexDir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return tree
}

// show is "name@path: rel rel …; …" for what q finds.
func show(t testing.TB, tree *Tree, q Query) string {
	t.Helper()
	ms, err := tree.Find(t.Context(), q)
	if err != nil {
		if errs.KindOf(err) == errs.NotFound {
			return err.Error()
		}
		t.Fatal(err)
	}
	var out []string
	for _, m := range ms {
		s := m.Name + "@" + m.Path
		for _, p := range m.Parents {
			s += " ^" + p.Rel
		}
		for _, e := range m.Entries[1:] {
			s += " " + e.Rel
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

func TestFind(t *testing.T) {
	dir := trees.Make(t, "a=1", "b.go=2", "c.go=3", "d/e=4", "d/f/g.go=5", "l->d", "l2->/d/e", "out->/etc/passwd", "up->../../etc", "dead->nowhere",
		"loop->loop", "d/x y=1", "[1]=x", "empty/")
	tree := open(t, dir, "")
	for _, c := range []struct {
		q    Query
		want string
	}{
		{Query{Path: "a"}, "a@a"},
		{Query{Path: "/a"}, "a@a"},
		{Query{Path: "../../a"}, "a@a"},
		{Query{Path: "d"}, "d@d e f f/g.go x y"},
		{Query{Path: "d/"}, "d@d e f f/g.go x y"},
		{Query{Path: "."}, ".@. [1] a b.go c.go d d/e d/f d/f/g.go d/x y dead empty l l2 loop out up"},
		{Query{Path: "nope"}, `"/nope": not found`},
		{Query{Path: "a/b"}, `"/a/b": not found`},
		{Query{Path: "*.go"}, "b.go@b.go; c.go@c.go"},
		{Query{Path: "*.nope"}, ""},
		{Query{Path: "d/*/g.go"}, "g.go@d/f/g.go"},
		{Query{Path: "*/e"}, "e@d/e"}, // not through the link that a wildcard met
		{Query{Path: "l/e"}, "e@d/e"},
		{Query{Path: "l"}, "l@d e f f/g.go x y"},
		{Query{Path: "l?"}, "l2@d/e"},
		{Query{Path: "l2"}, "l2@d/e"},
		{Query{Path: "out"}, `"/out": not found`},
		{Query{Path: "up"}, `"/up": not found`},
		{Query{Path: "up/passwd"}, `"/up/passwd": not found`},
		{Query{Path: "dead"}, `"/dead": not found`},
		{Query{Path: "loop"}, `"/loop": not found`},
		{Query{Path: "dea*"}, ""},
		{Query{Path: "[[]1]"}, "[1]@[1]"},
		{Query{Path: "[1]", Literal: true}, "[1]@[1]"},
		{Query{Path: "empty"}, "empty@empty"},
		{Query{Path: "d", Exclude: []string{"f"}}, "d@d e x y"},
		{Query{Path: "d", Exclude: []string{"**/*.go"}}, "d@d e f x y"},
		{Query{Path: "d", Exclude: []string{"*", "!f/g.go"}}, "d@d f f/g.go"},
		{Query{Path: "*.go", Exclude: []string{"b*"}}, "c.go@c.go"},
		{Query{Path: "b.go", Exclude: []string{"b*"}}, ""},
		{Query{Path: "d/f/g.go", Parents: true}, "d/f/g.go@d/f/g.go ^d ^d/f"},
		{Query{Path: "d/./f/g.go", Parents: true}, "f/g.go@d/f/g.go ^f"},
		{Query{Path: "./d/e", Parents: true}, "d/e@d/e ^d"},
		{Query{Path: "**/*.go", Parents: true}, "b.go@b.go; c.go@c.go; d/f/g.go@d/f/g.go ^d ^d/f"},
		{Query{Path: "d/./**/g.go", Parents: true}, "f/g.go@d/f/g.go ^f"},
		{Query{Path: "d/f", Parents: true}, "d/f@d/f ^d g.go"},
		{Query{Path: "a", Parents: true}, "a@a"},
	} {
		if got := show(t, tree, c.q); got != c.want {
			t.Errorf("%+v: %s\nwant %s", c.q, got, c.want)
		}
	}
}

func TestFindIgnored(t *testing.T) {
	dir := trees.Make(t, "a=1", "n/keep/x=1", "n/drop/y=1", "n/z=1", "link->n")
	tree := open(t, dir, "", "n", "!n/keep/x", "a")
	for q, want := range map[string]string{
		".":        ".@. link n n/keep n/keep/x",
		"a":        `"/a": not found`,
		"n":        "n@n keep keep/x",
		"n/z":      `"/n/z": not found`,
		"n/drop":   `"/n/drop": not found`,
		"link/z":   `"/link/z": not found`,
		"n/keep/x": "x@n/keep/x",
		"n/*":      "keep@n/keep x",
		"*":        "link@n keep keep/x; n@n keep keep/x",
	} {
		if got := show(t, tree, Query{Path: q}); got != want {
			t.Errorf("%s: %s\nwant %s", q, got, want)
		}
	}
}

func TestSocketsAreNotThere(t *testing.T) {
	dir := trees.Make(t, "a=1")
	if err := os.Chdir(dir); err != nil { // a socket's path is short
		t.Fatal(err)
	}
	l, err := net.Listen("unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tree := open(t, dir, "")
	if got := show(t, tree, Query{Path: "."}); got != ".@. a" {
		t.Error(got)
	}
	if got := show(t, tree, Query{Path: "s"}); got != `"/s": not found` {
		t.Error(got)
	}
}

func sum(t testing.TB, dir, indexDir, p string) string {
	t.Helper()
	tree := open(t, dir, indexDir)
	ms, err := tree.Find(t.Context(), Query{Path: p})
	if err != nil {
		t.Fatal(err)
	}
	s, err := tree.Sum(t.Context(), ms, false)
	if err != nil {
		t.Fatal(err)
	}
	tree.Close()
	return s
}

// Every change shows in the digest, with an index or without; times alone do not.
func TestSum(t *testing.T) {
	idx := t.TempDir()
	dir := trees.Make(t, "a=1", "d/e=4", "l->a")
	before := sum(t, dir, idx, ".")
	same := func(what string, want bool) {
		t.Helper()
		now := sum(t, dir, idx, ".")
		if plain := sum(t, dir, "", "."); plain != now {
			t.Errorf("%s: the index says otherwise", what)
		}
		if (now == before) != want {
			t.Errorf("%s: same digest %v", what, !want)
		}
		before = now
	}
	same("nothing", true)
	old := time.Now().Add(-time.Hour)
	os.Chtimes(filepath.Join(dir, "a"), old, old)
	same("a time", true)
	os.WriteFile(filepath.Join(dir, "a"), []byte("2"), 0o644)
	os.Chtimes(filepath.Join(dir, "a"), old, old)
	same("contents, with the old time", false)
	os.Chmod(filepath.Join(dir, "a"), 0o755)
	same("a mode", false)
	os.Remove(filepath.Join(dir, "l"))
	os.Symlink("d", filepath.Join(dir, "l"))
	same("a link", false)
	os.Rename(filepath.Join(dir, "d/e"), filepath.Join(dir, "d/f"))
	same("a name", false)
	os.Mkdir(filepath.Join(dir, "x"), 0o755)
	same("a directory", false)
	os.Remove(filepath.Join(dir, "x"))
	same("a directory gone", false)
}

// A file that is written again within the grain of its times is not taken for
// what it was.
func TestRacy(t *testing.T) {
	idx := t.TempDir()
	dir := trees.Make(t, "a=1")
	at := time.Now()
	name := filepath.Join(dir, "a")
	os.Chtimes(name, at, at)
	before := sum(t, dir, idx, "a")
	for i := range 20 {
		os.WriteFile(name, []byte(fmt.Sprint(i%10)), 0o644)
		os.Chtimes(name, at, at)
		now := sum(t, dir, idx, "a")
		if now == before && i != 1 {
			t.Fatalf("the change %d is not seen", i)
		}
		before = now
	}
}

// What the index knows of quiet files is believed.
func TestIndexIsUsed(t *testing.T) {
	idx, dir := t.TempDir(), trees.Make(t, "a=1", "b=2")
	first := sum(t, dir, idx, ".")
	tree := open(t, dir, idx)
	tree.known()
	if len(tree.index.known) != 3 {
		t.Fatalf("%d records, want 3", len(tree.index.known))
	}
	for _, r := range tree.index.known {
		r.fresh = false
	}
	os.WriteFile(filepath.Join(dir, "b"), []byte("3"), 0o644) // its times differ
	ms, _ := tree.Find(t.Context(), Query{Path: "."})
	second, err := tree.Sum(t.Context(), ms, false)
	if err != nil || second == first {
		t.Error("the change is not seen", err)
	}
	// A damaged index is no index.
	tree.Close()
	list, _ := filepath.Glob(idx + "/*")
	data, _ := os.ReadFile(list[0])
	for i := range data {
		bad := append([]byte{}, data...)
		bad[i] ^= 1
		if _, ok := parseIndex(bad); ok {
			t.Fatalf("damage at %d is not seen", i)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(indexMagic + "\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		body := append([]byte(indexMagic), data...)
		n := make([]byte, 8)
		for i, s := 0, checksum(data); i < 8; i++ {
			n[i] = byte(s >> (8 * i))
		}
		parseIndex(append(body, n...))
	})
}

func TestChanged(t *testing.T) {
	dir := trees.Make(t, "a=1")
	tree := open(t, dir, "")
	ms, err := tree.Find(t.Context(), Query{Path: "a"})
	if err != nil {
		t.Fatal(err)
	}
	e := &ms[0].Entries[0]
	f, err := tree.Open(&ms[0], e)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	os.WriteFile(filepath.Join(dir, "a"), []byte("22"), 0o644)
	if err := tree.Same(f, e); !errors.Is(err, errChanged) {
		t.Error(err)
	}
	if _, err := tree.Open(&ms[0], e); !errors.Is(err, errChanged) {
		t.Error(err)
	}
	if _, err := tree.Sum(t.Context(), ms, false); err != nil { // it holds still now
		t.Error(err)
	}
	for _, then := range []func() error{
		func() error { return os.Symlink("/etc/passwd", filepath.Join(dir, "a")) },
		func() error { return nil },
	} {
		if err := errors.Join(os.Remove(filepath.Join(dir, "a")), then()); err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Open(&ms[0], e); !errors.Is(err, errChanged) {
			t.Errorf("gone: %v", err)
		}
	}
}

func BenchmarkUnchanged(b *testing.B) {
	dir, idx := b.TempDir(), b.TempDir()
	for i := range 200 {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", i))
		os.Mkdir(sub, 0o755)
		for j := range 100 {
			os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%03d", j)), make([]byte, 4096), 0o644)
		}
	}
	sum(b, dir, idx, ".")
	time.Sleep(granularity + 100*time.Millisecond)
	sum(b, dir, idx, ".")
	for b.Loop() {
		sum(b, dir, idx, ".")
	}
}
