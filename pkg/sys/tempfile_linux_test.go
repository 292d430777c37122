package sys

import (
	"io"
	"os"
	"testing"
)

func TestTempFile(t *testing.T) {
	dir := t.TempDir()
	f, err := TempFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("it has a name: %v, %v", names, err)
	}
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(io.NewSectionReader(f, 0, 10)); err != nil || string(b) != "x" {
		t.Errorf("read %q, %v", b, err)
	}
}
