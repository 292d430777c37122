package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/build/export"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/registry"
)

// cacheMode is what of the build --cache-to wants.
func (j *job) cacheMode() build.CacheMode {
	mode := build.CacheNone
	for _, c := range j.cacheTo {
		if c.Type == "inline" {
			continue
		}
		if c.Attrs["mode"] == "max" {
			return build.CacheMax
		}
		mode = build.CacheMin
	}
	return mode
}

// inlineCache reports whether the image is to be a cache itself.
func (j *job) inlineCache() bool {
	on, err := strconv.ParseBool(j.args["BUILDKIT_INLINE_CACHE"])
	return err == nil && on || slices.ContainsFunc(j.cacheTo, func(c export.CacheSpec) bool { return c.Type == "inline" })
}

// readCaches opens the caches of --cache-from. One that cannot be read is none,
// as in a first build.
func (j *job) readCaches(ctx context.Context, b *engine.Builder, g *graph.Graph) []build.CacheSource {
	var all []build.CacheSource
	for _, c := range j.cacheFrom {
		what := c.Attrs["ref"]
		if c.Type == "local" {
			what = c.Attrs["src"]
		}
		step := j.log.Step("importing cache manifest from " + what)
		r, err := j.readCache(ctx, c)
		if err != nil {
			step.Warn("there is no cache: " + err.Error())
		}
		step.Done(context.Cause(ctx))
		if r == nil || len(r.records) == 0 {
			continue
		}
		all = append(all, build.CacheSource{Records: r.records, Fetch: func(ctx context.Context, diffIDs []string, step *progress.Step) error {
			return r.fetch(ctx, b, g, diffIDs, step)
		}})
	}
	return all
}

// remoteCache is a cache that was found.
type remoteCache struct {
	records []build.CacheRecord
	blobs   map[string]oci.Descriptor
	blob    func(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error)
}

func (j *job) readCache(ctx context.Context, c export.CacheSpec) (*remoteCache, error) {
	r := &remoteCache{}
	var m *oci.Manifest
	switch c.Type {
	case "local":
		dir := c.Attrs["src"]
		doc, err := layoutManifest(dir, c.Attrs["digest"])
		if err != nil {
			return nil, err
		}
		if m, _, err = oci.ParseManifest(doc, ""); err != nil {
			return nil, err
		}
		r.blob = func(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) { return openBlob(dir, d.Digest) }
	default:
		ref, err := oci.Parse(c.Attrs["ref"])
		if err != nil {
			return nil, err
		}
		ref = ref.WithDefaultTag()
		if found, err := j.localCache(ctx, ref); found != nil || err != nil {
			return found, err
		}
		client, _, err := j.e.Registry(j.registryOf(c.Flag))
		if err != nil {
			return nil, err
		}
		j.closers = append(j.closers, client.Close)
		doc, err := client.Manifest(ctx, ref)
		if err != nil {
			return nil, err
		}
		var list *oci.Index
		if m, list, err = oci.ParseManifest(doc.Data, doc.MediaType); err != nil {
			return nil, err
		}
		if list != nil {
			if m, err = j.instance(ctx, client, ref, list); err != nil {
				return nil, err
			}
		}
		r.blob = func(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) { return client.Blob(ctx, ref, d, 0) }
	}
	if m == nil {
		return nil, noCache()
	}
	if m.Config.Size > oci.MaxConfig {
		return nil, errs.New(errs.Invalid, "the cache's config is too large")
	}
	body, err := r.blob(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, oci.MaxConfig))
	if err != nil {
		return nil, err
	}
	if oci.Digest(data) != m.Config.Digest {
		return nil, errs.New(errs.Invalid, "the cache's config is damaged")
	}
	if m.Config.MediaType == export.CacheConfigType {
		r.records, r.blobs, err = export.DecodeCache(data)
		return r, err
	}
	return r, r.inImage(data, m)
}

func noCache() error {
	return errs.New(errs.Unsupported, "no cache that this program made is there")
}

// inImage reads the cache that an image's config has. Its layers are the image's.
func (r *remoteCache) inImage(config []byte, m *oci.Manifest) (err error) {
	if r.records, err = export.DecodeInline(config); err != nil {
		return err
	}
	if len(r.records) == 0 {
		return noCache()
	}
	img, err := oci.ParseImage(config)
	if err != nil {
		return err
	}
	r.blobs = map[string]oci.Descriptor{}
	for i, d := range img.RootFS.DiffIDs {
		if m != nil && i < len(m.Layers) {
			r.blobs[d] = m.Layers[i]
		}
	}
	return nil
}

