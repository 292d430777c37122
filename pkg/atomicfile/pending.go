package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Pending is a file that is being written and that nobody sees yet.
type Pending struct {
	*os.File
	path   string
	perm   fs.FileMode
	name   string // beside path; empty: it has none until Commit
	direct bool   // path is no regular file: what is written is there at once
}

// Create begins a file that is to be at path, with exactly mode perm, once all of
// it is written. A process killed in between leaves nothing, on file systems with
// O_TMPFILE (open(2)). A path that is a pipe or a device is written to at once.
func Create(path string, perm fs.FileMode) (*Pending, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		return &Pending{File: f, direct: true}, err
	}
	dir := filepath.Dir(path)
	p := &Pending{path: path, perm: perm}
	var err error
	if tmpfile != 0 {
		if p.File, err = os.OpenFile(dir, tmpfile|os.O_RDWR, 0o600); err == nil {
			return p, nil
		}
		if !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.EISDIR) && !errors.Is(err, syscall.EINVAL) {
			return nil, err
		}
	}
	if p.File, err = os.CreateTemp(dir, "."+filepath.Base(path)+".*"); err != nil {
		return nil, err
	}
	p.name = p.File.Name()
	return p, nil
}

// Commit puts the file in its place and closes it.
func (p *Pending) Commit() error {
	if p.direct {
		return p.Close()
	}
	err := p.Chmod(p.perm)
	if err == nil && p.name == "" {
		name := filepath.Join(filepath.Dir(p.path), fmt.Sprintf(".%s.%d", filepath.Base(p.path), os.Getpid()))
		if err = link(p.File, name); err == nil {
			p.name = name
		}
	}
	if err = errors.Join(err, p.Close()); err == nil {
		err = os.Rename(p.name, p.path)
	}
	if err != nil && p.name != "" {
		err = errors.Join(err, os.Remove(p.name))
	}
	return err
}

// Discard closes the file and removes it.
func (p *Pending) Discard() error {
	err := p.Close()
	if p.name != "" {
		err = errors.Join(err, os.Remove(p.name))
	}
	return err
}
