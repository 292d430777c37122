package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/storage"
)

type pushOptions struct {
	allTags     bool
	quiet       bool
	platform    string
	digestFile  string
	format      string
	compression string
	level       int
	force       bool
	registry    engine.PullerOptions
	tlsVerify   bool
}

// NewPush makes "push", "image push".
func NewPush(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o pushOptions
	var trust, removeSignatures bool
	var retry int
	notPushed := [...]string{"encryption-key", "encrypt-layer", "sign-by", "sign-by-sigstore", "sign-by-sigstore-private-key", "sign-passphrase-file"}
	var later [len(notPushed)]string
	cmd := &cobra.Command{
		Use:               "push [OPTIONS] NAME[:TAG] [DESTINATION]",
		Short:             "Send an image to a registry",
		Example:           "  cais push registry.example.com/team/app:1\n  cais push --all-tags registry.example.com/team/app",
		ValidArgsFunction: complete.Images(e, 1),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && !o.allTags {
				return nil
			}
			return ui.ExactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			for i, name := range notPushed {
				if later[i] == "" {
					continue
				}
				hint := "Push it, then sign what is there: with 'cosign sign', or 'podman push --" + name + "' from the same store."
				if i < 2 {
					hint = "'skopeo copy --" + name + "' from 'containers-storage:' encrypts on the way."
				}
				return ui.Later("push --"+name, hint)
			}
			if cmd.Flags().Changed("retry") || cmd.Flags().Changed("retry-delay") {
				return ui.Later("push --retry: cais tries again by itself; setting how often", "Leave it out.")
			}
			if !trust {
				return ui.Later("push --disable-content-trust=false (Docker's content trust, which Docker has given up)", "'cosign sign' signs what was pushed.")
			}
			if cmd.Flags().Changed("tls-verify") {
				o.registry.TLSVerify = &o.tlsVerify
			}
			jobs, err := o.jobs(args) // refused before anything is opened
			if err != nil {
				return err
			}
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return ended(code, err)
			}
			return pushAll(cmd.Context(), e, s, o, jobs)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.allTags, "all-tags", "a", false, "Send all tags of the repository")
	f.StringVar(&o.platform, "platform", "", "Send the image for `OS[/ARCH[/VARIANT]]` alone")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Print the image's name only")
	f.StringVar(&o.digestFile, "digestfile", "", "Write the manifest's digest to this `file`")
	f.StringVarP(&o.format, "format", "f", "", "`Format` of the manifest: oci, v2s2; as it is if not given")
	f.StringVar(&o.compression, "compression-format", "", "Compression of layers that must be sent: gzip, zstd")
	f.IntVar(&o.level, "compression-level", 0, "1 to 9 for gzip, 1 to 22 for zstd")
	f.BoolVar(&o.force, "force-compression", false, "Compress layers again that are compressed otherwise")
	f.BoolVar(&removeSignatures, "remove-signatures", false, "Do not send signatures; cais sends none anyway")
	f.BoolVar(&trust, "disable-content-trust", true, "Skip Docker's content trust")
	_ = f.MarkHidden("disable-content-trust")
	f.IntVar(&retry, "retry", 3, "How often to try again")
	f.StringVar(new(string), "retry-delay", "", "How long to wait before trying again")
	for i, name := range notPushed {
		f.StringVar(&later[i], name, "", "")
		_ = f.MarkHidden(name)
	}
	registryFlags(f, &o.registry, &o.tlsVerify)
	_ = cmd.RegisterFlagCompletionFunc("compression-format", complete.Words("gzip", "zstd"))
	_ = cmd.RegisterFlagCompletionFunc("format", complete.Words("oci", "v2s2"))
	return cmd
}

// pushJob is one image to send.
type pushJob struct {
	image string        // what finds it in the store
	to    oci.Reference // where it goes
}

// jobs are what the command line asks for. With all tags, it is the repository.
func (o pushOptions) jobs(args []string) ([]pushJob, error) {
	if _, err := o.compressionOptions(); err != nil {
		return nil, ui.Exit(ui.CodeUsage, err)
	}
	if _, err := push.ParseFormat(o.format); err != nil {
		return nil, ui.Exit(ui.CodeUsage, err)
	}
	to, err := oci.Parse(trimTransport(args[len(args)-1]))
	if err != nil {
		return nil, err
	}
	if o.allTags {
		if to.Tag != "" || to.Digest != "" {
			return nil, errors.New("tag can't be used with --all-tags/-a")
		}
		return []pushJob{{to: to}}, nil
	}
	if to.Digest != "" && len(args) == 1 {
		return nil, errs.New(errs.Invalid, "cannot push a digest reference")
	}
	return []pushJob{{image: args[0], to: to.WithDefaultTag()}}, nil
}

func (o pushOptions) compressionOptions() (push.Compression, error) {
	return parseCompression(o.compression, o.level, o.force)
}

func parseCompression(kind string, level int, force bool) (push.Compression, error) {
	c := push.Compression{Kind: compress.Kind(kind), Level: level, Force: force}
	switch kind {
	case "", "gzip", "zstd":
	case "zstd:chunked":
		return c, ui.Later("--compression-format zstd:chunked", "Use zstd; 'skopeo copy --dest-compress-format zstd:chunked --dest-force-compress-format' makes it of what was pushed.")
	default:
		return c, fmt.Errorf("invalid --compression-format %q: want gzip or zstd", kind)
	}
	if c.Force && kind == "" {
		c.Kind = compress.Gzip
	}
	_, err := compress.Writer(nil, compress.Kind(cmp.Or(kind, "gzip")), level)
	return c, err
}

