package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/run/plan"
)

// updater is what update needs of a service.
type updater interface {
	Update(ctx context.Context, ref string, o run.UpdateOptions) ([]plan.Warning, error)
}

// NewUpdate makes "update", "container update".
func NewUpdate(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o run.UpdateOptions
	var policy string
	var sel selection
	cmd := &cobra.Command{
		Use:               "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Change limits and the restart policy of containers",
		Args:              sel.args,
		ValidArgsFunction: complete.Containers(e, -1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.Refused(cmd.Flags()); err != nil {
				return ui.FlagError(cmd, err)
			}
			if cmd.Flags().NFlag() == 0 {
				return errors.New("you must provide one or more flags when using this command")
			}
			if cmd.Flags().Changed("restart") {
				p, err := flags.Restart(policy)
				if err != nil {
					return err
				}
				o.Restart = &p
			}
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			if args, err = sel.refs(cmd.Context(), svc, args, every); err != nil {
				return err
			}
			return update(cmd.Context(), s, svc, o, args)
		},
	}
	f := cmd.Flags()
	sel.flags(f, "l")
	flags.Refuse(f, unchanging)
	flags.Limits(f, &o.Resources)
	f.String("kernel-memory", "", "Without effect: kernels have no such limit any more")
	_ = f.MarkHidden("kernel-memory") // Docker has given it up, and takes it still
	f.StringVar(&policy, "restart", "", "Restart policy: no, on-failure[:N], always, unless-stopped")
	return cmd
}

// unchanging is what podman's update changes and ours does not.
const unchanging = `
env list make the container anew with run --replace
unsetenv list make the container anew with run --replace
ulimit list make the container anew with run --replace
no-healthcheck bool make the container anew with run --replace
health-cmd string make the container anew with run --replace
health-interval string make the container anew with run --replace
health-retries string make the container anew with run --replace
health-timeout string make the container anew with run --replace
health-start-period string make the container anew with run --replace
health-on-failure string make the container anew with run --replace
health-startup-cmd string make the container anew with run --replace
health-startup-interval string make the container anew with run --replace
health-startup-retries string make the container anew with run --replace
health-startup-success string make the container anew with run --replace
health-startup-timeout string make the container anew with run --replace
health-log-destination string inspect shows the last five checks
health-max-log-count string inspect shows the last five checks
health-max-log-size string inspect shows the last five checks
`

// update prints each name, and warnings behind them.
func update(ctx context.Context, s ui.Streams, svc updater, o run.UpdateOptions, refs []string) error {
	var failed []error
	var warnings []string
	for _, ref := range refs {
		more, err := svc.Update(ctx, ref, o)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintln(s.Out, ref)
		for _, w := range more {
			warnings = append(warnings, w.Text)
		}
	}
	for _, w := range warnings {
		fmt.Fprintln(s.Err, "WARNING:", w)
	}
	return errors.Join(failed...)
}
