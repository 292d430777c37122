package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/registry"
	"cais.dev/cais/pkg/storage"
)

// manifestList is a list as it is edited.
type manifestList struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []oci.Descriptor  `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`

	id        string
	names     []string
	instances map[string]string
}

// findList finds a list in the store; NotFound if the name is another image's.
func findList(ctx context.Context, r *storage.Reader, typed string) (*manifestList, *storage.Image, error) {
	img, err := findImage(ctx, r, typed)
	if err != nil {
		return nil, nil, err
	}
	if !img.IsList() {
		return nil, img, errs.New(errs.Invalid, fmt.Sprintf("%s is an image, not a manifest list", typed))
	}
	stored, err := r.List(ctx, img)
	if err != nil {
		return nil, nil, err
	}
	l := &manifestList{id: img.ID, names: img.Names, instances: map[string]string{}}
	if err := json.Unmarshal(stored.Index, l); err != nil {
		return nil, nil, errs.E("read manifest list "+typed, errs.Invalid, err)
	}
	if len(stored.Instances) > 0 {
		if err := json.Unmarshal(stored.Instances, &l.instances); err != nil {
			return nil, nil, errs.E("read manifest list "+typed, errs.Invalid, err)
		}
	}
	return l, img, nil
}

// put records a list.
func (l *manifestList) put(st *storage.Store) (string, error) {
	if l.Manifests == nil {
		l.Manifests = []oci.Descriptor{}
	}
	index, err := json.Marshal(l)
	if err != nil {
		return "", err
	}
	instances, err := json.Marshal(l.instances)
	if err != nil {
		return "", err
	}
	return st.PutList(storage.List{ID: l.id, Names: l.names, Index: index, Instances: instances})
}

type manifestOptions struct {
	all, amend, insecure bool
	annotations          []string
	os, arch, variant    string
	osVersion            string
	osFeatures, features []string
	registry             engine.PullerOptions
	tlsVerify            bool
}

func (o *manifestOptions) registryFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	registryFlags(f, &o.registry, &o.tlsVerify)
	f.BoolVar(&o.insecure, "insecure", false, "Speak to registries without TLS, too")
}

// tls reads the flags about TLS.
func (o *manifestOptions) tls(cmd *cobra.Command) {
	if cmd.Flags().Changed("tls-verify") {
		o.registry.TLSVerify = &o.tlsVerify
	} else if o.insecure {
		no := false
		o.registry.TLSVerify = &no
	}
}

func (o *manifestOptions) platformFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.os, "os", "", "Operating `system`")
	f.StringVar(&o.arch, "arch", "", "`Architecture`")
	f.StringVar(&o.variant, "variant", "", "`Variant` of the architecture")
	f.StringVar(&o.osVersion, "os-version", "", "Operating system's `version`")
	f.StringSliceVar(&o.osFeatures, "os-features", nil, "Operating system's `features`")
	f.StringSliceVar(&o.features, "features", nil, "Docker's `features`, which no tool reads")
	_ = f.MarkHidden("features")
	f.StringArrayVar(&o.annotations, "annotation", nil, "Annotation `KEY=VALUE`")
}

