package files

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/test/trees"
)

// list is what is in dir, as package trees takes it.
func list(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(p, dir+"/")
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if n, err := os.ReadDir(p); err != nil || len(n) > 0 {
				return err
			}
			out = append(out, rel+"/")
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			out = append(out, rel+"->"+target)
		default:
			st := info.Sys().(*syscall.Stat_t)
			if first, ok := inodes[st.Ino]; ok {
				out = append(out, rel+"&"+first)
				return nil
			}
			inodes[st.Ino] = rel
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			out = append(out, rel+"="+string(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

type sourcesOf struct {
	t    *testing.T
	tree *source.Tree
}

func (s sourcesOf) match(q source.Query) []Match {
	s.t.Helper()
	found, err := s.tree.Find(s.t.Context(), q)
	if err != nil {
		s.t.Fatal(err)
	}
	var out []Match
	for i := range found {
		out = append(out, Match{Tree: s.tree, Match: &found[i]})
	}
	return out
}

func TestCopy(t *testing.T) {
	const src = "f=1 d/a=2 d/sub/b=3 l->f ld->d h=4 h2&h"
	tests := []struct {
		name, base string
		q          source.Query
		c          Copy
		want, err  string
	}{
		{name: "file to a name", q: source.Query{Path: "f"}, c: Copy{Dest: "/x"}, want: "x=1"},
		{name: "file into a new directory", q: source.Query{Path: "f"}, c: Copy{Dest: "/x/"}, want: "x/f=1"},
		{name: "file into a directory that is there", base: "x/", q: source.Query{Path: "f"}, c: Copy{Dest: "/x"}, want: "x/f=1"},
		{name: "file over a file", base: "x=old", q: source.Query{Path: "f"}, c: Copy{Dest: "/x"}, want: "x=1"},
		{name: "file over a link to a file", base: "x->y y=old", q: source.Query{Path: "f"}, c: Copy{Dest: "/x"}, want: "y=1"},
		{name: "through a link to a directory", base: "x->/y/z y/z/", q: source.Query{Path: "f"}, c: Copy{Dest: "/x/deep/"}, want: "y/z/deep/f=1"},
		{name: "through a link out of the image", base: "x->../../etc", q: source.Query{Path: "f"}, c: Copy{Dest: "/x/"}, want: "etc/f=1"},
		{name: "a link loop", base: "x->x", q: source.Query{Path: "f"}, c: Copy{Dest: "/x/"}, err: "too many levels"},
		{name: "directory's contents", q: source.Query{Path: "d"}, c: Copy{Dest: "/x"}, want: "x/a=2 x/sub/b=3"},
		{name: "directory's contents into one that is there", base: "x/sub/c=old", q: source.Query{Path: "d"}, c: Copy{Dest: "/x"}, want: "x/a=2 x/sub/b=3"},
		{name: "directory onto a file", base: "x=old", q: source.Query{Path: "d"}, c: Copy{Dest: "/x"}, err: "cannot copy to non-directory: /x"},
		{name: "directory into a link that is no directory", base: "x/sub->y", q: source.Query{Path: "d"}, c: Copy{Dest: "/x"}, err: "cannot copy to non-directory: /x/sub"},
		{name: "file onto a directory", base: "x/a/", q: source.Query{Path: "d"}, c: Copy{Dest: "/x"}, err: "cannot replace to directory /x/a with file"},
		{name: "below a file", base: "x=old", q: source.Query{Path: "f"}, c: Copy{Dest: "/x/y"}, err: "not a directory"},
		{name: "several", q: source.Query{Path: "[fh]*"}, c: Copy{Dest: "/x", Dir: true}, want: "x/f=1 x/h=4 x/h2&x/h"},
		{name: "the root keeps hard links and links", q: source.Query{Path: "/"}, c: Copy{Dest: "/"}, want: "d/a=2 d/sub/b=3 f=1 h=4 h2&h l->f ld->d"},
		{name: "a link as a source is followed", q: source.Query{Path: "ld"}, c: Copy{Dest: "/x/"}, want: "x/a=2 x/sub/b=3"},
		{name: "with its directories", q: source.Query{Path: "/./d/sub/b", Parents: true}, c: Copy{Dest: "/x/", Parents: true}, want: "x/d/sub/b=3"},
		{name: "with some of its directories", q: source.Query{Path: "/d/./sub", Parents: true}, c: Copy{Dest: "/x/", Parents: true}, want: "x/sub/b=3"},
		{name: "all but some", q: source.Query{Path: "d", Exclude: []string{"sub"}}, c: Copy{Dest: "/x/"}, want: "x/a=2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr, err := source.OpenTree(trees.Make(t, strings.Fields(src)...), source.TreeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			upper := t.TempDir()
			l, err := New(upper, []string{trees.Make(t, strings.Fields(tt.base)...)}, Options{Now: time.Unix(1700000000, 0)})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			err = l.Copy(t.Context(), tt.c, sourcesOf{t, tr}.match(tt.q)...)
			if err == nil {
				err = l.Finish()
			}
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if got := list(t, upper); err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestCopyManyDirectories(t *testing.T) {
	src := t.TempDir()
	for i := range 3 * maxDirs {
		p := filepath.Join(src, fmt.Sprint(i), "sub")
		if err := errors.Join(os.MkdirAll(p, 0o700), os.WriteFile(filepath.Join(p, "f"), nil, 0o600), os.Chtimes(p, time.Unix(5, 0), time.Unix(5, 0))); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := source.OpenTree(src, source.TreeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	upper := t.TempDir()
	l, err := New(upper, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(l.Copy(t.Context(), Copy{Dest: "/x"}, sourcesOf{t, tr}.match(source.Query{Path: "/"})...), l.Finish()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxDirs {
		info, err := os.Stat(filepath.Join(upper, "x", fmt.Sprint(i), "sub"))
		if err != nil || info.ModTime() != time.Unix(5, 0) || info.Mode().Perm() != 0o700 {
			t.Fatalf("directory %d: %v, %v", i, info, err)
		}
	}
}

func TestAttributes(t *testing.T) {
	src, base, upper := trees.Make(t, strings.Fields("d/f=1")...), trees.Make(t, strings.Fields("kept/")...), t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Join(base, "kept"), 0o1777|os.ModeSticky), os.Chmod(filepath.Join(src, "d/f"), 0o4750|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	tr, err := source.OpenTree(src, source.TreeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	l, err := New(upper, []string{base}, Options{Now: time.Unix(7, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mode, err := graph.ParseMode("700")
	if err != nil {
		t.Fatal(err)
	}
	s := sourcesOf{t, tr}
	err = errors.Join(
		l.Copy(t.Context(), Copy{Dest: "/kept/"}, s.match(source.Query{Path: "d"})...),
		l.Copy(t.Context(), Copy{Dest: "/new/sub/", Mode: &mode}, s.match(source.Query{Path: "d/f"})...),
		l.File(Copy{Dest: "/new/text"}, graph.File{Name: "E", Data: []byte("t"), Mode: 0o644}),
		l.Mkdir("/w/d", Owner{}, 0o755), l.Finish())
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]fs.FileMode{
		"kept": fs.ModeDir | fs.ModeSticky | 0o777, "kept/f": fs.ModeSetuid | 0o750, "new": fs.ModeDir | 0o700, "new/sub": fs.ModeDir | 0o700, "new/sub/f": 0o700, "new/text": 0o644, "w/d": fs.ModeDir | 0o755,
	} {
		info, err := os.Lstat(filepath.Join(upper, p))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", p, info.Mode(), err, want)
		}
	}
}

func TestExtract(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "lib/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "lib/x", Mode: 0o644}, {Name: "../../up", Mode: 0o644}, {Name: ".wh.kept", Mode: 0o644},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	src := trees.Make(t, strings.Fields("no.tar=text")...)
	if err := os.WriteFile(filepath.Join(src, "a"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	tr, err := source.OpenTree(src, source.TreeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	upper := t.TempDir()
	l, err := New(upper, []string{trees.Make(t, strings.Fields("lib->usr/lib usr/lib/y=1")...)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	scratch := func() (string, error) { return t.TempDir(), nil }
	for name, want := range map[string]bool{"no.tar": false, "a": true} {
		done, err := l.Extract(t.Context(), Copy{Dest: "/"}, sourcesOf{t, tr}.match(source.Query{Path: name})[0], scratch)
		if done != want || err != nil {
			t.Errorf("%s: %v, %v", name, done, err)
		}
	}
	if got := list(t, upper); got != ".wh.kept= up= usr/lib/x=" {
		t.Errorf("got %q", got)
	}
}

func TestPlaces(t *testing.T) {
	base := trees.Make(t, strings.Fields("a/ link->a there/f=1")...)
	tr, err := tree.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	places, err := Places(tr, []string{"/link/x/y", "/a", "/there/f/nope", "/new/dir", "/there/z"})
	if err != nil {
		t.Fatal(err)
	}
	// As mounts leave it: with a file of the command's own beside a place.
	upper := trees.Make(t, strings.Fields("a/x/y= new/dir/ there/z= there/own=1")...)
	if err := RemovePlaces(upper, tr, places); err != nil {
		t.Fatal(err)
	}
	if got := list(t, upper); got != "there/own=1" {
		t.Errorf("left: %q", got)
	}
}
