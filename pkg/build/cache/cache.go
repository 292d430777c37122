// Package cache keeps what the steps of builds made, in files beside the image
// store:
//
//	keys/ab/<key>        the id of the result that a step with this key has
//	results/<id>/        meta.json, lock, and diff, the layer's directory, until
//	                     that has become a layer of the image store
//	tmp/<id>/            a result in the making; its lock is held while somebody makes it
//	locks/<key>          held by who makes the result, so that nobody else does
//	mounts/<id>/         the directories of RUN --mount=type=cache
//	moves                held shared while the directories of results are being
//	                     opened or mounted, exclusively while one is moved
//
// A result appears by a rename, a key by a rename or a link: whoever is killed
// leaves at most something in tmp that the next build removes. Readers of keys take
// no lock; who uses a result holds its lock shared, so that prune leaves it alone.
package cache

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
)

// version is in the path: another form of files goes elsewhere.
const version = "v1"

// Cache is one store's build cache.
type Cache struct {
	dir  string
	boot string
}

// Open opens the cache in dir, which is made if it is missing, and removes what
// killed builds left; dead, if not nil, is told of each directory before that.
func Open(dir string, dead func(dir string)) (*Cache, error) {
	c := &Cache{dir: filepath.Join(dir, version)}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	c.boot = strings.TrimSpace(string(boot))
	for _, sub := range []string{"keys", "results", "tmp", "locks", "mounts", "synced", "bases"} {
		if err := os.MkdirAll(filepath.Join(c.dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return c, c.sweep(dead)
}

// Dir is where the cache is.
func (c *Cache) Dir() string { return c.dir }

func (c *Cache) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

// Meta is what is known of a result.
type Meta struct {
	Version int       `json:"v"`
	ID      string    `json:"id"`
	Parent  string    `json:"parent,omitempty"` // the result below
	Base    string    `json:"base,omitempty"`   // the id of the image's layer that is below the lowest of them
	Diff    string    `json:"diff,omitempty"`   // the result whose files these are, if not its own
	Key     string    `json:"key"`
	Text    string    `json:"text"` // what made it, for people
	Kind    string    `json:"kind"` // regular, source.local, …: as `builder du` has it
	Created time.Time `json:"created"`
	Boot    string    `json:"boot"`  // in which it was made
	Bytes   int64     `json:"bytes"` // that its files take, as far as known
}

// Sum is what hashing a result found.
type Sum struct {
	DiffID   string   `json:"diffID"`
	Size     int64    `json:"size"` // of the tar
	UIDs     []uint32 `json:"uids"`
	GIDs     []uint32 `json:"gids"`
	RootMode uint32   `json:"rootMode"` // os.FileMode
}

// Result is a result that is held: nobody removes it before Release.
type Result struct {
	Meta
	c    *Cache
	lock *lock.Lock
}

// Release lets go of the result.
func (r *Result) Release() { _ = r.lock.Release() } // read only

// UseBase notes that a build stands on the layer id of the store, until end is
// called or the process ends.
func (c *Cache) UseBase(id string) (end func(), err error) {
	l, err := lock.Try(c.path("bases", id), false)
	if err != nil {
		return nil, err
	}
	return func() { _ = l.Release() }, nil // only read
}

// DropBase reports whether no build stands on the layer id, and forgets it then.
func (c *Cache) DropBase(id string) (bool, error) {
	l, err := lock.Try(c.path("bases", id), true)
	if errors.Is(err, lock.ErrHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(os.Remove(c.path("bases", id)), l.Release())
}

// ID returns a new id.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func validID(id string) bool {
	_, err := hex.DecodeString(id)
	return err == nil && len(id) >= 32
}

// Lookup returns the id of the result that key has; empty if it has none.
func (c *Cache) Lookup(key string) string {
	b, err := os.ReadFile(c.keyPath(key))
	if id := strings.TrimSpace(string(b)); err == nil && validID(id) {
		return id
	}
	return ""
}

func (c *Cache) keyPath(key string) string { return c.path("keys", key[:2], key) }

// Get holds a result and returns it; nil if it is not there, or cannot be trusted.
func (c *Cache) Get(id string) (*Result, error) {
	if !validID(id) {
		return nil, nil
	}
	dir := c.path("results", id)
	doc, err := os.ReadFile(filepath.Join(dir, "meta.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &Result{c: c}
	if err := json.Unmarshal(doc, &r.Meta); err != nil || r.ID != id || r.Version > metaVersion {
		return nil, nil // cut by a crash of the machine, or not ours
	}
	if !c.durable(&r.Meta) {
		return nil, nil
	}
	l, err := lock.Try(filepath.Join(dir, "lock"), false)
	if errors.Is(err, lock.ErrHeld) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil // being removed
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, "meta.json")); err != nil {
		_ = l.Release()
		return nil, nil
	}
	r.lock = l
	return r, nil
}

const metaVersion = 1

// durable reports whether the result's files are surely what was written: they
// are made without syncing, so one from before a crash of the machine is only
// good if something was synced behind it.
func (c *Cache) durable(m *Meta) bool {
	if m.Boot == c.boot {
		return true
	}
	info, err := os.Lstat(c.path("synced", m.Boot))
	return err == nil && !m.Created.After(info.ModTime())
}

// Synced notes that all that was finished before begun is on disk.
func (c *Cache) Synced(begun time.Time) error {
	p := c.path("synced", c.boot)
	if info, err := os.Lstat(p); err == nil && !begun.After(info.ModTime()) {
		return nil
	}
	f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Chtimes(p, begun, begun))
}

// Files is the directory with the result's files; it is not there any more once
// they are a layer of the image store.
func (r *Result) Files() string {
	id := r.ID
	if r.Diff != "" {
		id = r.Diff
	}
	return r.c.path("results", id, "diff")
}

// Sum returns what hashing found, if it was hashed.
func (r *Result) Sum() (Sum, bool) {
	var s Sum
	doc, err := os.ReadFile(r.c.path("results", r.ID, "sum.json"))
	if err != nil || json.Unmarshal(doc, &s) != nil || s.DiffID == "" {
		return Sum{}, false
	}
	return s, true
}

// SetSum notes what hashing found.
func (r *Result) SetSum(ctx context.Context, s Sum) error {
	doc, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return r.c.publish(ctx, doc, func(tmp string) error {
		return os.Rename(tmp, r.c.path("results", r.ID, "sum.json"))
	})
}

// publish writes doc to a file in tmp and has place put it where it belongs. No sweep
// takes the file meanwhile; of a killed build's it finds nobody holding begin.
func (c *Cache) publish(ctx context.Context, doc []byte, place func(tmp string) error) error {
	begin, err := lock.Acquire(ctx, c.path("begin"), false)
	if err != nil {
		return err
	}
	defer begin.Release()
	tmp := c.path("tmp", "file-"+newID())
	if err = os.WriteFile(tmp, doc, 0o600); err == nil { //nolint:forbidigo // a temporary file of its own name
		err = place(tmp)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}

// SplitPath is where the result's tar-split is, if it was hashed and is no layer yet.
func (r *Result) SplitPath() string { return r.c.path("results", r.ID, "tar-split") }

// Used notes that key, and its result, were of use.
func (c *Cache) Used(key, id string) {
	now := time.Now()
	_ = os.Chtimes(c.keyPath(key), now, now) // only prune looks
	_ = os.Chtimes(c.path("results", id, "meta.json"), now, now)
}

// Put makes key mean the result id. The first one counts unless replace is set.
func (c *Cache) Put(ctx context.Context, key, id string, replace bool) error {
	p := c.keyPath(key)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return err
	}
	return c.publish(ctx, []byte(id+"\n"), func(tmp string) error {
		if !replace {
			err := os.Link(tmp, p)
			if err == nil || errors.Is(err, fs.ErrExist) && c.Lookup(key) != "" && c.exists(c.Lookup(key)) {
				return os.Remove(tmp)
			}
		}
		return os.Rename(tmp, p)
	})
}

func (c *Cache) exists(id string) bool {
	_, err := os.Lstat(c.path("results", id, "meta.json"))
	return err == nil
}

// Making is a result in the making.
type Making struct {
	ID   string
	c    *Cache
	lock *lock.Lock
}

// Make begins a result: an empty directory, and one beside it for overlay's work.
func (c *Cache) Make(ctx context.Context) (*Making, error) {
	m := &Making{ID: newID(), c: c}
	// Until it is locked, a sweep would take it for a dead one.
	begin, err := lock.Acquire(ctx, c.path("begin"), false)
	if err != nil {
		return nil, err
	}
	defer begin.Release()
	dir := c.path("tmp", m.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if m.lock, err = lock.Acquire(ctx, filepath.Join(dir, "lock"), false); err == nil {
		err = errors.Join(os.Mkdir(m.Dir(), 0o755), os.Mkdir(m.Work(), 0o700))
	}
	if err != nil {
		m.Discard()
		return nil, err
	}
	return m, nil
}

// Dir is the directory to fill.
func (m *Making) Dir() string { return m.c.path("tmp", m.ID, "diff") }

// Work is a directory for overlay's own use; Scratch one for anything.
func (m *Making) Work() string { return m.c.path("tmp", m.ID, "work") }

// Scratch makes a further directory, which goes with the making.
func (m *Making) Scratch(name string) (string, error) {
	dir := m.c.path("tmp", m.ID, name)
	return dir, os.MkdirAll(dir, 0o700)
}

// Discard removes what was made.
func (m *Making) Discard() {
	_ = os.RemoveAll(m.c.path("tmp", m.ID)) // what is left goes when the cache is opened next
	if m.lock != nil {
		_ = m.lock.Release()
	}
}

// Finish publishes the result and returns it, held.
func (m *Making) Finish(meta Meta) (*Result, error) {
	meta.Version, meta.ID, meta.Boot = metaVersion, m.ID, m.c.boot
	doc, err := json.Marshal(meta)
	if err != nil {
		return nil, err
	}
	dir := m.c.path("tmp", m.ID)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if n := e.Name(); n != "diff" && n != "lock" {
			if err := os.RemoveAll(filepath.Join(dir, n)); err != nil {
				return nil, err
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "meta.json"), doc, 0o600); err != nil { //nolint:forbidigo // not to be seen yet
		return nil, err
	}
	if err := os.Rename(dir, m.c.path("results", m.ID)); err != nil {
		return nil, err
	}
	return &Result{Meta: meta, c: m.c, lock: m.lock}, nil
}

// LockKey waits until nobody else makes the result of key. waiting is called once
// if that takes time.
func (c *Cache) LockKey(ctx context.Context, key string, waiting func()) (release func(), err error) {
	return lock.Temporary(ctx, c.path("locks", key), waiting)
}

// Still keeps results' directories where they are until the returned function is
// called: for as long as it takes to open them.
func (c *Cache) Still(ctx context.Context) (release func(), err error) {
	l, err := lock.Acquire(ctx, c.path("moves"), false)
	if err != nil {
		return nil, err
	}
	return func() { _ = l.Release() }, nil
}

// Moving waits until nobody opens results' directories, and keeps others from it.
// Until it is released, a note says that something is being moved.
func (c *Cache) Moving(ctx context.Context) (release func(), err error) {
	l, err := lock.Acquire(ctx, c.path("moves"), true)
	if err != nil {
		return nil, err
	}
	if _, err := l.File().WriteAt([]byte("moving\n"), 0); err != nil {
		return nil, errors.Join(err, l.Release())
	}
	return func() {
		_ = l.File().Truncate(0) // what the note asks for does no harm
		_ = l.Release()
	}, nil
}

// Cut calls repair if somebody was killed while a result was being moved: then the
// image store has to be looked at before it is believed that a layer is there.
func (c *Cache) Cut(ctx context.Context, repair func() error) error {
	if info, err := os.Lstat(c.path("moves")); err != nil || info.Size() == 0 {
		return nil
	}
	l, err := lock.Acquire(ctx, c.path("moves"), true) // whoever lives is soon done
	if err != nil {
		return err
	}
	defer l.Release()
	if info, err := l.File().Stat(); err != nil || info.Size() == 0 {
		return err
	}
	if err := repair(); err != nil {
		return err
	}
	return l.File().Truncate(0)
}

// sweep removes what killed builds left in tmp and in locks.
func (c *Cache) sweep(dead func(dir string)) error {
	locks, err := os.ReadDir(c.path("locks"))
	if err != nil {
		return err
	}
	for _, e := range locks {
		p := c.path("locks", e.Name())
		if l, err := lock.Try(p, true); err == nil {
			_ = os.Remove(p) // whoever waits for it sees that it is not the file any more
			_ = l.Release()
		}
	}
	begin, err := lock.Try(c.path("begin"), true)
	if errors.Is(err, lock.ErrHeld) {
		return nil // somebody begins something; the next one sweeps
	}
	if err != nil {
		return err
	}
	defer begin.Release()
	entries, err := os.ReadDir(c.path("tmp"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := c.path("tmp", e.Name())
		if !e.IsDir() {
			_ = os.Remove(p) // nobody who holds begin lives to place it
			continue
		}
		l, err := lock.Try(filepath.Join(p, "lock"), true)
		if err != nil {
			continue // held, or moved away
		}
		if dead != nil {
			dead(p)
		}
		err = os.RemoveAll(p)
		_ = l.Release()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errs.E("remove what a killed build left", errs.KindOf(err), fmt.Errorf("%s: %w", p, err))
		}
	}
	return nil
}
