package build

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/seccomp"
)

// cacheDir is where the cache is, below the store's work directory.
const cacheDir = "build"

// Cache opens the build cache.
func (s *Service) Cache(ctx context.Context) (*cache.Cache, error) {
	return cache.Open(filepath.Join(s.o.Layers.WorkDir(), cacheDir), func(dir string) { leftCgroup(ctx, dir) })
}

// Build carries out a request. The caller closes the result. An error that is a
// step's is a [StepError].
func (s *Service) Build(ctx context.Context, req Request) (_ *Result, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b := &build{
		s: s, req: req, begun: time.Now().UTC(),
		nodes: make([]node, len(req.Graph.Nodes)), host: sync.OnceValues(s.o.Host),
		finds: map[string]*found{}, trees: map[graph.ID]*opened{}, summaries: map[string]*summed{}, hidden: map[graph.ID]bool{},
		filters: map[string]seccomp.Filter{},
	}
	if b.cache, err = s.Cache(ctx); err != nil {
		return nil, err
	}
	b.store = sync.OnceValues(func() (Store, error) { return s.o.Open(ctx) })
	// Opening the store removes a layer that was being recorded.
	if err := b.cache.Cut(ctx, func() error { _, err := b.store(); return err }); err != nil {
		return nil, err
	}
	b.scratch = sync.OnceValues(func() (*cache.Making, error) {
		m, err := b.cache.Make(ctx)
		if err == nil {
			b.later(m.Discard)
		}
		return m, err
	})
	b.control = sync.OnceValues(func() (*control, error) { return b.makeCgroup(ctx) })
	b.network = sync.OnceValues(func() (*Network, error) { return b.makeNetwork(ctx) })
	if req.Jobs > 0 {
		b.slots = make(chan struct{}, req.Jobs)
	}
	for i := range b.nodes {
		b.nodes[i].Node, b.nodes[i].id = req.Graph.Nodes[i], graph.ID(i)
	}
	for _, r := range req.Graph.Results {
		for _, l := range r.Layers {
			b.nodes[l].wanted = true
		}
	}
	res := &Result{}
	defer func() {
		b.sums.Wait()
		for i := len(b.closes) - 1; i >= 0; i-- {
			b.closes[i]()
		}
		res.held = b.held
		if err != nil {
			res.Close()
		}
	}()
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	for _, r := range req.Graph.Results {
		all.Go(func() {
			if _, err := b.files(ctx, r.Node); err != nil {
				mu.Lock()
				failed = append(failed, err)
				mu.Unlock()
				cancel(err)
			}
		})
	}
	all.Wait()
	if err := first(failed); err != nil {
		return nil, err
	}
	for _, r := range req.Graph.Results {
		out, err := b.built(ctx, r)
		if err != nil {
			return nil, err
		}
		if !req.Record {
			if out.Dirs, err = b.finalDirs(ctx, r.Node, res); err != nil {
				return nil, err
			}
		}
		res.Images = append(res.Images, *out)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if req.CacheMode != CacheNone {
		if res.Cache, err = b.export(ctx, inMode(req.CacheMode)); err != nil {
			return nil, err
		}
	}
	if err := s.collect(ctx); err != nil { // the build is done all the same
		s.o.Log.Warn("the build cache could not be pruned", "error", err)
	}
	return res, nil
}

// finalDirs are names for the directories of a result, which stay good until res is
// closed, though another build may move them meanwhile.
func (b *build) finalDirs(ctx context.Context, id graph.ID, res *Result) ([]string, error) {
	f, err := b.files(ctx, id)
	if err != nil {
		return nil, err
	}
	open, err := b.open(ctx, f)
	res.open = append(res.open, open...)
	return names(open), err
}
