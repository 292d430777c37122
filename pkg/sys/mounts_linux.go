package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// RemoveTree removes dir and all below it, unless something is mounted there that
// this process can see: that is somebody else's, and would be emptied.
func RemoveTree(dir string) error {
	err := os.Remove(dir) // nothing but an empty directory, mostly
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := NoMounts(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// NoMounts returns an error if something is mounted on dir or below it.
func NoMounts(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if at := UnescapeMount(f[4]); at == real || strings.HasPrefix(at, real+"/") {
			return errs.WithHint(errs.New(errs.Conflict, fmt.Sprintf("cannot remove %s: %s is a mount", dir, at)),
				"Nothing that is mounted is removed: unmount it first (umount "+at+").")
		}
	}
	return nil
}

// UnescapeMount undoes mountinfo's \040 for blanks, tabs, newlines and backslashes.
func UnescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
