package container

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/run/session"
)

type execOptions struct {
	run.ExecOptions
	interactive   bool
	env, envFiles []string
	keys          string
	cidFile       string
	latest        bool
}

// NewExec makes "exec", "container exec".
func NewExec(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:               "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short:             "Run another command in a running container",
		ValidArgsFunction: complete.Containers(e, 1, alive),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.Refused(cmd.Flags()); err != nil {
				return ui.FlagError(cmd, err)
			}
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			sel := selection{latest: o.latest}
			if o.cidFile != "" {
				sel.cidFiles = []string{o.cidFile}
			}
			ref := args[0]
			if sel.given() {
				refs, err := sel.refs(cmd.Context(), svc, nil, alive)
				if err != nil {
					return err
				}
				ref = refs[0]
			} else {
				args = args[1:]
			}
			o.Request.Args = args
			env := flags.Env{LookupEnv: lookup(e)}
			if o.Request.Env, err = flags.Environment(nil, o.envFiles, env); err != nil {
				return err
			}
			given, err := flags.Environment(o.env, nil, env)
			if err != nil {
				return ui.FlagError(cmd, err)
			}
			o.Request.Env = append(o.Request.Env, given...)
			return exec(cmd.Context(), e, s, svc, ref, o)
		},
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if o.latest || o.cidFile != "" {
			return ui.MinArgs(1)(cmd, args)
		}
		return ui.MinArgs(2)(cmd, args)
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the container is the command's
	f.Bool("no-session", false, "Accepted: there is no database of sessions")
	_ = f.MarkHidden("no-session")
	flags.Refuse(f, `
preserve-fds string mount a socket or a pipe with run -v, or hand data over stdin
preserve-fd list mount a socket or a pipe with run -v, or hand data over stdin
wait string wait for it first: cais wait --condition running
`)
	f.BoolVarP(&o.Detach, "detach", "d", false, "Do not wait for the command")
	f.StringVar(&o.keys, "detach-keys", "", "Detach with these `keys` (ctrl-p,ctrl-q)")
	f.StringArrayVarP(&o.env, "env", "e", nil, "Set `NAME=VALUE` in its environment")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "Read variables from a `file`")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "Connect stdin")
	f.BoolVar(&o.Request.Privileged, "privileged", false, "Give it all capabilities")
	f.BoolVarP(&o.Request.TTY, "tty", "t", false, "Give it a terminal")
	f.StringVarP(&o.Request.User, "user", "u", "", "Run as `USER[:GROUP]`")
	f.StringVarP(&o.Request.Workdir, "workdir", "w", "", "Run in this `directory`")
	f.StringVar(&o.cidFile, "cidfile", "", "The container whose id is in `FILE`")
	f.BoolVarP(&o.latest, "latest", "l", false, "The container made last")
	return cmd
}

func exec(ctx context.Context, e *engine.Engine, s ui.Streams, svc *run.Service, ref string, o execOptions) error {
	w := wanted{tty: o.Request.TTY}
	if !o.Detach {
		w.in, w.out, w.err = o.interactive, true, !o.Request.TTY
	}
	if err := w.checkTerminal(s); err != nil {
		return err
	}
	var err error
	if w.detachKeys, err = detachKeys(e, o.keys); err != nil {
		return err
	}
	o.Attach = w.attach(s)
	ses, err := svc.Exec(ctx, ref, o.ExecOptions)
	if err != nil {
		return startFailure(&ui.ExecError{Err: err}, ui.CodeFailure)
	}
	if o.Detach {
		if ses == nil {
			return nil
		}
		return ses.Close()
	}
	defer ses.Close()
	exit, err := stream(ctx, s, catchSignals(), ses, w)
	if errors.Is(err, session.ErrDetached) {
		return nil
	}
	if err != nil {
		return err
	}
	return exitError(exit.Code)
}
