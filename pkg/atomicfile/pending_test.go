package atomicfile

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestPending(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, commit := range []bool{false, true} {
		p, err := Create(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.WriteString("new"); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "old" {
			t.Errorf("before: %q, %v", data, err)
		}
		want := "old"
		if commit {
			want, err = "new", p.Commit()
		} else {
			err = p.Discard()
		}
		if data, read := os.ReadFile(path); err != nil || read != nil || string(data) != want {
			t.Errorf("commit %v: %q, %v, %v", commit, data, err, read)
		}
		if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
			t.Errorf("%v is left, %v", list, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Create(dir, 0o600); err == nil {
		t.Error("a directory is taken for a file")
	}
	if _, err := Create(filepath.Join(dir, "no", "file"), 0o600); !os.IsNotExist(err) {
		t.Errorf("no directory: %v", err)
	}
	// A pipe is written to, not replaced.
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := Create(pipe, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteString("through"); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := r.Read(buf); err != nil || string(buf[:n]) != "through" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
