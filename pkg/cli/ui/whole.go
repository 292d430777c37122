package ui

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Whole writes a file that is there completely or, if write fails, not at all.
// Something that is no regular file, such as a pipe, is written to as it is.
func Whole(path string, write func(io.Writer) error) (err error) {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		if fi.IsDir() {
			return fmt.Errorf("invalid output path: %s is a directory", path)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	dir := filepath.Dir(path)
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return fmt.Errorf("invalid output path: directory %q does not exist", dir)
	}
	f, err := os.CreateTemp(dir, ".export-*")
	if err != nil {
		return err
	}
	err = write(f)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
