package transfer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func root(t *testing.T, dir string) Root {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return NewRoot(f)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestThereAndBack(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(a, "d", "sub"), 0o750))
	must(t, os.WriteFile(filepath.Join(a, "d", "file"), []byte("text"), 0o640))
	must(t, os.Link(filepath.Join(a, "d", "file"), filepath.Join(a, "d", "hard")))
	must(t, os.Symlink("../../../etc/passwd", filepath.Join(a, "d", "sub", "link")))
	when := time.Unix(1e9, 0)
	must(t, os.Chtimes(filepath.Join(a, "d"), when, when))
	var buf bytes.Buffer
	must(t, root(t, a).Pack(t.Context(), &buf, "/d", PackOptions{Name: "d"}))
	must(t, root(t, b).Unpack(t.Context(), &buf, "/", UnpackOptions{From: "d", To: "e"}))
	got, err := os.ReadFile(filepath.Join(b, "e", "hard"))
	if string(got) != "text" {
		t.Errorf("%q %v", got, err)
	}
	x, _ := os.Stat(filepath.Join(b, "e", "hard"))
	y, _ := os.Stat(filepath.Join(b, "e", "file"))
	if !os.SameFile(x, y) || x.Mode() != 0o640 {
		t.Errorf("%v %v", x, y)
	}
	if to, err := os.Readlink(filepath.Join(b, "e", "sub", "link")); to != "../../../etc/passwd" {
		t.Errorf("%q %v", to, err)
	}
	if fi, _ := os.Stat(filepath.Join(b, "e")); !fi.ModTime().Equal(when) || fi.Mode().Perm() != 0o750 {
		t.Errorf("%v %v", fi.ModTime(), fi.Mode())
	}
}

// Links of the tree lead nowhere else.
func TestLinksStayInside(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	must(t, os.Symlink(outside, filepath.Join(dir, "abs")))
	must(t, os.Symlink("../../../../../../../.."+outside, filepath.Join(dir, "rel")))
	r := root(t, dir)
	for _, p := range []string{"/abs/secret", "/rel/secret", "/../../.." + outside + "/secret"} {
		if _, err := r.Stat(p, true); err == nil {
			t.Errorf("%s is seen", p)
		}
		if err := r.Pack(t.Context(), &bytes.Buffer{}, p, PackOptions{Name: "x", Follow: true}); err == nil {
			t.Errorf("%s is packed", p)
		}
	}
	if err := r.Pack(t.Context(), &bytes.Buffer{}, "/abs", PackOptions{Name: "x", Follow: true}); err == nil {
		t.Error("abs is followed")
	}
	for _, p := range []string{"/abs", "/rel"} {
		if err := r.Unpack(t.Context(), tarOf(t, &tar.Header{Name: "new", Mode: 0o644}), p, UnpackOptions{}); err == nil {
			t.Errorf("unpacked into %s", p)
		}
	}
	if list, _ := os.ReadDir(outside); len(list) != 1 {
		t.Errorf("written outside: %v", list)
	}
}

func tarOf(t *testing.T, headers ...*tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		must(t, w.WriteHeader(h))
	}
	must(t, w.Close())
	return &b
}

func TestHostileTars(t *testing.T) {
	for name, headers := range map[string][]*tar.Header{
		"dots":         {{Name: "../evil", Mode: 0o644}},
		"through link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/evil", Mode: 0o644}},
		"hard link":    {{Name: "x", Typeflag: tar.TypeLink, Linkname: "../secret"}},
		"dir on link":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l", Typeflag: tar.TypeDir, Mode: 0o755}},
		"file on dir":  {{Name: "d", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "d", Mode: 0o644}},
	} {
		top := t.TempDir()
		must(t, os.WriteFile(filepath.Join(top, "secret"), nil, 0o600))
		dir := filepath.Join(top, "root")
		must(t, os.Mkdir(dir, 0o755))
		if err := root(t, dir).Unpack(t.Context(), tarOf(t, headers...), "/", UnpackOptions{}); err == nil {
			t.Errorf("%s was taken", name)
		}
		if list, _ := os.ReadDir(top); len(list) != 2 {
			t.Errorf("%s: written outside: %v", name, list)
		}
	}
}

// A special file gets its mode, but a link that a process in the container has put in
// its place does not lead that to a file of the host's.
func TestChmodFollowsNothing(t *testing.T) {
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, nil, 0o600))
	must(t, os.Symlink(victim, filepath.Join(dir, "link")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	_ = chmod(int(d.Fd()), "link", 0o666) // the kernel's word may differ
	must(t, chmod(int(d.Fd()), "fifo", 0o666))
	for file, want := range map[string]os.FileMode{victim: 0o600, filepath.Join(dir, "fifo"): 0o666} {
		if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", file, fi.Mode(), err, want)
		}
	}
}

func TestPlace(t *testing.T) {
	dir, file := Info{Mode: 0o040755}, Info{Mode: 0o100644}
	missing := os.ErrNotExist
	for _, c := range []struct {
		src       Source
		to        string
		dest      Info
		err       error
		dir, name string
		fails     string
	}{
		{Source{"f", false}, "/d", dir, nil, "/d", "", ""},
		{Source{"f", false}, "/d/g", file, nil, "/d", "g", ""},
		{Source{"f", false}, "/d/g", Info{}, missing, "/d", "g", ""},
		{Source{"f", false}, "/d/g/", Info{}, missing, "", "", "no such directory: /d/g/"},
		{Source{"f", false}, "/d/g/", file, nil, "", "", "/d/g/ is not a directory"},
		{Source{"s", true}, "/d", dir, nil, "/d", "", ""},
		{Source{"s", true}, "/n", Info{}, missing, "/", "n", ""},
		{Source{"s", true}, "/n/", Info{}, missing, "/", "n", ""},
		{Source{"s", true}, "/f", file, nil, "", "", "cannot copy directory: /f is a file"},
	} {
		d, n, err := Place(c.src, c.to, c.dest, c.err)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if err != nil || d != c.dir || n != c.name {
			t.Errorf("%+v: %q %q %v", c, d, n, err)
		}
	}
}
