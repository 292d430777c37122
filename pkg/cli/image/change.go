package image

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/storage"
)

// changing runs do with the store open for changes: here, or, for an ordinary
// user, in this command run again inside the user's namespace.
func changing(ctx context.Context, e *engine.Engine, do func(*storage.Store) error) (err error) {
	if code, entered, err := e.EnterUserNS(ctx); entered || err != nil {
		return ended(code, err)
	}
	st, err := e.Store(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return do(st)
}

// remover is what rmi needs of the store.
type remover interface {
	RemoveImage(ctx context.Context, o storage.RemoveOptions, refs ...string) ([]storage.Removed, error)
}

type removeOptions struct {
	refs                []string
	force, ignore, keep bool
	running             func(id string) bool
	docker              bool                                        // errors are in Docker's words
	teller              func(refs []string) func([]storage.Removed) // asked before the image goes, notes what was done; nil: there is none
}

// NewRmi makes "rmi", "image rm".
func NewRmi(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o removeOptions
	var all bool
	var platforms []string
	cmd := &cobra.Command{
		Use:               "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short:             "Remove one or more images",
		ValidArgsFunction: complete.Images(e, -1),
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return ui.NoArgs(cmd, args)
			}
			return ui.MinArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var want []oci.Platform
			for _, p := range platforms {
				parsed, err := oci.ParsePlatform(p, oci.HostPlatform())
				if err != nil {
					return err
				}
				want = append(want, parsed)
			}
			o.refs = args
			o.running = running(e)
			o.docker = e.Options().Docker || e.Getenv("CAIS_DOCKER_ERRORS") == "1"
			o.teller = func(refs []string) func([]storage.Removed) {
				r, err := e.Reader()
				if err != nil {
					return nil
				}
				img, err := r.Image(cmd.Context(), refs...)
				if err != nil {
					return nil
				}
				has := labels(cmd.Context(), r, img)
				return func(removed []storage.Removed) { e.Note(removalEvents(img.ID, has, removed)...) }
			}
			return changing(cmd.Context(), e, func(st *storage.Store) error {
				if all {
					imgs, err := everything(cmd.Context(), e)
					if err != nil {
						return err
					}
					for _, img := range imgs {
						o.refs = append(o.refs, "sha256:"+img.ID)
					}
				}
				if len(want) > 0 {
					var err error
					if o.refs, err = variants(cmd.Context(), st.Reader(), o.refs, want); err != nil {
						return err
					}
				}
				return remove(cmd.Context(), s, st, o)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove all images")
	f.BoolVarP(&o.force, "force", "f", false, "Remove an image that has several names or that a stopped container uses")
	f.BoolVarP(&o.ignore, "ignore", "i", false, "An image that is missing is no error")
	f.BoolVar(&o.keep, "no-prune", false, "Keep parents without names")
	f.StringSliceVar(&platforms, "platform", nil, "Remove the image for this `platform`; of a list, it alone")
	return cmd
}

// variants are what --platform leaves of the images that are to go: an image is
// for one platform; a list stays, and its images for those platforms go.
func variants(ctx context.Context, r *storage.Reader, typed []string, platforms []oci.Platform) ([]string, error) {
	var refs []string
	for _, t := range typed {
		img, err := findImage(ctx, r, t)
		if errs.KindOf(err) == errs.NotFound { // remove says so
			refs = append(refs, t)
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, p := range platforms {
			if img.IsList() {
				of, err := engine.OfList(ctx, r, img, &p)
				if err != nil {
					return nil, err
				}
				refs = append(refs, "sha256:"+of.ID)
				continue
			}
			c, err := configOf(ctx, r, img)
			if err != nil {
				return nil, err
			}
			if !p.Runs(c.Platform.Normalize()) {
				return nil, notOf(t, p)
			}
		}
		if !img.IsList() {
			refs = append(refs, t)
		}
	}
	return refs, nil
}

// text is an error that is told beside a success.
func (o removeOptions) text(err error) string {
	if text := err.Error(); o.docker {
		return strings.ToUpper(text[:1]) + text[1:]
	}
	return err.Error()
}

// running tells whether one of our containers runs.
func running(e *engine.Engine) func(id string) bool {
	return func(id string) bool {
		store, err := e.ContainerStore()
		if err != nil {
			return false
		}
		c, err := store.Load(id)
		return err == nil && c.Running()
	}
}

// remove does what it can; one failure does not keep the others from being
// removed.
func remove(ctx context.Context, s ui.Streams, st remover, o removeOptions) error {
	var failed []error
	for _, typed := range o.refs {
		if strings.TrimSpace(typed) == "" {
			failed = append(failed, errs.New(errs.Invalid, "image name cannot be blank"))
			continue
		}
		refs, shown, err := engine.ImageRefs(typed)
		var removed []storage.Removed
		var told func([]storage.Removed)
		if err == nil {
			if o.teller != nil {
				told = o.teller(refs)
			}
			removed, err = st.RemoveImage(ctx, storage.RemoveOptions{Force: o.force, NoPrune: o.keep, Running: o.running}, refs...)
		}
		if told != nil {
			told(removed)
		}
		for _, r := range removed {
			if r.Untagged != "" {
				fmt.Fprintln(s.Out, "Untagged:", familiar(r.Untagged))
			} else {
				fmt.Fprintln(s.Out, "Deleted:", r.Deleted)
			}
		}
		if errs.KindOf(err) == errs.NotFound {
			if o.ignore {
				continue
			}
			err = errs.New(errs.NotFound, "no such image: "+shown)
			if o.force { // Docker says so and succeeds
				fmt.Fprintln(s.Err, "Error: "+o.text(err))
				continue
			}
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// familiar is a full reference as Docker shows it.
func familiar(name string) string {
	ref, err := oci.Parse(name)
	if err != nil {
		return name
	}
	return ref.Familiar()
}

// tagger is what tag needs of the store.
type tagger interface {
	Tag(ctx context.Context, name string, refs ...string) error
}

// NewTag makes "tag", "image tag".
func NewTag(e *engine.Engine, s ui.Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG] [TARGET_IMAGE[:TAG]...]",
		Short:             "Give an image one more name",
		Args:              ui.MinArgs(2),
		ValidArgsFunction: complete.Images(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := targets(args[1:])
			if err != nil {
				return err
			}
			return changing(cmd.Context(), e, func(st *storage.Store) error {
				if err := tag(cmd.Context(), st, args[0], names); err != nil {
					return err
				}
				for _, n := range names {
					if img, err := findImage(cmd.Context(), st.Reader(), n); err == nil {
						e.Note(imageEvent("tag", "sha256:"+img.ID, familiar(n), labels(cmd.Context(), st.Reader(), img)))
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// targets are the full names for what the user typed; all are good before the
// first is given.
func targets(typed []string) ([]string, error) {
	var names []string
	for _, t := range typed {
		ref, err := oci.Parse(t)
		if err != nil {
			return nil, fmt.Errorf("%q is not a valid repository/tag: %w", t, err)
		}
		if err := ref.Taggable(); err != nil {
			return nil, err
		}
		names = append(names, ref.WithDefaultTag().String())
	}
	return names, nil
}

func tag(ctx context.Context, st tagger, source string, names []string) error {
	refs, shown, err := engine.ImageRefs(source)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := st.Tag(ctx, n, refs...); errs.KindOf(err) == errs.NotFound {
			return errs.New(errs.NotFound, "no such image: "+shown)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// NewExists makes "image exists".
func NewExists(e *engine.Engine, _ ui.Streams) *cobra.Command {
	return ui.NewExists("IMAGE", complete.Images(e, 1), func(ctx context.Context, ref string) error {
		r, err := e.Reader()
		if err == nil {
			_, err = findImage(ctx, r, ref)
		}
		return err
	})
}

func everything(ctx context.Context, e *engine.Engine) ([]*storage.Image, error) {
	r, err := e.Reader()
	if err != nil {
		return nil, err
	}
	return r.Images(ctx)
}
