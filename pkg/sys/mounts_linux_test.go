package sys

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"cais.dev/cais/pkg/errs"
	"golang.org/x/sys/unix"
)

// What is mounted below a tree that is removed belongs to somebody else.
func TestRemoveTreeSparesMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	top, other := t.TempDir(), t.TempDir()
	at := filepath.Join(top, "tree", "a b", "mnt")
	file := filepath.Join(other, "precious")
	link := filepath.Join(top, "link")
	if err := errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(file, nil, 0o600), os.Symlink("tree", link)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: what it mounts goes with it
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount(other, at, "", unix.MS_BIND, "")); err != nil {
			done <- err
			return
		}
		for _, dir := range []string{filepath.Join(top, "tree"), at, link + "/a b"} {
			if err := RemoveTree(dir); errs.KindOf(err) != errs.Conflict {
				t.Errorf("%s: got %v, want Conflict", dir, err)
			}
		}
		done <- unix.Unmount(at, 0)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the mounted file: %v", err)
	}
	if err := errors.Join(RemoveTree(filepath.Join(top, "tree")), RemoveTree(filepath.Join(top, "tree"))); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(top, "tree")); err == nil {
		t.Error("the tree is left")
	}
}
