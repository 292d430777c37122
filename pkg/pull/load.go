package pull

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// LoadRequest is an archive to load.
type LoadRequest struct {
	In       io.Reader     // may be compressed, may be a stream
	Name     string        // what errors call it: a path, "stdin"
	Platform *oci.Platform // of an archive with several; nil: this machine's
	Events   func(Event)   // as in Request
}

// Loaded is one image that was loaded.
type Loaded struct {
	Names []oci.Reference // may be empty
	ID    string          // hex
}

// Lines are what load prints of it.
func (l Loaded) Lines() []string {
	if len(l.Names) == 0 {
		return []string{"Loaded image ID: sha256:" + l.ID}
	}
	var all []string
	for _, n := range l.Names {
		all = append(all, "Loaded image: "+n.Familiar())
	}
	return all
}

// archived is an image in an archive.
type archived struct {
	names    []oci.Reference
	config   []byte
	manifest []byte // nil: to be made, the format has none
	index    []byte
	layers   []archivedLayer
}

type archivedLayer struct {
	file string
	blob string // digest; empty: not known
}

// Load brings all images of an archive into the store: Docker's form (with or
// without manifest.json) or an OCI layout. It returns what was loaded before a
// failure.
func (p *Puller) Load(ctx context.Context, req LoadRequest) ([]Loaded, error) {
	done, err := p.load(ctx, req)
	switch {
	case err == nil || ctx.Err() != nil:
		return done, err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return done, errs.E("load "+req.Name, errs.Invalid, fmt.Errorf("the archive is truncated: %w", err))
	}
	return done, errs.E("load "+req.Name, errs.KindOf(err), err)
}

func (p *Puller) load(ctx context.Context, req LoadRequest) (done []Loaded, err error) {
	st, err := p.o.Open(ctx)
	if err != nil {
		return nil, err
	}
	a, err := openArchive(ctx, req.In, p.o.Spool)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	images, transport, err := a.images(req.Platform)
	if err != nil {
		return nil, err
	}
	if p.o.Allow != nil {
		if err := p.o.Allow(transport, ""); err != nil {
			return nil, err
		}
	}
	e := newEmitter(req.Events)
	for _, img := range images {
		id, err := put(ctx, st, a, img, e)
		if err != nil {
			return done, err
		}
		done = append(done, Loaded{img.names, id})
	}
	return done, nil
}

// put brings one image into the store.
func put(ctx context.Context, st Store, a *archive, img archived, e *emitter) (string, error) {
	conf, err := oci.ParseImage(img.config)
	if err != nil {
		return "", err
	}
	if x, y := len(img.layers), len(conf.RootFS.DiffIDs); x != y {
		return "", errs.New(errs.Invalid, fmt.Sprintf("the archive has %d layers of an image, its config says %d", x, y))
	}
	list := make([]wanted, len(img.layers))
	for i, l := range img.layers {
		r, err := a.open(l.file)
		if err != nil {
			return "", err
		}
		list[i] = wanted{diffID: conf.RootFS.DiffIDs[i], blob: l.blob, size: r.Size()}
	}
	top, staged, err := bring(ctx, st, list, fromArchive{a, img.layers}, e)
	if err != nil {
		return "", err
	}
	if img.manifest == nil {
		if img.manifest, err = a.manifest(img, list, staged); err != nil {
			return "", err
		}
	}
	var names []string
	for _, n := range img.names {
		names = append(names, n.String())
	}
	return st.PutImage(ctx, Image{
		Names: names, TopLayer: top,
		Config: img.config, Manifest: img.manifest, Index: img.index, Created: conf.Created,
	})
}

type fromArchive struct {
	a      *archive
	layers []archivedLayer
}

func (f fromArchive) attempts() int { return 1 }

func (f fromArchive) parts(int) (oci.Descriptor, Get) { return oci.Descriptor{}, nil }

func (f fromArchive) open(_ context.Context, i, _ int) (io.ReadCloser, error) {
	r, err := f.a.open(f.layers[i].file)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}

// manifest makes what Docker's form does not have: other tools of the store
// want one.
func (a *archive) manifest(img archived, list []wanted, staged map[int]Staged) ([]byte, error) {
	const plain = "application/vnd.docker.image.rootfs.diff.tar"
	type manifest struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Config        oci.Descriptor   `json:"config"`
		Layers        []oci.Descriptor `json:"layers"`
	}
	m := manifest{2, oci.TypeDockerManifest,
		oci.Descriptor{MediaType: oci.TypeDockerConfig, Digest: sha(img.config), Size: int64(len(img.config))}, []oci.Descriptor{}}
	for i, l := range list {
		d := oci.Descriptor{MediaType: plain, Digest: l.diffID, Size: l.size}
		r, err := a.open(img.layers[i].file)
		if err != nil {
			return nil, err
		}
		head := make([]byte, compress.HeadSize)
		n, err := r.ReadAt(head, 0)
		if err != nil && err != io.EOF {
			return nil, err
		}
		if kind := compress.Detect(head[:n]); kind != compress.None {
			d.MediaType = plain + "." + string(kind)
			if d.Digest = staged[i].Blob; d.Digest == "" { // it was here already
				h := sha256.New()
				if _, err := io.Copy(h, r); err != nil {
					return nil, err
				}
				d.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
			}
		}
		m.Layers = append(m.Layers, d)
	}
	return json.Marshal(m)
}
