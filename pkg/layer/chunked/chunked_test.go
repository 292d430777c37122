package chunked

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"cais.dev/cais/pkg/oci"
)

// blob is one of frames, a file each, with a table of contents behind them.
func blob(t testing.TB, table string, files ...string) ([]byte, oci.Descriptor) {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 0, 2*least)
	var entries []string
	for i, f := range files {
		from := len(b)
		b = e.EncodeAll([]byte(f), b)
		entries = append(entries, fmt.Sprintf(`{"type":"reg","name":"%d","size":%d,"digest":"d%d","offset":%d,"endOffset":%d}`, i, len(f), i, from, len(b)))
		b = append(b, make([]byte, gap/2)...)
	}
	b = append(b, make([]byte, max(0, least-len(b)))...)
	at := len(b)
	b = e.EncodeAll([]byte(strings.ReplaceAll(table, "FILES", strings.Join(entries, ","))), b)
	end := len(b)
	b = e.EncodeAll([]byte("split"), b)
	return b, oci.Descriptor{Size: int64(len(b)), Annotations: map[string]string{
		positionOf: fmt.Sprintf("%d:%d:1:1", at, end-at), digestOf: oci.Digest(b[at:end]), splitOf: fmt.Sprintf("%d:%d:5", end, len(b)-end),
	}}
}

func TestRanges(t *testing.T) {
	b, d := blob(t, `{"version":1,"x":{"entries":[]},"entries":[{"type":"dir","name":"dir"},{"type":"reg","name":"empty"},{"type":"chunk","name":"0","offset":1},FILES]}`,
		"zero", "one", "two", "three", "four", "five")
	var asked []string
	l, err := Open(t.Context(), d, func(_ context.Context, from, to int64) (io.ReadCloser, error) {
		asked = append(asked, fmt.Sprint(from/(gap/2), to/(gap/2)))
		return io.NopCloser(bytes.NewReader(b[from:to])), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n := len(l.Files()); n != 6 {
		t.Fatalf("%d files: %v", n, l.Files())
	}
	split, err := l.Split()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(split); err != nil || string(got) != "split" {
		t.Errorf("tar-split %q, %v", got, err)
	}
	// What lies between the first two is less than another request is worth.
	missing := l.Leave(func(name string) bool { return strings.Contains("234", name) })
	if want := int64(gap / 2); missing < want || missing > want+100 {
		t.Errorf("%d bytes are missing, want about %d", missing, want)
	}
	asked = nil
	for _, f := range [][2]string{{"0", "zero"}, {"1", "one"}, {"5", "five"}} {
		r, err := l.File(t.Context(), f[0])
		if err != nil {
			t.Fatal(err)
		}
		half := make([]byte, 2)
		_, err = io.ReadFull(r, half)
		if string(half) != f[1][:2] || err != nil || r.Close() != nil {
			t.Errorf("file %s: %q, %v", f[0], half, err)
		}
	}
	if want := []string{"0 1", "5 5"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	for _, name := range []string{"0", "3", "nothing"} {
		if _, err := l.File(t.Context(), name); err == nil {
			t.Errorf("file %q: no error, as it was passed, left, or is none", name)
		}
	}
}

func FuzzTable(f *testing.F) {
	for _, s := range []string{`{"entries":[]}`, `{"version":1,"entries":[{"type":"reg","name":"a","size":1,"offset":1,"endOffset":2}]}`, `{"entries":[{}`, `[]`, `{"a":`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, d := blob(t, s, "x")
		l, err := Open(t.Context(), d, func(_ context.Context, from, to int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b[from:to])), nil
		})
		if err != nil {
			return
		}
		defer l.Close()
		if missing := l.Leave(func(string) bool { return false }); missing < 0 || missing > d.Size {
			t.Errorf("%d bytes of %d", missing, d.Size)
		}
		for _, file := range l.Files() {
			if file.Size <= 0 || file.from < 0 || file.to <= file.from || file.to > d.Size {
				t.Errorf("%+v", file)
			}
		}
	})
}
