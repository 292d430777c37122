package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/registry"
)

// remote is a repository of a registry as a source.
type remote struct {
	c   *registry.Client
	ref oci.Reference
}

func (s remote) Document(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	switch d.MediaType {
	case oci.TypeOCIIndex, oci.TypeDockerIndex, oci.TypeOCIManifest, oci.TypeDockerManifest:
		doc, err := s.c.Manifest(ctx, s.ref.WithDigest(d.Digest))
		return doc.Data, err
	}
	return s.c.Config(ctx, s.ref, d)
}

func (s remote) Layer(_ context.Context, d oci.Descriptor, _ string) (push.Layer, error) {
	return push.Layer{
		Blob:  func(ctx context.Context) (io.ReadCloser, error) { return s.c.Blob(ctx, s.ref, d, 0) },
		Size:  -1,
		Known: []push.Known{{Descriptor: d, Repo: s.ref.Name()}},
	}, nil
}

// RemoteSource returns what a registry has by a name, as a source of pushes and
// archives: all platforms, or the one that is wanted.
func RemoteSource(ctx context.Context, c *registry.Client, ref oci.Reference, all bool, platform *oci.Platform) (push.Source, oci.Document, error) {
	doc, err := c.Manifest(ctx, ref)
	if err != nil {
		return nil, doc, err
	}
	src := remote{c, ref}
	doc, err = OnePlatform(ctx, src, doc, all, platform)
	return src, doc, err
}

// OnePlatform chooses from an index, unless all of it is wanted.
func OnePlatform(ctx context.Context, src push.Source, doc oci.Document, all bool, platform *oci.Platform) (oci.Document, error) {
	m, x, err := oci.ParseManifest(doc.Data, doc.MediaType)
	if err != nil {
		return doc, err
	}
	if m != nil {
		doc.MediaType = m.MediaType
		return doc, nil
	}
	if doc.MediaType = x.MediaType; all {
		return doc, nil
	}
	want := oci.HostPlatform()
	if platform != nil {
		want = *platform
	}
	i := oci.Select(x.Manifests, want)
	if i < 0 {
		return doc, errs.WithHint(errs.New(errs.NotFound, fmt.Sprintf("no image for %s in the manifest list entries", want)), "Copy all of it with --all, or name another --platform.")
	}
	d := x.Manifests[i]
	data, err := src.Document(ctx, d)
	return oci.Document{MediaType: d.MediaType, Digest: d.Digest, Data: data}, err
}

// opened is an archive as a source.
type opened struct {
	o   *pull.Opened
	img pull.OpenedImage
}

func (s opened) Document(_ context.Context, d oci.Descriptor) ([]byte, error) {
	if d.Digest == oci.Digest(s.img.Config) {
		return s.img.Config, nil
	}
	return s.o.Document(d)
}

func (s opened) Layer(_ context.Context, d oci.Descriptor, diffID string) (push.Layer, error) {
	for _, l := range s.img.Layers {
		if l.Blob == d.Digest || l.DiffID == diffID && l.Blob == "" {
			open := func(context.Context) (io.ReadCloser, error) { return l.Open() }
			if l.Blob == "" {
				return plainLayer(l)
			}
			return push.Layer{Blob: open, Size: -1}, nil
		}
	}
	return push.Layer{Blob: func(context.Context) (io.ReadCloser, error) { return s.o.Blob(d.Digest) }, Size: -1}, nil
}

// plainLayer is a layer of Docker's form, where it may be compressed or not.
func plainLayer(l pull.OpenedLayer) (push.Layer, error) {
	r, err := l.Open()
	if err != nil {
		return push.Layer{}, err
	}
	head := make([]byte, compress.HeadSize)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return push.Layer{}, errors.Join(err, r.Close())
	}
	out := push.Layer{Tar: func(context.Context) (io.ReadCloser, error) { return l.Open() }, Size: l.Size}
	if compress.Detect(head[:n]) != compress.None {
		out.Size = -1
		out.Tar = func(context.Context) (io.ReadCloser, error) {
			r, err := l.Open()
			if err != nil {
				return nil, err
			}
			return compress.Reader(r)
		}
	}
	return out, r.Close()
}

// plainManifest is the manifest of an image whose layers are plain tars.
func (s opened) plainManifest() oci.Document {
	var b strings.Builder
	fmt.Fprintf(&b, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[`,
		oci.TypeDockerManifest, oci.TypeDockerConfig, oci.Digest(s.img.Config), len(s.img.Config))
	for i, l := range s.img.Layers {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","digest":%q,"size":%d}`, l.DiffID, l.Size)
	}
	b.WriteString("]}")
	data := []byte(b.String())
	return oci.Document{MediaType: oci.TypeDockerManifest, Digest: oci.Digest(data), Data: data}
}

