package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
	"cais.dev/cais/pkg/push"
)

// place is one end of a copy, in skopeo's words.
type place struct {
	transport string // docker, containers-storage, oci, oci-archive, docker-archive, dir
	path      string // of a file or a directory
	name      string // in it; or the image's name
}

// transports are skopeo's, as far as they mean something here.
func parsePlace(s string) (place, error) {
	transport, rest, ok := strings.Cut(s, ":")
	switch {
	case strings.HasPrefix(s, "docker://"):
		return place{transport: "docker", name: strings.TrimPrefix(s, "docker://")}, nil
	case ok && transport == "containers-storage":
		if strings.HasPrefix(rest, "[") {
			return place{}, errs.WithHint(errs.New(errs.Unsupported, "containers-storage:[…] names another store, which cais does not open beside its own"), "Use an archive with cais --root, or 'cais image scp' for another user's.")
		}
		return place{transport: transport, name: rest}, nil
	case ok && (transport == "oci" || transport == "oci-archive" || transport == "docker-archive" || transport == "dir"):
		p := place{transport: transport, path: rest}
		if transport != "dir" {
			p.path, p.name, _ = strings.Cut(rest, ":")
		}
		if p.path == "" {
			return p, errs.New(errs.Invalid, fmt.Sprintf("%q names no path", s))
		}
		return p, nil
	case ok && (transport == "docker-daemon" || transport == "ostree" || transport == "atomic" || transport == "tarball" || transport == "sif"):
		err := errs.New(errs.Unsupported, "transport "+transport+" is not supported by cais")
		return place{}, errs.WithHint(err, "Go by an archive: 'docker save IMAGE | cais load' takes one from a Docker daemon, 'cais save IMAGE | docker load' gives it one.")
	case strings.Contains(s, "::"):
		err := errs.New(errs.Unsupported, fmt.Sprintf("%q is the store of another user or machine, which image copy does not reach", s))
		return place{}, errs.WithHint(err, "Use 'cais image scp', which copies between stores; copy into or out of this one by a second command.")
	}
	return place{transport: "containers-storage", name: s}, nil
}

type copyOptions struct {
	all         bool
	quiet       bool
	platform    string
	format      string
	compression string
	level       int
	force       bool
	digestFile  string
	src, dst    engine.PullerOptions
	tags        []string // further names in a docker-archive
}

