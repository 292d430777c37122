package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/seccomp"
)

// build is one Request being carried out.
type build struct {
	s     *Service
	req   Request
	cache *cache.Cache
	nodes []node
	host  func() (plan.Host, error)
	begun time.Time
	slots chan struct{} // a token for each command that may run; nil: no limit

	store   func() (Store, error)
	scratch func() (*cache.Making, error) // for files that live as long as the build

	mu     sync.Mutex
	held   []*cache.Result
	finds  map[string]*found
	trees  map[graph.ID]*opened
	closes []func()

	sums      sync.WaitGroup
	summaries map[string]*summed // by result
	filters   map[string]seccomp.Filter
	control   func() (*control, error)
	network   func() (*Network, error)
	hidden    map[graph.ID]bool // nodes that were shown
}

// node is one node with what is known of it so far.
type node struct {
	graph.Node
	id graph.ID

	keyOnce sync.Once
	key     string
	keyErr  error

	fetchOnce sync.Once
	tree      *source.Tree
	fetchKey  string
	fetchErr  error

	baseOnce sync.Once // of an image: its layers are in the store
	baseErr  error

	once  sync.Once
	files *fileSystem
	err   error

	wanted bool // its layer is one of an image's
}

// fileSystem is what a node made.
type fileSystem struct {
	chain []*cache.Result // top first
	base  graph.ID        // the image below them; None
	top   string          // its uppermost layer
}

type opened struct {
	once sync.Once
	tree *source.Tree
	err  error
}

// StepError is a step that failed.
type StepError struct {
	Name  string        // as the progress view has it
	Lines []graph.Range // of the Dockerfile
	Err   error
}

// Error is what went wrong.
func (e *StepError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *StepError) Unwrap() error { return e.Err }

// ExitError is a command that ended with another code than 0.
type ExitError struct {
	Args   []string
	Code   int
	Signal string // that ended it; empty: none
}

// Error is what BuildKit says.
func (e *ExitError) Error() string {
	text := fmt.Sprintf("process %q did not complete successfully: exit code: %d", join(e.Args), e.Code)
	if e.Signal != "" {
		text += " (" + e.Signal + ")"
	}
	return text
}

func join(args []string) string {
	s := ""
	for i, a := range args {
		if i > 0 {
			s += " "
		}
		s += a
	}
	return s
}

// inputs are the nodes that n reads besides its base.
func (n *node) inputs() []graph.ID {
	var list []graph.ID
	base := n.Op.Base()
	for _, in := range n.Op.Inputs() {
		if in != graph.None && in != base && !slices.Contains(list, in) {
			list = append(list, in)
		}
	}
	return list
}

// forced reports whether n must be made whatever the cache has.
func (b *build) forced(id graph.ID) bool {
	for id != graph.None {
		n := &b.nodes[id]
		if n.NoCache {
			return true
		}
		if m, ok := n.Op.(*graph.Merge); ok && b.forced(m.Layer) {
			return true
		}
		id = n.Op.Base()
	}
	return false
}

// files returns the file system of a node, made if need be.
func (b *build) files(ctx context.Context, id graph.ID) (*fileSystem, error) {
	if id == graph.None {
		return &fileSystem{base: graph.None}, nil
	}
	n := &b.nodes[id]
	n.once.Do(func() { n.files, n.err = b.makeFiles(ctx, n) })
	return n.files, n.err
}

func (b *build) makeFiles(ctx context.Context, n *node) (*fileSystem, error) {
	switch op := n.Op.(type) {
	case *graph.Image:
		f := &fileSystem{base: n.id}
		for _, d := range op.DiffIDs {
			f.top = b.s.o.Layers.LayerID(f.top, d)
		}
		if len(op.DiffIDs) == 0 { // nobody read the config: only the image can say
			return f, b.fetchImage(ctx, n, f)
		}
		return f, nil
	case *graph.Local, *graph.Git, *graph.HTTP:
		return nil, errs.New(errs.Internal, "a build context has no layers")
	}
	f, err := b.step(ctx, n)
	if err != nil && ctx.Err() == nil {
		var at *StepError
		if !errors.As(err, &at) {
			err = &StepError{Name: n.Name, Lines: n.Lines, Err: advise(err)}
		}
	}
	return f, err
}

// makeRoom is what to do about a full disk.
const makeRoom = "Make room with 'cais builder prune' or 'cais image prune'; what was finished is kept."

// advise says what to do about a full disk.
func advise(err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) || errs.HintOf(err) != "" {
		return err
	}
	return errs.WithHint(errs.E("", errs.Unavailable, err), makeRoom)
}

// step finds or makes the layer of n.
func (b *build) step(ctx context.Context, n *node) (*fileSystem, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	forced := b.forced(n.id)
	late := slices.ContainsFunc(n.inputs(), func(in graph.ID) bool { return b.forced(in) })
	key, err := b.key(ctx, n.id)
	if err != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("failed to compute cache key: %w", err)
			b.show(n).Done(err)
		}
		return nil, err
	}
	if !forced && !late {
		if f, err := b.cached(n, key); f != nil || err != nil {
			return f, err
		}
		if f, err := b.imported(ctx, n, key); f != nil || err != nil {
			return f, err
		}
	}
	base, err := b.ready(ctx, n)
	if err != nil {
		return nil, err
	}
	slow, err := b.slowKey(ctx, n)
	if err != nil {
		return nil, err
	}
	if slow != key && !forced {
		if f, err := b.cached(n, slow); f != nil || err != nil {
			if f != nil && !late {
				err = b.cache.Put(ctx, key, f.chain[0].ID, true)
			}
			return f, err
		}
		if f, err := b.imported(ctx, n, slow); f != nil || err != nil {
			return f, err
		}
	}
	step := b.show(n)
	release, err := b.cache.LockKey(ctx, slow, func() { step.Warn("waiting for another build that does the same") })
	if err != nil {
		step.Done(err)
		return nil, err
	}
	defer release()
	if !forced { // it may just have been made
		if f, err := b.find1(n, slow); f != nil || err != nil {
			step.Cached()
			return f, err
		}
	}
	r, err := b.carryOut(ctx, n, base, slow, step)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		step.Done(err)
		return nil, err
	}
	b.hold(r)
	for _, k := range []string{key, slow} {
		if err := b.cache.Put(ctx, k, r.ID, true); err != nil {
			step.Done(err)
			return nil, err
		}
	}
	f := &fileSystem{chain: append([]*cache.Result{r}, base.chain...), base: base.base, top: base.top}
	step.Done(nil)
	if n.wanted && b.req.Record {
		b.sum(ctx, f) // beside what comes next
	}
	return f, nil
}

