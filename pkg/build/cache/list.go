package cache

import (
	"context"
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

// Record is a result or a cache mount, as `builder du` lists it.
type Record struct {
	Meta
	Sum     *Sum // nil if it was not hashed
	Mount   bool
	Used    time.Time
	InUse   bool // somebody holds it
	Files   bool // the files are still the cache's, not a layer of the store
	Damaged bool // it is of no use to anybody
}

// List returns all that is in the cache. What goes meanwhile is left out.
func (c *Cache) List() ([]Record, error) {
	var list []Record
	results, err := os.ReadDir(c.path("results"))
	if err != nil {
		return nil, err
	}
	for _, e := range results {
		if r, ok := c.record(e.Name()); ok {
			list = append(list, r)
		}
	}
	mounts, err := os.ReadDir(c.path("mounts"))
	if err != nil {
		return nil, err
	}
	for _, e := range mounts {
		if r, ok := c.mountRecord(e.Name()); ok {
			list = append(list, r)
		}
	}
	return list, nil
}

func (c *Cache) record(id string) (Record, bool) {
	dir := c.path("results", id)
	r := Record{Meta: Meta{ID: id}}
	info, err := os.Lstat(filepath.Join(dir, "meta.json"))
	if err != nil {
		if _, err := os.Lstat(dir); err != nil {
			return r, false
		}
		r.Damaged = true
		return r, true
	}
	r.Used = info.ModTime()
	doc, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if err != nil || json.Unmarshal(doc, &r.Meta) != nil || r.ID != id {
		r.Meta = Meta{ID: id}
		r.Damaged = true
	} else if !c.durable(&r.Meta) {
		r.Damaged = true
	}
	held := Result{Meta: r.Meta, c: c}
	if s, ok := held.Sum(); ok {
		r.Sum = &s
	}
	if _, err := os.Lstat(filepath.Join(dir, "diff")); err == nil {
		r.Files = true
	}
	r.InUse = inUse(filepath.Join(dir, "lock"))
	return r, true
}

func (c *Cache) mountRecord(name string) (Record, bool) {
	dir := c.path("mounts", name)
	r := Record{Meta: Meta{ID: name, Kind: "exec.cachemount", Text: "cached mount"}, Mount: true, Files: true}
	info, err := os.Lstat(filepath.Join(dir, "meta.json"))
	if err != nil {
		info, err = os.Lstat(dir)
	}
	if err != nil {
		return r, false
	}
	r.Used = info.ModTime()
	var m mountMeta
	if doc, err := os.ReadFile(filepath.Join(dir, "meta.json")); err == nil && json.Unmarshal(doc, &m) == nil {
		r.Created = m.Created
		r.Text = "cached mount " + m.Text
	}
	r.InUse = inUse(filepath.Join(dir, "lock"))
	return r, true
}

func inUse(path string) bool {
	l, err := lock.Try(path, true)
	if err != nil {
		return errors.Is(err, lock.ErrHeld)
	}
	_ = l.Release()
	return false
}

// Bytes is what the record's files take on the disk.
func (c *Cache) Bytes(ctx context.Context, r Record) int64 {
	if !r.Files {
		return 0
	}
	dir := c.path("results", r.ID)
	if r.Mount {
		dir = c.path("mounts", r.ID)
	}
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // what cannot be read does not count
		if err != nil || ctx.Err() != nil {
			return ctx.Err()
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512 / max(int64(st.Nlink), 1) * linkShare(info)
		}
		return nil
	})
	return sum
}

// linkShare counts a directory whole, though it has a link from each inside.
func linkShare(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && info.IsDir() {
		return int64(st.Nlink)
	}
	return 1
}

// Remove removes a record unless somebody uses it, and says whether it is gone.
func (c *Cache) Remove(r Record) (bool, error) {
	kind := "results"
	if r.Mount {
		kind = "mounts"
	}
	dir := c.path(kind, r.ID)
	l, err := lock.Try(filepath.Join(dir, "lock"), true)
	if errors.Is(err, lock.ErrHeld) {
		return false, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer l.Release()
	gone := c.path("tmp", newID()) // with its lock held; if we are killed, a sweep goes on
	if err := os.Rename(dir, gone); err != nil {
		return errors.Is(err, fs.ErrNotExist), ignoreMissing(err)
	}
	if r.Key != "" && len(r.Key) > 2 && !strings.ContainsAny(r.Key, "/.") && c.Lookup(r.Key) == r.ID {
		if err := os.Remove(c.keyPath(r.Key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true, err
		}
	}
	return true, os.RemoveAll(gone)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// RemoveKeys removes the keys that mean nothing any more.
func (c *Cache) RemoveKeys() error {
	dirs, err := os.ReadDir(c.path("keys"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		keys, err := os.ReadDir(c.path("keys", d.Name()))
		if err != nil {
			continue // removed
		}
		for _, k := range keys {
			p := c.path("keys", d.Name(), k.Name())
			info, err := k.Info()
			if err != nil || time.Since(info.ModTime()) < time.Minute { // perhaps just being made
				continue
			}
			if b, err := os.ReadFile(p); err == nil && !c.exists(strings.TrimSpace(string(b))) {
				if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
	}
	return nil
}