// NewCopy makes "image copy".
func NewCopy(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o copyOptions
	var srcTLS, dstTLS, tls bool
	var authfile string
	cmd := &cobra.Command{
		Use:   "copy [OPTIONS] SOURCE DESTINATION",
		Short: "Copy an image between registries, archives, layouts and the store",
		Long: "Copy an image. SOURCE and DESTINATION are a name in the store, docker://NAME, oci:DIR[:NAME],\n" +
			"oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], dir:DIR or containers-storage:NAME.",
		Example:           "  cais image copy docker://debian oci:debian\n  cais image copy --all docker://quay.io/x/app:1 docker://registry.example.com/app:1",
		Args:              ui.ExactArgs(2),
		ValidArgsFunction: complete.Images(e, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := parsePlace(args[0])
			if err != nil {
				return err
			}
			to, err := parsePlace(args[1])
			if err != nil {
				return err
			}
			f := cmd.Flags()
			for _, c := range []struct {
				flag string
				on   *bool
				to   **bool
			}{{"tls-verify", &tls, &o.src.TLSVerify}, {"tls-verify", &tls, &o.dst.TLSVerify}, {"src-tls-verify", &srcTLS, &o.src.TLSVerify}, {"dest-tls-verify", &dstTLS, &o.dst.TLSVerify}} {
				if f.Changed(c.flag) {
					*c.to = c.on
				}
			}
			for _, p := range []*engine.PullerOptions{&o.src, &o.dst} {
				if p.AuthFile == "" {
					p.AuthFile = authfile
				}
			}
			if _, err := parseCompression(o.compression, o.level, o.force); err != nil {
				return ui.Exit(ui.CodeUsage, err)
			}
			if _, err := push.ParseFormat(o.format); err != nil {
				return ui.Exit(ui.CodeUsage, err)
			}
			if from.transport == "containers-storage" || to.transport == "containers-storage" {
				if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
					return ended(code, err)
				}
			}
			return copyImage(cmd.Context(), e, s, o, from, to)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "Copy all platforms of a list")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Print nothing")
	f.StringVar(&o.platform, "platform", "", "Copy the image for `OS[/ARCH[/VARIANT]]`")
	f.StringVarP(&o.format, "format", "f", "", "`Format` of the manifest: oci, v2s2; as it is if not given")
	f.StringVar(&o.compression, "dest-compress-format", "", "Compression of layers: gzip, zstd")
	f.IntVar(&o.level, "dest-compress-level", 0, "1 to 9 for gzip, 1 to 22 for zstd")
	f.BoolVar(&o.force, "dest-force-compress-format", false, "Compress layers again that are compressed otherwise")
	f.StringVar(&o.digestFile, "digestfile", "", "Write the manifest's digest to this `file`")
	f.StringSliceVar(&o.tags, "additional-tag", nil, "One more name in a docker-archive")
	f.StringVar(&authfile, "authfile", "", "Read credentials from this `file` only")
	f.StringVar(&o.src.AuthFile, "src-authfile", "", "Read the source's credentials from this `file` only")
	f.StringVar(&o.dst.AuthFile, "dest-authfile", "", "Read the destination's credentials from this `file` only")
	f.StringVar(&o.src.Creds, "src-creds", "", "Log in to the source as `USER:PASSWORD`")
	f.StringVar(&o.dst.Creds, "dest-creds", "", "Log in to the destination as `USER:PASSWORD`")
	f.StringVar(&o.src.CertDir, "src-cert-dir", "", "Certificates for the source are in this `directory`")
	f.StringVar(&o.dst.CertDir, "dest-cert-dir", "", "Certificates for the destination are in this `directory`")
	f.BoolVar(&tls, "tls-verify", true, "Demand TLS with a certificate that can be verified")
	f.BoolVar(&srcTLS, "src-tls-verify", true, "Demand it of the source")
	f.BoolVar(&dstTLS, "dest-tls-verify", true, "Demand it of the destination")
	return cmd
}

// copied is what a copy begins with.
type copied struct {
	src   push.Source
	root  oci.Document
	names []oci.Reference
	close func() error
}

func copyImage(ctx context.Context, e *engine.Engine, s ui.Streams, o copyOptions, from, to place) (err error) {
	var platform *oci.Platform
	if o.platform != "" {
		p, err := oci.ParsePlatform(o.platform, oci.HostPlatform())
		if err != nil {
			return err
		}
		platform = &p
	}
	c, err := openPlace(ctx, e, o, from, platform)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	digest, err := c.to(ctx, e, s, o, to, platform)
	if err != nil {
		return err
	}
	if o.digestFile != "" {
		if err := atomicfile.Write(o.digestFile, []byte(digest), 0o644, false); err != nil {
			return fmt.Errorf("write the digest: %w", err)
		}
	}
	return nil
}

// openPlace opens the source of a copy.
func openPlace(ctx context.Context, e *engine.Engine, o copyOptions, p place, platform *oci.Platform) (c *copied, err error) {
	c = &copied{close: func() error { return nil }}
	switch p.transport {
	case "docker":
		ref, err := oci.Parse(p.name)
		if err != nil {
			return nil, err
		}
		ref = ref.WithDefaultTag()
		client, policy, err := e.Registry(o.src)
		if err != nil {
			return nil, err
		}
		c.close = func() error { client.Close(); return nil }
		if ref.Digest == "" {
			c.names = []oci.Reference{ref}
		}
		c.src, c.root, err = engine.RemoteSource(ctx, client, ref, o.all, platform)
		if err == nil {
			err = e.Verify(ctx, client, policy, ref, []string{c.root.Digest})
		}
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		return c, nil
	case "containers-storage":
		r, err := e.Reader()
		if err != nil {
			return nil, err
		}
		img, name, err := engine.FindImage(ctx, r, p.name)
		if err != nil {
			return nil, err
		}
		if ref, err := oci.Parse(name); err == nil && ref.Digest == "" {
			c.names = []oci.Reference{ref}
		}
		c.src, c.root, err = e.ImageSource(ctx, img, "")
		return c, err
	}
	if err := e.AllowFile(p.transport, p.path); err != nil {
		return nil, err
	}
	if p.transport == "dir" {
		src, root, closer, err := push.OpenPlainDir(p.path)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", p.path, err)
		}
		c.close = closer.Close
		c.src = src
		if c.root, err = engine.OnePlatform(ctx, src, root, o.all, platform); err != nil {
			return nil, errors.Join(err, closer.Close())
		}
		return c, nil
	}
	a, err := e.OpenArchive(ctx, p.path, platform)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err // it says what is missing
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p.path, err)
	}
	c.close = a.Close
	c.src, c.root, c.names, err = engine.ArchiveSource(ctx, a, p.name, o.all, platform)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", p.path, err), a.Close())
	}
	return c, nil
}