func (b *build) hold(r *cache.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = append(b.held, r)
}

// ready makes all that n needs, side by side, and returns its base.
func (b *build) ready(ctx context.Context, n *node) (*fileSystem, error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	for _, in := range n.inputs() {
		switch b.nodes[in].Op.(type) {
		case *graph.Local, *graph.Git, *graph.HTTP:
			continue
		}
		all.Go(func() {
			if _, err := b.files(ctx, in); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, err)
			}
		})
	}
	base, err := b.files(ctx, n.Op.Base())
	all.Wait()
	if err = first(append(failed, err)); err != nil {
		return nil, err
	}
	if _, merge := n.Op.(*graph.Merge); base.base != graph.None && !merge { // it is going to be read
		err = b.fetchImage(ctx, &b.nodes[base.base], base)
	}
	return base, err
}

// first returns the error that is somebody's own, not that of being cancelled.
func first(list []error) error {
	var canceled error
	for _, err := range list {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		if err != nil {
			canceled = err
		}
	}
	return canceled
}

// cached returns the file system that key has in the cache, nil if there is none,
// and shows the steps that need not be done for it.
func (b *build) cached(n *node, key string) (*fileSystem, error) {
	f, err := b.find1(n, key)
	if f != nil {
		b.showCached(n.id)
	}
	return f, err
}

func (b *build) find1(n *node, key string) (*fileSystem, error) {
	id := b.cache.Lookup(key)
	if id == "" {
		return nil, nil
	}
	f := &fileSystem{base: graph.None}
	drop := func() {
		for _, r := range f.chain {
			r.Release()
		}
	}
	// Each step has one result, so the image is as many results below.
	at := n.id
	for at != graph.None {
		op, ok := b.nodes[at].Op.(*graph.Image)
		if ok {
			f.base = at
			for _, d := range op.DiffIDs {
				f.top = b.s.o.Layers.LayerID(f.top, d)
			}
			break
		}
		r, err := b.cache.Get(id)
		if err != nil || r == nil {
			drop()
			return nil, err
		}
		f.chain = append(f.chain, r)
		id, at = r.Parent, b.nodes[at].Op.Base()
	}
	if id != "" || f.chain[len(f.chain)-1].Base != f.top { // the same key, above another image
		drop()
		return nil, nil
	}
	if _, err := b.resultDirs(f); err != nil {
		drop()
		return nil, nil
	}
	for _, r := range f.chain {
		b.hold(r)
	}
	b.cache.Used(key, f.chain[0].ID)
	return f, nil
}

// resultDirs are the directories of a file system's own layers, top first.
func (b *build) resultDirs(f *fileSystem) ([]string, error) {
	dirs := make([]string, len(f.chain))
	parent, known := f.top, true
	for i, r := range slices.Backward(f.chain) {
		sum, summed := r.Sum()
		id := ""
		if known = known && summed; known {
			id = b.s.o.Layers.LayerID(parent, sum.DiffID)
			parent = id
		}
		dirs[i] = r.Files()
		if _, err := os.Lstat(dirs[i]); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if id == "" {
			return nil, errs.New(errs.NotFound, "the files of a step are gone")
		}
		if dirs[i] = b.s.o.Layers.LayerDir(id); dirs[i] == "" {
			return nil, errs.New(errs.NotFound, "the layer of a step is gone")
		}
	}
	return dirs, nil
}

// dirs are the directories of a file system, top first, whose image is fetched if
// need be. Whoever opens them keeps them in their place by cache.Still meanwhile.
func (b *build) dirs(ctx context.Context, f *fileSystem) ([]string, error) {
	if f.base != graph.None {
		if err := b.fetchImage(ctx, &b.nodes[f.base], f); err != nil {
			return nil, err
		}
	}
	dirs, err := b.resultDirs(f)
	if err != nil || f.top == "" {
		return dirs, err
	}
	below, err := b.s.o.Layers.LayerDirs(ctx, f.top)
	return append(dirs, below...), err
}

func (b *build) later(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closes = append(b.closes, f)
}

// show begins the step of n in the progress view.
func (b *build) show(n *node) *progress.Step {
	b.mu.Lock()
	b.hidden[n.id] = true
	b.mu.Unlock()
	return b.req.Progress.Step(n.Name)
}

// showCached shows n, and what it needs, as done already.
func (b *build) showCached(id graph.ID) {
	if id == graph.None {
		return
	}
	b.mu.Lock()
	shown := b.hidden[id]
	b.hidden[id] = true
	b.mu.Unlock()
	if shown {
		return
	}
	n := &b.nodes[id]
	for _, in := range n.Op.Inputs() {
		b.showCached(in)
	}
	switch n.Op.(type) {
	case *graph.Local, *graph.Git, *graph.HTTP:
		return
	}
	b.req.Progress.Step(n.Name).Cached()
}