// instance is the manifest of an index for the platform that is built for.
func (j *job) instance(ctx context.Context, client *registry.Client, ref oci.Reference, list *oci.Index) (*oci.Manifest, error) {
	want := oci.HostPlatform()
	if len(j.platforms) > 0 {
		want = j.platforms[0]
	}
	i := oci.Select(list.Manifests, want)
	if i < 0 {
		return nil, noCache()
	}
	doc, err := client.Manifest(ctx, ref.WithDigest(list.Manifests[i].Digest))
	if err != nil {
		return nil, err
	}
	m, _, err := oci.ParseManifest(doc.Data, doc.MediaType)
	return m, err
}

// localCache is the cache in an image of the store; nil if there is none.
func (j *job) localCache(ctx context.Context, ref oci.Reference) (*remoteCache, error) {
	r, err := j.e.Reader()
	if err != nil {
		return nil, err
	}
	img, err := r.Image(ctx, ref.String())
	if err != nil || img.IsList() {
		return nil, nil // the registry may have one
	}
	config, err := r.Config(ctx, img)
	if err != nil {
		return nil, err
	}
	c := &remoteCache{}
	if c.inImage(config, nil) != nil {
		return nil, nil
	}
	return c, nil
}

// fetch gets layers: those of the image at the bottom from where that is, the
// others from the cache.
func (r *remoteCache) fetch(ctx context.Context, b *engine.Builder, g *graph.Graph, diffIDs []string, step *progress.Step) error {
	parent := ""
	for i, d := range diffIDs {
		blob, ok := r.blobs[d]
		if !ok && !b.HasLayer(parent, d) {
			if err := fetchBase(ctx, b, g, diffIDs, step); err != nil {
				return err
			}
			blob = oci.Descriptor{}
		}
		id, err := b.PutLayer(ctx, parent, d, func() (pull.Layer, func() error, error) {
			if blob.Digest == "" {
				return pull.Layer{}, nil, errs.New(errs.NotFound, fmt.Sprintf("layer %d is not in the cache", i))
			}
			body, err := r.blob(ctx, blob)
			if err != nil {
				return pull.Layer{}, nil, err
			}
			return pull.Layer{DiffID: d, BlobDigest: blob.Digest, Size: blob.Size, Body: body, Unpacked: func(n int64) {
				step.Item(blob.Digest, n, 0)
			}}, body.Close, nil
		})
		if err != nil {
			return err
		}
		parent = id
	}
	return nil
}

// fetchBase gets the image of the graph that has the first of diffIDs.
func fetchBase(ctx context.Context, b *engine.Builder, g *graph.Graph, diffIDs []string, step *progress.Step) error {
	for _, n := range g.Nodes {
		img, ok := n.Op.(*graph.Image)
		if !ok || len(img.DiffIDs) == 0 || len(img.DiffIDs) > len(diffIDs) {
			continue
		}
		same := true
		for i, d := range img.DiffIDs {
			same = same && d == diffIDs[i]
		}
		if same {
			return b.FetchImage(ctx, img, n.Platform, step)
		}
	}
	return errs.New(errs.NotFound, "no image of the build has the layers below")
}

// layoutManifest returns the manifest of an OCI layout with one of them.
func layoutManifest(dir, digest string) ([]byte, error) {
	if digest == "" {
		data, err := os.ReadFile(filepath.Join(dir, "index.json"))
		if err != nil {
			return nil, err
		}
		_, index, err := oci.ParseManifest(data, oci.TypeOCIIndex)
		if err != nil {
			return nil, err
		}
		if index == nil || len(index.Manifests) == 0 {
			return nil, errs.New(errs.NotFound, dir+" has no manifest")
		}
		digest = index.Manifests[len(index.Manifests)-1].Digest
	}
	f, err := openBlob(dir, digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, oci.MaxManifest))
}

func openBlob(dir, digest string) (*os.File, error) {
	if err := oci.ValidateDigest(digest); err != nil {
		return nil, err
	}
	return os.Open(blobPath(dir, digest))
}

func blobPath(dir, digest string) string {
	return filepath.Join(dir, "blobs", "sha256", digest[len("sha256:"):])
}

