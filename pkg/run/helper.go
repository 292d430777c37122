package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/logs"
	"cais.dev/cais/pkg/sys"
	"cais.dev/cais/pkg/userns"
	"cais.dev/cais/pkg/volume"
)

// CleanupRole is argv[0] of this program when it does what neither a command as
// the user nor a monitor can: finishing ended containers, and touching files of
// mapped ids in the user's namespace. main looks for it first.
const CleanupRole = "cais-cleanup"

// What a CleanupRole process is asked for: its first word behind the flags.
const (
	helperContainer = "container" // ID: finish an ended container
	helperRemove    = "remove"    // DIR...: remove trees
	helperFill      = "fill"      // DATA TARGET LAYER...: copy what an image has into a volume
	helperFiles     = "files"     // JOB: a container's files, as tar
	helperMap       = "map"       // DIR: copy an image's tree with other owners
	helperOwn       = "own"       // UID:GID PATH...: give files to their owner
	helperGzip      = "gzip"      // compress a log
	helperSyslog    = "syslog"    // JOB: send a log to a server behind TLS
	helperChown     = "chown"     // UID:GID DIR...: give whole trees to their owner
)

// cleanupArgv starts this program in CleanupRole, with the global flags that it
// needs to find the same store.
func (s *Service) cleanupArgv(words ...string) []string {
	return slices.Concat([]string{CleanupRole}, s.o.Flags, words)
}

func (s *Service) needU() bool { return userns.Needed() }

// inU runs one of the helpers, in the user's namespace where there is one.
func (s *Service) inU(ctx context.Context, words ...string) error {
	if !s.needU() {
		return helper(ctx, words)
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
		Path: s.o.Exe, Args: s.cleanupArgv(words...), Env: s.o.Environ, Dir: "/", Files: []*os.File{null, w, w},
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
		return errs.E(words[0]+" in the user namespace", errs.Internal, errors.New(strings.TrimSpace(text.String())))
	}
	return nil
}

// Cleanup does what words ask of a process in [CleanupRole]. service is called
// only where one is needed.
func Cleanup(ctx context.Context, words []string, service func() (*Service, error)) error {
	if len(words) != 2 || words[0] != helperContainer {
		return helper(ctx, words)
	}
	s, err := service()
	if err != nil {
		return err
	}
	return s.cleanup(ctx, words[1])
}

// helper does what needs no service.
func helper(ctx context.Context, words []string) error {
	if len(words) == 0 {
		return errors.New("cais-cleanup: nothing to do")
	}
	args := words[1:]
	switch words[0] {
	case helperRemove:
		var all []error
		for _, dir := range args {
			all = append(all, sys.RemoveTree(dir))
		}
		return errors.Join(all...)
	case helperFiles:
		if len(args) != 1 {
			return errors.New("cais-cleanup files: it takes one argument")
		}
		return doFiles(ctx, args[0])
	case helperMap:
		if len(args) != 1 {
			return errors.New("cais-cleanup map: it takes one argument")
		}
		return mapTree(ctx, args[0])
	case helperOwn:
		if len(args) < 1 {
			return errors.New("cais-cleanup own: too few arguments")
		}
		return giveTo(args[0], args[1:])
	case helperChown:
		if len(args) < 1 {
			return errors.New("cais-cleanup chown: too few arguments")
		}
		return giveTrees(ctx, args[0], args[1:])
	case helperGzip:
		return logs.Compress(stream(0), stream(1))
	case helperSyslog:
		var job logs.TLS
		if len(args) != 1 {
			return errors.New("cais-cleanup syslog: it takes one argument")
		}
		if err := json.Unmarshal([]byte(args[0]), &job); err != nil {
			return err
		}
		return job.Relay(ctx, stream(0))
	case helperFill:
		if len(args) < 2 {
			return errors.New("cais-cleanup fill: too few arguments")
		}
		return volume.Fill(ctx, args[0], args[1], args[2:])
	}
	return fmt.Errorf("cais-cleanup: %q is unknown", words[0])
}
