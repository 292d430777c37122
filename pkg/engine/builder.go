package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
	"cais.dev/cais/pkg/storage"
)

// BuilderOptions are build's flags about images.
type BuilderOptions struct {
	PullerOptions
	Pull build.Pull
	// Progress shows what is asked of registries; may be nil.
	Progress *progress.Log
}

// Builder is what a build works with. Close ends its use.
type Builder struct {
	*build.Service
	Bases *build.Bases
	store *buildStore
	close func() error
}

// Close closes the store and the connections.
func (b *Builder) Close() error { return b.close() }

// Builder returns what builds. The process must be inside the user's namespace: see
// [Engine.EnterUserNS].
func (e *Engine) Builder(o BuilderOptions) (*Builder, error) {
	if err := e.Prepare(); err != nil {
		return nil, err
	}
	r, err := e.Reader()
	if err != nil {
		return nil, err
	}
	so, err := e.StorageOptions()
	if err != nil {
		return nil, err
	}
	containers, err := e.newContainers()
	if err != nil {
		return nil, err
	}
	networks, err := e.Connections()
	if err != nil {
		return nil, err
	}
	client, policy, err := e.Registry(o.PullerOptions)
	if err != nil {
		return nil, err
	}
	ps := &pullStore{e: e, unlimited: o.Unlimited, noSync: o.NoSync}
	po := e.pullOptions(client, policy, ps, so.GraphRoot)
	bs := &buildStore{r: r, o: so, e: e, pull: ps, allow: policy.Check, puller: pull.New(po)}
	return &Builder{
		store: bs,
		Service: build.New(build.Options{
			Layers: bs, Images: bs, Open: bs.open, Host: containers.Host, Log: e.Log(),
			Network: func(ctx context.Context, id string) (*build.Network, error) {
				n, err := networks.OpenBuild(ctx, id)
				if err != nil {
					return nil, err
				}
				return &build.Network{Path: n.Path(), Resolv: n.Resolv, HostIP: n.HostIP, Close: n.Close}, nil
			},
		}),
		Bases: &build.Bases{Local: bs.local, Registry: client, Layout: bs.layout, Allow: po.Allow, Verify: po.Verify, Pull: o.Pull, Progress: o.Progress},
		close: func() error { client.Close(); return ps.close() },
	}, nil
}

// buildStore is the image store as a build wants it.
type buildStore struct {
	e      *Engine
	r      *storage.Reader
	o      storage.Options
	pull   *pullStore
	puller *pull.Puller
	allow  func(transport, scope string) error
	mu     sync.Mutex // two pulls of one image are one
}

func (s *buildStore) Rootless() bool { return s.o.Rootless }

func (s *buildStore) Single() bool { return s.o.Single }

func (s *buildStore) WorkDir() string { return s.r.WorkDir() }

func (s *buildStore) LayerID(parent, diffID string) string { return storage.LayerID(parent, diffID) }

func (s *buildStore) LayerDirs(ctx context.Context, id string) ([]string, error) {
	return s.r.LayerDirs(ctx, id)
}

func (s *buildStore) LayerDir(id string) string { return s.r.LayerDir(id) }

func (s *buildStore) HasLayers(ctx context.Context, id string) bool {
	return s.r.HasLayers(ctx, id)
}

func (s *buildStore) Sizes(ctx context.Context, id string) ([]int64, error) {
	return s.r.LayerSizes(ctx, id)
}

func (s *buildStore) Manifest(ctx context.Context, id string, names []string) ([]byte, error) {
	img, err := s.r.Image(ctx, "sha256:"+id)
	if errs.KindOf(err) == errs.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !slices.Contains(img.Names, n) {
			return nil, nil
		}
	}
	if img.TopLayer != "" && !s.HasLayers(ctx, img.TopLayer) {
		return nil, nil
	}
	return s.r.Manifest(ctx, img)
}

func (s *buildStore) HeldLayers(ctx context.Context) ([]build.HeldLayer, error) {
	held, err := s.r.HeldLayers(ctx)
	list := make([]build.HeldLayer, len(held))
	for i, l := range held {
		list[i] = build.HeldLayer{ID: l.ID, Parent: l.Parent, Bytes: l.Bytes(), Created: l.Created}
	}
	return list, err
}

func (s *buildStore) ImageLayers(ctx context.Context) (map[string]bool, error) {
	return s.r.ImageLayers(ctx)
}

