package image

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/storage"
)

// inspector is what inspecting an image needs of the store.
type inspector interface {
	lister
	LowerDirs(ctx context.Context, img *storage.Image) ([]string, error)
	Driver() string
}

// NewInspect makes "image inspect".
func NewInspect(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format, platform string
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] IMAGE [IMAGE...]",
		Short:             "Show what is known of one or more images",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Images(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var want *oci.Platform
			if platform != "" {
				p, err := oci.ParsePlatform(platform, oci.HostPlatform())
				if err != nil {
					return err
				}
				want = &p
			}
			return ui.InspectAll(s.Out, args, format, func(ref string) (any, error) {
				return Inspect(cmd.Context(), e, ref, want)
			})
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Print in a `form`: json, or a Go template")
	cmd.Flags().StringVar(&platform, "platform", "", "Inspect this `platform`'s variant")
	return cmd
}

// Inspect returns what is known of the image that the user means, for a platform or
// for this machine's.
func Inspect(ctx context.Context, e *engine.Engine, typed string, platform *oci.Platform) (*docker.Image, error) {
	r, err := e.Reader()
	if err != nil {
		return nil, err
	}
	img, err := inspect(ctx, r, typed, platform)
	if err == nil {
		img.GraphDriver.Name = e.DriverName(img.GraphDriver.Name)
	}
	return img, err
}

func inspect(ctx context.Context, r inspector, typed string, platform *oci.Platform) (*docker.Image, error) {
	img, err := findImage(ctx, r, typed)
	if err != nil {
		return nil, err
	}
	if list, ok := r.(*storage.Reader); ok && img.IsList() {
		if img, err = engine.OfList(ctx, list, img, platform); err != nil {
			return nil, err
		}
		platform = nil // the list says what it is for
	}
	c, err := configOf(ctx, r, img)
	if err != nil {
		return nil, err
	}
	if platform != nil && !platform.Runs(c.Platform.Normalize()) {
		return nil, notOf(typed, *platform)
	}
	seen, err := r.Seen()
	if err != nil {
		return nil, err
	}
	sizes, err := r.Sizes(ctx, img)
	if err != nil {
		return nil, err
	}
	lower, err := r.LowerDirs(ctx, img)
	if err != nil && errs.KindOf(err) != errs.Unsupported { // another driver has no directories to show
		return nil, err
	}
	return docker.NewImage(docker.ImageFacts{
		ID: img.ID, Digest: img.Digest, Names: append(slices.Clone(img.Names), seen.RepoDigests(img)...), Config: c, Size: sizes[img.ID], Driver: r.Driver(), Lower: lower,
	}), nil
}
