package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// parallel is how many containers are worked on at once.
const parallel = 50

// each does a thing to every ref, up to 50 at once, and prints each that
// succeeded as the user typed it, in the order given. One failure does not keep
// the others from being done.
func each(ctx context.Context, out io.Writer, refs []string, do func(ctx context.Context, ref string) (show bool, err error)) error {
	type result struct {
		show bool
		err  error
	}
	results := make([]chan result, len(refs))
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, ref := range refs {
		results[i] = make(chan result, 1)
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			show, err := do(ctx, ref)
			results[i] <- result{show, err}
		})
	}
	var failed []error
	for i, ref := range refs {
		r := <-results[i]
		if r.err != nil {
			failed = append(failed, r.err)
			continue
		}
		if r.show {
			fmt.Fprintln(out, ref)
		}
	}
	return errors.Join(failed...)
}
