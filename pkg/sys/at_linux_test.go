package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRemoveAtFollowsNoLink(t *testing.T) {
	t.Parallel()
	kept, dir := t.TempDir(), t.TempDir()
	err := errors.Join(os.WriteFile(filepath.Join(kept, "f"), nil, 0o600), os.MkdirAll(filepath.Join(dir, "d/e"), 0o700),
		os.WriteFile(filepath.Join(dir, "d/e/f"), nil, 0o600), os.Symlink(kept, filepath.Join(dir, "d/link")))
	if err != nil {
		t.Fatal(err)
	}
	at, err := OpenDirAt(unix.AT_FDCWD, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(at)
	if err := RemoveAt(at, "d"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: %v, want that it is gone", err)
	}
	if _, err := os.Lstat(filepath.Join(kept, "f")); err != nil {
		t.Errorf("what a link leads to: %v", err)
	}
}

// TestSetTimesAt sets the times of a link, and of a pipe that only O_PATH opens.
func TestSetTimesAt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := errors.Join(os.Symlink("nowhere", filepath.Join(dir, "link")), unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	pipe, err := OpenAt(unix.AT_FDCWD, filepath.Join(dir, "pipe"), unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe)
	then := unix.Timespec{Sec: 5}
	if err := errors.Join(SetTimesAt(unix.AT_FDCWD, filepath.Join(dir, "link"), then), SetTimesAt(pipe, "", then)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "pipe"} {
		if i, err := os.Lstat(filepath.Join(dir, name)); err != nil || i.ModTime().Unix() != then.Sec {
			t.Errorf("%s: %v, %v, want %v", name, i, err, then)
		}
	}
}
