package container

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/run/session"
)

type startOptions struct {
	selection
	args                []string
	attach, interactive bool
	detachKeys          string
	sigProxy            bool
	checkpoint, dir     string
}

// NewStart makes "start", "container start".
func NewStart(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o startOptions
	cmd := &cobra.Command{
		Use:               "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Start stopped containers",
		Args:              o.selection.args,
		ValidArgsFunction: complete.Containers(e, -1, stopped),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.checkpoint != "" || o.dir != "" {
				return ui.Later("start --checkpoint", "'cais pause' freezes a container in memory.")
			}
			o.args = args
			svc, err := e.Healed(cmd.Context())
			if err != nil {
				return err
			}
			refs, err := o.refs(cmd.Context(), svc, args, stopped)
			if err != nil {
				return err
			}
			if o.attach || o.interactive {
				return startAttached(cmd.Context(), e, s, svc, refs, o)
			}
			return start(cmd.Context(), s, svc, refs)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.attach, "attach", "a", false, "Attach stdout and stderr, and pass signals on")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "Attach stdin too")
	f.StringVar(&o.detachKeys, "detach-keys", "", "Detach with these `keys` (ctrl-p,ctrl-q)")
	f.BoolVar(&o.sigProxy, "sig-proxy", true, "Pass signals on")
	f.StringVar(&o.checkpoint, "checkpoint", "", "Restore this checkpoint")
	f.StringVar(&o.dir, "checkpoint-dir", "", "Where checkpoints are")
	f.BoolVar(&o.all, "all", false, "All stopped containers")
	o.selection.flags(f, "fl")
	return cmd
}

// starter is what start needs of a service.
type starter interface {
	Start(ctx context.Context, ref string, o run.StartOptions) (*run.Started, error)
}

func start(ctx context.Context, s ui.Streams, svc starter, refs []string) error {
	var failed []string
	var errors_ []error
	for _, ref := range refs {
		st, err := svc.Start(ctx, ref, run.StartOptions{})
		if err == nil && st.Session != nil {
			err = st.Session.Close()
		}
		if err != nil {
			errors_ = append(errors_, err)
			failed = append(failed, ref)
			continue
		}
		fmt.Fprintln(s.Out, ref)
	}
	if len(refs) > 1 && len(failed) > 0 {
		errors_ = append(errors_, errors.New("failed to start containers: "+strings.Join(failed, ", ")))
	}
	return errors.Join(errors_...)
}

func startAttached(ctx context.Context, e *engine.Engine, s ui.Streams, svc *run.Service, refs []string, o startOptions) error {
	if len(refs) != 1 {
		return errors.New("you cannot start and attach multiple containers at once")
	}
	c, err := svc.Find(ctx, refs[0])
	if err != nil {
		return err
	}
	w, err := attachTo(e, c, o.detachKeys, o.interactive, o.sigProxy)
	if err != nil {
		return err
	}
	if err := w.checkTerminal(s); err != nil {
		return err
	}
	so := run.StartOptions{Attach: w.attach(s)}
	g := catchSignals()
	st, err := svc.Start(ctx, c.ID, so)
	if err != nil {
		return startFailure(err, ui.CodeFailure)
	}
	ses := st.Session
	if ses == nil {
		if ses, err = svc.Attach(ctx, c.ID, w.attach(s)); err != nil {
			return err
		}
	}
	defer ses.Close()
	return attend(ctx, s, svc, g, ending{id: c.ID, remove: c.Record.AutoRemove()}, ses, w)
}

// attachTo is what an attach to a container connects: its own flags decide.
func attachTo(e *engine.Engine, c *container.Container, keys string, stdin, proxy bool) (wanted, error) {
	req := c.Record.Request
	w := wanted{in: stdin && req.OpenStdin, out: true, err: !req.TTY, tty: req.TTY, proxy: proxy && !req.TTY}
	if keys == "" {
		keys = req.DetachKeys
	}
	var err error
	w.detachKeys, err = detachKeys(e, keys)
	return w, err
}

// ending is what is left to do for a container when it ends.
type ending struct {
	id     string
	made   *run.Created // by this command; nil: by an earlier one
	remove bool         // --rm
}

// attend copies the streams of a container until it ends or the user detaches,
// and takes it away at its end, if that is left to us.
func attend(ctx context.Context, s ui.Streams, svc *run.Service, g signals, e ending, ses *session.Session, w wanted) error {
	exit, err := stream(ctx, s, g, ses, w)
	if errors.Is(err, session.ErrDetached) {
		return nil
	}
	if err != nil && !exit.Cleanup { // Cleanup: it ended, and only what it wrote could not be written
		return err
	}
	if e.remove && !exit.Restarts {
		if err := svc.Finish(context.WithoutCancel(ctx), e.id, e.made, exit.Cleanup); err != nil {
			fmt.Fprintln(s.Err, "WARNING: the container could not be removed:", err)
		}
	}
	if err != nil {
		return err
	}
	return exitError(exit.Code)
}

// NewAttach makes "attach", "container attach".
func NewAttach(e *engine.Engine, s ui.Streams) *cobra.Command {
	var keys string
	var noStdin, proxy, latest bool
	cmd := &cobra.Command{
		Use:               "attach [OPTIONS] CONTAINER",
		Short:             "Connect this terminal to a running container",
		ValidArgsFunction: complete.Containers(e, 1, alive),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			sel := selection{latest: latest}
			refs, err := sel.refs(cmd.Context(), svc, args, alive)
			if err != nil || len(refs) == 0 {
				return err
			}
			return attach(cmd.Context(), e, s, svc, refs[0], keys, !noStdin, proxy)
		},
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if latest {
			return nil
		}
		return ui.ExactArgs(1)(cmd, args)
	}
	f := cmd.Flags()
	f.StringVar(&keys, "detach-keys", "", "Detach with these `keys` (ctrl-p,ctrl-q)")
	f.BoolVar(&noStdin, "no-stdin", false, "Do not attach stdin")
	f.BoolVar(&proxy, "sig-proxy", true, "Pass signals on")
	f.BoolVarP(&latest, "latest", "l", false, "The container made last")
	return cmd
}

func attach(ctx context.Context, e *engine.Engine, s ui.Streams, svc *run.Service, ref, keys string, stdin, proxy bool) error {
	c, err := svc.Find(ctx, ref)
	if err != nil {
		return err
	}
	w, err := attachTo(e, c, keys, stdin, proxy)
	if err != nil {
		return err
	}
	if err := w.checkTerminal(s); err != nil {
		return err
	}
	g := catchSignals()
	ses, err := svc.Attach(ctx, ref, w.attach(s))
	if err != nil {
		return err
	}
	defer ses.Close()
	return attend(ctx, s, svc, g, ending{id: c.ID, remove: c.Record.AutoRemove()}, ses, w)
}
