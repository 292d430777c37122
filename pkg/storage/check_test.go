package storage

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Each kind of damage is found, and gone after a repair that spares the rest.
func TestCheckAndRepair(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, s *Store, img *Image, layers []Layer)
		text   string
		lost   bool // the damaged image goes
	}{
		"nothing": {damage: func(*testing.T, *Store, *Image, []Layer) {}},
		"a changed file": {func(t *testing.T, s *Store, _ *Image, l []Layer) {
			write(t, filepath.Join(s.o.GraphRoot, "overlay", l[0].ID, "diff/b"), "y")
		}, "its files were changed", true},
		"a missing directory": {func(t *testing.T, s *Store, _ *Image, l []Layer) {
			if err := os.RemoveAll(filepath.Join(s.o.GraphRoot, "overlay", l[1].ID, "diff")); err != nil {
				t.Fatal(err)
			}
		}, "no files", true},
		"a changed config": {func(t *testing.T, s *Store, img *Image, _ []Layer) {
			write(t, filepath.Join(img.dir, bigDataName("sha256:"+img.ID)), "{}")
		}, "its config was changed", true},
		"a changed manifest": {func(t *testing.T, s *Store, img *Image, _ []Layer) {
			write(t, filepath.Join(img.dir, bigDataName("manifest-"+img.Digest)), "{}")
		}, "was changed", true},
		"a directory of nothing": {func(t *testing.T, s *Store, _ *Image, _ []Layer) {
			if err := os.MkdirAll(filepath.Join(s.o.GraphRoot, "overlay", strings.Repeat("e", 64), "diff"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "belongs to nothing", false},
		"a layer of nothing": {func(t *testing.T, s *Store, _ *Image, _ []Layer) {
			if _, err := s.CommitLayers(t.Context(), "", stage(t, s, gzLayer(t, entry{Name: "lost", Body: "x"}))); err != nil {
				t.Fatal(err)
			}
		}, "used by nothing", false},
		"a record of no container": {func(t *testing.T, s *Store, img *Image, _ []Layer) {
			if err := s.Reader().AddContainer(t.Context(), ContainerRef{ID: "dead", ImageID: img.ID, Created: time.Now().Add(-time.Hour)}); err != nil {
				t.Fatal(err)
			}
		}, "left over", false},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			bad := put(t, s, "docker.io/library/bad:1", gzLayer(t, entry{Name: "a", Body: "x"}), gzLayer(t, entry{Name: "b", Body: "x"}))
			put(t, s, "docker.io/library/good:1", gzLayer(t, entry{Name: "c", Body: "x"}))
			layers, err := s.Reader().Layers(t.Context(), bad)
			if err != nil {
				t.Fatal(err)
			}
			o := CheckOptions{Age: time.Nanosecond, Live: func(ContainerRef) bool { return false }}
			c.damage(t, s, bad, layers)
			found, err := s.Check(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if c.text == "" {
				if len(found) != 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			if len(found) == 0 || !strings.Contains(found[0].Text, c.text) {
				t.Errorf("%+v", found)
			}
			lost, err := s.Repair(t.Context(), found, CollectOptions{Age: time.Nanosecond, Live: o.Live})
			if err != nil || c.lost != (len(lost) == 1) || c.lost && lost[0] != "bad:1" {
				t.Errorf("lost %q, %v", lost, err)
			}
			if left, err := s.Check(t.Context(), o); err != nil || len(left) != 0 {
				t.Errorf("after repair: %+v, %v", left, err)
			}
			if _, err := s.Reader().Image(t.Context(), "docker.io/library/good:1"); err != nil {
				t.Errorf("the good image: %v", err)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUsage(t *testing.T) {
	s := openStore(t)
	base := gzLayer(t, entry{Name: "base", Body: strings.Repeat("x", 1000)})
	a := put(t, s, "docker.io/library/a:1", base, gzLayer(t, entry{Name: "a", Body: strings.Repeat("x", 100)}))
	put(t, s, "docker.io/library/b:1", base, gzLayer(t, entry{Name: "b", Body: strings.Repeat("x", 10)}))
	if err := s.Reader().AddContainer(t.Context(), ContainerRef{ID: "c", ImageID: a.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitLayers(t.Context(), "", stage(t, s, gzLayer(t, entry{Name: "lost", Body: "x"}))); err != nil {
		t.Fatal(err)
	}
	u, err := s.Reader().Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u.Size != 1110 || u.Reclaimable != 10 || u.Active != 1 || u.Unreferenced != 1 || u.Lost != 1 {
		t.Errorf("%+v", u)
	}
	for _, i := range u.Images {
		want := int64(1010)
		if i.ID == a.ID {
			want = 1100
		}
		if i.Size != want || i.Shared != 1000 || i.Unique() != want-1000 {
			t.Errorf("%v: %d, shared %d", i.Names, i.Size, i.Shared)
		}
	}
	removed, err := s.RemoveImage(t.Context(), RemoveOptions{}, "docker.io/library/b:1")
	var freed int64
	for _, r := range removed {
		freed += r.Bytes
	}
	if err != nil || freed != 10 {
		t.Errorf("freed %d, %v", freed, err)
	}
}

// A layer that was being recorded when its process was killed is gone once the store
// is open: a build looks for its directory, and not in the records.
func TestOpenAfterAKilledCommit(t *testing.T) {
	s := openStore(t)
	good := put(t, s, "docker.io/library/good:1", gzLayer(t, entry{Name: "c", Body: "x"}))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.o.GraphRoot, "overlay-layers", "layers.json")
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := strings.Repeat("e", 64)
	write(t, path, strings.Replace(string(doc), "[", `[{"id":"`+cut+`","flags":{"incomplete":true}},`, 1))
	if err := os.MkdirAll(filepath.Join(s.o.GraphRoot, "overlay", cut, "diff"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := s.Reader(); !r.HasLayers(t.Context(), good.TopLayer) || r.HasLayers(t.Context(), cut) {
		t.Error("half a layer counts as one, or a whole one does not")
	}
	s = reopen(t, s.o)
	if dir := s.Reader().LayerDir(cut); dir != "" {
		t.Errorf("%s is there", dir)
	}
	found, err := s.Check(t.Context(), CheckOptions{})
	if err != nil || len(found) > 0 {
		t.Errorf("%+v, %v", found, err)
	}
}

// What others make and remove meanwhile is no problem.
func TestCheckBesideOthers(t *testing.T) {
	s := openStore(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			put(t, s, "docker.io/library/a:1", gzLayer(t, entry{Name: "a", Body: strconv.Itoa(i)}))
			if _, err := s.RemoveImage(t.Context(), RemoveOptions{}, "docker.io/library/a:1"); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
		}
		if found, err := s.Check(t.Context(), CheckOptions{}); err != nil || len(found) > 0 {
			t.Errorf("%+v, %v", found, err)
		}
	}
}
