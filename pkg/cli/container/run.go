package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/session"
)

// NewRun makes "run", "container run".
func NewRun(e *engine.Engine, s ui.Streams) *cobra.Command {
	return newRun(e, s, &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Make a container from an image and start it",
		Example: `  cais run --rm busybox echo hello
  cais run -it --rm busybox
  cais run -d --name web -v "$PWD:/srv:ro" busybox sleep 1000`,
	}, true)
}

// NewCreate makes "create", "container create".
func NewCreate(e *engine.Engine, s ui.Streams) *cobra.Command {
	return newRun(e, s, &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Make a container from an image without starting it",
	}, false)
}

func newRun(e *engine.Engine, s ui.Streams, cmd *cobra.Command, run bool) *cobra.Command {
	cmd.Args = ui.MinArgs(1)
	cmd.ValidArgsFunction = complete.Images(e, 1)
	cmd.Flags().SetInterspersed(false) // what follows the image is the command's
	f := flags.Run(cmd.Flags(), run)
	for flag, values := range map[string][]string{
		"pull": {"always", "missing", "never", "newer"}, "restart": {"always", "no", "on-failure", "unless-stopped"},
		"log-driver": {"journald", "json-file", "local", "none", "syslog"},
	} {
		_ = cmd.RegisterFlagCompletionFunc(flag, complete.Words(values...))
	}
	_ = cmd.RegisterFlagCompletionFunc("network", complete.NetworkModes(e))
	_ = cmd.RegisterFlagCompletionFunc("secret", complete.Secrets(e, -1))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		env := flags.Env{LookupEnv: lookup(e), Home: e.Getenv("HOME"), Proxies: e.ClientProxies(), All: e.Options().Environ}
		env.Dir, _ = os.Getwd() // a directory that is gone matters only for relative paths
		req, o, err := f.Request(args, env)
		if err != nil {
			return ui.FlagError(cmd, err)
		}
		if req.Runtime == "" {
			req.Runtime = e.Options().Runtime
		}
		if req.RuntimeArgv, err = e.Runtime(req.Runtime); err != nil {
			return startFailure(err, ui.CodeUsage)
		}
		c := &runner{e: e, s: s, req: req, o: o, ref: args[0]}
		for _, w := range o.Warnings {
			fmt.Fprintln(s.Err, "WARNING:", w)
		}
		if run {
			return startFailure(interrupted(cmd.Context(), c.run(cmd.Context())), ui.CodeUsage)
		}
		return c.create(cmd.Context())
	}
	return cmd
}

// interrupted is err, or the signal that made it: Ctrl-C also ends the programs
// that we were waiting for, whose failure then is no news.
func interrupted(ctx context.Context, err error) error {
	if sig, ok := errors.AsType[*ui.SignalError](context.Cause(ctx)); ok && err != nil {
		return sig
	}
	return err
}

func lookup(e *engine.Engine) func(string) (string, bool) {
	return func(key string) (string, bool) {
		v := e.Getenv(key)
		if v == "" {
			return os.LookupEnv(key)
		}
		return v, true
	}
}

// runner is one run or create.
type runner struct {
	e   *engine.Engine
	s   ui.Streams
	req plan.Request
	o   flags.RunOptions
	ref string

	monitor *session.Monitor // started beforehand, or nil
}

func (c *runner) create(ctx context.Context) error {
	svc, err := c.e.Containers()
	if err != nil {
		return err
	}
	img, err := c.image(ctx, svc)
	if err != nil {
		return err
	}
	c.warnForeign(img)
	svc.Heal(ctx)
	made, err := svc.Create(ctx, c.options(img, false))
	if err != nil {
		return err
	}
	c.warn(made.Warnings)
	fmt.Fprintln(c.s.Out, made.ID)
	return nil
}

func (c *runner) options(img *run.Image, ephemeral bool) run.CreateOptions {
	return run.CreateOptions{
		Ref: c.ref, Image: img, Name: c.o.Name, Replace: c.o.Replace, Request: c.req, Ephemeral: ephemeral,
	}
}

func (c *runner) warn(warnings []plan.Warning) {
	for _, w := range warnings {
		fmt.Fprintln(c.s.Err, "WARNING:", w.Text)
	}
}

// wanted is what a foreground run attaches: what -a names, else stdout and
// stderr, and stdin with -i.
func (c *runner) wanted() (wanted, error) {
	w := wanted{tty: c.req.TTY, proxy: c.o.SigProxy}
	if c.o.Detach && len(c.o.Attach) > 0 { // Docker's code for this one is 1
		return w, ui.Exit(ui.CodeFailure, errs.New(errs.Invalid, "conflicting options: cannot specify both --attach and --detach"))
	}
	if !c.o.Detach {
		if len(c.o.Attach) == 0 {
			w.in, w.out, w.err = c.req.OpenStdin, true, true
		} else {
			w.in = slices.Contains(c.o.Attach, "stdin")
			w.out = slices.Contains(c.o.Attach, "stdout")
			w.err = slices.Contains(c.o.Attach, "stderr")
		}
	}
	var err error
	if w.detachKeys, err = detachKeys(c.e, c.req.DetachKeys); err != nil {
		return w, err
	}
	return w, w.checkTerminal(c.s)
}

