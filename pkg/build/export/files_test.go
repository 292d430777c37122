package export

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/test/trees"
)

// listing is "name=content", "name->target" and "name/" of what is below dir.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		switch {
		case err != nil || rel == ".":
		case d.Type()&os.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			out = append(out, rel+"->"+target)
		case d.IsDir():
			out = append(out, rel+"/")
		default:
			data, _ := os.ReadFile(p)
			out = append(out, rel+"="+string(data))
		}
		return nil
	})
	return strings.Join(out, " ")
}

func TestDirectory(t *testing.T) {
	outside := trees.Make(t, "victim=safe")
	src := trees.Make(t, "f=1", "d/g=2", "l->f", "sub/", "h&f")
	os.Chmod(filepath.Join(src, "f"), 0o640)
	when := time.Unix(1000000000, 0)
	os.Chtimes(filepath.Join(src, "d"), when, when)
	dest := trees.Make(t, "stale=x", "d->"+outside, "f->"+filepath.Join(outside, "victim"))
	f := Files{Dirs: []string{src}}
	if _, err := f.Directory(t.Context(), dest, false); err != nil {
		t.Fatal(err)
	}
	if got, want := listing(t, dest), "d/ d/g=2 f=1 h=1 l->f stale=x sub/"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := listing(t, outside); got != "victim=safe" {
		t.Error("a link in the destination was followed:", got)
	}
	fi, _ := os.Stat(filepath.Join(dest, "f"))
	di, _ := os.Stat(filepath.Join(dest, "d"))
	if fi.Mode() != 0o640 || !di.ModTime().Equal(when) {
		t.Error("mode or time", fi.Mode(), di.ModTime())
	}
	if _, err := f.Directory(t.Context(), dest, true); err != nil {
		t.Fatal(err)
	}
	if got := listing(t, dest); strings.Contains(got, "stale") {
		t.Error("mode=delete leaves", got)
	}
	f.Time = when
	if _, err := f.Directory(t.Context(), dest, false); err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(filepath.Join(dest, "f")); !fi.ModTime().Equal(when) {
		t.Error("SOURCE_DATE_EPOCH:", fi.ModTime())
	}
	if _, err := (Files{}).Directory(t.Context(), filepath.Join(dest, "new"), false); err != nil {
		t.Error("no files at all:", err)
	}
	if _, err := f.Directory(t.Context(), trees.Make(t, "f/x=1"), false); err == nil {
		t.Error("a directory is replaced by a file")
	}
}

func TestTar(t *testing.T) {
	var b bytes.Buffer
	if err := (Files{Dirs: []string{trees.Make(t, "f=1", "d/g=2")}, Time: time.Unix(5, 0)}).Tar(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 5 {
			t.Error(h.Name, h.ModTime)
		}
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "d/ d/g f" {
		t.Error(got)
	}
	b.Reset()
	if err := (Files{}).Tar(t.Context(), &b); err != nil || b.Len() != 1024 {
		t.Error("no files at all:", err, b.Len())
	}
}

// Several results are one tar, each below its name, hard links too.
func TestTarOf(t *testing.T) {
	parts := map[string]Files{
		"b": {Dirs: []string{trees.Make(t, "f=1", "h&f")}, Time: time.Unix(1, 0)},
		"a": {},
	}
	var out bytes.Buffer
	if err := TarOf(t.Context(), &out, parts); err != nil {
		t.Fatal(err)
	}
	got, r := "", tar.NewReader(&out)
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		got += fmt.Sprintf("%s %s %d\n", h.Name, h.Linkname, h.ModTime.Unix())
	}
	if want := "a/  0\nb/  1\nb/f  1\nb/h b/f 1\n"; got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
