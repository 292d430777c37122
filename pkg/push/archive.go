package push

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Saved is one image, or index, on its way into an archive.
type Saved struct {
	Names  []oci.Reference // with tags; may be empty
	Tag    string          // instead of a name: OCI's annotation alone
	Root   oci.Document    // a manifest, or an index
	Source Source
}

// Layout says what an archive is to be readable as. Both at once are what Docker
// writes since 25: the blobs are there once.
type Layout struct {
	OCI    bool // index.json and oci-layout
	Docker bool // manifest.json and repositories: no indexes, and no layers in zstd
}

// ArchiveOptions say how an archive is written.
type ArchiveOptions struct {
	Layout
	// Compress makes layers gzip or zstd if Kind is set; otherwise they are plain
	// tars, unless a source has nothing but blobs.
	Compress    bool
	Compression Compression
	Format      Format // of the manifests: what they are, but OCI where layers change
	// Annotations are added to each of index.json's entries.
	Annotations map[string]string
	Spool       string // for compressed layers, whose size must be known first
	Events      func(Event)
}

// Sink takes an archive's files, one after the other: a tar, or a directory.
type Sink interface {
	// Put writes a file of exactly size bytes. name is relative, with slashes.
	Put(name string, size int64, r io.Reader) error
	// Close completes it.
	Close() error
}

// Archive writes images into sink, which it closes if all went well. Result has
// the roots as they are in the archive, in order.
func Archive(ctx context.Context, sink Sink, images []Saved, o ArchiveOptions) ([]oci.Document, error) {
	a := &archive{sink: sink, o: o, e: &emitter{to: o.Events}, have: map[string]oci.Descriptor{}}
	var roots []oci.Document
	for _, img := range images {
		root, err := read(ctx, img.Source, img.Root, 0)
		if err != nil {
			return nil, err
		}
		if root.index != nil && o.Docker {
			return nil, errs.WithHint(errs.New(errs.Unsupported, "Docker's archives hold no indexes"), "Write an OCI archive, or save one platform.")
		}
		doc, err := a.add(ctx, root)
		if err != nil {
			return nil, err
		}
		roots = append(roots, doc)
		a.describe(img, root, doc)
	}
	if err := a.close(ctx); err != nil {
		return nil, err
	}
	return roots, sink.Close()
}

// archive is one that is being written.
type archive struct {
	sink Sink
	o    ArchiveOptions
	e    *emitter
	have map[string]oci.Descriptor // blobs that are in it, by the digest in the source's manifest

	plain  bool // skopeo's dir: blobs stay as they are
	index  []oci.Descriptor
	docker []*dockerEntry
	repos  map[string]map[string]string
}

// dockerEntry is one of manifest.json's.
type dockerEntry struct {
	Config       string
	RepoTags     []string
	Layers       []string
	LayerSources map[string]oci.Descriptor `json:",omitempty"`
}

// add writes what is below n, then n itself.
func (a *archive) add(ctx context.Context, n *node) (oci.Document, error) {
	var below []oci.Descriptor
	format := a.o.Format
	if n.index != nil {
		for i, c := range n.children {
			doc, err := a.add(ctx, c)
			if err != nil {
				return doc, err
			}
			d := n.index.Manifests[i]
			d.MediaType, d.Digest, d.Size = doc.MediaType, doc.Digest, int64(len(doc.Data))
			below = append(below, d)
			if doc.MediaType == oci.TypeOCIManifest && n.doc.MediaType == oci.TypeDockerIndex {
				format = OCI
			}
		}
	} else {
		if format == Same && a.o.OCI {
			format = OCI
		}
		mediaType := n.target(Request{Format: format, Compression: a.o.Compression})
		for i := range n.layers {
			d, err := a.layer(ctx, n.layers[i], mediaType)
			if err != nil {
				return oci.Document{}, errs.E("layer "+(&blob{l: n.layers[i]}).name(), errs.KindOf(err), err)
			}
			below = append(below, d)
		}
		if err := a.bytes(n.manifest.Config.Digest, n.config); err != nil {
			return oci.Document{}, err
		}
	}
	doc, err := n.rewrite(format, below)
	if err != nil {
		return doc, err
	}
	for i := range below { // for describe
		if n.index == nil {
			n.layers[i].Descriptor = below[i]
		}
	}
	return doc, a.bytes(doc.Digest, doc.Data)
}

// bytes writes a small blob, once.
func (a *archive) bytes(digest string, data []byte) error {
	if _, ok := a.have[digest]; ok {
		return nil
	}
	a.have[digest] = oci.Descriptor{Digest: digest, Size: int64(len(data))}
	return a.sink.Put(blobName(digest), int64(len(data)), bytes.NewReader(data))
}