// pushAll sends one image after the other: each uses the whole line already.
func pushAll(ctx context.Context, e *engine.Engine, s ui.Streams, o pushOptions, jobs []pushJob) error {
	p, end, err := e.Pusher(o.registry)
	if err != nil {
		return err
	}
	defer end()
	r, err := e.Reader()
	if err != nil {
		return err
	}
	if o.allTags {
		repo := jobs[0].to
		if jobs, err = tagsOf(ctx, r, repo); err != nil {
			return err
		}
		if len(jobs) == 0 {
			return errs.New(errs.NotFound, "An image does not exist locally with the tag: "+repo.FamiliarName())
		}
	}
	if !o.quiet {
		fmt.Fprintf(s.Err, "The push refers to repository [%s]\n", jobs[0].to.Name())
	}
	for _, j := range jobs {
		if err := pushOne(ctx, e, s, r, p, o, j); err != nil {
			return err
		}
	}
	if o.quiet {
		ref := jobs[0].to
		if o.allTags {
			fmt.Fprintln(s.Out, ref.Name())
		} else {
			fmt.Fprintln(s.Out, ref.String())
		}
	}
	return nil
}

// tagsOf are all tags of a repository that the store has.
func tagsOf(ctx context.Context, r *storage.Reader, repo oci.Reference) ([]pushJob, error) {
	imgs, err := r.Images(ctx)
	if err != nil {
		return nil, err
	}
	var jobs []pushJob
	for _, img := range imgs {
		for _, n := range img.Names {
			if ref, err := oci.Parse(n); err == nil && ref.Name() == repo.Name() && ref.Tag != "" && ref.Digest == "" {
				jobs = append(jobs, pushJob{image: n, to: ref})
			}
		}
	}
	slices.SortFunc(jobs, func(a, b pushJob) int { return cmp.Compare(a.to.Tag, b.to.Tag) })
	return jobs, nil
}

func pushOne(ctx context.Context, e *engine.Engine, s ui.Streams, r *storage.Reader, p *push.Pusher, o pushOptions, j pushJob) error {
	img, err := findImage(ctx, r, j.image)
	if errs.KindOf(err) == errs.NotFound {
		return errs.New(errs.NotFound, "An image does not exist locally with the tag: "+j.to.FamiliarName())
	}
	if err != nil {
		return err
	}
	if err := matchPlatform(ctx, r, img, j.to, o.platform); err != nil {
		return err
	}
	c, err := o.compressionOptions()
	if err != nil {
		return err
	}
	format, err := push.ParseFormat(o.format)
	if err != nil {
		return err
	}
	src, root, end, err := sourceOf(ctx, e, r, img, j.to.Name(), o.registry)
	if err != nil {
		return err
	}
	defer end()
	req := push.Request{Ref: j.to, Root: root, Source: src, Compression: c, Format: format}
	progress := ui.NewProgress(s)
	if !o.quiet {
		req.Events = progress.Push
	}
	res, err := p.Push(ctx, req)
	progress.Close()
	if err != nil {
		return err
	}
	if img.IsList() {
		e.Log().Debug("a list was pushed", "images", len(res.Images))
	} else if err := e.Pushed(ctx, img, j.to, res); err != nil {
		e.Log().Debug("what was pushed is not noted", "reason", err)
	}
	e.Note(imageEvent("push", j.to.Familiar(), j.to.FamiliarName(), labels(ctx, r, img)))
	if !o.quiet {
		fmt.Fprintf(s.Out, "%s: digest: %s size: %d\n", cmp.Or(j.to.Tag, j.to.Digest), res.Root.Digest, len(res.Root.Data))
	}
	if o.digestFile != "" {
		if err := atomicfile.Write(o.digestFile, []byte(res.Root.Digest), 0o644, false); err != nil {
			return fmt.Errorf("write the digest: %w", err)
		}
	}
	return nil
}

// sourceOf is an image, or a list, of the store as what is pushed.
func sourceOf(ctx context.Context, e *engine.Engine, r *storage.Reader, img *storage.Image, repo string, o engine.PullerOptions) (push.Source, oci.Document, func(), error) {
	if !img.IsList() {
		src, root, err := e.ImageSource(ctx, img, repo)
		return src, root, func() {}, err
	}
	l, err := r.List(ctx, img)
	if err != nil {
		return nil, oci.Document{}, nil, err
	}
	client, _, err := e.Registry(o)
	if err != nil {
		return nil, oci.Document{}, nil, err
	}
	src, root, err := e.ListSource(ctx, l, client)
	return src, root, client.Close, err
}

// matchPlatform refuses an image of another platform than the one asked for.
func matchPlatform(ctx context.Context, r lister, img *storage.Image, ref oci.Reference, platform string) error {
	if platform == "" {
		return nil
	}
	want, err := oci.ParsePlatform(platform, oci.HostPlatform())
	if err != nil {
		return err
	}
	c, err := configOf(ctx, r, img)
	if err != nil {
		return err
	}
	if got := c.Platform.Normalize(); !want.Runs(got) {
		return notOf(ref.Familiar(), want)
	}
	return nil
}

// notOf says that an image is for another platform.
func notOf(typed string, want oci.Platform) error {
	return errs.New(errs.NotFound, fmt.Sprintf("image with reference %s was found but does not provide the specified platform (%s)", typed, want))
}

// trimTransport takes Podman's word for a registry off.
func trimTransport(s string) string {
	const docker = "docker://"
	if len(s) > len(docker) && s[:len(docker)] == docker {
		return s[len(docker):]
	}
	return s
}

// reference is what the user typed as a name, for messages; of an id, the zero
// value.
func reference(typed string) oci.Reference {
	ref, err := oci.Parse(typed)
	if err != nil {
		return oci.Reference{}
	}
	return ref.WithDefaultTag()
}