// apply puts what the flags say into an entry.
func (o *manifestOptions) apply(d *oci.Descriptor) error {
	p := oci.Platform{}
	if d.Platform != nil {
		p = *d.Platform
	}
	for _, v := range []struct {
		flag string
		to   *string
	}{{o.os, &p.OS}, {o.arch, &p.Architecture}, {o.variant, &p.Variant}, {o.osVersion, &p.OSVersion}} {
		if v.flag != "" {
			*v.to = v.flag
		}
	}
	if len(o.osFeatures) > 0 {
		p.OSFeatures = o.osFeatures
	}
	if p.OS != "" || p.Architecture != "" {
		d.Platform = &p
	}
	for _, a := range o.annotations {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			return ui.Exit(ui.CodeUsage, fmt.Errorf("no value given for annotation %q", a))
		}
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[k] = v
	}
	return nil
}

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
			return changing(cmd.Context(), e, func(st *storage.Store) error {
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
				for _, a := range o.annotations {
					k, v, ok := strings.Cut(a, "=")
					if !ok {
						return ui.Exit(ui.CodeUsage, fmt.Errorf("no value given for annotation %q", a))
					}
					if l.Annotations == nil {
						l.Annotations = map[string]string{}
					}
					l.Annotations[k] = v
				}
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
			return changing(cmd.Context(), e, func(st *storage.Store) error {
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
			return err
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
	id, err := l.put(st)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.Out, id)
	return nil
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
			return changing(cmd.Context(), e, func(st *storage.Store) error {
				l, _, err := findList(cmd.Context(), st.Reader(), args[0])
				if err != nil {
					return err
				}
				if whole {
					d := oci.Descriptor{Annotations: l.Annotations}
					if err := o.apply(&d); err != nil {
						return err
					}
					l.Annotations = d.Annotations
				} else {
					i, err := l.find(cmd.Context(), e, st.Reader(), args[1], o)
					if err != nil {
						return err
					}
					if err := o.apply(&l.Manifests[i]); err != nil {
						return err
					}
				}
				id, err := l.put(st)
				if err == nil {
					fmt.Fprintln(s.Out, id)
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&whole, "index", false, "Annotate the list itself")
	o.platformFlags(cmd)
	o.registryFlags(cmd)
	return cmd
}

// find finds an entry by its digest or by the image that it is.
func (l *manifestList) find(ctx context.Context, e *engine.Engine, r *storage.Reader, typed string, o manifestOptions) (int, error) {
	is := func(digest string) func(oci.Descriptor) bool {
		return func(d oci.Descriptor) bool { return d.Digest == digest }
	}
	if i := slices.IndexFunc(l.Manifests, is(typed)); i >= 0 {
		return i, nil
	}
	if ref, err := oci.Parse(trimTransport(typed)); err == nil {
		if i := slices.IndexFunc(l.Manifests, is(ref.Digest)); i >= 0 {
			return i, nil
		}
		for i, d := range l.Manifests {
			if from := l.instances[d.Digest]; from == "docker://"+ref.WithDefaultTag().String() || from == "containers-storage:"+ref.WithDefaultTag().String() {
				return i, nil
			}
		}
	}
	client, _, err := e.Registry(o.registry)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	found, _, err := instances(ctx, client, r, typed, false)
	if err != nil {
		return 0, err
	}
	if i := slices.IndexFunc(l.Manifests, is(found[0].Digest)); i >= 0 {
		return i, nil
	}
	return 0, errs.New(errs.NotFound, fmt.Sprintf("the manifest list has no image %s", typed))
}

// NewManifestRemove makes "manifest remove": one image of a list.
func NewManifestRemove(e *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:               "remove LIST IMAGE|DIGEST",
		Short:             "Take an image out of a manifest list",
		Args:              ui.ExactArgs(2),
		ValidArgsFunction: complete.Images(e, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return changing(cmd.Context(), e, func(st *storage.Store) error {
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
				id, err := l.put(st)
				if err == nil {
					fmt.Fprintln(s.Out, id)
				}
				return err
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
func NewManifestExists(e *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:               "exists LIST",
		Short:             "Succeed if a manifest list is there, fail with 1 if it is not",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Images(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := e.Reader()
			if err != nil {
				return err
			}
			_, _, err = findList(cmd.Context(), r, args[0])
			if k := errs.KindOf(err); k == errs.NotFound || k == errs.Invalid {
				return &ui.ExitError{Code: ui.CodeFailure}
			}
			return err
		},
	}
}

// NewManifestInspect makes "manifest inspect".
func NewManifestInspect(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o manifestOptions
	var verbose bool
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] [LIST] MANIFEST",
		Short:             "Show a manifest list, here or in a registry, or a manifest",
		ValidArgsFunction: complete.Images(e, 2),
		Args: func(cmd *cobra.Command, args []string) error {
			if err := ui.MinArgs(1)(cmd, args); err != nil {
				return err
			}
			return ui.MaxArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tls(cmd)
			if verbose {
				return inspectVerbose(cmd.Context(), e, s, args, o)
			}
			data, err := inspectManifest(cmd.Context(), e, args, o)
			if err != nil {
				return err
			}
			var out bytes.Buffer
			if err := json.Indent(&out, data, "", "   "); err != nil {
				return errs.E("read the manifest", errs.Invalid, err)
			}
			fmt.Fprintln(s.Out, out.String())
			return nil
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Show each manifest beside its name and descriptor, as Docker does")
	o.registryFlags(cmd)
	return cmd
}

func inspectManifest(ctx context.Context, e *engine.Engine, args []string, o manifestOptions) ([]byte, error) {
	r, err := e.Reader()
	if err != nil {
		return nil, err
	}
	l, img, err := findList(ctx, r, args[0])
	if err == nil {
		if len(args) == 1 {
			list, err := r.List(ctx, img)
			if err != nil {
				return nil, err
			}
			return list.Index, nil
		}
		i, err := l.find(ctx, e, r, args[1], o)
		if err != nil {
			return nil, err
		}
		return json.Marshal(l.Manifests[i])
	}
	if k := errs.KindOf(err); k != errs.NotFound && k != errs.Invalid {
		return nil, err
	}
	ref, err := oci.Parse(trimTransport(args[len(args)-1]))
	if err != nil {
		return nil, err
	}
	client, _, err := e.Registry(o.registry)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	doc, err := client.Manifest(ctx, ref.WithDefaultTag())
	if errs.KindOf(err) == errs.NotFound {
		return nil, errs.New(errs.NotFound, "no such manifest: "+ref.WithDefaultTag().Familiar())
	}
	return doc.Data, err
}

// NewManifestPush makes "manifest push".
func NewManifestPush(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o manifestOptions
	var po pushOptions
	var purge, all bool
	cmd := &cobra.Command{
		Use:               "push [OPTIONS] LIST [DESTINATION]",
		Short:             "Send a manifest list with its images to a registry",
		ValidArgsFunction: complete.Images(e, 1),
		Args: func(cmd *cobra.Command, args []string) error {
			if err := ui.MinArgs(1)(cmd, args); err != nil {
				return err
			}
			return ui.MaxArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tls(cmd)
			to, err := oci.Parse(trimTransport(args[len(args)-1]))
			if err != nil {
				return err
			}
			c, err := po.compressionOptions()
			if err != nil {
				return ui.Exit(ui.CodeUsage, err)
			}
			format, err := push.ParseFormat(po.format)
			if err != nil {
				return ui.Exit(ui.CodeUsage, err)
			}
			return changing(cmd.Context(), e, func(st *storage.Store) error {
				digest, err := pushList(cmd.Context(), e, s, st, args[0], push.Request{Ref: to.WithDefaultTag(), Compression: c, Format: format, Alone: !all}, o, po.quiet)
				if err != nil {
					return err
				}
				fmt.Fprintln(s.Out, digest)
				if po.digestFile != "" {
					if err := atomicfile.Write(po.digestFile, []byte(digest), 0o644, false); err != nil {
						return fmt.Errorf("write the digest: %w", err)
					}
				}
				if !purge {
					return nil
				}
				img, err := findImage(cmd.Context(), st.Reader(), args[0])
				if err == nil {
					_, err = st.RemoveImage(cmd.Context(), storage.RemoveOptions{Force: true}, "sha256:"+img.ID)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&all, "all", true, "Send the images, too; without, the registry has to have them")
	f.BoolVarP(&purge, "purge", "p", false, "Remove the list afterwards")
	f.BoolVar(&purge, "rm", false, "The same as --purge")
	f.BoolVarP(&po.quiet, "quiet", "q", false, "Print the digest only")
	f.StringVar(&po.digestFile, "digestfile", "", "Write the list's digest to this `file`")
	f.StringVarP(&po.format, "format", "f", "", "`Format` of the manifests: oci, v2s2; as they are if not given")
	f.StringVar(&po.compression, "compression-format", "", "Compression of layers that must be sent: gzip, zstd")
	f.IntVar(&po.level, "compression-level", 0, "1 to 9 for gzip, 1 to 22 for zstd")
	f.BoolVar(&po.force, "force-compression", false, "Compress layers again that are compressed otherwise")
	o.registryFlags(cmd)
	return cmd
}

func pushList(ctx context.Context, e *engine.Engine, s ui.Streams, st *storage.Store, typed string, req push.Request, o manifestOptions, quiet bool) (string, error) {
	l, img, err := findList(ctx, st.Reader(), typed)
	if err != nil {
		return "", err
	}
	if len(l.Manifests) == 0 {
		return "", errs.New(errs.Invalid, fmt.Sprintf("the manifest list %s is empty", typed))
	}
	stored, err := st.Reader().List(ctx, img)
	if err != nil {
		return "", err
	}
	client, _, err := e.Registry(o.registry)
	if err != nil {
		return "", err
	}
	defer client.Close()
	if req.Source, req.Root, err = e.ListSource(ctx, stored, client); err != nil {
		return "", err
	}
	p, end, err := e.Pusher(o.registry)
	if err != nil {
		return "", err
	}
	defer end()
	progress := ui.NewProgress(s)
	if !quiet {
		req.Events = progress.Push
	}
	res, err := p.Push(ctx, req)
	progress.Close()
	return res.Root.Digest, err
}
