package run

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// layers makes layer directories, top first, from lists of entries:
//
//	"etc/"           a directory
//	"etc/x=text"     a file
//	"etc/x->target"  a link
//	"etc/x!"         a whiteout
//	"etc/*"          marks the directory etc opaque
//	"etc/x|"         a fifo
func layers(t *testing.T, lists ...[]string) []string {
	t.Helper()
	var dirs []string
	for _, list := range lists {
		dir := t.TempDir()
		dirs = append(dirs, dir)
		for _, e := range list {
			if err := makeEntry(dir, e); err != nil {
				t.Skipf("cannot make %s here: %v", e, err)
			}
		}
	}
	return dirs
}

func makeEntry(dir, e string) error {
	at := func(name string) string {
		p := filepath.Join(dir, name)
		_ = os.MkdirAll(filepath.Dir(p), 0o755) // the call after this one says what is wrong
		return p
	}
	if name, target, ok := strings.Cut(e, "->"); ok {
		return os.Symlink(target, at(name))
	}
	if name, ok := strings.CutSuffix(e, "/*"); ok {
		return errors.Join(os.MkdirAll(at(name), 0o755), syscall.Setxattr(at(name), "user.overlay.opaque", []byte("y"), 0))
	}
	if name, ok := strings.CutSuffix(e, "!"); ok {
		return syscall.Mknod(at(name), syscall.S_IFCHR, 0)
	}
	if name, ok := strings.CutSuffix(e, "|"); ok {
		return syscall.Mkfifo(at(name), 0o644)
	}
	if name, ok := strings.CutSuffix(e, "/"); ok {
		return os.MkdirAll(at(name), 0o755)
	}
	name, text, _ := strings.Cut(e, "=")
	return os.WriteFile(at(name), []byte(text), 0o644)
}

func TestViewReadsAsOverlayWould(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		layers [][]string
		path   string
		want   string // "-": absent
		err    string
	}{
		{name: "one layer", layers: [][]string{{"etc/passwd=a"}}, path: "/etc/passwd", want: "a"},
		{name: "top wins", layers: [][]string{{"etc/passwd=b"}, {"etc/passwd=a"}}, path: "/etc/passwd", want: "b"},
		{name: "merged", layers: [][]string{{"etc/x=b"}, {"etc/passwd=a"}}, path: "/etc/passwd", want: "a"},
		{name: "whiteout", layers: [][]string{{"etc/passwd!"}, {"etc/passwd=a"}}, path: "/etc/passwd", want: "-"},
		{name: "whiteout of the directory", layers: [][]string{{"etc!"}, {"etc/passwd=a"}}, path: "/etc/passwd", want: "-"},
		{name: "opaque directory", layers: [][]string{{"etc/*"}, {"etc/passwd=a"}}, path: "/etc/passwd", want: "-"},
		{name: "opaque with its own", layers: [][]string{{"etc/*", "etc/passwd=b"}, {"etc/passwd=a"}}, path: "/etc/passwd", want: "b"},
		{name: "file over directory", layers: [][]string{{"etc=x"}, {"etc/passwd=a"}}, path: "/etc/passwd", want: "-"},
		{name: "directory over file ends the merge", layers: [][]string{{"etc/"}, {"etc=x"}, {"etc/passwd=a"}}, path: "/etc/passwd", want: "-"},
		{name: "relative link across layers", layers: [][]string{{"etc->usr/etc"}, {"usr/etc/passwd=a"}}, path: "/etc/passwd", want: "a"},
		{name: "absolute link stays inside", layers: [][]string{{"etc/passwd->/usr/passwd"}, {"usr/passwd=a"}}, path: "/etc/passwd", want: "a"},
		{name: "link out of the image", layers: [][]string{{"etc/passwd->" + secret}}, path: "/etc/passwd", want: "-"},
		{name: "dots out of the image", layers: [][]string{{"etc/passwd->../../../../../../../../.." + secret}}, path: "/etc/passwd", want: "-"},
		{name: "link to the root", layers: [][]string{{"a->/", "passwd=a"}}, path: "/a/../a/passwd", want: "a"},
		{name: "loop", layers: [][]string{{"etc/passwd->passwd"}}, path: "/etc/passwd", err: "too many levels"},
		{name: "fifo", layers: [][]string{{"etc/passwd|"}}, path: "/etc/passwd", err: "not a regular file"},
		{name: "directory", layers: [][]string{{"etc/passwd/"}}, path: "/etc/passwd", err: "not a regular file"},
		{name: "too long", layers: [][]string{{"etc/passwd=" + strings.Repeat("x", 101)}}, path: "/etc/passwd", err: "100 is the limit"},
		{name: "no layers", path: "/etc/passwd", want: "-"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := openView(layers(t, tt.layers...))
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			got, err := v.readFile(tt.path, 100)
			switch {
			case tt.err != "":
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %q, %v; want an error with %q", got, err, tt.err)
				}
			case tt.want == "-":
				if got != nil || err != nil {
					t.Errorf("got %q, %v; want nothing", got, err)
				}
			case string(got) != tt.want || err != nil:
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestViewClosesWhatItOpens(t *testing.T) {
	v, err := openView(layers(t, []string{"a/b/c->../../d", "x->x"}, []string{"d/e=1", "a/b/f=2"}))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	before := openFiles(t)
	for _, p := range []string{"/a/b/c/e", "/a/b/f", "/nope", "/x", "/a/b/f/g", "/a/b/../.."} {
		if e, err := v.lookup(p); err == nil {
			_ = e.close()
		}
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors open before, %d after", before, after)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	l, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func TestViewNames(t *testing.T) {
	v, err := openView(layers(t, []string{"d/a=1", "d/gone!", "d/z/"}, []string{"d/gone=1", "d/b=1", "d/a=2"}))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	e, err := v.lookup("/d")
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	if got, err := e.dir.names(); err != nil || !slices.Equal(got, []string{"a", "b", "z"}) {
		t.Errorf("names %q, %v", got, err)
	}
}
