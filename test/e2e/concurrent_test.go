package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestConcurrent starts a hundred containers at once.
func TestConcurrent(t *testing.T) {
	b := setUp(t)
	s := b.storeFor(t, true)
	const n = 100
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed []string
	for i := range n {
		wg.Go(func() {
			want := fmt.Sprintf("number %d\n", i)
			out, err := s.cmd("run", "--rm", "busybox", "echo", "number", fmt.Sprint(i)).CombinedOutput()
			if err != nil || string(out) != want {
				mu.Lock()
				failed = append(failed, fmt.Sprintf("%d: %v: %q", i, err, out))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(failed) > 0 {
		t.Errorf("%d of %d failed:\n%s", len(failed), n, strings.Join(failed[:min(10, len(failed))], "\n"))
	}
	if err := s.leftovers(); err != nil {
		t.Errorf("left behind: %v", err)
	}
}
