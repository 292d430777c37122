// Package atomicfile replaces files so that a reader, or a crash, finds the old
// content or the new, never something between.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Write replaces the file at path with data and gives it exactly mode perm. It
// guards against crashes, not against two read-modify-writes: for those, hold a
// lock. durable costs two fsyncs: only for what is to last through a power cut.
//
// A process killed in between leaves a file named ".<base>.*" beside path.
func Write(path string, data []byte, perm fs.FileMode, durable bool) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	return replace(f, err, path, data, perm, durable)
}

// WriteLocked is Write for a caller whose lock keeps all other writers out. What
// a process killed in between leaves, ".<base>.new", the next one writes over.
func WriteLocked(path string, data []byte, perm fs.FileMode, durable bool) error {
	name := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	return replace(f, err, path, data, perm, durable)
}

// replace fills f, if opening it did not fail, and makes it the file at path.
func replace(f *os.File, err error, path string, data []byte, perm fs.FileMode, durable bool) error {
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
	return SyncDir(filepath.Dir(path)) // the data's fsync does not make the name durable: fsync(2)
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
