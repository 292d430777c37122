package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/registry"
	"cais.dev/cais/pkg/storage"
)

// registryEnv is the environment for the files about registries: --config says
// where Docker's is.
func (e *Engine) registryEnv() (config.Env, error) {
	env, err := e.env()
	if err != nil || e.o.ConfigDir == "" {
		return env, err
	}
	dir, err := filepath.Abs(e.o.ConfigDir)
	if err != nil {
		return env, fmt.Errorf("find %s: %w", e.o.ConfigDir, err)
	}
	getenv := env.Getenv
	env.Getenv = func(name string) string {
		if name == "DOCKER_CONFIG" {
			return dir
		}
		return getenv(name)
	}
	return env, nil
}

// Runtime returns the command line of the OCI runtime with this name; nil for our own.
func (e *Engine) Runtime(name string) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	env, err := e.env()
	if err != nil {
		return nil, err
	}
	return config.Runtime(env, os.DirFS("/"), name)
}

// Credentials says where the credentials for registries are.
func (e *Engine) Credentials(o PullerOptions) (config.AuthSource, error) {
	env, err := e.registryEnv()
	if err != nil {
		return config.AuthSource{}, err
	}
	file, err := absolute(o.AuthFile)
	return config.AuthSource{Env: env, Root: os.DirFS("/"), Creds: o.Creds, AuthFile: file, Helper: registry.RunHelper}, err
}

// AuthFile is the file that login and logout change.
func (e *Engine) AuthFile(source config.AuthSource) config.AuthFile {
	return config.AuthFile{Path: source.WritePath(), Helper: registry.TellHelper}
}

// absolute is path, if there is one, from the root.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", path, err)
	}
	return abs, nil
}

// Registry returns a client for registries, which the caller closes, and the
// policy for what may come in.
func (e *Engine) Registry(o PullerOptions) (*registry.Client, *config.Policy, error) {
	source, err := e.Credentials(o)
	if err != nil {
		return nil, nil, err
	}
	certDir, err := absolute(o.CertDir)
	if err != nil {
		return nil, nil, err
	}
	env, root := source.Env, source.Root
	registries, err := config.ReadRegistries(env, root)
	if err != nil {
		return nil, nil, err
	}
	source.Helpers = registries.Helpers
	policy, err := config.ReadPolicy(env, root)
	if err != nil {
		return nil, nil, err
	}
	client := registry.New(registry.Options{
		Endpoints:   registries.Endpoints,
		Credentials: source.Find,
		Certs:       func(host string) (config.Certs, error) { return config.ReadCerts(env, root, certDir, host) },
		TLSVerify:   o.TLSVerify,
		UserAgent:   "cais/" + cmp.Or(e.o.Build.Version, "dev"),
		Log:         e.Log(),
	})
	return client, policy, nil
}

// Pusher returns what sends images to registries, and what ends its use.
func (e *Engine) Pusher(o PullerOptions) (p *push.Pusher, end func(), err error) {
	client, _, err := e.Registry(o)
	if err != nil {
		return nil, nil, err
	}
	spool, err := e.Spool()
	if err != nil {
		return nil, nil, err
	}
	open := func(ctx context.Context, ref oci.Reference, from []string) (push.Target, error) {
		t, err := client.Target(ctx, ref, from...)
		if err != nil {
			return nil, err
		}
		return target{t}, nil
	}
	return push.New(push.Options{Open: open, Spool: spool}), client.Close, nil
}

// Spool is the directory for large files without a name, where there must be
// room for images anyway. It is made if it is missing.
func (e *Engine) Spool() (string, error) {
	o, err := e.StorageOptions()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(o.GraphRoot, 0o700); err != nil {
		return "", fmt.Errorf("make the image store: %w", err)
	}
	return o.GraphRoot, nil
}

// target is a registry's repository as push wants it.
type target struct{ *registry.Target }

func (t target) PutBlob(ctx context.Context, c push.Content) error {
	return t.Target.PutBlob(ctx, registry.Content(c))
}

func (t target) PutManifest(ctx context.Context, tag string, doc oci.Document) error {
	err := t.Target.PutManifest(ctx, tag, doc)
	if _, ok := errors.AsType[*registry.BlobsGoneError](err); ok {
		err = fmt.Errorf("%w: %w", push.ErrBlobsGone, err)
	}
	return err
}

// stored is an image of the store as a source of pushes and archives.
type stored struct {
	r      *storage.Reader
	img    *storage.Image
	layers map[string]storage.Layer // by diffID
	seen   *storage.Seen
}

