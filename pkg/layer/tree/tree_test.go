package tree

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/test/trees"
)

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
		{name: "too long", layers: [][]string{{"etc/passwd=" + strings.Repeat("x", 101)}}, path: "/etc/passwd", err: "more than 100 bytes"},
		{name: "no layers", path: "/etc/passwd", want: "-"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := Open(trees.Layers(t, tt.layers...)...)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			got, err := v.ReadFile(tt.path, 100)
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

func TestWalk(t *testing.T) {
	v, err := Open(trees.Layers(t, []string{"a/b/c->../../d", "x->x", "e->/a/new/thing", "d/gone!"}, []string{"d/e=1", "d/gone=1", "a/b/f=2"})...)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	before := openFiles(t)
	for _, c := range []struct{ path, want string }{
		{"/a/b/c/e", "/d/e"}, {"/a/b/f", "/a/b/f"}, {"/nope/x/../y", "/ + nope/y"}, {"/a/b/../..", "/"}, {"/", "/"},
		{"/x", "error"}, {"/a/b/f/g", "error"}, {"/e", "/a + new/thing"}, {"/e/z", "/a + new/thing/z"}, {"/d/gone", "/d + gone"}, {"a/b/c", "/d"},
	} {
		f, err := v.Walk(c.path, true)
		got := "error"
		if err == nil {
			got = f.Path
			if !f.Exists() {
				got += " + " + strings.Join(f.Missing, "/")
			}
			f.Close()
		}
		if got != c.want {
			t.Errorf("%s is at %q, %v; want %q", c.path, got, err, c.want)
		}
	}
	if f, err := v.Walk("/a/b/c", false); err != nil || !f.Entry.IsLink() || f.Path != "/a/b/c" {
		t.Errorf("a link not followed: %+v, %v", f, err)
	} else {
		f.Close()
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

func TestNames(t *testing.T) {
	v, err := Open(trees.Layers(t, []string{"d/a=1", "d/gone!", "d/z/"}, []string{"d/gone=1", "d/b=1", "d/a=2"})...)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	d, err := v.Root().Open("d")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got, err := d.Names(); err != nil || !slices.Equal(got, []string{"a", "b", "z"}) {
		t.Errorf("names %q, %v", got, err)
	}
}
