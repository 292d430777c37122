package pull

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

const (
	maxJobs     = 6 // layers on their way at once
	maxAttempts = 2 // of a layer whose bytes were wrong
	maxRestarts = 3 // of all, when layers below were removed meanwhile
	tick        = 256 << 10
)

// source is where the layers of an image come from: a registry or an archive.
type source interface {
	// open returns a layer's compressed bytes. A second attempt after wrong
	// bytes may give better ones; a source that cannot says so by one attempt.
	open(ctx context.Context, i int, attempt int) (io.ReadCloser, error)
	attempts() int
	// parts has parts of a layer's blob; nil: it has only layers.
	parts(i int) (oci.Descriptor, Get)
}

// wanted is a layer of the image.
type wanted struct {
	diffID string
	blob   string // digest of what open returns; empty if not known
	size   int64
	id     string // in the store
}

// layers brings a remote image's layers into the store and returns the topmost, and
// which of the blobs came and are what they say.
func (p *Puller) layers(ctx context.Context, st Store, img *remote, e *emitter) (top string, checked []string, err error) {
	list := make([]wanted, len(img.layers))
	for i, d := range img.layers {
		list[i] = wanted{diffID: img.parsed.RootFS.DiffIDs[i], blob: d.Digest, size: d.Size}
	}
	top, staged, err := bring(ctx, st, list, fromRegistry{p.o.Registry, img}, e)
	for _, s := range staged {
		if s.Blob != "" {
			checked = append(checked, s.Blob)
		}
	}
	return top, checked, err
}

type fromRegistry struct {
	r   registry
	img *remote
}

func (f fromRegistry) attempts() int { return maxAttempts }

func (f fromRegistry) open(ctx context.Context, i, attempt int) (io.ReadCloser, error) {
	return f.r.Blob(ctx, f.img.ref, f.img.layers[i], attempt)
}

func (f fromRegistry) parts(i int) (oci.Descriptor, Get) {
	d := f.img.layers[i]
	return d, func(ctx context.Context, from, to int64) (io.ReadCloser, error) {
		return f.r.Part(ctx, f.img.ref, d, from, to)
	}
}

