package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// The form that skopeo calls dir: the manifest, and blobs by the hex of their
// digests, in one directory. Manifests that an index names are <hex>.manifest.json.
const plainVersion = "Directory Transport Version: 1.1\n"

// PlainDir writes an image, or an index, into dir as skopeo's dir: does. It
// returns the manifest as it is there.
func PlainDir(ctx context.Context, dir string, img Saved, o ArchiveOptions) (oci.Document, error) {
	sink := &plainSink{dirSink{dir}, map[string]bool{}}
	a := &archive{sink: sink, o: o, e: &emitter{to: o.Events}, have: map[string]oci.Descriptor{}}
	a.o.Layout, a.plain = Layout{}, true
	root, err := read(ctx, img.Source, img.Root, 0)
	if err != nil {
		return oci.Document{}, err
	}
	root.each(func(n *node) { sink.manifests[strings.TrimPrefix(n.doc.Digest, "sha256:")] = true })
	doc, err := a.add(ctx, root)
	if err != nil {
		return doc, err
	}
	put := func(name, text string) error {
		return dirSink{dir}.Put(name, int64(len(text)), strings.NewReader(text))
	}
	hex := strings.TrimPrefix(doc.Digest, "sha256:")
	err = errors.Join(put("manifest.json", string(doc.Data)), put("version", plainVersion))
	if err == nil { // it was written as a blob, too
		err = errors.Join(remove(filepath.Join(dir, hex)), remove(filepath.Join(dir, hex+".manifest.json")))
	}
	return doc, err
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// plainSink puts blobs beside each other.
type plainSink struct {
	dirSink
	manifests map[string]bool
}

func (p *plainSink) Put(name string, size int64, r io.Reader) error {
	hex := name[strings.LastIndexByte(name, '/')+1:]
	if p.manifests[hex] {
		hex += ".manifest.json"
	}
	return p.dirSink.Put(hex, size, r)
}

// plainSource reads what PlainDir and skopeo write.
type plainSource struct{ root *os.Root }

// OpenPlainDir opens such a directory. The caller closes it.
func OpenPlainDir(dir string) (Source, oci.Document, io.Closer, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, oci.Document{}, nil, err
	}
	s := plainSource{root}
	data, err := s.read("manifest.json")
	if err == nil {
		var m *oci.Manifest
		var x *oci.Index
		if m, x, err = oci.ParseManifest(data, ""); err == nil {
			doc := oci.Document{Digest: oci.Digest(data), Data: data}
			if doc.MediaType = oci.TypeOCIIndex; m != nil {
				doc.MediaType = m.MediaType
			} else {
				doc.MediaType = x.MediaType
			}
			return s, doc, root, nil
		}
	}
	return nil, oci.Document{}, nil, errors.Join(err, root.Close())
}

func (s plainSource) read(name string) ([]byte, error) {
	f, err := s.root.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errs.New(errs.NotFound, "the directory lacks "+name)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, oci.MaxConfig+1))
	if err == nil && len(data) > oci.MaxConfig {
		err = errs.New(errs.Invalid, fmt.Sprintf("%s is larger than %d bytes", name, oci.MaxConfig))
	}
	return data, err
}

func (s plainSource) Document(_ context.Context, d oci.Descriptor) ([]byte, error) {
	hex := strings.TrimPrefix(d.Digest, "sha256:")
	data, err := s.read(hex)
	if errs.KindOf(err) == errs.NotFound {
		return s.read(hex + ".manifest.json")
	}
	return data, err
}

func (s plainSource) Layer(_ context.Context, d oci.Descriptor, _ string) (Layer, error) {
	return Layer{Size: -1, Blob: func(context.Context) (io.ReadCloser, error) {
		return s.root.Open(strings.TrimPrefix(d.Digest, "sha256:"))
	}}, nil
}
