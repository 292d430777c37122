package changes

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/test/trees"
)

// dirs makes layers in which everything has one time.
func dirs(t *testing.T, lists ...[]string) []string {
	t.Helper()
	when := time.Unix(1700000000, 5)
	all := trees.Layers(t, lists...)
	for _, dir := range all {
		err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.Type() == fs.ModeSymlink {
				return err
			}
			return os.Chtimes(p, when, when)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestWalkAndTar(t *testing.T) {
	tests := []struct {
		name   string
		layers [][]string // upper, then lower ones
		want   string     // of Walk
		expand string     // with Expand, if it differs
		tar    string     // the names in it
	}{
		{"added", [][]string{{"a/", "a/b=1"}, {}}, "A a, A a/b", "", "a/ a/b"},
		{"below what is there", [][]string{{"a/", "a/b=1"}, {"a/", "a/c=1"}}, "= a, A a/b", "", "a/b"},
		{"modified", [][]string{{"a/", "a/b=1"}, {"a/b=22"}}, "= a, C a/b", "", "a/b"},
		{"opened and left alone", [][]string{{"a/", "a/b=1"}, {"a/b=1"}}, "= a, = a/b", "", ""},
		{"gone", [][]string{{"a/", "a/b!"}, {"a/b=1"}}, "= a, D a/b", "", "a/.wh.b"},
		{"gone below two layers", [][]string{{"a/", "a/b!"}, {"a/"}, {"a/b=1"}}, "= a, D a/b", "", "a/.wh.b"},
		{"whiteout over nothing", [][]string{{"a/", "a/b!"}, {"a/c=1"}}, "= a", "", ""},
		{"whiteout over a whiteout", [][]string{{"a/", "a/b!"}, {"a/", "a/b!"}, {"a/b=1"}}, "= a", "", ""},
		{"opaque", [][]string{{"a/*", "a/n=1"}, {"a/b=1", "a/n=2"}}, "C a, A a/n", "C a, D a/b, A a/n", "a/ a/.wh..wh..opq a/n"},
		{"opaque where nothing was", [][]string{{"a/*", "a/n=1"}, {}}, "A a, A a/n", "", "a/ a/n"},
		{"directory over a file", [][]string{{"a/*", "a/n=1"}, {"a=1"}}, "C a, A a/n", "", "a/ a/n"},
		{"link over a directory", [][]string{{"a->b"}, {"a/x=1"}}, "C a", "", "a->b"},
		{"hard links", [][]string{{"a=1", "b&a", "c/", "c/d&a"}, {}}, "A a, A b &a, A c, A c/d &a", "", "a b=>a c/ c/d=>a"},
		{"hard link of whiteouts", [][]string{{"a!", "b&a"}, {"a=1", "b=1"}}, "D a, D b", "", ".wh.a .wh.b"},
		{"fifo", [][]string{{"p|"}, {}}, "A p", "", "p"},
		{"order", [][]string{{"a-b=1", "a/", "a/x=1", "a.b=1"}, {}}, "A a, A a/x, A a-b, A a.b", "", "a/ a/x a-b a.b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ds := dirs(t, tt.layers...)
			for _, expand := range []bool{false, true} {
				want := tt.want
				if expand && tt.expand != "" {
					want = tt.expand
				}
				var got []string
				err := Walk(t.Context(), ds[0], ds[1:], Options{Expand: expand}, func(e *Entry) error {
					s := string("=ACD"[e.Kind]) + " " + e.Path
					if e.Hard != "" {
						s += " &" + e.Hard
					}
					got = append(got, s)
					return nil
				})
				if err != nil || strings.Join(got, ", ") != want {
					t.Errorf("expand %v: got %q, %v; want %q", expand, strings.Join(got, ", "), err, want)
				}
			}
			var blob, split bytes.Buffer
			sum, err := Tar(t.Context(), &blob, ds[0], ds[1:], TarOptions{TarSplit: &split})
			if err != nil {
				t.Fatal(err)
			}
			if sum.Size != int64(blob.Len()) || split.Len() == 0 {
				t.Errorf("size %d of %d, %d bytes of tar-split", sum.Size, blob.Len(), split.Len())
			}
			if got := names(t, &blob); got != tt.tar {
				t.Errorf("tar %q, want %q", got, tt.tar)
			}
			again, err := Tar(t.Context(), nil, ds[0], ds[1:], TarOptions{})
			if err != nil || again.DiffID != sum.DiffID {
				t.Errorf("the second time %+v, %v, the first %+v", again, err, sum)
			}
		})
	}
}

// A layer that was unpacked has whole seconds: what was not written again is not
// changed above it, and what was, is.
func TestWholeSeconds(t *testing.T) {
	ds := dirs(t, []string{"kept=1", "new=1"}, []string{"kept=1", "new=2"})
	for _, name := range []string{"kept", "new"} {
		when := time.Unix(1700000000, 0)
		if err := os.Chtimes(filepath.Join(ds[1], name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := Walk(t.Context(), ds[0], ds[1:], Options{}, func(e *Entry) error {
		got = append(got, string("=ACD"[e.Kind])+" "+e.Path)
		return nil
	})
	if want := "= kept, C new"; err != nil || strings.Join(got, ", ") != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func names(t *testing.T, r io.Reader) string {
	t.Helper()
	var list []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return strings.Join(list, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeLink:
			list = append(list, h.Name+"=>"+h.Linkname)
		case tar.TypeSymlink:
			list = append(list, h.Name+"->"+h.Linkname)
		default:
			list = append(list, h.Name)
		}
	}
}

func BenchmarkTar(b *testing.B) {
	dir := b.TempDir()
	for i := range 20_000 {
		sub := filepath.Join(dir, fmt.Sprint(i/200))
		if i%200 == 0 {
			if err := os.Mkdir(sub, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), make([]byte, 10_000), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := Tar(b.Context(), nil, dir, nil, TarOptions{TarSplit: io.Discard}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestTarOwner: a layer has the owners that its container saw, also those that file
// capabilities are for.
func TestTarOwner(t *testing.T) {
	upper := dirs(t, []string{"a=1"})[0]
	me := uint32(os.Getuid())
	owner := func(uid, gid uint32) (uint32, uint32) { return uid - me + 7, gid - uint32(os.Getgid()) + 8 }
	var blob bytes.Buffer
	sum, err := Tar(t.Context(), &blob, upper, nil, TarOptions{Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	h, err := tar.NewReader(&blob).Next()
	if err != nil || h.Uid != 7 || h.Gid != 8 || !slices.Equal(sum.UIDs, []uint32{7}) || !slices.Equal(sum.GIDs, []uint32{8}) {
		t.Errorf("%+v %+v %v", h, sum, err)
	}

	p := &packer{o: TarOptions{Owner: func(uid, gid uint32) (uint32, uint32) { return uid - 0x10000, gid }}}
	capability := "\x01\x00\x00%c\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10%s"
	for value, want := range map[string]string{
		fmt.Sprintf(capability, 3, "\x00\x00\x01\x00"): fmt.Sprintf(capability, 2, ""),
		fmt.Sprintf(capability, 3, "\x01\x00\x01\x00"): fmt.Sprintf(capability, 3, "\x01\x00\x01\x00"), // another root's
		fmt.Sprintf(capability, 2, ""):                 fmt.Sprintf(capability, 2, ""),
	} {
		if got := p.capability([]byte(value)); string(got) != want {
			t.Errorf("%x: got %x, want %x", value, got, want)
		}
	}
}
