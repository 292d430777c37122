package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/userns"
)

// CleanupRole is argv[0] of this program when it does what neither a command as
// the user nor a monitor can: finishing ended containers, and touching files of
// mapped ids in the user's namespace. main looks for it first.
const CleanupRole = "cais-cleanup"

// What a CleanupRole process is asked for: its first argument.
const (
	helperContainer = "container" // ROOT RUN ID: finish an ended container
	helperRemove    = "remove"    // DIR...: remove trees
	helperVolume    = "volume"    // TMP TARGET LAYER...: fill a volume from an image
)

func (s *Service) needU() bool { return userns.Needed() }

// inU runs one of the helpers, in the user's namespace where there is one.
func (s *Service) inU(ctx context.Context, args ...string) error {
	argv := append([]string{CleanupRole}, args...)
	if !s.needU() {
		return Helper(ctx, argv)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	defer null.Close()
	p, err := userns.Start(ctx, s.store.Run, &userns.Cmd{
		Path: s.o.Exe, Args: argv, Env: s.o.Environ, Dir: "/", Files: []*os.File{null, w, w},
	})
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("enter the user namespace: %w", err)
	}
	var text bytes.Buffer
	_, rerr := text.ReadFrom(r)
	code, err := p.Wait()
	if err = errors.Join(err, rerr); err != nil {
		return err
	}
	if code != 0 {
		return errs.E(args[0]+" in the user namespace", errs.Internal, errors.New(strings.TrimSpace(text.String())))
	}
	return nil
}

// Helper does what argv asks for, if it needs no service: it reports
// ErrNotHelper for helperContainer, which does.
func Helper(ctx context.Context, argv []string) error {
	if len(argv) < 2 {
		return errors.New("cais-cleanup: nothing to do")
	}
	args := argv[2:]
	switch argv[1] {
	case helperRemove:
		var all []error
		for _, dir := range args {
			all = append(all, os.RemoveAll(dir))
		}
		return errors.Join(all...)
	case helperVolume:
		if len(args) < 2 {
			return errors.New("cais-cleanup volume: too few arguments")
		}
		return fillVolume(ctx, args[0], args[1], args[2:])
	}
	return fmt.Errorf("cais-cleanup: %q is unknown", argv[1])
}
