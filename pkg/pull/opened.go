package pull

import (
	"context"
	"fmt"
	"io"
	"os"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Opened is an archive, or a layout in a directory, whose images can be read.
type Opened struct {
	a      *archive
	Images []OpenedImage
}

// OpenedImage is one image of an archive.
type OpenedImage struct {
	Names    []oci.Reference
	Manifest []byte // nil: the form has none
	Config   []byte
	Layers   []OpenedLayer // bottom first
}

// OpenedLayer is a layer as the archive has it.
type OpenedLayer struct {
	DiffID string
	Blob   string // digest; empty: not known, as in Docker's form
	Size   int64
	Open   func() (io.ReadCloser, error)
}

// OpenArchive opens what Load reads. spool is where a stream, or what is
// compressed, is kept meanwhile.
func OpenArchive(ctx context.Context, in io.Reader, spool string, platform *oci.Platform) (*Opened, error) {
	a, err := openArchive(ctx, in, spool)
	if err != nil {
		return nil, err
	}
	return a.describe(a.images(platform))
}

// OpenLayout opens an OCI layout that is a directory.
func OpenLayout(dir string, platform *oci.Platform) (*Opened, error) {
	a, err := openLayout(dir)
	if err != nil {
		return nil, err
	}
	return a.describe(a.images(platform))
}

// OpenLayoutImage opens one image of an OCI layout that is a directory: the one with
// that digest, else that tag, else "latest" or the only one.
func OpenLayoutImage(dir, tag, digest string, platform *oci.Platform) (*Opened, error) {
	a, err := openLayout(dir)
	if err != nil {
		return nil, err
	}
	img, err := a.ociImageOf(tag, digest, platform)
	return a.describe([]archived{img}, "", err)
}

// describe is given what a's images are, and closes a if that is an error.
func (a *archive) describe(list []archived, _ string, err error) (_ *Opened, _ error) {
	defer func() {
		if err != nil {
			_ = a.close() // only read from
		}
	}()
	if err != nil {
		return nil, err
	}
	o := &Opened{a: a}
	for _, img := range list {
		conf, err := oci.ParseImage(img.config)
		if err != nil {
			return nil, err
		}
		if len(img.layers) != len(conf.RootFS.DiffIDs) {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("the archive has %d layers of an image, its config says %d", len(img.layers), len(conf.RootFS.DiffIDs)))
		}
		out := OpenedImage{Names: img.names, Manifest: img.manifest, Config: img.config}
		for i, l := range img.layers {
			r, err := a.open(l.file)
			if err != nil {
				return nil, err
			}
			out.Layers = append(out.Layers, OpenedLayer{DiffID: conf.RootFS.DiffIDs[i], Blob: l.blob, Size: r.Size(), Open: func() (io.ReadCloser, error) {
				return io.NopCloser(io.NewSectionReader(r, 0, r.Size())), nil
			}})
		}
		o.Images = append(o.Images, out)
	}
	return o, nil
}

// Document returns a blob of an OCI layout: an index or a manifest that one of its
// names leads to.
func (o *Opened) Document(d oci.Descriptor) ([]byte, error) { return o.a.blob(d, oci.MaxConfig) }

// Index returns the layout's own index; NotFound if it has none.
func (o *Opened) Index() (*oci.Index, error) {
	if !o.a.has("index.json") {
		return nil, errs.New(errs.NotFound, "the archive has no index.json")
	}
	return o.a.ociIndex()
}

// Blob opens a blob of an OCI layout.
func (o *Opened) Blob(digest string) (io.ReadCloser, error) {
	r, err := o.a.open(blobName(digest))
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}

// Close closes the archive.
func (o *Opened) Close() error { return o.a.close() }

// isLayout reports whether path is a directory with an OCI layout in it.
func isLayout(path string) bool {
	_, err := os.Stat(path + "/oci-layout")
	return err == nil
}
