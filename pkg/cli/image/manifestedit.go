package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/registry"
	"cais.dev/cais/pkg/storage"
)

// NewManifestCreate makes "manifest create".
func NewManifestCreate(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o manifestOptions
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] LIST [IMAGE...]",
		Short:             "Make a manifest list, of images here or in registries",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Images(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := targets(args[:1])
			if err != nil {
				return err
			}
			o.tls(cmd)
			return editing(cmd.Context(), e, func(st *storage.Store) error {
				l, img, err := findList(cmd.Context(), st.Reader(), args[0])
				switch {
				case errs.KindOf(err) == errs.NotFound:
					l = &manifestList{SchemaVersion: 2, MediaType: oci.TypeOCIIndex, names: names, instances: map[string]string{}}
				case err != nil && img == nil:
					return err
				case !o.amend:
					return errs.WithHint(errs.New(errs.Conflict, fmt.Sprintf("image name %q is already associated with image %q: refusing to amend an existing manifest list with no --amend flag", names[0], img.ID)),
						"Use --amend to add to it, or 'cais manifest rm' first.")
				case err != nil:
					return err
				}
				if err := o.applyTo(l); err != nil {
					return err
				}
				o.annotations = nil // not of its images
				return addTo(cmd.Context(), e, s, st, l, args[1:], o)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.amend, "amend", "a", false, "Add to a list that is there")
	f.BoolVar(&o.all, "all", false, "Add all images of the lists that are named")
	f.StringArrayVar(&o.annotations, "annotation", nil, "Annotation `KEY=VALUE` of the list")
	o.registryFlags(cmd)
	return cmd
}

// NewManifestAdd makes "manifest add".
func NewManifestAdd(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o manifestOptions
	cmd := &cobra.Command{
		Use:               "add [OPTIONS] LIST IMAGE [IMAGE...]",
		Short:             "Add images to a manifest list",
		Args:              ui.MinArgs(2),
		ValidArgsFunction: complete.Images(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tls(cmd)
			return editing(cmd.Context(), e, func(st *storage.Store) error {
				l, _, err := findList(cmd.Context(), st.Reader(), args[0])
				if err != nil {
					return err
				}
				return addTo(cmd.Context(), e, s, st, l, args[1:], o)
			})
		},
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "Add all images of the lists that are named")
	o.platformFlags(cmd)
	o.registryFlags(cmd)
	return cmd
}

// addTo adds images to a list, which it prints the id of.
func addTo(ctx context.Context, e *engine.Engine, s ui.Streams, st *storage.Store, l *manifestList, images []string, o manifestOptions) error {
	client, _, err := e.Registry(o.registry)
	if err != nil {
		return err
	}
	defer client.Close()
	for _, typed := range images {
		found, from, err := instances(ctx, client, st.Reader(), typed, o.all)
		if err != nil {
			return errs.E("add "+typed, errs.KindOf(err), err)
		}
		for _, d := range found {
			if err := o.apply(&d); err != nil {
				return err
			}
			if i := slices.IndexFunc(l.Manifests, func(x oci.Descriptor) bool { return x.Digest == d.Digest }); i >= 0 {
				l.Manifests[i] = d
			} else {
				l.Manifests = append(l.Manifests, d)
			}
			l.instances[d.Digest] = from
		}
	}
	return l.put(st, s)
}

// instances are a list's entries for what the user typed: an image of the store,
// unless docker:// says otherwise, else one of a registry.
func instances(ctx context.Context, c *registry.Client, r *storage.Reader, typed string, all bool) ([]oci.Descriptor, string, error) {
	name := strings.TrimPrefix(typed, "containers-storage:")
	if !strings.HasPrefix(typed, "docker://") {
		img, err := findImage(ctx, r, name)
		if err == nil && img.IsList() {
			l, _, err := findList(ctx, r, name)
			if err != nil {
				return nil, "", err
			}
			return l.Manifests, "", nil
		}
		if err == nil {
			d, err := localInstance(ctx, r, img)
			return []oci.Descriptor{d}, "containers-storage:" + cmp.Or(slices.Concat(img.Names, []string{"@" + img.ID})...), err
		}
		if errs.KindOf(err) != errs.NotFound || name != typed {
			return nil, "", err
		}
	}
	ref, err := oci.Parse(trimTransport(typed))
	if err != nil {
		return nil, "", err
	}
	ref = ref.WithDefaultTag()
	doc, err := c.Manifest(ctx, ref)
	if err != nil {
		return nil, "", err
	}
	from := "docker://" + ref.String()
	_, x, err := oci.ParseManifest(doc.Data, doc.MediaType)
	if err != nil {
		return nil, "", err
	}
	if x != nil && all {
		return x.Manifests, from, nil
	}
	_, one, err := engine.RemoteSource(ctx, c, ref, false, nil)
	if err != nil {
		return nil, "", err
	}
	d := oci.Descriptor{MediaType: one.MediaType, Digest: one.Digest, Size: int64(len(one.Data))}
	m, _, err := oci.ParseManifest(one.Data, one.MediaType)
	if err != nil || m == nil {
		return nil, "", cmp.Or(err, errs.New(errs.Unsupported, typed+" is an index of indexes"))
	}
	config, err := c.Config(ctx, ref, m.Config)
	if err != nil {
		return nil, "", err
	}
	img, err := oci.ParseImage(config)
	if err != nil {
		return nil, "", err
	}
	d.Platform = platformOf(img)
	return []oci.Descriptor{d}, from, nil
}

func localInstance(ctx context.Context, r *storage.Reader, img *storage.Image) (oci.Descriptor, error) {
	data, err := r.Manifest(ctx, img)
	if err != nil {
		return oci.Descriptor{}, err
	}
	m, _, err := oci.ParseManifest(data, "")
	if err != nil || m == nil {
		return oci.Descriptor{}, cmp.Or(err, errs.New(errs.Invalid, "the image's manifest is an index"))
	}
	config, err := r.Config(ctx, img)
	if err != nil {
		return oci.Descriptor{}, err
	}
	conf, err := oci.ParseImage(config)
	if err != nil {
		return oci.Descriptor{}, err
	}
	return oci.Descriptor{MediaType: m.MediaType, Digest: oci.Digest(data), Size: int64(len(data)), Platform: platformOf(conf)}, nil
}

// platformOf is an image's platform as an index says it.
func platformOf(img *oci.Image) *oci.Platform {
	p := oci.Platform{OS: img.OS, Architecture: img.Architecture, Variant: img.Variant, OSVersion: img.OSVersion, OSFeatures: img.OSFeatures}
	return &p
}

// NewManifestAnnotate makes "manifest annotate".
func NewManifestAnnotate(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o manifestOptions
	var whole bool
	cmd := &cobra.Command{
		Use:               "annotate [OPTIONS] LIST IMAGE|DIGEST",
		Short:             "Change what a manifest list says of an image",
		ValidArgsFunction: complete.Images(e, 2),
		Args: func(cmd *cobra.Command, args []string) error {
			if whole {
				return ui.ExactArgs(1)(cmd, args)
			}
			return ui.ExactArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tls(cmd)
			return editing(cmd.Context(), e, func(st *storage.Store) error {
				l, _, err := findList(cmd.Context(), st.Reader(), args[0])
				if err != nil {
					return err
				}
				if whole {
					err = o.applyTo(l)
				} else {
					var i int
					if i, err = l.find(cmd.Context(), e, st.Reader(), args[1], o); err == nil {
						err = o.apply(&l.Manifests[i])
					}
				}
				if err != nil {
					return err
				}
				return l.put(st, s)
			})
		},
	}
	cmd.Flags().BoolVar(&whole, "index", false, "Annotate the list itself")
	o.platformFlags(cmd)
	o.registryFlags(cmd)
	return cmd
}

// NewManifestRemove makes "manifest remove": one image of a list.
func NewManifestRemove(e *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:               "remove LIST IMAGE|DIGEST",
		Short:             "Take an image out of a manifest list",
		Args:              ui.ExactArgs(2),
		ValidArgsFunction: complete.Images(e, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return editing(cmd.Context(), e, func(st *storage.Store) error {
				l, _, err := findList(cmd.Context(), st.Reader(), args[0])
				if err != nil {
					return err
				}
				i, err := l.find(cmd.Context(), e, st.Reader(), args[1], manifestOptions{})
				if err != nil {
					return err
				}
				delete(l.instances, l.Manifests[i].Digest)
				l.Manifests = slices.Delete(l.Manifests, i, i+1)
				return l.put(st, s)
			})
		},
	}
}

