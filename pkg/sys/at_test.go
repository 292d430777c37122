package sys

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	var room []byte
	for _, size := range []int{0, 1, 4095, 4096, 4097, 10000} {
		path, want := filepath.Join(dir, "f"), bytes.Repeat([]byte("abc"), size)[:size]
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadFile(Cwd, path, room)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d bytes, %v", size, len(got), err)
		}
		room = got
	}
	for path, want := range map[string]error{filepath.Join(dir, "absent"): os.ErrNotExist, dir: syscall.EISDIR} {
		_, err := ReadFile(Cwd, path, room)
		if p, ok := errors.AsType[*os.PathError](err); !ok || p.Path != path || !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", path, err, want)
		}
	}
}