func (s *buildStore) open(ctx context.Context) (build.Store, error) {
	if _, err := s.pull.open(ctx); err != nil {
		return nil, err
	}
	return changer{s.pull.store, s.pull}, nil
}

// local is the image of that name, if it is for that platform.
func (s *buildStore) local(ctx context.Context, name string, p oci.Platform) (*build.Local, error) {
	img, err := s.r.Image(ctx, name)
	if errs.KindOf(err) == errs.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	raw, err := s.r.Config(ctx, img)
	if err != nil {
		return nil, err
	}
	conf, err := oci.ParseImage(raw)
	if err != nil {
		return nil, fmt.Errorf("config of %s: %w", name, err)
	}
	if !p.Runs(conf.Platform) {
		return nil, nil
	}
	return &build.Local{Digest: img.Digest, Config: *conf}, nil
}

// Fetch sees to it that the store has an image's layers.
func (s *buildStore) Fetch(ctx context.Context, img *graph.Image, p oci.Platform, step *progress.Step) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := ""
	for _, d := range img.DiffIDs {
		want = storage.LayerID(want, d)
	}
	if want != "" && s.HasLayers(ctx, want) {
		return want, nil
	}
	if img.Layout != "" {
		return s.fetchLayout(ctx, img, p, step)
	}
	ref, err := oci.Parse(img.Ref)
	if err != nil {
		return "", err
	}
	req := pull.Request{Ref: ref.WithDefaultTag(), Platform: &p, Policy: pull.Missing, Events: pullEvents(step)}
	if want != "" {
		req.Policy = pull.Always // what is here under the name is something else, or damaged
	}
	for i, r := range []oci.Reference{req.Ref, ref.WithDigest(img.Digest)} {
		req.Ref = r
		res, err := s.puller.Pull(ctx, req)
		if i == 0 && errs.KindOf(err) == errs.NotFound {
			req.Platform = nil // one image for another machine, which the lint rules tell of: the digest says which
			continue
		}
		if err != nil {
			return "", err
		}
		got, err := s.r.Image(ctx, "sha256:"+res[0].ID)
		if err != nil {
			return "", err
		}
		if want == "" || got.TopLayer == want {
			return got.TopLayer, nil
		}
		// The tag moved meanwhile: the digest did not.
	}
	return "", errs.New(errs.Unavailable, "the registry has another image under this name than a moment ago")
}

// pullEvents shows a pull as items of a step.
func pullEvents(step *progress.Step) func(pull.Event) {
	return func(ev pull.Event) {
		switch ev.Kind {
		case pull.Downloading, pull.Extracting:
			step.Item(ev.Layer, ev.Done, ev.Total)
		case pull.Complete:
			step.ItemDone(ev.Layer, ev.Total)
		}
	}
}

// changer is the changing side.
type changer struct {
	*storage.Store
	pull *pullStore
}

// PutLayer makes what tar writes a layer on parent, unless it is there.
func (c changer) PutLayer(ctx context.Context, parent, diffID string, tar func(io.Writer) error) (string, error) {
	id := storage.LayerID(parent, diffID)
	if c.Reader().LayerDir(id) != "" {
		return id, nil
	}
	r, w := io.Pipe()
	defer r.Close() // whoever still writes is told
	go func() { w.CloseWithError(tar(w)) }()
	st, err := c.pull.Stage(ctx, pull.Layer{DiffID: diffID, Body: r})
	if err != nil {
		return "", err
	}
	return c.pull.Commit(ctx, parent, []pull.Staged{st})
}

func (c changer) AdoptLayer(ctx context.Context, parent string, l build.NewLayer) (string, error) {
	id, err := c.Store.AdoptLayer(ctx, parent, storage.NewLayer{Dir: l.Dir, Sum: l.Sum, TarSplit: l.TarSplit, Keep: l.Keep})
	if errors.Is(err, storage.ErrParentGone) {
		err = errs.WithHint(err, "An image that the build is based on was removed while it ran; build again.")
	}
	return id, err
}

func (c changer) PutImage(ctx context.Context, img build.Image) (string, error) {
	return c.Store.PutImage(ctx, storage.ImageSpec{
		Names: img.Names, TopLayer: img.TopLayer, Config: img.Config, Manifest: img.Manifest, Created: img.Created,
	})
}

// IndexDir is where what is known of build contexts is kept.
func (e *Engine) IndexDir() string {
	r, err := e.Reader()
	if err != nil {
		return ""
	}
	return r.WorkDir()
}
