package transfer

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestPipe: what goes through a pipe without passing through us arrives whole,
// between small files and large ones, and is counted.
func TestPipe(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	want := map[string][]byte{}
	for i, size := range []int{0, 1, 511, spliceFrom - 1, spliceFrom, spliceFrom + 1, 3<<20 + 7, 100, 1 << 20} {
		name := string(rune('a' + i))
		want[name] = bytes.Repeat([]byte{byte('a' + i)}, size)
		if err := os.WriteFile(filepath.Join(from, name), want[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var wrote, read int64
	packed := make(chan error, 1)
	go func() {
		f, err := os.Open(from)
		if err == nil {
			err = NewRoot(f).Pack(t.Context(), w, "/", PackOptions{Count: &wrote})
			_ = f.Close()
		}
		_ = w.Close()
		packed <- err
	}()
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := NewRoot(f).Unpack(t.Context(), r, "/", UnpackOptions{Count: &read}); err != nil {
		t.Error(err)
	}
	_ = r.Close()
	if err := <-packed; err != nil {
		t.Error(err)
	}
	if wrote != read || wrote < 4<<20 {
		t.Errorf("%d bytes written, %d read", wrote, read)
	}
	for name, b := range want {
		got, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %d bytes, want %d (%v)", name, len(got), len(b), err)
		}
	}
}