// to writes what was opened to the copy's destination and returns its digest
// there.
func (c *copied) to(ctx context.Context, e *engine.Engine, s ui.Streams, o copyOptions, p place, platform *oci.Platform) (digest string, err error) {
	compression, err := parseCompression(o.compression, o.level, o.force)
	if err != nil {
		return "", err
	}
	format, err := push.ParseFormat(o.format)
	if err != nil {
		return "", err
	}
	progress := ui.NewProgress(s)
	defer progress.Close()
	events, pulls := progress.Push, progress.Pull
	if o.quiet {
		events, pulls = nil, nil
	}
	switch p.transport {
	case "docker":
		ref, err := oci.Parse(p.name)
		if err != nil {
			return "", err
		}
		pusher, end, err := e.Pusher(o.dst)
		if err != nil {
			return "", err
		}
		defer end()
		res, err := pusher.Push(ctx, push.Request{Ref: ref.WithDefaultTag(), Root: c.root, Source: c.src, Compression: compression, Format: format, Events: events})
		return res.Root.Digest, err
	case "containers-storage":
		ref, err := oci.Parse(p.name)
		if err != nil {
			return "", err
		}
		_, err = e.StoreImage(ctx, c.src, c.root, ref.WithDefaultTag(), platform, func(ev pull.Event) {
			if pulls != nil && ev.Kind != pull.Pulling {
				pulls(ev)
			}
		})
		return c.root.Digest, err
	}
	return c.archive(ctx, e, o, p, push.ArchiveOptions{Compress: p.transport != "docker-archive", Compression: compression, Format: format, Events: events})
}

// archive writes to a file or a directory.
func (c *copied) archive(ctx context.Context, e *engine.Engine, o copyOptions, p place, opts push.ArchiveOptions) (digest string, err error) {
	if opts.Spool, err = e.Spool(); err != nil {
		return "", err
	}
	saved := push.Saved{Names: c.names, Root: c.root, Source: c.src}
	if p.name != "" {
		saved.Names, saved.Tag = nil, p.name
		if ref, err := oci.Parse(p.name); err == nil && (p.transport == "docker-archive" || strings.ContainsAny(p.name, "/:")) {
			saved.Names, saved.Tag = []oci.Reference{ref.WithDefaultTag()}, ""
		}
	}
	for _, t := range o.tags {
		ref, err := oci.Parse(t)
		if err != nil {
			return "", err
		}
		saved.Names = append(saved.Names, ref.WithDefaultTag())
	}
	write := func(sink push.Sink) error {
		roots, err := push.Archive(ctx, sink, []push.Saved{saved}, opts)
		if err == nil {
			digest = roots[0].Digest
		}
		return err
	}
	opts.OCI = p.transport != "docker-archive"
	opts.Docker = !opts.OCI
	if opts.Docker {
		opts.Format = push.Docker
	}
	switch p.transport {
	case "oci":
		return digest, write(push.NewDirectory(p.path))
	case "dir":
		doc, err := push.PlainDir(ctx, p.path, saved, opts)
		return doc.Digest, err
	}
	err = output(ui.Streams{}, p.path, func(w *os.File) error { return write(push.NewTar(w)) })
	return digest, err
}
