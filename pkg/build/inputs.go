package build

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"sync"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/merged"
	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/sys"
)

type found struct {
	once    sync.Once
	matches []source.Match
	err     error

	// The contents' digest, without the owners and with them.
	sumOnce [2]sync.Once
	sum     [2]string
	sumErr  [2]error
}

// fetchImage sees to it that the store has the layers of the image n, and keeps them
// while the build runs, whoever removes the image.
func (b *build) fetchImage(ctx context.Context, n *node, f *fileSystem) error {
	n.baseOnce.Do(func() {
		op := n.Op.(*graph.Image)
		if f.top != "" && b.s.o.Layers.HasLayers(ctx, f.top) {
			b.showCached(n.id)
			n.baseErr = b.holdBase(ctx, f.top)
			return
		}
		step := b.show(n)
		var top string
		top, n.baseErr = b.s.o.Images.Fetch(ctx, op, n.Platform, step)
		if n.baseErr == nil && f.top != "" && top != f.top {
			n.baseErr = errs.New(errs.Internal, fmt.Sprintf("the image %s has other layers than its config says", op.Ref))
		}
		if n.baseErr == nil && top != "" {
			n.baseErr = b.holdBase(ctx, top)
		}
		step.Done(n.baseErr)
		f.top = top
	})
	return n.baseErr
}

// holdBase has the store keep a base's layers as it keeps the cache's: until a prune
// finds that no build stands on them any more.
func (b *build) holdBase(ctx context.Context, top string) error {
	end, err := b.cache.UseBase(top)
	if err != nil {
		return err
	}
	b.later(end)
	st, err := b.store()
	if err != nil {
		return err
	}
	return st.HoldLayer(ctx, top)
}

// fetch returns the tree of a source that is not a stage's, and its key.
func (b *build) fetch(ctx context.Context, n *node) (*source.Tree, string, error) {
	n.fetchOnce.Do(func() {
		step := b.show(n)
		switch op := n.Op.(type) {
		case *graph.Local:
			n.tree, n.fetchErr = b.req.Sources.Local(ctx, op.Name)
		case *graph.Git:
			n.tree, n.fetchKey, n.fetchErr = b.req.Sources.Git(ctx, op, step)
		case *graph.HTTP:
			n.tree, n.fetchKey, n.fetchErr = b.req.Sources.HTTP(ctx, op, step)
		}
		step.Done(n.fetchErr)
	})
	return n.tree, hash("source", n.fetchKey), n.fetchErr
}

// tree opens the file system of a node for reading.
func (b *build) tree(ctx context.Context, id graph.ID) (*source.Tree, error) {
	if id != graph.None {
		switch b.nodes[id].Op.(type) {
		case *graph.Local, *graph.Git, *graph.HTTP:
			t, _, err := b.fetch(ctx, &b.nodes[id])
			return t, err
		}
	}
	b.mu.Lock()
	o := b.trees[id]
	if o == nil {
		o = &opened{}
		b.trees[id] = o
	}
	b.mu.Unlock()
	o.once.Do(func() { o.tree, o.err = b.openTree(ctx, id) })
	return o.tree, o.err
}

func (b *build) openTree(ctx context.Context, id graph.ID) (*source.Tree, error) {
	f, err := b.files(ctx, id)
	if err != nil {
		return nil, err
	}
	still, err := b.cache.Still(ctx)
	if err != nil {
		return nil, err
	}
	defer still()
	dirs, err := b.dirs(ctx, f)
	if err != nil {
		return nil, err
	}
	at := ""
	switch len(dirs) {
	case 0:
		at, err = b.empty()
	case 1:
		at = dirs[0]
	default:
		var m *os.File
		if m, err = merged.Open(dirs, b.s.o.Layers.Rootless()); err == nil {
			at = sys.FDPath(int(m.Fd()))
			defer m.Close() // the tree has its own
		}
	}
	if err != nil {
		return nil, err
	}
	t, err := source.OpenTree(at, source.TreeOptions{})
	if err == nil {
		b.later(func() { _ = t.Close() }) // read only
	}
	return t, err
}

// empty is an empty directory.
func (b *build) empty() (string, error) {
	s, err := b.scratch()
	if err != nil {
		return "", err
	}
	return s.Scratch("empty")
}

// find looks up what a selection names, once.
func (b *build) find(ctx context.Context, s selection) ([]source.Match, error) {
	f, err := b.lookUp(ctx, s)
	if err != nil {
		return nil, err
	}
	return f.matches, nil
}

func (b *build) lookUp(ctx context.Context, s selection) (*found, error) {
	id := fmt.Sprintf("%d %+v", s.from, s.query)
	b.mu.Lock()
	f := b.finds[id]
	if f == nil {
		f = &found{}
		b.finds[id] = f
	}
	b.mu.Unlock()
	f.once.Do(func() {
		t, err := b.tree(ctx, s.from)
		if err == nil {
			f.matches, err = t.Find(ctx, s.query)
		}
		if errs.KindOf(err) == errs.NotFound {
			err = fmt.Errorf("failed to calculate checksum of ref %s: %w", b.refName(s.from), err)
		}
		f.err = err
	})
	return f, f.err
}

// refName says in a word where a path was looked for; BuildKit has an id there.
func (b *build) refName(id graph.ID) string {
	n := &b.nodes[id]
	switch op := n.Op.(type) {
	case *graph.Local:
		return op.Name
	case *graph.Image:
		return op.Ref
	}
	return cmp.Or(n.Stage, "source")
}

// users reads passwd and group of a file system.
func users(dirs []string) (passwd, group []byte, err error) {
	t, err := tree.Open(dirs...)
	if err != nil {
		return nil, nil, err
	}
	defer t.Close()
	if passwd, err = t.ReadFile("/etc/passwd", plan.MaxUserFile); err == nil {
		group, err = t.ReadFile("/etc/group", plan.MaxUserFile)
	}
	return passwd, group, err
}