// writeCaches makes the caches of --cache-to.
func (j *job) writeCaches(ctx context.Context, records []build.CacheRecord) error {
	for _, c := range j.cacheTo {
		if c.Type == "inline" {
			continue // it is in the image
		}
		err := j.writeCache(ctx, c, records)
		if err != nil && c.Flag("ignore-error", false) && ctx.Err() == nil {
			fmt.Fprintln(j.s.Err, "WARNING: the cache was not kept:", err)
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (j *job) writeCache(ctx context.Context, c export.CacheSpec, records []build.CacheRecord) (err error) {
	step := j.log.Step("exporting cache to " + c.Type)
	defer func() { step.Done(err) }()
	dir := c.Attrs["dest"]
	if c.Type != "local" {
		if dir, err = j.sources.Scratch(); err != nil {
			return err
		}
	}
	doc, err := writeLayout(ctx, dir, records, compression(c.Attrs), step)
	if err != nil || c.Type == "local" {
		return err
	}
	ref, err := oci.Parse(c.Attrs["ref"])
	if err != nil {
		return err
	}
	p, end, err := j.e.Pusher(j.registryOf(c.Flag))
	if err != nil {
		return err
	}
	defer end()
	res, err := p.Push(ctx, push.Request{Ref: ref.WithDefaultTag(), Root: doc, Source: layoutSource(dir)})
	if err == nil {
		step.ItemDone("writing cache manifest "+res.Root.Digest, 0)
	}
	return err
}

// layoutSource is a layout as what is pushed.
type layoutSource string

// Document returns the config.
func (s layoutSource) Document(_ context.Context, d oci.Descriptor) ([]byte, error) {
	return os.ReadFile(blobPath(string(s), d.Digest))
}

// Layer returns a blob.
func (s layoutSource) Layer(_ context.Context, d oci.Descriptor, _ string) (push.Layer, error) {
	return push.Layer{Size: -1, Blob: func(context.Context) (io.ReadCloser, error) { return openBlob(string(s), d.Digest) }}, nil
}

// writeLayout writes a cache as an OCI layout, whose index.json comes last, and
// returns its manifest.
func writeLayout(ctx context.Context, dir string, records []build.CacheRecord, z push.Compression, step *progress.Step) (oci.Document, error) {
	none := oci.Document{}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return none, err
	}
	var blobs, once []oci.Descriptor
	seen := map[string]bool{}
	for _, r := range records {
		d, err := writeBlob(ctx, dir, r, z)
		if err != nil {
			return none, err
		}
		blobs = append(blobs, d)
		if !seen[d.Digest] {
			seen[d.Digest] = true
			once = append(once, d)
		}
		step.ItemDone("writing layer "+d.Digest, d.Size)
	}
	config, err := export.EncodeCache(records, blobs)
	if err != nil {
		return none, err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci.TypeOCIManifest,
		"config": oci.Descriptor{MediaType: export.CacheConfigType, Digest: oci.Digest(config), Size: int64(len(config))},
		"layers": append([]oci.Descriptor{}, once...),
	})
	if err != nil {
		return none, err
	}
	doc := oci.Document{MediaType: oci.TypeOCIManifest, Digest: oci.Digest(manifest), Data: manifest}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci.TypeOCIIndex,
		"manifests": []oci.Descriptor{{MediaType: doc.MediaType, Digest: doc.Digest, Size: int64(len(manifest)), Annotations: map[string]string{"org.opencontainers.image.ref.name": "latest"}}},
	})
	if err != nil {
		return none, err
	}
	for _, f := range []struct {
		path string
		data []byte
	}{
		{blobPath(dir, oci.Digest(config)), config}, {blobPath(dir, doc.Digest), manifest},
		{filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {filepath.Join(dir, "index.json"), index},
	} {
		if err := atomicfile.Write(f.path, f.data, 0o644, false); err != nil {
			return none, err
		}
	}
	return doc, nil
}

// writeBlob compresses a layer into the layout.
func writeBlob(ctx context.Context, dir string, r build.CacheRecord, c push.Compression) (d oci.Descriptor, err error) {
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return d, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	z, err := c.Writer(io.MultiWriter(f, h))
	if err != nil {
		return d, err
	}
	if err := errors.Join(r.Tar(ctx, z), z.Close()); err != nil {
		return d, err
	}
	fi, err := f.Stat()
	if err != nil {
		return d, err
	}
	d = oci.Descriptor{MediaType: c.LayerType(), Digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), Size: fi.Size()}
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return d, err
	}
	return d, os.Rename(f.Name(), blobPath(dir, d.Digest))
}
