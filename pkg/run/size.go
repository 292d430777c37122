package run

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// TreeSize is the sum of the sizes of the files in dir, in bytes. What may not be read,
// or vanishes meanwhile, does not count.
func TreeSize(ctx context.Context, dir string) (int64, error) {
	var sum int64
	seen := map[[2]uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if e := ctx.Err(); e != nil {
			return e
		}
		if err != nil {
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it vanished
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			key := [2]uint64{st.Dev, st.Ino}
			if seen[key] {
				return nil
			}
			seen[key] = true
		}
		sum += fi.Size()
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		return sum, nil
	}
	return sum, err
}
