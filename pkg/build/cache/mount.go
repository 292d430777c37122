package cache

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"cais.dev/cais/pkg/lock"
)

// Sharing is what two users of one cache mount do.
type Sharing string

// The ways to share.
const (
	Shared  Sharing = "shared"  // both use it
	Locked  Sharing = "locked"  // the second waits
	Private Sharing = "private" // the second gets another
)

// MountDir is a cache mount in use.
type MountDir struct {
	Path string
	lock *lock.Lock
}

// Release lets others have it.
func (m *MountDir) Release() { _ = m.lock.Release() }

// mountMeta is for people.
type mountMeta struct {
	Text    string    `json:"text"`
	Created time.Time `json:"created"`
}

// Mount returns the directory of the cache mount id, which fill makes if it is new.
func (c *Cache) Mount(ctx context.Context, id string, how Sharing, text string, fill func(dir string) error) (*MountDir, error) {
	for n := 1; ; n++ {
		dir := c.path("mounts", id)
		if n > 1 {
			dir += "-" + strconv.Itoa(n)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		m := &MountDir{Path: filepath.Join(dir, "data")}
		var err error
		if how == Private {
			m.lock, err = lock.Try(filepath.Join(dir, "lock"), true)
			if errors.Is(err, lock.ErrHeld) {
				continue
			}
		} else {
			m.lock, err = lock.Acquire(ctx, filepath.Join(dir, "lock"), how == Locked)
		}
		if errors.Is(err, fs.ErrNotExist) { // pruned just now
			n--
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := c.fillMount(ctx, dir, text, fill); err != nil {
			m.Release()
			if errors.Is(err, errPruned) {
				n--
				continue
			}
			return nil, err
		}
		now := time.Now()
		_ = os.Chtimes(filepath.Join(dir, "meta.json"), now, now) // only prune looks
		return m, nil
	}
}

var errPruned = errors.New("the directory was removed meanwhile")

// fillMount makes the data of a new mount: under a lock of its own, as several may
// share the mount.
func (c *Cache) fillMount(ctx context.Context, dir, text string, fill func(dir string) error) error {
	data := filepath.Join(dir, "data")
	if _, err := os.Lstat(data); err == nil {
		return nil
	}
	l, err := lock.Acquire(ctx, filepath.Join(dir, "fill"), true)
	if errors.Is(err, fs.ErrNotExist) {
		return errPruned
	}
	if err != nil {
		return err
	}
	defer l.Release()
	if _, err := os.Lstat(data); err == nil {
		return nil
	}
	tmp := filepath.Join(dir, "new")
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o755)); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	doc, err := json.Marshal(mountMeta{Text: text, Created: time.Now().UTC()})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "meta.json"), doc, 0o600); err != nil { //nolint:forbidigo // for people
		return err
	}
	return os.Rename(tmp, data)
}