// layer writes a layer, once, and returns what it is in the archive.
func (a *archive) layer(ctx context.Context, l layer, mediaType string) (oci.Descriptor, error) {
	key := l.Digest
	if d, ok := a.have[key]; ok {
		return d, nil
	}
	a.e.emit(Event{Kind: Preparing, Layer: (&blob{l: l}).name()})
	d, err := a.write(ctx, l, mediaType)
	if err != nil {
		return d, err
	}
	a.have[key], a.have[d.Digest] = d, d
	a.e.emit(Event{Kind: Pushed, Layer: (&blob{l: l}).name()})
	return d, nil
}

func (a *archive) write(ctx context.Context, l layer, mediaType string) (oci.Descriptor, error) {
	d := l.Descriptor
	switch {
	case !isLayer(d.MediaType) || l.src.Blob != nil && a.keeps(l):
		if l.src.Blob == nil {
			return d, errs.New(errs.NotFound, "its bytes are not kept here")
		}
		if isLayer(d.MediaType) {
			d.MediaType = layerType(mediaType, l.kind())
		}
		r, err := l.src.Blob(ctx)
		if err != nil {
			return d, err
		}
		c := &checked{ctx: ctx, r: r, sum: sha256.New()}
		err = errors.Join(a.put(d, c), r.Close())
		if err == nil {
			err = c.is("layer", d.Digest)
		}
		return d, err
	case a.o.Compress:
		s, err := newSpool(a.o.Spool)
		if err != nil {
			return d, err
		}
		s.end(pack(ctx, l, a.o.Compression, s))
		if d.Digest, d.Size, err = s.wait(); err != nil {
			return d, errors.Join(err, s.close())
		}
		d.MediaType, d.Annotations, d.URLs = layerType(mediaType, a.o.Compression.kind()), nil, nil
		r, _ := s.open(0) // cannot fail
		return d, errors.Join(a.put(d, r), s.close())
	}
	d = oci.Descriptor{MediaType: layerType(mediaType, compress.None), Digest: l.diffID, Size: l.src.Size}
	if _, ok := a.have[d.Digest]; ok {
		return a.have[d.Digest], nil
	}
	r, err := l.tar(ctx)
	if err != nil {
		return d, err
	}
	if d.Size < 0 { // only known by reading it
		s, err := newSpool(a.o.Spool)
		if err == nil {
			s.end(copyTar(ctx, s, r, l))
			if d.Digest, d.Size, err = s.wait(); err == nil {
				sr, _ := s.open(0) // cannot fail
				err = a.put(d, sr)
			}
			err = errors.Join(err, s.close())
		}
		return d, errors.Join(err, r.Close())
	}
	c := &checked{ctx: ctx, r: r, sum: sha256.New()}
	err = errors.Join(a.put(d, c), r.Close())
	if err == nil {
		err = c.is("layer in the store", d.Digest)
	}
	return d, err
}

// keeps reports whether a blob goes into the archive as it is.
func (a *archive) keeps(l layer) bool {
	if a.plain && !a.o.Compression.Force {
		return true
	}
	if !a.o.Compress {
		return l.src.Tar == nil && a.o.OCI && !(a.o.Docker && l.kind() == compress.Zstd)
	}
	return a.o.Compression.wants(l.kind())
}

func (a *archive) put(d oci.Descriptor, r io.Reader) error {
	return a.sink.Put(blobName(d.Digest), d.Size, r)
}

// checked hashes what is read.
type checked struct {
	ctx context.Context
	r   io.Reader
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	n int64
}

func (c *checked) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	c.n += int64(n)
	return n, err
}

func (c *checked) is(what, digest string) error {
	got := "sha256:" + hex.EncodeToString(c.sum.Sum(nil))
	if got == digest {
		return nil
	}
	return errs.WithHint(errs.E("", errs.Invalid, &oci.DigestError{What: what, Want: digest, Got: got, Bytes: c.n}),
		"Its files were changed: 'cais system check' finds such layers; remove the image and pull it again.")
}

