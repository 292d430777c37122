package source

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cais.dev/cais/pkg/lock"
)

// Kept is a repository or a download that is kept for later builds.
type Kept struct {
	ID          string // "git-…", "http-…"
	Type        string // source.git.checkout, source.http, in BuildKit's words
	Description string
	Used        time.Time
	Created     time.Time
	Bytes       int64
	InUse       bool

	dir string
}

// List returns what dir, [Options.Dir], keeps.
func List(dir string) ([]Kept, error) {
	var all []Kept
	for _, kind := range []struct{ name, kind string }{{"git", "source.git.checkout"}, {"http", "source.http"}} {
		list, err := os.ReadDir(filepath.Join(dir, kind.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, d := range list {
			fi, err := d.Info()
			if err != nil || !fi.IsDir() {
				continue
			}
			k := Kept{ID: kind.name + "-" + d.Name(), Type: kind.kind, Used: fi.ModTime(), Created: fi.ModTime(), dir: filepath.Join(dir, kind.name, d.Name())}
			k.describe()
			if l, err := lock.Try(filepath.Join(k.dir, "lock"), true); err == nil {
				l.Release()
			} else {
				k.InUse = errors.Is(err, lock.ErrHeld)
			}
			all = append(all, k)
		}
	}
	return all, nil
}

func (k *Kept) describe() {
	if data, err := os.ReadFile(filepath.Join(k.dir, "complete")); err == nil {
		url, rest, _ := strings.Cut(string(data), "\n")
		commit, _, _ := strings.Cut(rest, "\n")
		k.Description = "git snapshot for " + url + "#" + commit
	}
	if data, err := os.ReadFile(filepath.Join(k.dir, "meta.json")); err == nil {
		var d download
		if json.Unmarshal(data, &d) == nil {
			k.Description = "http url " + d.URL
		}
	}
	if fi, err := os.Stat(filepath.Join(k.dir, "lock")); err == nil {
		k.Created = fi.ModTime()
	}
	seen := map[uint64]bool{} // a download has two names
	_ = filepath.WalkDir(k.dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be seen is not counted
		}
		fi, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it is gone
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && !seen[st.Ino] {
			seen[st.Ino] = true
			k.Bytes += st.Blocks * 512
		}
		return nil
	})
}

// Remove removes it, unless a build uses it.
func (k *Kept) Remove() (bool, error) {
	l, err := lock.Try(filepath.Join(k.dir, "lock"), true)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, nil //nolint:nilerr // somebody holds it
	}
	defer l.Release()
	return true, removeAll(k.dir)
}
