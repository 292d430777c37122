package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/storage"
	"cais.dev/cais/pkg/units"
	"cais.dev/cais/pkg/userns"
)

// here refuses to mount where the mount would be gone with the command.
func here(verb string) error {
	if !userns.Needed() {
		return nil
	}
	return errs.WithHint(errs.New(errs.Denied, "cannot "+verb+" an image outside of your user namespace"), "Run it inside: 'cais unshare'.")
}

// NewMount makes "image mount".
func NewMount(e *engine.Engine, s ui.Streams) *cobra.Command {
	var all bool
	var format string
	cmd := &cobra.Command{
		Use:               "mount [OPTIONS] [IMAGE...]",
		Short:             "Mount images read-only and print where, or list those that are",
		ValidArgsFunction: complete.Images(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return ui.Exit(ui.CodeUsage, fmt.Errorf("unknown --format %q: want json", format))
			}
			if format != "" {
				return ui.Later("image mount --format")
			}
			r, err := e.Reader()
			if err != nil {
				return err
			}
			imgs, err := mountArgs(cmd.Context(), e, r, args, all)
			if err != nil {
				return err
			}
			if len(args) == 0 && !all {
				return listMounts(s, r)
			}
			if err := here("mount"); err != nil {
				return err
			}
			if err := e.Prepare(); err != nil {
				return err
			}
			var failed []error
			for _, img := range imgs {
				dir, err := r.Mount(cmd.Context(), img)
				if err == nil {
					fmt.Fprintln(s.Out, dir)
				}
				failed = append(failed, err)
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Mount all images")
	cmd.Flags().StringVar(&format, "format", "", "Print in this `form`: json")
	return cmd
}

// NewUnmount makes "image unmount".
func NewUnmount(e *engine.Engine, s ui.Streams) *cobra.Command {
	var all, force bool
	cmd := &cobra.Command{
		Use:               "unmount [OPTIONS] IMAGE [IMAGE...]",
		Aliases:           []string{"umount"},
		Short:             "Undo image mount",
		ValidArgsFunction: complete.Images(e, -1),
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return ui.NoArgs(cmd, args)
			}
			return ui.MinArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := e.Reader()
			if err != nil {
				return err
			}
			if err := here("unmount"); err != nil {
				return err
			}
			if all {
				at, err := r.Mounted()
				if err != nil {
					return err
				}
				for _, id := range slices.Sorted(maps.Keys(at)) {
					args = append(args, "sha256:"+id)
				}
			}
			imgs, err := mountArgs(cmd.Context(), e, r, args, false)
			if err != nil {
				return err
			}
			var failed []error
			for _, img := range imgs {
				err := r.Unmount(img)
				if force && errs.KindOf(err) == errs.NotFound {
					err = nil
				}
				if err == nil {
					fmt.Fprintln(s.Out, img.ID)
				}
				failed = append(failed, err)
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Unmount all images")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "One that is not mounted is no error")
	return cmd
}

func mountArgs(ctx context.Context, e *engine.Engine, r *storage.Reader, args []string, all bool) ([]*storage.Image, error) {
	if all {
		return everything(ctx, e)
	}
	var imgs []*storage.Image
	for _, a := range args {
		img, err := findImage(ctx, r, a)
		if err != nil {
			return nil, err
		}
		imgs = append(imgs, img)
	}
	return imgs, nil
}

func listMounts(s ui.Streams, r *storage.Reader) error {
	at, err := r.Mounted()
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(at)) {
		fmt.Fprintf(s.Out, "%s %s\n", ui.ShortID(id), at[id])
	}
	return nil
}

// NewTree makes "image tree".
func NewTree(e *engine.Engine, s ui.Streams) *cobra.Command {
	var whatRequires bool
	cmd := &cobra.Command{
		Use:               "tree [OPTIONS] IMAGE",
		Short:             "Show an image's layers",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Images(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if whatRequires {
				return ui.Later("image tree --whatrequires")
			}
			r, err := e.Reader()
			if err != nil {
				return err
			}
			return tree(cmd.Context(), s, r, args[0])
		},
	}
	cmd.Flags().BoolVar(&whatRequires, "whatrequires", false, "Show the images that have the layers, too")
	return cmd
}

func tree(ctx context.Context, s ui.Streams, r *storage.Reader, typed string) error {
	img, err := findImage(ctx, r, typed)
	if err != nil {
		return err
	}
	layers, err := r.Layers(ctx, img)
	if err != nil {
		return err
	}
	imgs, err := r.Images(ctx)
	if err != nil {
		return err
	}
	tops := map[string][]string{}
	for _, i := range imgs {
		for _, n := range i.Names {
			tops[i.TopLayer] = append(tops[i.TopLayer], familiar(n))
		}
	}
	var size int64
	for _, l := range layers {
		size += l.Bytes()
	}
	var names []string
	for _, n := range img.Names {
		names = append(names, familiar(n))
	}
	fmt.Fprintf(s.Out, "Image ID: %s\nTags:     [%s]\nSize:     %s\nImage Layers\n", ui.ShortID(img.ID), strings.Join(names, " "), units.Size(size))
	slices.Reverse(layers)
	for i, l := range layers {
		mark := "├──"
		if i == len(layers)-1 {
			mark = "└──"
		}
		top := ""
		if of := tops[l.ID]; len(of) > 0 {
			top = fmt.Sprintf(" Top Layer of: [%s]", strings.Join(of, " "))
		}
		fmt.Fprintf(s.Out, "%s ID: %s Size: %6s%s\n", mark, ui.ShortID(l.ID), units.Size(l.Bytes()), top)
	}
	return nil
}
