package cache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, dir string) *Cache {
	t.Helper()
	c, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const key = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func make1(t *testing.T, c *Cache, text string) *Result {
	t.Helper()
	m, err := c.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Dir(), "f"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := m.Finish(Meta{Key: key, Text: text, Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestResults(t *testing.T) {
	c := open(t, t.TempDir())
	if id := c.Lookup(key); id != "" {
		t.Errorf("an empty cache has %q", id)
	}
	r := make1(t, c, "one")
	if err := c.Put(t.Context(), key, r.ID, false); err != nil {
		t.Fatal(err)
	}
	other := make1(t, c, "two")
	if err := c.Put(t.Context(), key, other.ID, false); err != nil || c.Lookup(key) != r.ID {
		t.Errorf("the first one must count: %q, %v", c.Lookup(key), err)
	}
	if err := c.Put(t.Context(), key, other.ID, true); err != nil || c.Lookup(key) != other.ID {
		t.Errorf("not replaced: %q, %v", c.Lookup(key), err)
	}
	got, err := c.Get(r.ID)
	if err != nil || got == nil || got.Text != "one" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if b, err := os.ReadFile(filepath.Join(got.Files(), "f")); err != nil || string(b) != "one" {
		t.Errorf("its files: %q, %v", b, err)
	}
	if _, ok := got.Sum(); ok {
		t.Error("it has a sum already")
	}
	if err := got.SetSum(t.Context(), Sum{DiffID: "sha256:1", Size: 5}); err != nil {
		t.Fatal(err)
	}
	if s, ok := got.Sum(); !ok || s.Size != 5 {
		t.Errorf("sum %+v, %v", s, ok)
	}
	for _, id := range []string{"", "..", "../../etc", strings.Repeat("0", 32)} {
		if r, err := c.Get(id); r != nil || err != nil {
			t.Errorf("%q: %v, %v", id, r, err)
		}
	}
}

func TestResultsOfACrashedMachineDoNotCount(t *testing.T) {
	c := open(t, t.TempDir())
	r := make1(t, c, "one")
	boot := c.boot
	c.boot = "another"
	if got, err := c.Get(r.ID); got != nil || err != nil {
		t.Errorf("unsynced: %v, %v", got, err)
	}
	c.boot = boot
	if err := c.Synced(time.Now()); err != nil {
		t.Fatal(err)
	}
	late := make1(t, c, "late")
	c.boot = "another"
	if got, err := c.Get(r.ID); got == nil || err != nil {
		t.Errorf("synced: %v, %v", got, err)
	}
	if got, err := c.Get(late.ID); got != nil || err != nil {
		t.Errorf("made after the sync: %v, %v", got, err)
	}
}

func TestSweepLeavesTheLiving(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	living, err := c.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer living.Discard()
	dead, err := c.Make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.lock.Release(); err != nil { // as the kernel does
		t.Fatal(err)
	}
	var told []string
	if _, err := Open(dir, func(dir string) { told = append(told, filepath.Base(dir)) }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(living.Dir()); err != nil {
		t.Error("what is in the making was removed: ", err)
	}
	if _, err := os.Lstat(dead.Dir()); !errors.Is(err, os.ErrNotExist) || len(told) != 1 || told[0] != dead.ID {
		t.Errorf("what a killed build left: %v, told of %q", err, told)
	}
}

func TestLockKey(t *testing.T) {
	c := open(t, t.TempDir())
	release, err := c.LockKey(t.Context(), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan bool, 1)
	got := make(chan error, 1)
	go func() {
		r, err := c.LockKey(t.Context(), key, func() { waits <- true })
		if err == nil {
			r()
		}
		got <- err
	}()
	<-waits
	select {
	case err := <-got:
		t.Fatal("two have the key at once: ", err)
	default:
	}
	release()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Join(c.Dir(), "locks")); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestMounts(t *testing.T) {
	c := open(t, t.TempDir())
	fills := 0
	get := func(how Sharing) *MountDir {
		t.Helper()
		m, err := c.Mount(t.Context(), key, how, "text", func(dir string) error {
			fills++
			return os.WriteFile(filepath.Join(dir, "f"), nil, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	a, b := get(Shared), get(Shared)
	if a.Path != b.Path || fills != 1 {
		t.Errorf("shared: %s, %s, filled %d times", a.Path, b.Path, fills)
	}
	p := get(Private)
	if p.Path == a.Path || fills != 2 {
		t.Errorf("private: %s, filled %d times", p.Path, fills)
	}
	for _, m := range []*MountDir{a, b, p} {
		m.Release()
	}
	if l := get(Locked); l.Path != a.Path || fills != 2 {
		t.Errorf("locked: %s, filled %d times", l.Path, fills)
	}
}

func TestCut(t *testing.T) {
	c := open(t, t.TempDir())
	repairs := 0
	cut := func(want int) {
		t.Helper()
		if err := c.Cut(t.Context(), func() error { repairs++; return nil }); err != nil || repairs != want {
			t.Errorf("repaired %d times, %v; want %d", repairs, err, want)
		}
	}
	cut(0)
	release, err := c.Moving(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release()
	cut(0)
	if err := os.WriteFile(filepath.Join(c.Dir(), "moves"), []byte("moving"), 0o600); err != nil { // killed
		t.Fatal(err)
	}
	cut(1)
	cut(1)
}