// bring stages what is missing of list and records it. It starts again if
// somebody removes a layer that it builds on. staged has the layers that were
// not here, by index.
func bring(ctx context.Context, st Store, list []wanted, src source, e *emitter) (top string, staged map[int]Staged, err error) {
	for i := range list {
		parent := ""
		if i > 0 {
			parent = list[i-1].id
		}
		list[i].id = st.LayerID(parent, list[i].diffID)
	}
	staged = map[int]Staged{}
	for range maxRestarts {
		w := &work{st: st, list: list, src: src, e: e, kept: staged}
		if err = w.run(ctx); !errors.Is(err, ErrParentGone) {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	if len(list) > 0 {
		top = list[len(list)-1].id
	}
	return top, staged, nil
}

// work is one run over the layers.
type work struct {
	st   Store
	list []wanted
	src  source
	e    *emitter
	kept map[int]Staged // what was recorded, for the caller

	slots   chan struct{}
	results chan result
}

// result is a layer that is ready to be recorded, or that exists.
type result struct {
	i       int
	staged  Staged
	exists  bool
	release func() // of the layer's lock; nil if it is not held
	err     error
}

// run stages the missing layers side by side and records them bottom first.
// When it returns, no goroutine, lock or staged layer of it is left.
func (w *work) run(ctx context.Context) (err error) {
	n := len(w.list)
	base := 0 // layers below are in the store
	for base < n && w.st.HasLayer(w.list[base].id) {
		w.e.emit(Event{Kind: Exists, Layer: w.name(base)})
		base++
	}
	missing := n - base
	if missing == 0 {
		return nil
	}
	for i := base; i < n; i++ {
		w.e.emit(Event{Kind: Preparing, Layer: w.name(i), Total: w.list[i].size})
	}

	ctx, cancel := context.WithCancelCause(ctx)
	w.slots = make(chan struct{}, min(maxJobs, missing))
	w.results = make(chan result, missing)
	var wg sync.WaitGroup
	ready := map[int]result{}
	defer func() {
		cancel(err)
		wg.Wait()
		close(w.results)
		for r := range w.results {
			ready[r.i] = r
		}
		err = errors.Join(err, w.drop(ready))
	}()

	// Each layer first gets its lock, then one of the slots. The other way round
	// two pulls could fill all slots of both with waiting for each other.
	order := make([]int, 0, missing)
	for i := base; i < n; i++ {
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(w.list[b].size, w.list[a].size) })
	wg.Go(func() { w.start(ctx, &wg, order) })

	for done := base; done < n; {
		r := <-w.results
		if r.err != nil {
			ready[r.i] = r
			return r.err
		}
		ready[r.i] = r
		if done, err = w.commit(ctx, done, ready); err != nil {
			return err
		}
	}
	return nil
}

// start takes the locks without waiting where it can, and begins the biggest
// layers first.
func (w *work) start(ctx context.Context, wg *sync.WaitGroup, order []int) {
	for _, i := range order {
		started := make(chan struct{}) // closed once it has its lock, or waits for it
		wg.Go(func() { w.results <- w.layer(ctx, i, sync.OnceFunc(func() { close(started) })) })
		<-started
	}
}

// commit records all that can be: the lowest layers that are not yet.
func (w *work) commit(ctx context.Context, done int, ready map[int]result) (int, error) {
	for done < len(w.list) {
		r, ok := ready[done]
		if !ok {
			return done, nil
		}
		if r.exists {
			w.finish(done, ready)
			done++
			continue
		}
		end := done
		var batch []Staged
		for ; end < len(w.list); end++ {
			r, ok := ready[end]
			if !ok || r.exists {
				break
			}
			batch = append(batch, r.staged)
		}
		parent := ""
		if done > 0 {
			parent = w.list[done-1].id
		}
		if _, err := w.st.Commit(ctx, parent, batch); err != nil {
			return done, err
		}
		for ; done < end; done++ {
			w.kept[done] = ready[done].staged
			w.finish(done, ready)
		}
	}
	return done, nil
}

// finish lets go of a layer that is recorded.
func (w *work) finish(i int, ready map[int]result) {
	if r := ready[i]; r.release != nil {
		r.release()
	}
	delete(ready, i)
	w.e.emit(Event{Kind: Complete, Layer: w.name(i)})
}

// drop removes what was staged in vain.
func (w *work) drop(ready map[int]result) error {
	var staged []Staged
	for _, r := range ready {
		if r.err == nil && !r.exists {
			staged = append(staged, r.staged)
		}
	}
	var err error
	if len(staged) > 0 {
		err = w.st.Discard(staged)
	}
	for _, r := range ready {
		if r.release != nil {
			r.release()
		}
	}
	return err
}

// layer makes one layer ready. started is called once the next may begin.
func (w *work) layer(ctx context.Context, i int, started func()) (r result) {
	defer started()
	r.i = i
	l := w.list[i]
	// The lock is of the layer in its place: who holds it can always go on to
	// record it once the layers below are, and those have locks of their own.
	release, err := w.st.LockDigest(ctx, "sha256:"+l.id, func() {
		w.e.emit(Event{Kind: Waiting, Layer: w.name(i)})
		started()
	})
	if err != nil {
		r.err = err
		return r
	}
	r.release = release
	if w.st.HasLayer(l.id) { // the other one has recorded it
		r.exists = true
		return r
	}
	select {
	case w.slots <- struct{}{}:
	case <-ctx.Done():
		r.err = context.Cause(ctx)
		return r
	default:
		started() // the rest may take their locks meanwhile
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			r.err = context.Cause(ctx)
			return r
		}
	}
	defer func() { <-w.slots }()
	started()
	r.staged, r.err = w.stage(ctx, i)
	return r
}

