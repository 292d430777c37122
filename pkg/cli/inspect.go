package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/container"
	"cais.dev/cais/pkg/cli/image"
	"cais.dev/cais/pkg/cli/network"
	"cais.dev/cais/pkg/cli/secret"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/cli/volume"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
)

// kind is a kind of object that inspect finds.
type kind struct {
	name string
	find func(ctx context.Context, ref string) (any, error)
}

// newInspect makes "inspect", which finds what a name means: a container, else
// an image, a network, a volume, a secret.
func newInspect(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format, only string
	var size, latest bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Show what is known of containers and images",
		Args: func(cmd *cobra.Command, args []string) error {
			if latest {
				return ui.NoArgs(cmd, args)
			}
			return ui.MinArgs(1)(cmd, args)
		},
		ValidArgsFunction: complete.ContainersOrImages(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			kinds, err := kindsOf(e, only, size)
			if err != nil {
				return err
			}
			if latest {
				if args, err = container.Latest(cmd.Context(), e); err != nil {
					return err
				}
			}
			return ui.InspectAll(s.Out, args, format, func(ref string) (any, error) {
				return findObject(cmd.Context(), kinds, only, ref)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&format, "format", "f", "", "Print in a `form`: json, or a Go template")
	f.BoolVarP(&size, "size", "s", false, "Show a container's sizes too")
	f.BoolVarP(&latest, "latest", "l", false, "The container made last")
	f.StringVarP(&only, "type", "t", "", "Look for this `kind` of object only: container, image, network, volume or secret")
	_ = cmd.RegisterFlagCompletionFunc("type", complete.Words("container", "image", "network", "volume", "secret"))
	return cmd
}

func kindsOf(e *engine.Engine, only string, size bool) ([]kind, error) {
	all := []kind{
		{"container", func(ctx context.Context, ref string) (any, error) { return container.Inspect(ctx, e, ref, size) }},
		{"image", func(ctx context.Context, ref string) (any, error) { return image.Inspect(ctx, e, ref, nil) }},
		{"network", func(ctx context.Context, ref string) (any, error) { return network.Inspect(ctx, e, ref) }},
		{"volume", func(_ context.Context, ref string) (any, error) { return volume.Inspect(e, ref) }},
		{"secret", func(_ context.Context, ref string) (any, error) { return secret.Inspect(e, ref, false) }},
	}
	switch only {
	case "":
		return all, nil
	case "config", "plugin", "node", "service", "task":
		return nil, ui.Later("inspect --type "+only, noSwarm)
	}
	for _, k := range all {
		if k.name == only {
			return []kind{k}, nil
		}
	}
	return nil, fmt.Errorf("%q is not a valid value for --type", only)
}

// findObject returns the first object of these kinds that ref means.
func findObject(ctx context.Context, kinds []kind, only, ref string) (any, error) {
	for _, k := range kinds {
		o, err := k.find(ctx, ref)
		if err == nil {
			return o, nil
		}
		// What no kind can be called by is missing, too: one kind's grammar is
		// no reason to fail.
		if c := errs.KindOf(err); c != errs.NotFound && c != errs.Invalid {
			return nil, err
		}
	}
	switch only {
	case "":
		only = "object"
	case "network":
		return nil, errs.New(errs.NotFound, "network "+ref+" not found")
	}
	return nil, errs.New(errs.NotFound, "no such "+only+": "+ref)
}
