package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/storage"
)

// saveOptions are save's flags.
type saveOptions struct {
	output   string
	platform []string
	format   string
	quiet    bool
	compress bool
}

// NewSave makes "save", "image save".
func NewSave(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o saveOptions
	var several bool
	cmd := &cobra.Command{
		Use:               "save [OPTIONS] IMAGE [IMAGE...]",
		Short:             "Write one or more images to a tar, for load",
		Example:           "  cais save -o images.tar debian alpine:3.20\n  cais save debian | ssh host docker load",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Images(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := o.layout(); err != nil {
				return ui.Exit(ui.CodeUsage, err)
			}
			switch {
			case o.output == "" && o.dir():
				return ui.Exit(ui.CodeUsage, errors.New("--format "+o.format+" writes a directory: name it with -o"))
			case o.output == "" && s.OutTerminal():
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return ended(code, err)
			}
			return save(cmd.Context(), e, s, o, args)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "Write to this `file`, not to stdout")
	f.StringSliceVar(&o.platform, "platform", nil, "Save the image for `OS[/ARCH[/VARIANT]]` alone; several of a list")
	f.StringVar(&o.format, "format", "", "docker-archive, oci-archive, docker-dir, oci-dir; if not given, a tar that is both")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Print nothing; save prints nothing anyway")
	f.BoolVar(&o.compress, "compress", false, "Compress the layers with gzip")
	f.Bool("uncompressed", true, "Leave layers uncompressed, which they are unless --compress is given")
	cmd.MarkFlagsMutuallyExclusive("compress", "uncompressed")
	f.BoolVarP(&several, "multi-image-archive", "m", false, "All names are images; cais takes them so anyway")
	_ = cmd.RegisterFlagCompletionFunc("format", complete.Words("docker-archive", "oci-archive", "docker-dir", "oci-dir"))
	return cmd
}

func (o saveOptions) layout() (push.Layout, error) {
	switch o.format {
	case "":
		return push.Layout{OCI: true, Docker: true}, nil
	case "docker-archive", "docker-dir":
		return push.Layout{Docker: true}, nil
	case "oci-archive", "oci-dir":
		return push.Layout{OCI: true}, nil
	}
	return push.Layout{}, fmt.Errorf("unknown format %q: want docker-archive, oci-archive, docker-dir or oci-dir", o.format)
}

func (o saveOptions) dir() bool { return o.format == "oci-dir" || o.format == "docker-dir" }

// save finds everything first: half an archive is none.
func save(ctx context.Context, e *engine.Engine, s ui.Streams, o saveOptions, args []string) (err error) {
	layout, err := o.layout()
	if err != nil {
		return err
	}
	r, err := e.Reader()
	if err != nil {
		return err
	}
	var images []push.Saved
	by := map[string]int{} // image id → index
	for _, typed := range args {
		found, err := savedBy(ctx, r, typed)
		if err != nil {
			return err
		}
		for _, f := range found {
			i, ok := by[f.img.ID]
			if !ok {
				src, root, err := savedSource(ctx, e, r, f.img, typed, o.platform)
				if err != nil {
					return err
				}
				if _, x, err := oci.ParseManifest(root.Data, root.MediaType); err != nil {
					return err
				} else if x != nil && o.format == "" {
					layout.Docker = false // which knows no indexes
				}
				i = len(images)
				by[f.img.ID] = i
				images = append(images, push.Saved{Root: root, Source: src})
			}
			for _, n := range f.names {
				if !slices.Contains(images[i].Names, n) {
					images[i].Names = append(images[i].Names, n)
				}
			}
		}
	}
	defer func() {
		if err == nil {
			for id := range by {
				e.Note(imageEvent("save", "sha256:"+id, "sha256:"+id, labelsOf(ctx, e, id)))
			}
		}
	}()
	spool, err := e.Spool()
	if err != nil {
		return err
	}
	opts := push.ArchiveOptions{Layout: layout, Compress: o.compress, Compression: push.Compression{Kind: compress.Gzip}, Spool: spool}
	if !layout.OCI {
		opts.Format = push.Docker
	}
	switch {
	case o.format == "docker-dir":
		if len(images) > 1 {
			return ui.Exit(ui.CodeUsage, errors.New("--format docker-dir has room for one image"))
		}
		_, err := push.PlainDir(ctx, o.output, images[0], opts)
		return err
	case o.dir():
		_, err := push.Archive(ctx, push.NewDirectory(o.output), images, opts)
		return err
	}
	return output(s, o.output, func(w *os.File) error {
		_, err := push.Archive(ctx, push.NewTar(w), images, opts)
		return err
	})
}

// savedSource is what is saved of an image: of a list, the image for this machine
// or the platform that is asked for, or an index of several.
func savedSource(ctx context.Context, e *engine.Engine, r *storage.Reader, img *storage.Image, typed string, platforms []string) (push.Source, oci.Document, error) {
	var want []oci.Platform
	for _, p := range platforms {
		parsed, err := oci.ParsePlatform(p, oci.HostPlatform())
		if err != nil {
			return nil, oci.Document{}, err
		}
		want = append(want, parsed)
	}
	if img.IsList() && len(want) > 1 {
		l, err := r.List(ctx, img)
		if err != nil {
			return nil, oci.Document{}, err
		}
		return e.PartOfList(ctx, l, want)
	}
	if img.IsList() {
		var one *oci.Platform
		if len(want) > 0 {
			one = &want[0]
		}
		var err error
		if img, err = engine.OfList(ctx, r, img, one); err != nil {
			return nil, oci.Document{}, err
		}
		platforms = nil // the list says what it is for
	}
	for _, p := range platforms {
		ref := reference(typed)
		if err := matchPlatform(ctx, r, img, ref, p); err != nil {
			return nil, oci.Document{}, err
		}
	}
	return e.ImageSource(ctx, img, "")
}

// savedImage is one that is to be saved, by these names.
type savedImage struct {
	img   *storage.Image
	names []oci.Reference
}

// savedBy finds what the user typed: a name with a tag, a repository, which is
// all its tags, or an id, which is no name.
func savedBy(ctx context.Context, r *storage.Reader, typed string) ([]savedImage, error) {
	img, name, err := engine.FindImage(ctx, r, typed)
	ref, bad := oci.Parse(typed)
	if bad == nil && ref.Tag == "" && ref.Digest == "" && (name != "" || err != nil) {
		jobs, listErr := tagsOf(ctx, r, ref)
		if listErr != nil {
			return nil, listErr
		}
		var all []savedImage
		for _, j := range jobs {
			one, err := findImage(ctx, r, j.image)
			if err != nil {
				return nil, err
			}
			all = append(all, savedImage{one, []oci.Reference{j.to}})
		}
		if len(all) > 0 {
			return all, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if named, err := oci.Parse(name); err == nil && named.Digest == "" {
		return []savedImage{{img, []oci.Reference{named}}}, nil
	}
	return []savedImage{{img: img}}, nil
}

// output calls f with what a command writes to: stdout, or a file that appears
// whole or not at all.
func output(s ui.Streams, path string, f func(*os.File) error) error {
	if path == "" {
		out := s.OutFile()
		if out == nil {
			return errors.New("stdout is not a file")
		}
		return f(out)
	}
	out, err := atomicfile.Create(path, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", strconv.Quote(path), err)
	}
	if err := f(out.File); err != nil {
		return errors.Join(err, out.Discard())
	}
	return out.Commit()
}
