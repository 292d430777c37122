package container

import (
	"os"
	"path/filepath"
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
