package container

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"cais.dev/cais/pkg/lock"
)

// TestDiscardBesideCollectors removes a container while others, which take what
// is half gone for left over, lock it.
func TestDiscardBesideCollectors(t *testing.T) {
	s := Store{Root: t.TempDir(), Run: t.TempDir()}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	dir := s.Dir(NewID())
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if l, err := lock.Try(filepath.Join(dir, lockFile), true); err == nil {
					_ = l.Release() // nothing was changed
				}
			}
		})
	}
	for i := range 200 {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := s.Discard(filepath.Base(dir)); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
	}
	close(stop)
	wg.Wait()
}

// TestCreateWhileDiscarded makes a container where a collector, which was first
// at the lock, is about to remove the directory: what Create returns must stay.
func TestCreateWhileDiscarded(t *testing.T) {
	s := newStore(t)
	for range 20 {
		id := NewID()
		collector, err := s.Create(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 300 { // so that the removal takes a while
			if err := os.Mkdir(filepath.Join(s.Dir(id), strconv.Itoa(i)), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		collected := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			l, err := s.Create(t.Context(), id)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.WriteSettings(id, &Settings{}, false); err != nil {
				t.Error(err)
			}
			<-collected
			for _, name := range []string{lockFile, idFile, settingsFile, runLink + "/."} {
				if _, err := os.Stat(filepath.Join(s.Dir(id), name)); err != nil {
					t.Error(err)
				}
			}
			if err := errors.Join(s.Discard(id), l.Release()); err != nil {
				t.Error(err)
			}
		})
		if err := errors.Join(s.Discard(id), collector.Release()); err != nil {
			t.Error(err)
		}
		close(collected)
		wg.Wait()
		if left, err := s.entries(); err != nil || len(left) > 0 {
			t.Fatalf("left behind: %q, %v", left, err)
		}
	}
}

// TestRemoveGone ends what a Discard began that was killed.
func TestRemoveGone(t *testing.T) {
	s := newStore(t)
	id := make1(t, s, "", "web")
	for range 2 { // the second finds the first one's remains
		if err := os.Rename(s.Dir(id), s.Dir(id)+goneSuffix); err != nil {
			t.Fatal(err)
		}
		make1(t, s, id, "web")
		if err := s.Discard(id); err != nil {
			t.Fatal(err)
		}
		make1(t, s, id, "web")
	}
	if err := os.Rename(s.Dir(id), s.Dir(id)+goneSuffix); err != nil {
		t.Fatal(err)
	}
	if ids, err := s.IDs(); err != nil || len(ids) > 0 {
		t.Errorf("it is still a container: %q, %v", ids, err)
	}
	if err := s.RemoveGone(); err != nil {
		t.Fatal(err)
	}
	if left, err := s.entries(); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
