// Package atomicfile replaces files so that a reader, or a crash, finds the old
// content or the new, never something between.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces the file at path with data and gives it exactly mode perm. It
// guards against crashes, not against two read-modify-writes: for those, hold a
// lock. durable costs two fsyncs: only for what is to last through a power cut.
//
// A process killed in between leaves a file named ".<base>.*" beside path.
func Write(path string, data []byte, perm fs.FileMode, durable bool) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	if err = errors.Join(fill(f, data, perm, durable), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if !durable {
		return nil
	}
	return SyncDir(dir) // the data's fsync does not make the name durable: fsync(2)
}

func fill(f *os.File, data []byte, perm fs.FileMode, durable bool) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if !durable {
		return nil
	}
	return f.Sync()
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
