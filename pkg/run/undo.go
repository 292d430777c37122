package run

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"
)

// undo is how to take back what was done so far.
type undo struct{ steps []func(context.Context) error }

func (u *undo) add(step func(context.Context) error) { u.steps = append(u.steps, step) }

// on takes the steps back, last first, if *err is set. The caller's context may
// be the reason for failing, so the steps get its values but not its end.
func (u *undo) on(ctx context.Context, err *error) {
	if *err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, step := range slices.Backward(u.steps) {
		*err = errors.Join(*err, step(ctx))
	}
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
