package storage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A layer that is there above another one is staged from its files, and takes no
// room of its own.
func TestTwin(t *testing.T) {
	s := openStore(t)
	base := gzLayer(t, entry{Name: "base", Body: "b"})
	same := gzLayer(t, entry{Name: "dir/", Mode: 0o1777, UID: 5}, entry{Name: "dir/big", Body: strings.Repeat("x", 5000), Mode: 0o4755, UID: 7},
		entry{Name: "dir/link", Link: "big", Type: '2'}, entry{Name: "hard", Link: "dir/big", Type: '1'}, entry{Name: ".wh.gone"})
	diffID := string(sha(same.tar))
	if st, err := s.StageTwin(t.Context(), diffID); st != nil || err != nil {
		t.Fatalf("of a layer that is not there: %v, %v", st, err)
	}
	first := put(t, s, "docker.io/library/first:1", base, same)

	st, err := s.StageTwin(t.Context(), diffID)
	if err != nil || st == nil {
		t.Fatal(st, err)
	}
	id, err := s.CommitLayers(t.Context(), "", st)
	if err != nil {
		t.Fatal(err)
	}
	clean(t, s)
	inode := func(id, name string) (st unix.Stat_t) {
		t.Helper()
		if err := unix.Lstat(filepath.Join(s.reader.LayerDir(id), name), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	for _, name := range []string{"dir", "dir/big", "dir/link", "hard", "gone"} {
		a, b := inode(first.TopLayer, name), inode(id, name)
		if linked := a.Ino == b.Ino; linked != (a.Mode&unix.S_IFMT == unix.S_IFREG) || a.Mode != b.Mode || a.Uid != b.Uid || a.Rdev != b.Rdev || a.Mtim != b.Mtim && name != "gone" {
			t.Errorf("%s: %+v, its twin %+v", name, a, b)
		}
	}
	if n := inode(id, "dir/big").Nlink; n != 4 {
		t.Errorf("%d names of the file, want two in each layer", n)
	}
	layers, err := s.reader.layers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.verify(t.Context(), s.reader.noImage(), layers[id]); err != nil {
		t.Errorf("its tar: %v", err)
	}

	u, err := s.reader.Usage(t.Context())
	if err != nil || u.Size != 5001 || u.Unreferenced != 0 || u.Lost != 0 {
		t.Errorf("with a twin that no image has: %+v, %v; want the files counted once", u, err)
	}
	// Who goes first frees nothing of what both have.
	removed, err := s.RemoveImage(t.Context(), RemoveOptions{}, "docker.io/library/first:1")
	if freed := freedBy(removed); err != nil || freed != 1 {
		t.Errorf("removed %+v, %v; want the base's byte", removed, err)
	}
	u, err = s.reader.Usage(t.Context())
	if err != nil || u.Size != 0 || u.Unreferenced != 1 || u.Lost != 5000 {
		t.Errorf("without the image: %+v, %v", u, err)
	}
	c, err := s.Collect(t.Context(), CollectOptions{Age: 1})
	if err != nil || c.Bytes != 5000 {
		t.Errorf("Collect: %+v, %v", c, err)
	}
}

func freedBy(removed []Removed) (sum int64) {
	for _, r := range removed {
		sum += r.Bytes
	}
	return sum
}

// What no longer is what its digest says is no twin, and what has other owners by
// now is written anew.
func TestTwinThatWasChanged(t *testing.T) {
	s := openStore(t)
	same := gzLayer(t, entry{Name: "a", Body: "a"}, entry{Name: "b", Body: "b"})
	img := put(t, s, "docker.io/library/first:1", gzLayer(t), same)
	dir := s.reader.LayerDir(img.TopLayer)
	if err := os.Chown(filepath.Join(dir, "a"), 9, 9); err != nil {
		t.Fatal(err)
	}
	st, err := s.StageTwin(t.Context(), string(sha(same.tar)))
	if err != nil || st == nil {
		t.Fatal(st, err)
	}
	for name, links := range map[string]uint64{"a": 1, "b": 2} {
		var got unix.Stat_t
		if err := unix.Lstat(filepath.Join(st.out.Target, name), &got); err != nil || got.Uid != 0 || uint64(got.Nlink) != links { //nolint:unconvert // its type is the architecture's
			t.Errorf("%s: %+v, %v; want root's with %d names", name, got, err, links)
		}
	}
	if err := s.Discard(st); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "b"), []byte("c"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := s.StageTwin(t.Context(), string(sha(same.tar))); st != nil || !errors.Is(err, ErrDigest) {
		t.Errorf("of a layer that was changed: %v, %v", st, err)
	}
	clean(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if st, err := s.StageTwin(ctx, string(sha(same.tar))); st != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %v", st, err)
	}
	clean(t, s)
}
