// Package trees makes small directories for tests from words that fit on a line.
package trees

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Make makes a directory of entries, with the directories that these are in. Where
// one may not be made, as whiteouts by a user, the test is skipped.
//
//	"etc/"           a directory
//	"etc/x=text"     a file
//	"etc/x->target"  a link
//	"etc/x&etc/y"    another name of etc/y
//	"etc/x|"         a fifo
//	"etc/x!"         a whiteout
//	"etc/*"          marks the directory etc opaque
func Make(t testing.TB, entries ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, e := range entries {
		switch err := add(dir, e); {
		case errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP):
			t.Skipf("cannot make %s here: %v", e, err)
		case err != nil:
			t.Fatal(err)
		}
	}
	return dir
}

// Layers makes a directory of each list.
func Layers(t testing.TB, lists ...[]string) []string {
	t.Helper()
	var dirs []string
	for _, list := range lists {
		dirs = append(dirs, Make(t, list...))
	}
	return dirs
}

func add(dir, e string) error {
	at := func(name string) string {
		p := filepath.Join(dir, name)
		_ = os.MkdirAll(filepath.Dir(p), 0o755) // the call after this one says what is wrong
		return p
	}
	if name, target, ok := strings.Cut(e, "->"); ok {
		return os.Symlink(target, at(name))
	}
	if name, target, ok := strings.Cut(e, "&"); ok {
		return os.Link(at(target), at(name))
	}
	if name, ok := strings.CutSuffix(e, "/*"); ok {
		return errors.Join(os.MkdirAll(at(name), 0o755), syscall.Setxattr(at(name), "user.overlay.opaque", []byte("y"), 0))
	}
	if name, ok := strings.CutSuffix(e, "!"); ok {
		return syscall.Mknod(at(name), syscall.S_IFCHR, 0)
	}
	if name, ok := strings.CutSuffix(e, "|"); ok {
		return syscall.Mkfifo(at(name), 0o644)
	}
	if strings.HasSuffix(e, "/") {
		return os.MkdirAll(at(e), 0o755)
	}
	name, text, _ := strings.Cut(e, "=")
	return os.WriteFile(at(name), []byte(text), 0o644)
}
