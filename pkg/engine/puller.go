package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
	"cais.dev/cais/pkg/registry"
	"cais.dev/cais/pkg/storage"
	"cais.dev/cais/pkg/userns"
)

// ErrOutside says that a command has come to the point where it changes files
// of mapped ids: it must run again by [Engine.EnterUserNS].
var ErrOutside = errors.New("this must run inside the user's namespace")

// PullerOptions are a command's flags about registries, and about what it takes
// from them.
type PullerOptions struct {
	AuthFile  string
	Creds     string
	CertDir   string
	TLSVerify *bool
	Unlimited bool // layers may unpack to any size
	NoSync    bool // a power cut may cost what was pulled
}

// Puller returns what pulls and loads images, and what ends its use. It finds
// out with the store's reading side alone that there is nothing to do; if there
// is and this process is outside the user's namespace, it fails with
// [ErrOutside] before it has changed or printed anything.
func (e *Engine) Puller(o PullerOptions) (p *pull.Puller, end func() error, err error) {
	client, policy, err := e.Registry(o)
	if err != nil {
		return nil, nil, err
	}
	so, err := e.StorageOptions()
	if err != nil {
		return nil, nil, err
	}
	s := &pullStore{e: e, unlimited: o.Unlimited, noSync: o.NoSync}
	p = pull.New(e.pullOptions(client, policy, s, so.GraphRoot))
	return p, func() error { client.Close(); return s.close() }, nil
}

// pullOptions are what a puller works with: nothing comes in but by the policy. graph
// is the store's directory.
func (e *Engine) pullOptions(c *registry.Client, p *config.Policy, s *pullStore, graph string) pull.Options {
	return pull.Options{
		Registry: c, Images: s, Open: s.open,
		Allow: func(transport, scope string) error { return allow(p, transport, scope) },
		Verify: func(ctx context.Context, ref oci.Reference, digests []string) error {
			return e.Verify(ctx, c, p, ref, digests)
		},
		Spool: graph, // where there must be room for images anyway
	}
}

// pullStore is the image store as pull wants it.
type pullStore struct {
	e                 *Engine
	unlimited, noSync bool
	unseen            bool     // what is put came from no registry
	warned            sync.Map // texts: once for an image of many layers

	mu    sync.Mutex
	store *storage.Store // nil until it is needed
}

func (s *pullStore) open(ctx context.Context) (pull.Store, error) {
	if userns.Needed() {
		return nil, ErrOutside
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store == nil {
		st, err := s.e.openStore(ctx, s.noSync)
		if err != nil {
			return nil, err
		}
		s.store = st
	}
	return s, nil
}

func (s *pullStore) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store == nil {
		return nil
	}
	err := s.store.Close()
	s.store = nil
	return err
}

func (s *pullStore) Local(ctx context.Context, name string) (*pull.Local, error) {
	r, err := s.e.Reader()
	if err != nil {
		return nil, err
	}
	img, err := r.Image(ctx, name)
	if errs.KindOf(err) == errs.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l := &pull.Local{ID: img.ID, Digests: append([]string{img.Digest}, img.Digests...)}
	raw, err := r.Config(ctx, img)
	if err != nil {
		return nil, err
	}
	conf, err := oci.ParseImage(raw)
	if err != nil {
		return nil, fmt.Errorf("config of %s: %w", name, err)
	}
	l.Platform = conf.Platform
	return l, nil
}

func (s *pullStore) LayerID(parent, diffID string) string { return storage.LayerID(parent, diffID) }

func (s *pullStore) HasLayer(id string) bool { return s.store.HasLayer(id) }

func (s *pullStore) LockDigest(ctx context.Context, digest string, waiting func()) (func(), error) {
	return s.store.LockDigest(ctx, digest, waiting)
}

func (s *pullStore) Stage(ctx context.Context, l pull.Layer) (pull.Staged, error) {
	st, err := s.store.StageLayer(ctx, storage.LayerSource{
		DiffID: l.DiffID, BlobDigest: l.BlobDigest, Size: l.Size, Body: l.Body, Progress: l.Unpacked, Unlimited: s.unlimited,
	})
	if err != nil {
		return pull.Staged{}, err
	}
	s.warn(st)
	return pull.Staged{Handle: st, Blob: st.BlobDigest, Size: st.BlobSize}, nil
}