// stage downloads and unpacks a layer, once more if what came was wrong. It asks
// nobody if the store has the same above another layer, and for no more than parts if
// it has a good deal of it.
func (w *work) stage(ctx context.Context, i int) (Staged, error) {
	for _, cheaper := range []func(context.Context, int) (*Staged, error){w.twin, w.parts} {
		s, err := cheaper(ctx, i)
		switch {
		case err == nil && s != nil:
			return *s, nil
		case ctx.Err() != nil:
			return Staged{}, context.Cause(ctx)
		case err != nil: // the other may have been removed meanwhile, or be damaged
			w.e.emit(Event{Kind: Retrying, Layer: w.name(i), Text: err.Error()})
		}
	}
	for attempt := 0; ; attempt++ {
		s, err := w.try(ctx, i, attempt)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return Staged{}, context.Cause(ctx)
		}
		if attempt+1 >= w.src.attempts() || !worthAnother(err) {
			return Staged{}, errs.E("layer "+w.name(i), errs.KindOf(err), err)
		}
		w.e.emit(Event{Kind: Retrying, Layer: w.name(i), Text: err.Error()})
	}
}

func (w *work) twin(ctx context.Context, i int) (*Staged, error) {
	return w.st.StageTwin(ctx, w.list[i].diffID)
}

func (w *work) parts(ctx context.Context, i int) (*Staged, error) {
	d, get := w.src.parts(i)
	if get == nil {
		return nil, nil
	}
	c := &counter{w: w, layer: w.name(i), total: d.Size}
	s, err := w.st.StageParts(ctx, Layer{DiffID: w.list[i].diffID}, d, func(ctx context.Context, from, to int64) (io.ReadCloser, error) {
		r, err := get(ctx, from, to)
		if err != nil {
			return nil, err
		}
		c.r = r
		return struct {
			io.Reader
			io.Closer
		}{c, r}, nil
	})
	if errs.KindOf(err) == errs.Unsupported {
		return nil, nil // the registry knows no parts: all of it, then
	}
	return s, err
}

// worthAnother reports whether other bytes could help: the source has done its
// own retries, and a full disk stays full.
func worthAnother(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return false
	}
	k := errs.KindOf(err)
	return k == errs.Invalid || k == errs.Internal
}

func (w *work) try(ctx context.Context, i, attempt int) (Staged, error) {
	l := w.list[i]
	body, err := w.src.open(ctx, i, attempt)
	if err != nil {
		return Staged{}, err
	}
	defer body.Close()
	c := &counter{r: body, w: w, layer: w.name(i), total: l.size}
	if attempt > 0 && l.blob != "" {
		c.sum = sha256.New() // who asks twice wants to know what it is that came
	}
	s, err := w.st.Stage(ctx, Layer{DiffID: l.diffID, BlobDigest: l.blob, Size: l.size, Body: c})
	if err != nil && c.sum != nil && ctx.Err() == nil {
		err = c.judge(l, err)
	}
	return s, err
}

func (w *work) name(i int) string { return short(cmp.Or(w.list[i].blob, w.list[i].diffID)) }

// counter reports progress on the way.
type counter struct {
	r           io.Reader
	w           *work
	layer       string
	done, total int64
	told        int64
	sum         hash.Hash // nil: not needed
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	if c.done += int64(n); c.done-c.told >= tick || c.told == 0 && n > 0 {
		c.told = c.done
		c.w.e.emit(Event{Kind: Downloading, Layer: c.layer, Done: c.done, Total: c.total})
	}
	if err == io.EOF {
		c.w.e.emit(Event{Kind: Extracting, Layer: c.layer, Done: c.done, Total: c.total})
	}
	return n, err
}

// judge says whether a layer that could not be used is what its digest says: if
// not, the registry is to blame, not the image.
func (c *counter) judge(l wanted, err error) error {
	if _, ok := errors.AsType[*oci.DigestError](err); ok {
		return err
	}
	if _, rest := io.Copy(io.Discard, c); rest != nil {
		return err
	}
	got := "sha256:" + hex.EncodeToString(c.sum.Sum(nil))
	if got == l.blob {
		return err
	}
	from := ""
	if h, ok := c.r.(interface{ Host() string }); ok {
		from = h.Host() + ": "
	}
	return errs.WithHint(
		errs.E("", errs.Invalid, fmt.Errorf("%s%w", from, &oci.DigestError{What: "layer", Want: l.blob, Got: got, Bytes: c.done})),
		"What the registry, or a proxy before it, sent is not what was pushed: try again, or tell who runs it.")
}