// NewManifestRm makes "manifest rm": whole lists.
func NewManifestRm(e *engine.Engine, s ui.Streams) *cobra.Command {
	var ignore bool
	cmd := &cobra.Command{
		Use:               "rm LIST [LIST...]",
		Short:             "Remove manifest lists; their images stay",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Images(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changing(cmd.Context(), e, func(st *storage.Store) error {
				var failed []error
				for _, typed := range args {
					_, img, err := findList(cmd.Context(), st.Reader(), typed)
					if errs.KindOf(err) == errs.NotFound {
						if ignore {
							continue
						}
						err = errs.New(errs.NotFound, "no such manifest: "+typed)
					}
					if err != nil {
						failed = append(failed, err)
						continue
					}
					removed, err := st.RemoveImage(cmd.Context(), storage.RemoveOptions{Force: true}, "sha256:"+img.ID)
					for _, r := range removed {
						if r.Untagged != "" {
							fmt.Fprintln(s.Out, "Untagged:", familiar(r.Untagged))
						} else {
							fmt.Fprintln(s.Out, "Deleted:", strings.TrimPrefix(r.Deleted, "sha256:"))
						}
					}
					failed = append(failed, err)
				}
				return errors.Join(failed...)
			})
		},
	}
	cmd.Flags().BoolVarP(&ignore, "ignore", "i", false, "A list that is missing is no error")
	return cmd
}

// NewManifestExists makes "manifest exists".
func NewManifestExists(e *engine.Engine, _ ui.Streams) *cobra.Command {
	return ui.NewExists("LIST", complete.Images(e, 1), func(ctx context.Context, ref string) error {
		r, err := e.Reader()
		if err == nil {
			_, _, err = findList(ctx, r, ref)
		}
		if errs.KindOf(err) == errs.Invalid { // an image
			return errs.New(errs.NotFound, "no such manifest: "+ref)
		}
		return err
	})
}
