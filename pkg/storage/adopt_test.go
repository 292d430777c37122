package storage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	library "go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"

	"cais.dev/cais/pkg/layer/changes"
	"cais.dev/cais/pkg/lock"
)

// newDir makes what a command left in its upper directory.
func newDir(t *testing.T, s *Store) string {
	t.Helper()
	if err := os.MkdirAll(s.WorkDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(s.WorkDir(), "test-")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"new": "1", "sub/file": "22", "sub/longer": string(make([]byte, 300<<10))} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAdoptLayer(t *testing.T) {
	s := openStore(t)
	base, err := s.CommitLayers(t.Context(), "", stage(t, s, gzLayer(t,
		entry{Name: "old", Body: "x"}, entry{Name: "sub/", Mode: 0o755})))
	if err != nil {
		t.Fatal(err)
	}
	for _, keep := range []bool{false, true} {
		dir := newDir(t, s)
		if keep { // another layer than the one that is there
			if err := os.WriteFile(filepath.Join(dir, "more"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		lower, err := s.Reader().LayerDirs(t.Context(), base)
		if err != nil {
			t.Fatal(err)
		}
		if keep {
			lower = nil
		}
		split, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer split.Close()
		sum, err := changes.Tar(t.Context(), nil, dir, lower, changes.TarOptions{TarSplit: split})
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.AdoptLayer(t.Context(), base, NewLayer{Dir: dir, Sum: *sum, TarSplit: split, Keep: keep})
		if err != nil || id != LayerID(base, sum.DiffID) || !s.HasLayer(id) {
			t.Fatalf("layer %s, %v", id, err)
		}
		if _, err := os.Lstat(dir); (err == nil) != keep {
			t.Errorf("keep %v: the directory: %v", keep, err)
		}
		// What the store makes of it is the tar that was summed up.
		plain := archive.Uncompressed
		r, err := s.lib.Diff("", id, &library.DiffOptions{Compression: &plain})
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		if _, err := io.Copy(h, r); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != sum.DiffID {
			t.Errorf("keep %v: the store packs %s, adopted was %s", keep, got, sum.DiffID)
		}
	}
	if _, err := s.AdoptLayer(t.Context(), "missing", NewLayer{}); !errors.Is(err, ErrParentGone) {
		t.Errorf("above nothing: %v", err)
	}
}

// alone is a store in which one process at a time records a layer: the library would
// replace one that another recorded after it was looked for.
type alone struct {
	library.Store
	t    *testing.T
	lock string
}

func (a alone) ApplyStagedLayer(o library.ApplyStagedLayerOptions) (*library.Layer, error) {
	if l, err := lock.Try(a.lock, false); !errors.Is(err, lock.ErrHeld) {
		a.t.Errorf("others may record, too: %v, %v", l, err)
	}
	return a.Store.ApplyStagedLayer(o)
}

// A layer that is there already stays the directory that it is, for containers may
// have it mounted.
func TestRecordOnce(t *testing.T) {
	s := openStore(t)
	lib := s.lib
	t.Cleanup(func() { s.lib = lib })
	s.lib = alone{lib, t, filepath.Join(s.o.RunRoot, "cais-recording")}
	for _, taken := range []bool{true, false} {
		dir := newDir(t, s)
		sum, err := changes.Tar(t.Context(), nil, dir, nil, changes.TarOptions{Time: time.Unix(1, 0)}) // both times the same tar
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.AdoptLayer(t.Context(), "", NewLayer{Dir: dir, Sum: *sum}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(dir); (err != nil) != taken {
			t.Errorf("the directory, taken %v: %v", taken, err)
		}
	}
}

// collecting is a store in which somebody collects garbage just before a layer is
// recorded: what is among the layers' directories and none of them goes.
type collecting struct{ library.Store }

func (c collecting) CreateLayer(id, parent string, names []string, label string, writable bool, o *library.LayerOptions) (*library.Layer, error) {
	if err := c.GarbageCollect(); err != nil {
		return nil, err
	}
	return c.Store.CreateLayer(id, parent, names, label, writable, o)
}

func (c collecting) ApplyStagedLayer(o library.ApplyStagedLayerOptions) (*library.Layer, error) {
	if err := c.GarbageCollect(); err != nil {
		return nil, err
	}
	return c.Store.ApplyStagedLayer(o)
}

func TestHoldLayer(t *testing.T) {
	s := openStore(t)
	top, err := s.CommitLayers(t.Context(), "", stage(t, s, gzLayer(t, entry{Name: "a", Body: "x"})), stage(t, s, gzLayer(t, entry{Name: "b", Body: "x"})))
	if err != nil {
		t.Fatal(err)
	}
	lib := s.lib
	s.lib = collecting{lib}
	for range 2 {
		if err := s.HoldLayer(t.Context(), top); err != nil {
			t.Fatal(err)
		}
	}
	s.lib = lib
	if held, err := s.Held(); err != nil || len(held) != 1 || held[0] != top {
		t.Errorf("held %q, %v", held, err)
	}
	id, err := s.PutImage(t.Context(), ImageSpec{TopLayer: top, Config: []byte("{}"), Manifest: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	if held, err := s.Reader().HeldLayers(t.Context()); err != nil || len(held) != 0 {
		t.Errorf("an image has %v, %v", held, err)
	}
	if _, err := s.RemoveImage(t.Context(), RemoveOptions{Force: true}, "sha256:"+id); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Collect(t.Context(), CollectOptions{Age: -1}); err != nil || len(c.Layers) != 0 || !s.HasLayer(top) {
		t.Errorf("collected %q, %v", c.Layers, err)
	}
	if held, err := s.Reader().HeldLayers(t.Context()); err != nil || len(held) != 2 {
		t.Errorf("held without an image: %v, %v; want 2 layers", held, err)
	}
	gone, err := s.ReleaseLayers(top)
	if err != nil || len(gone) != 2 || s.HasLayer(top) {
		t.Errorf("removed %q, %v", gone, err)
	}
	if err := s.HoldLayer(t.Context(), "missing"); !errors.Is(err, ErrParentGone) {
		t.Errorf("hold nothing: %v", err)
	}
}