func (c *runner) run(ctx context.Context) error {
	w, err := c.wanted()
	if err != nil {
		return err
	}
	svc, err := c.e.Containers()
	if err != nil {
		return err
	}
	// Making the user's namespace takes longer than all that is done here.
	if c.monitor, err = svc.Ready(ctx); err != nil {
		return err
	}
	img, err := c.image(ctx, svc)
	if err != nil {
		c.discard()
		return err
	}
	c.warnForeign(img)
	healed := make(chan struct{})
	go func() { // beside the start: what others left does not concern this container
		defer close(healed)
		svc.Heal(ctx)
	}()
	defer func() { <-healed }()

	so := run.StartOptions{Attach: w.attach(c.s), Monitor: c.monitor}
	var g signals
	if !c.o.Detach {
		g = catchSignals()
	}
	co := c.options(img, c.req.AutoRemove)
	co.Attach = !c.o.Detach
	made, started, err := svc.Run(ctx, co, so)
	if made != nil {
		c.warn(made.Warnings)
	}
	if err != nil {
		return err
	}
	defer started.Session.Close()
	c.warn(started.Warnings)
	if !w.out && !w.err { // also with -a stdin
		fmt.Fprintln(c.s.Out, made.ID)
	}
	if c.o.Detach {
		return nil
	}
	return attend(ctx, c.s, svc, g, ending{made.ID, made, c.req.AutoRemove}, started.Session, w)
}

// pulls reports whether the policy wants the image from its registry, given
// whether there is one here.
func pulls(policy string, have bool) bool {
	switch policy {
	case "always", "newer":
		return true
	case "never":
		return false
	}
	return !have
}

// discard ends the monitor that was to be.
func (c *runner) discard() {
	if c.monitor != nil {
		c.monitor.Discard()
		c.monitor = nil
	}
}

// image finds the image, and pulls it if the policy says so.
func (c *runner) image(ctx context.Context, svc *run.Service) (*run.Image, error) {
	img, err := svc.Image(ctx, c.ref)
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return nil, err
	}
	have := err == nil
	if have && c.otherPlatform(img) != nil && c.o.Pull != "never" {
		have = false // Docker asks the registry for the right one
	}
	ref, bad := oci.Parse(c.ref)
	if bad != nil || !pulls(c.o.Pull, have) { // an id is never pulled
		if err == nil {
			err = c.otherPlatform(img)
		}
		return img, err
	}
	c.discard() // this may take minutes
	if err != nil && !c.o.Quiet {
		fmt.Fprintf(c.s.Err, "Unable to find image '%s' locally\n", ref.WithDefaultTag().Familiar())
	}
	typed := c.ref // with its tag: "Using default tag" is pull's own line
	if ref.Tag == "" && ref.Digest == "" {
		typed += ":latest"
	}
	err = c.e.Pull(ctx, typed, engine.PullOptions{
		Platform: c.o.Platform, Policy: c.o.Pull, Quiet: c.o.Quiet,
		AuthFile: c.o.AuthFile, CertDir: c.o.CertDir, Creds: c.o.Creds, TLSVerify: c.o.TLSVerify, Out: c.s.Err,
	})
	if err != nil {
		return nil, err
	}
	if img, err = svc.Image(ctx, c.ref); err != nil {
		return nil, err
	}
	return img, c.otherPlatform(img)
}

// warnForeign warns, as Docker does, of an image for other machines that nobody
// asked for by name.
func (c *runner) warnForeign(img *run.Image) {
	host, have := oci.HostPlatform(), img.Config.Platform
	if c.o.Platform == "" && have.Architecture != "" && !host.Runs(have) {
		fmt.Fprintf(c.s.Err, "WARNING: The requested image's platform (%s) does not match the detected host platform (%s) and no specific platform was requested\n", have, host)
	}
}

// otherPlatform is the error for an image that is not of the platform that was
// asked for.
func (c *runner) otherPlatform(img *run.Image) error {
	if c.o.Platform == "" {
		return nil
	}
	want, err := oci.ParsePlatform(c.o.Platform, oci.HostPlatform())
	if err != nil {
		return err
	}
	if have := img.Config.Platform; !want.Runs(have) {
		return errs.New(errs.NotFound, fmt.Sprintf("image with reference %s was found but does not match the specified platform: wanted %s, actual: %s", c.ref, want, have))
	}
	return nil
}