// describe takes note of an image for the files at the end.
func (a *archive) describe(img Saved, n *node, doc oci.Document) {
	entry := oci.Descriptor{MediaType: doc.MediaType, Digest: doc.Digest, Size: int64(len(doc.Data))}
	if n.index == nil && n.manifest.IsImage() {
		if conf, err := oci.ParseImage(n.config); err == nil && conf.OS != "" && conf.Architecture != "" {
			p := oci.Platform{OS: conf.OS, Architecture: conf.Architecture, Variant: conf.Variant, OSVersion: conf.OSVersion}
			entry.Platform = &p
		}
	}
	annotate := func(add map[string]string) oci.Descriptor {
		e := entry
		e.Annotations = map[string]string{}
		for k, v := range a.o.Annotations {
			e.Annotations[k] = v
		}
		for k, v := range add {
			e.Annotations[k] = v
		}
		if len(e.Annotations) == 0 {
			e.Annotations = nil
		}
		return e
	}
	for _, ref := range img.Names {
		a.index = append(a.index, annotate(map[string]string{
			"io.containerd.image.name":          ref.String(),
			"org.opencontainers.image.ref.name": ref.Tag,
		}))
	}
	if img.Tag != "" {
		a.index = append(a.index, annotate(map[string]string{"org.opencontainers.image.ref.name": img.Tag}))
	} else if len(img.Names) == 0 && !slices.ContainsFunc(a.index, func(d oci.Descriptor) bool { return d.Digest == entry.Digest }) {
		a.index = append(a.index, annotate(nil))
	}
	if n.index != nil || !a.o.Docker {
		return
	}
	config := blobName(n.manifest.Config.Digest)
	i := slices.IndexFunc(a.docker, func(e *dockerEntry) bool { return e.Config == config })
	if i < 0 {
		e := &dockerEntry{Config: config, Layers: []string{}, LayerSources: map[string]oci.Descriptor{}}
		for _, l := range n.layers {
			e.Layers = append(e.Layers, blobName(l.Digest))
			if l.diffID != "" {
				e.LayerSources[l.diffID] = oci.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
			}
		}
		i = len(a.docker)
		a.docker = append(a.docker, e)
	}
	for _, ref := range img.Names {
		tag := ref.Familiar()
		if !slices.Contains(a.docker[i].RepoTags, tag) {
			a.docker[i].RepoTags = append(a.docker[i].RepoTags, tag)
		}
		if len(n.layers) == 0 {
			continue
		}
		if a.repos == nil {
			a.repos = map[string]map[string]string{}
		}
		name := ref.FamiliarName()
		if a.repos[name] == nil {
			a.repos[name] = map[string]string{}
		}
		a.repos[name][ref.Tag] = strings.TrimPrefix(n.layers[len(n.layers)-1].Digest, "sha256:")
	}
}

// close writes the files that say what is where.
func (a *archive) close(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	put := func(name string, v any) error {
		data, err := marshal(v)
		if err != nil {
			return err
		}
		return a.sink.Put(name, int64(len(data)), bytes.NewReader(data))
	}
	if a.o.OCI {
		index := struct {
			SchemaVersion int              `json:"schemaVersion"`
			MediaType     string           `json:"mediaType"`
			Manifests     []oci.Descriptor `json:"manifests"`
		}{2, oci.TypeOCIIndex, a.index}
		if err := put("index.json", index); err != nil {
			return err
		}
	}
	if a.o.Docker {
		if err := put("manifest.json", a.docker); err != nil {
			return err
		}
	}
	if a.o.OCI {
		if err := put("oci-layout", json.RawMessage(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
			return err
		}
	}
	if a.o.Docker && a.repos != nil {
		return put("repositories", a.repos)
	}
	return nil
}

// blobName is where a layout keeps a blob.
func blobName(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

// tarSink writes a tar.
type tarSink struct {
	w    *tar.Writer
	dirs map[string]bool
}

// NewTar returns a Sink that writes a tar to w. The same images make the same
// bytes.
func NewTar(w io.Writer) Sink { return &tarSink{tar.NewWriter(w), map[string]bool{}} }

func (t *tarSink) Put(name string, size int64, r io.Reader) error {
	for i, c := range name {
		if dir := name[:i+1]; c == '/' && !t.dirs[dir] {
			t.dirs[dir] = true
			if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
				return err
			}
		}
	}
	if err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{t.w}, r, make([]byte, bufferSize))
	switch {
	case errors.Is(err, tar.ErrWriteTooLong), err == nil && n != size:
		return fmt.Errorf("%s is not of its %d bytes", name, size)
	}
	return err
}

// onlyWriter hides ReadFrom, whose buffer is small.
type onlyWriter struct{ io.Writer }

func (t *tarSink) Close() error { return t.w.Close() }

// dirSink writes below a directory.
type dirSink struct{ dir string }

// NewDirectory returns a Sink that writes an OCI layout into dir, which is made.
// Blobs that are there stay.
func NewDirectory(dir string) Sink { return dirSink{dir} }

func (d dirSink) Put(name string, size int64, r io.Reader) (err error) {
	path := filepath.Join(d.dir, filepath.FromSlash(name))
	if name == "index.json" {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if data, err = d.merge(path, data); err != nil {
			return err
		}
		r, size = bytes.NewReader(data), int64(len(data))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".cais-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s is not of its %d bytes", name, size)
	}
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// merge keeps what a layout's index says of other names.
func (d dirSink) merge(path string, data []byte) ([]byte, error) {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return data, nil
	}
	if err != nil {
		return nil, err
	}
	_, before, err := oci.ParseManifest(old, "")
	if err != nil || before == nil {
		return data, nil // an empty one, or none
	}
	_, now, err := oci.ParseManifest(data, "")
	if err != nil || now == nil {
		return data, err
	}
	const tag = "org.opencontainers.image.ref.name"
	list := now.Manifests
	for _, d := range before.Manifests {
		same := func(o oci.Descriptor) bool { return o.Annotations[tag] == d.Annotations[tag] }
		if !slices.ContainsFunc(now.Manifests, same) {
			list = append(list, d)
		}
	}
	return marshal(struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Manifests     []oci.Descriptor `json:"manifests"`
	}{2, oci.TypeOCIIndex, list})
}

func (dirSink) Close() error { return nil }
