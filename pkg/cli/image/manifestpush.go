package image

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/storage"
)

// NewManifestPush makes "manifest push".
func NewManifestPush(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o manifestOptions
	var po pushOptions
	var purge, all bool
	cmd := &cobra.Command{
		Use:               "push [OPTIONS] LIST [DESTINATION]",
		Short:             "Send a manifest list with its images to a registry",
		ValidArgsFunction: complete.Images(e, 1),
		Args:              ui.RangeArgs(1, 2),
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