// ArchiveSource returns an image of an archive: the one with this name, if there
// is one, else the only one. With all, it is what the layout's index says.
func ArchiveSource(ctx context.Context, o *pull.Opened, name string, all bool, platform *oci.Platform) (push.Source, oci.Document, []oci.Reference, error) {
	if all {
		if x, err := o.Index(); err == nil {
			d, err := entry(x.Manifests, name)
			if err != nil {
				return nil, oci.Document{}, nil, err
			}
			data, err := o.Document(d)
			return opened{o: o}, oci.Document{MediaType: d.MediaType, Digest: d.Digest, Data: data}, nil, err
		}
	}
	img, err := chosen(o.Images, name)
	if err != nil {
		// A layout's name may be a lone tag, which is no image's name.
		x, none := o.Index()
		if none != nil {
			return nil, oci.Document{}, nil, err
		}
		d, none := entry(x.Manifests, name)
		if none != nil {
			return nil, oci.Document{}, nil, err
		}
		data, err := o.Document(d)
		if err != nil {
			return nil, oci.Document{}, nil, err
		}
		src := opened{o: o}
		doc, err := OnePlatform(ctx, src, oci.Document{MediaType: d.MediaType, Digest: d.Digest, Data: data}, false, platform)
		return src, doc, nil, err
	}
	src := opened{o, img}
	if img.Manifest == nil {
		return src, src.plainManifest(), img.Names, nil
	}
	m, _, err := oci.ParseManifest(img.Manifest, "")
	if err != nil {
		return nil, oci.Document{}, nil, err
	}
	return src, oci.Document{MediaType: m.MediaType, Digest: oci.Digest(img.Manifest), Data: img.Manifest}, img.Names, nil
}

// entry finds a name among a layout's entries: the only one needs none.
func entry(list []oci.Descriptor, name string) (oci.Descriptor, error) {
	var digests []string
	for _, d := range list {
		if !slices.Contains(digests, d.Digest) {
			digests = append(digests, d.Digest)
		}
		if name != "" && (d.Annotations["org.opencontainers.image.ref.name"] == name || d.Annotations["io.containerd.image.name"] == name) {
			return d, nil
		}
	}
	if name == "" && len(digests) == 1 {
		return list[0], nil
	}
	return oci.Descriptor{}, notThere(name, len(digests))
}

func chosen(list []pull.OpenedImage, name string) (pull.OpenedImage, error) {
	if name == "" {
		if len(list) == 1 {
			return list[0], nil
		}
		return pull.OpenedImage{}, notThere(name, len(list))
	}
	if ref, err := oci.Parse(name); err == nil {
		for _, img := range list {
			if slices.Contains(img.Names, ref.WithDefaultTag()) {
				return img, nil
			}
		}
	}
	return pull.OpenedImage{}, notThere(name, len(list))
}

func notThere(name string, n int) error {
	if name == "" {
		return errs.New(errs.Invalid, fmt.Sprintf("there are %d images in it: name one", n))
	}
	return errs.New(errs.NotFound, fmt.Sprintf("there is no image %q in it", name))
}

// asRegistry lets a source be pulled from: that is how it comes into the store.
type asRegistry struct {
	src  push.Source
	root oci.Document
}

func (r asRegistry) Head(context.Context, oci.Reference) (oci.Descriptor, error) {
	return oci.Descriptor{MediaType: r.root.MediaType, Digest: r.root.Digest, Size: int64(len(r.root.Data))}, nil
}

func (r asRegistry) Manifest(ctx context.Context, ref oci.Reference) (oci.Document, error) {
	if ref.Digest == "" || ref.Digest == r.root.Digest {
		return r.root, nil
	}
	_, x, err := oci.ParseManifest(r.root.Data, r.root.MediaType)
	if err != nil || x == nil {
		return oci.Document{}, errs.New(errs.NotFound, "no manifest "+ref.Digest)
	}
	for _, d := range x.Manifests {
		if d.Digest == ref.Digest {
			data, err := r.src.Document(ctx, d)
			return oci.Document{MediaType: d.MediaType, Digest: d.Digest, Data: data}, err
		}
	}
	return oci.Document{}, errs.New(errs.NotFound, "no manifest "+ref.Digest)
}

func (r asRegistry) Config(ctx context.Context, _ oci.Reference, d oci.Descriptor) ([]byte, error) {
	return r.src.Document(ctx, d)
}

func (r asRegistry) Blob(ctx context.Context, _ oci.Reference, d oci.Descriptor, _ int) (io.ReadCloser, error) {
	l, err := r.src.Layer(ctx, d, d.Digest)
	if err != nil {
		return nil, err
	}
	if l.Blob != nil {
		return l.Blob(ctx)
	}
	return l.Tar(ctx)
}

func (r asRegistry) Part(context.Context, oci.Reference, oci.Descriptor, int64, int64) (io.ReadCloser, error) {
	return nil, errs.New(errs.Unsupported, "sources have whole blobs")
}

func (r asRegistry) Tags(context.Context, oci.Reference) ([]string, error) { return nil, nil }

// StoreImage brings what a source has into the store, by a name.
func (e *Engine) StoreImage(ctx context.Context, src push.Source, root oci.Document, ref oci.Reference, platform *oci.Platform, events func(pull.Event)) (id string, err error) {
	so, err := e.StorageOptions()
	if err != nil {
		return "", err
	}
	s := &pullStore{e: e, unseen: true}
	p := pull.New(pull.Options{Registry: asRegistry{src, root}, Images: s, Open: s.open, Spool: so.GraphRoot})
	res, err := p.Pull(ctx, pull.Request{Ref: ref, Platform: platform, Events: events})
	if err = errors.Join(err, s.close()); err != nil {
		return "", err
	}
	return res[0].ID, nil
}

// OpenArchive opens an archive, or a directory with an OCI layout.
func (e *Engine) OpenArchive(ctx context.Context, path string, platform *oci.Platform) (*pull.Opened, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return pull.OpenLayout(path, platform)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = f.Close() })() // its reader gets the error
	spool, err := e.Spool()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	o, err := pull.OpenArchive(ctx, f, spool, platform)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return o, nil
}
