package source

import (
	"path"

	"golang.org/x/sys/unix"
)

// Readlink returns the target of a match's symbolic link.
func (t *Tree) Readlink(m *Match, e *Entry) (string, error) {
	if e.Link != "" {
		return e.Link, nil
	}
	name := path.Join(m.Path, e.Rel)
	fd, err := t.below(name, unix.O_PATH)
	if err != nil {
		return "", gone(name, err)
	}
	defer unix.Close(fd)
	target, _, err := readLink(fd)
	if err != nil {
		return "", changed(name)
	}
	return target, nil
}
