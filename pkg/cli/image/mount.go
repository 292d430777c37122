package image

import (
	"context"
	"encoding/json"
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
			r, err := e.Reader()
			if err != nil {
				return err
			}
			imgs, err := mountArgs(cmd.Context(), e, r, args, all)
			if err != nil {
				return err
			}
			if len(args) == 0 && !all {
				return listMounts(cmd.Context(), s, r, format == "json")
			}
			if err := here("mount"); err != nil {
				return err
			}
			if err := e.Prepare(); err != nil {
				return err
			}
			var failed []error
			var done []mounted
			for _, img := range imgs {
				dir, err := r.Mount(cmd.Context(), img)
				if err == nil {
					done = append(done, newMounted(img, dir))
				}
				failed = append(failed, err)
			}
			failed = append(failed, printMounts(s, done, format == "json", func(m mounted) string {
				if len(done) == 1 && !all {
					return m.Mountpoint
				}
				return m.name() + " " + m.Mountpoint
			}))
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

func listMounts(ctx context.Context, s ui.Streams, r *storage.Reader, asJSON bool) error {
	at, err := r.Mounted()
	if err != nil {
		return err
	}
	imgs, err := r.Images(ctx)
	if err != nil {
		return err
	}
	var list []mounted
	for _, id := range slices.Sorted(maps.Keys(at)) {
		img := &storage.Image{ID: id}
		if i := slices.IndexFunc(imgs, func(i *storage.Image) bool { return i.ID == id }); i >= 0 {
			img = imgs[i]
		}
		list = append(list, newMounted(img, at[id]))
	}
	return printMounts(s, list, asJSON, func(m mounted) string { return m.name() + " " + m.Mountpoint })
}

// mounted is an image that is mounted, as Podman's JSON has it.
type mounted struct {
	ID           string `json:"id"`
	Names        []string
	Repositories []string
	Mountpoint   string `json:"mountpoint"`
}

func newMounted(img *storage.Image, dir string) mounted {
	m := mounted{ID: img.ID, Names: img.Names, Mountpoint: dir}
	for _, n := range img.Names {
		m.Repositories = append(m.Repositories, familiar(n))
	}
	return m
}

func (m mounted) name() string {
	if len(m.Repositories) > 0 {
		return m.Repositories[0]
	}
	return ui.ShortID(m.ID)
}

func printMounts(s ui.Streams, list []mounted, asJSON bool, line func(mounted) string) error {
	if asJSON {
		e := json.NewEncoder(s.Out)
		e.SetIndent("", " ")
		return e.Encode(append([]mounted{}, list...))
	}
	for _, m := range list {
		fmt.Fprintln(s.Out, line(m))
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
				return ui.Later("image tree --whatrequires", "'cais images -a --filter since=IMAGE' lists what was made after it.")
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
