package changes

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"
	"time"
)

func TestSquash(t *testing.T) {
	tests := []struct {
		name   string
		layers [][]string // top first; the last is the image below
		want   string
	}{
		{"one", [][]string{{"a/", "a/b=1"}, {}}, "a/ a/b"},
		{"the last state counts", [][]string{{"f=22"}, {"f=1", "g=1"}, {}}, "g f"},
		{"gone again", [][]string{{"a!"}, {"a=1", "b=1"}, {}}, "b"},
		{"gone from the image", [][]string{{"x=1"}, {"a!"}, {"a=1"}}, ".wh.a x"},
		{"a directory gone", [][]string{{"a!"}, {"a/", "a/b=1", "a/c/", "a/c/d=1"}, {"k=1"}}, ""},
		{"whiteouts in what is new", [][]string{{"a/b!", "o/x!"}, {"o/*"}, {"a/c=1", "o/x=1"}}, "o/ o/.wh..wh..opq"},
		{"gone and made again", [][]string{{"a/", "a/n=1"}, {"a!"}, {"a/b=1"}}, "a/ a/.wh..wh..opq a/n"},
		{"opaque, then changed", [][]string{{"a/", "a/m=1"}, {"a/*", "a/n=1"}, {"a/b=1"}}, "a/ a/.wh..wh..opq a/n a/m"},
		{"opaque above", [][]string{{"a/*", "a/n=1"}, {"a/", "a/b=1"}, {"a/b=0"}}, "a/ a/.wh..wh..opq a/n"},
		{"a file over a directory", [][]string{{"a=1"}, {"a/", "a/b=1"}, {}}, "a"},
		{"links", [][]string{{"a=22"}, {"a=1", "b&a", "c&a"}, {}}, "b c a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ds := dirs(t, tt.layers...)
			n := len(ds) - 1
			var blob bytes.Buffer
			sum, err := Squash(t.Context(), &blob, ds[:n], ds[n:], TarOptions{Time: time.Unix(7, 0)})
			if err != nil {
				t.Fatal(err)
			}
			data := blob.Bytes()
			if got := names(t, &blob); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			for tr := tar.NewReader(bytes.NewReader(data)); ; {
				h, err := tr.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if h.ModTime.Unix() != 7 && h.ModTime.Unix() != 0 {
					t.Errorf("%s is of %v", h.Name, h.ModTime)
				}
			}
			again, err := Squash(t.Context(), nil, ds[:n], ds[n:], TarOptions{Time: time.Unix(7, 0)})
			if err != nil || again.DiffID != sum.DiffID {
				t.Errorf("the second time %+v, %v, the first %+v", again, err, sum)
			}
		})
	}
}