// ImageSource returns an image of the store as what [push.Pusher] and
// [push.Archive] read, and its manifest: that which the repository repo
// (Domain/Path, may be empty) was seen to have, if there are several. Reading
// its layers takes this process inside the user's namespace.
func (e *Engine) ImageSource(ctx context.Context, img *storage.Image, repo string) (push.Source, oci.Document, error) {
	r, err := e.Reader()
	if err != nil {
		return nil, oci.Document{}, err
	}
	s := &stored{r: r, img: img, layers: map[string]storage.Layer{}}
	if s.seen, err = r.Seen(); err != nil {
		return nil, oci.Document{}, err
	}
	layers, err := r.Layers(ctx, img)
	if err != nil {
		return nil, oci.Document{}, err
	}
	for _, l := range layers {
		s.layers[l.DiffID] = l
	}
	doc, err := s.manifest(ctx, repo)
	return s, doc, err
}

// manifest chooses the image's manifest for a repository.
func (s *stored) manifest(ctx context.Context, repo string) (oci.Document, error) {
	seen := s.seen.Manifests[s.img.ID]
	for i := len(seen) - 1; i >= 0; i-- {
		if seen[i].Repo != repo {
			continue
		}
		data, err := s.r.Document(ctx, s.img, "manifest-"+seen[i].Digest)
		if err != nil {
			continue // not kept
		}
		if m, _, err := oci.ParseManifest(data, ""); err == nil && m != nil {
			return oci.Document{MediaType: m.MediaType, Digest: oci.Digest(data), Data: data}, nil
		}
	}
	data, err := s.r.Manifest(ctx, s.img)
	if err != nil {
		return oci.Document{}, err
	}
	m, _, err := oci.ParseManifest(data, "")
	if err != nil {
		return oci.Document{}, err
	}
	if m == nil {
		return oci.Document{}, errs.New(errs.Unsupported, "the image's manifest in the store is an index")
	}
	return oci.Document{MediaType: m.MediaType, Digest: oci.Digest(data), Data: data}, nil
}

// Document is the config: an image has no more.
func (s *stored) Document(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	if d.Digest == "sha256:"+s.img.ID {
		return s.r.Config(ctx, s.img)
	}
	return s.r.Document(ctx, s.img, d.Digest)
}

func (s *stored) Layer(ctx context.Context, d oci.Descriptor, diffID string) (push.Layer, error) {
	l, ok := s.layers[diffID]
	if !ok {
		return push.Layer{}, errs.E("", errs.NotFound, fmt.Errorf("the store has no layer %s of image %s", diffID, s.img.ID))
	}
	out := push.Layer{Size: l.Size, Tar: func(context.Context) (io.ReadCloser, error) { return s.r.LayerTar(s.img, l) }}
	if out.Size < 0 {
		var err error
		if out.Size, err = s.r.TarSize(ctx, s.img, l); err != nil {
			return out, err
		}
	}
	known := s.seen.Blobs[diffID]
	for i := len(known) - 1; i >= 0; i-- { // the newest first
		k := known[i]
		out.Known = append(out.Known, push.Known{Descriptor: oci.Descriptor{MediaType: k.MediaType, Digest: k.Digest, Size: k.Size}, Repo: k.Repo})
	}
	if d.Digest == diffID {
		return out, nil
	}
	for _, name := range s.img.Names { // another tool pulled it
		if ref, err := oci.Parse(name); err == nil {
			out.Known = append(out.Known, push.Known{Descriptor: d, Repo: ref.Name()})
		}
	}
	return out, nil
}

// Pushed keeps what a push has taught about an image: the manifest that it made,
// and where the layers are.
func (e *Engine) Pushed(ctx context.Context, img *storage.Image, ref oci.Reference, res push.Result) error {
	r, err := e.Reader()
	if err != nil {
		return err
	}
	known := false
	for _, d := range img.Digests {
		known = known || d == res.Root.Digest
	}
	if !known {
		st, err := e.Store(ctx)
		if err != nil {
			return err
		}
		if err := errors.Join(st.AddManifest(img.ID, res.Root.Data), st.Close()); err != nil {
			return err
		}
	}
	var blobs []storage.SeenBlob
	for _, l := range res.Layers {
		blobs = append(blobs, storage.SeenBlob{DiffID: l.DiffID, Digest: l.Digest, Size: l.Size, MediaType: l.MediaType, Repo: l.Repo})
	}
	return r.Note(blobs, []storage.SeenManifest{{ImageID: img.ID, Digest: res.Root.Digest, Repo: ref.Name()}})
}
