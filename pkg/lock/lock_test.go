package lock

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

func TestExclusiveKeepsOthersOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	if held, err := Held(path); held || err != nil {
		t.Fatalf("Held without a file = %v, %v", held, err)
	}
	l, err := Try(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Try(path, false); !errors.Is(err, ErrHeld) {
		t.Errorf("a second lock: %v, want ErrHeld", err)
	}
	if held, err := Held(path); !held || err != nil {
		t.Errorf("Held = %v, %v; want true", held, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := Acquire(ctx, path, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Acquire = %v, want the deadline", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	l, err = Acquire(t.Context(), path, true)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	_ = l.Release()
}