func (s *pullStore) warn(st *storage.Staged) {
	for _, w := range st.Warnings {
		if _, again := s.warned.LoadOrStore(w, true); !again {
			s.e.Log().Warn("a layer of the image: " + w)
		}
	}
}

func (s *pullStore) StageTwin(ctx context.Context, diffID string) (*pull.Staged, error) {
	st, err := s.store.StageTwin(ctx, diffID)
	if st == nil || err != nil {
		return nil, err
	}
	return &pull.Staged{Handle: st}, nil // no blob was read
}

func (s *pullStore) StageParts(ctx context.Context, l pull.Layer, d oci.Descriptor, get pull.Get) (*pull.Staged, error) {
	st, err := s.store.StageParts(ctx, storage.LayerSource{DiffID: l.DiffID, Progress: l.Unpacked, Unlimited: s.unlimited}, d, get)
	if st == nil || err != nil {
		return nil, err
	}
	s.warn(st)
	return &pull.Staged{Handle: st}, nil // the blob was not read, or not all of it
}

// handles returns the store's own values.
func handles(layers []pull.Staged) []*storage.Staged {
	var all []*storage.Staged
	for _, l := range layers {
		if h, ok := l.Handle.(*storage.Staged); ok {
			all = append(all, h)
		}
	}
	return all
}

func (s *pullStore) Commit(ctx context.Context, parent string, layers []pull.Staged) (string, error) {
	top, err := s.store.CommitLayers(ctx, parent, handles(layers)...)
	if errors.Is(err, storage.ErrParentGone) {
		err = fmt.Errorf("%w: %w", pull.ErrParentGone, err)
	}
	return top, err
}

func (s *pullStore) Discard(layers []pull.Staged) error { return s.store.Discard(handles(layers)...) }

func (s *pullStore) PutImage(ctx context.Context, img pull.Image) (string, error) {
	id, err := s.store.PutImage(ctx, storage.ImageSpec{
		Names: img.Names, TopLayer: img.TopLayer,
		Config: img.Config, Manifest: img.Manifest, Index: img.Index, Created: img.Created,
	})
	if err != nil {
		return "", err
	}
	if img.Repo == "" || s.unseen { // it has no digest in any repository
		if err := s.store.Reader().Note(nil, []storage.SeenManifest{{ImageID: id, Digest: oci.Digest(img.Manifest), Repo: "-"}}); err != nil {
			s.e.Log().Debug("it is not noted where the image is from", "reason", err)
		}
	} else {
		if err := s.note(id, img); err != nil {
			s.e.Log().Debug("it is not noted where the image is from", "reason", err)
		}
	}
	return id, nil
}

// note keeps what was seen in the registry. Which tar is in a blob that did not come,
// as its layer was here, only its image says: that is not believed for others.
func (s *pullStore) note(id string, img pull.Image) error {
	m, _, err := oci.ParseManifest(img.Manifest, "")
	if err != nil {
		return err
	}
	conf, err := oci.ParseImage(img.Config)
	if err != nil || m == nil || len(m.Layers) != len(conf.RootFS.DiffIDs) {
		return err
	}
	r := s.store.Reader()
	before, err := r.Seen()
	if err != nil {
		return err
	}
	var blobs []storage.SeenBlob
	for i, l := range m.Layers {
		known := func(b storage.SeenBlob) bool { return b.Digest == l.Digest }
		if !slices.Contains(img.Checked, l.Digest) && !slices.ContainsFunc(before.Blobs[conf.RootFS.DiffIDs[i]], known) {
			continue
		}
		blobs = append(blobs, storage.SeenBlob{DiffID: conf.RootFS.DiffIDs[i], Digest: l.Digest, Size: l.Size, MediaType: l.MediaType, Repo: img.Repo})
	}
	seen := img.Manifest
	if img.Index != nil {
		seen = img.Index
	}
	return r.Note(blobs, []storage.SeenManifest{{ImageID: id, Digest: oci.Digest(seen), Repo: img.Repo}})
}
