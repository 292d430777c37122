package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Content is a blob to upload: what [Target.PutBlob] reads.
type Content struct {
	Open     func(off int64) (io.ReadCloser, error)        // the bytes from off on, as often as it takes
	Size     int64                                         // -1: not known yet
	Expected string                                        // the digest if it is known; may be empty
	Digest   func() (digest string, size int64, err error) // waits until it is known
	Progress func(sent int64)
}

// Target is a repository to push to.
type Target interface {
	// HasBlob reports whether a blob is there; size is -1 if that is not told.
	HasBlob(ctx context.Context, digest string) (size int64, ok bool, err error)
	// Mount takes a blob over from another repository, if the registry will.
	Mount(ctx context.Context, digest, from string) (bool, error)
	PutBlob(ctx context.Context, c Content) error
	// PutManifest gives a manifest, and the name tag if there is one. If the
	// registry lacks a blob of it, the error is ErrBlobsGone.
	PutManifest(ctx context.Context, tag string, doc oci.Document) error
}

// ErrBlobsGone says that a registry lacks what it said that it had.
var ErrBlobsGone = errors.New("the registry lacks blobs that it said it had")

// Options are what a Pusher works with.
type Options struct {
	// Open connects to the repository of ref; from are others of which blobs may
	// be mounted.
	Open  func(ctx context.Context, ref oci.Reference, from []string) (Target, error)
	Spool string // the directory for compressed layers; files there have no name
}

// Pusher sends images to registries.
type Pusher struct{ o Options }

// New returns a Pusher. It opens nothing.
func New(o Options) *Pusher { return &Pusher{o} }

// Request is one image, or index, and where it is to go.
type Request struct {
	Ref         oci.Reference // with neither tag nor digest, nothing but the digest names it
	Root        oci.Document  // a manifest, or an index
	Source      Source
	Compression Compression
	Format      Format
	Alone       bool        // the index without what it names, which the registry has
	Events      func(Event) // progress; one at a time; may be nil
}

// Result is what is in the registry then.
type Result struct {
	Root   oci.Document // as it was pushed: Request.Root, or what became of it
	Layers []Sent       // each of them, that was there or was sent
	Images []oci.Document
}

// Sent is a layer as the registry has it.
type Sent struct {
	DiffID string
	Known
}

const (
	maxJobs  = 4 // blobs on their way at once
	maxMount = 3 // repositories to try for one blob
)

// Push sends an image. It is visible by its last request, when all else is there.
func (p *Pusher) Push(ctx context.Context, req Request) (Result, error) {
	res, err := p.push(ctx, req, false)
	if errors.Is(err, ErrBlobsGone) { // it had them, and collected its garbage
		res, err = p.push(ctx, req, true)
	}
	if err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), req.Ref.FamiliarName()) {
		err = errs.E("push "+req.Ref.Familiar(), errs.KindOf(err), err)
	}
	return res, err
}

func (p *Pusher) push(ctx context.Context, req Request, all bool) (Result, error) {
	var res Result
	if req.Compression.kind() == compress.Zstd && req.Format == Docker {
		return res, errs.New(errs.Invalid, "Docker's format has no zstd layers: use the format oci")
	}
	if req.Alone {
		t, err := p.o.Open(ctx, req.Ref, nil)
		if err != nil {
			return res, err
		}
		res.Root = req.Root
		return res, t.PutManifest(ctx, req.Ref.Tag, req.Root)
	}
	root, err := read(ctx, req.Source, req.Root, 0)
	if err != nil {
		return res, err
	}
	t, err := p.o.Open(ctx, req.Ref, repositories(root))
	if err != nil {
		return res, err
	}
	w := &work{p: p, t: t, req: req, all: all, e: &emitter{to: req.Events}, slots: make(chan struct{}, maxJobs), blobs: map[string]*blob{}}
	if err := w.send(ctx, root); err != nil {
		return res, err
	}
	if res.Root, err = w.manifests(ctx, root, req.Ref.Tag, &res); err != nil {
		return res, err
	}
	for _, b := range w.order {
		if b.l.diffID != "" {
			res.Layers = append(res.Layers, Sent{b.l.diffID, Known{b.result, req.Ref.Name()}})
		}
	}
	return res, nil
}

// repositories are where blobs might be mounted from.
func repositories(root *node) []string {
	var all []string
	seen := map[string]bool{}
	root.each(func(n *node) {
		for _, l := range n.layers {
			for _, k := range l.src.Known {
				if k.Repo != "" && !seen[k.Repo] {
					seen[k.Repo] = true
					all = append(all, k.Repo)
				}
			}
		}
	})
	return all
}

// work is one push.
type work struct {
	p     *Pusher
	t     Target
	req   Request
	all   bool // send everything, whatever the registry says it has
	e     *emitter
	slots chan struct{}
	blobs map[string]*blob // by the digest in the manifest
	order []*blob
}

// blob is a layer or a config, which several manifests may name.
type blob struct {
	l      layer
	format string         // the type of its manifest
	data   []byte         // of a config
	result oci.Descriptor // as the registry has it
}

// send brings all blobs there, side by side.
func (w *work) send(ctx context.Context, root *node) error {
	add := func(b *blob) {
		if w.blobs[b.l.Digest] == nil {
			w.blobs[b.l.Digest] = b
			w.order = append(w.order, b)
		}
	}
	root.each(func(n *node) {
		format := n.target(w.req)
		for i := len(n.layers) - 1; i >= 0; i-- { // the topmost first, as Docker shows them
			add(&blob{l: n.layers[i], format: format})
		}
		add(&blob{l: layer{Descriptor: n.manifest.Config}, data: n.config})
	})
	for _, b := range w.order {
		if b.data == nil {
			w.e.emit(Event{Kind: Preparing, Layer: b.name()})
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var once sync.Once
	var failed error
	for _, b := range w.order {
		wg.Go(func() {
			select {
			case w.slots <- struct{}{}:
			default:
				if b.data == nil {
					w.e.emit(Event{Kind: Waiting, Layer: b.name()})
				}
				select {
				case w.slots <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
			defer func() { <-w.slots }()
			if err := w.blob(ctx, b); err != nil {
				if b.data == nil && ctx.Err() == nil {
					err = errs.E("layer "+b.name(), errs.KindOf(err), err)
				}
				once.Do(func() { failed = err })
				cancel(err)
			}
		})
	}
	wg.Wait()
	if failed == nil {
		failed = context.Cause(ctx)
	}
	return failed
}

// target is the type that a manifest is to have.
func (n *node) target(req Request) string {
	switch {
	case req.Format == OCI, req.Compression.kind() == compress.Zstd && n.doc.MediaType == oci.TypeDockerManifest:
		return oci.TypeOCIManifest
	case req.Format == Docker:
		return oci.TypeDockerManifest
	}
	return n.doc.MediaType
}

func (b *blob) name() string {
	if b.l.diffID != "" {
		return short(b.l.diffID) // by which people know it from docker history and build
	}
	return short(b.l.Digest)
}

// blob brings one blob there, by the cheapest way that there is.
func (w *work) blob(ctx context.Context, b *blob) error {
	if b.data != nil {
		return w.config(ctx, b)
	}
	plain := !isLayer(b.l.MediaType)
	keep := plain || w.req.Compression.wants(b.l.kind())
	if keep && !w.all {
		if done, err := w.there(ctx, b, b.l.Descriptor, b.l.src.Known); done || err != nil {
			return err
		}
	}
	if keep && b.l.src.Blob != nil {
		return w.copy(ctx, b)
	}
	if len(b.l.URLs) > 0 { // a foreign layer: whoever pulls gets it from there
		b.result = b.l.Descriptor
		w.e.emit(Event{Kind: Skipped, Layer: b.name()})
		return nil
	}
	if plain {
		return errs.New(errs.NotFound, "its bytes are not kept here, and the registry does not have them")
	}
	// What registries have of the same tar is as good, once the first choice is
	// gone.
	if !w.all {
		tried := map[string]bool{b.l.Digest: keep}
		for _, k := range b.l.src.Known {
			_, kind := layerKind(k.MediaType)
			if tried[k.Digest] || !w.req.Compression.wants(kind) || kind == compress.Zstd && b.format == oci.TypeDockerManifest {
				continue
			}
			tried[k.Digest] = true
			if done, err := w.there(ctx, b, k.Descriptor, b.l.src.Known); done || err != nil {
				return err
			}
		}
	}
	return w.pack(ctx, b)
}

// there reports whether the repository has d, or got it from a neighbour.
func (w *work) there(ctx context.Context, b *blob, d oci.Descriptor, known []Known) (bool, error) {
	_, kind := layerKind(d.MediaType)
	if isLayer(d.MediaType) {
		d.MediaType = layerType(b.format, kind)
	}
	size, ok, err := w.t.HasBlob(ctx, d.Digest)
	if err != nil {
		return false, err
	}
	if ok && (size < 0 || d.Size <= 0 || size == d.Size) {
		if d.Size <= 0 && size > 0 {
			d.Size = size
		}
		if d.Size > 0 {
			b.result = d
			w.e.emit(Event{Kind: Exists, Layer: b.name()})
			return true, nil
		}
	}
	tries := 0
	for _, k := range known {
		if k.Digest != d.Digest || k.Repo == w.req.Ref.Name() || domain(k.Repo) != w.req.Ref.Domain {
			continue
		}
		if tries++; tries > maxMount {
			break
		}
		ok, err := w.t.Mount(ctx, d.Digest, k.Repo)
		if err != nil {
			return false, err
		}
		if ok {
			if d.Size <= 0 {
				d.Size = k.Size
			}
			b.result = d
			w.e.emit(Event{Kind: Mounted, Layer: b.name(), Text: strings.TrimPrefix(k.Repo, domain(k.Repo)+"/")})
			return true, nil
		}
	}
	return false, nil
}

func domain(repo string) string {
	d, _, _ := strings.Cut(repo, "/")
	return d
}

func (w *work) config(ctx context.Context, b *blob) error {
	d := b.l.Descriptor
	b.result = d
	if !w.all {
		if _, ok, err := w.t.HasBlob(ctx, d.Digest); ok || err != nil {
			return err
		}
	}
	return w.t.PutBlob(ctx, fixed(d, func(off int64) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(b.data[off:]))), nil
	}))
}

func fixed(d oci.Descriptor, open func(off int64) (io.ReadCloser, error)) Content {
	return Content{Open: open, Size: d.Size, Expected: d.Digest, Digest: func() (string, int64, error) { return d.Digest, d.Size, nil }}
}

// copy sends a blob as it is kept.
func (w *work) copy(ctx context.Context, b *blob) error {
	d := b.l.Descriptor
	if isLayer(d.MediaType) {
		d.MediaType = layerType(b.format, b.l.kind())
	}
	c := fixed(d, func(off int64) (io.ReadCloser, error) {
		r, err := b.l.src.Blob(ctx)
		if err != nil {
			return nil, err
		}
		if s, ok := r.(io.Seeker); ok && off > 0 {
			if _, err := s.Seek(off, io.SeekStart); err != nil {
				return nil, errors.Join(err, r.Close())
			}
			return r, nil
		}
		if _, err := io.CopyN(io.Discard, r, off); err != nil {
			return nil, errors.Join(err, r.Close())
		}
		return r, nil
	})
	c.Progress = w.progress(b, d.Size)
	if err := w.t.PutBlob(ctx, c); err != nil {
		return err
	}
	b.result = d
	w.e.emit(Event{Kind: Pushed, Layer: b.name()})
	return nil
}

func (w *work) progress(b *blob, total int64) func(int64) {
	return func(sent int64) { w.e.emit(Event{Kind: Pushing, Layer: b.name(), Done: sent, Total: total}) }
}

// pack compresses a layer and sends it meanwhile.
func (w *work) pack(ctx context.Context, b *blob) (err error) {
	s, err := newSpool(w.p.o.Spool)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) }) // wakes who reads
	var wg sync.WaitGroup
	defer func() {
		cancel(err)
		wg.Wait()
		stop()
		err = errors.Join(err, s.close())
	}()
	wg.Go(func() { s.end(pack(ctx, b.l, w.req.Compression, s)) })
	if err := w.t.PutBlob(ctx, Content{Open: s.open, Size: -1, Digest: s.wait, Progress: w.progress(b, -1)}); err != nil {
		return err
	}
	digest, size, err := s.wait()
	if err != nil {
		return err
	}
	b.result = oci.Descriptor{MediaType: layerType(b.format, w.req.Compression.kind()), Digest: digest, Size: size}
	w.e.emit(Event{Kind: Pushed, Layer: b.name()})
	return nil
}

// manifests sends what names the blobs, the deepest first.
func (w *work) manifests(ctx context.Context, n *node, tag string, res *Result) (oci.Document, error) {
	var below []oci.Descriptor
	format := w.req.Format
	if n.index != nil {
		for i, c := range n.children {
			doc, err := w.manifests(ctx, c, "", res)
			if err != nil {
				return oci.Document{}, err
			}
			d := n.index.Manifests[i]
			d.MediaType, d.Digest, d.Size = doc.MediaType, doc.Digest, int64(len(doc.Data))
			below = append(below, d)
			if doc.MediaType == oci.TypeOCIManifest && n.doc.MediaType == oci.TypeDockerIndex {
				format = OCI
			}
		}
	} else {
		for _, l := range n.layers {
			below = append(below, w.blobs[l.Digest].result)
		}
		if n.target(w.req) == oci.TypeOCIManifest {
			format = OCI
		}
	}
	doc, err := n.rewrite(format, below)
	if err != nil {
		return doc, err
	}
	if w.req.Ref.Digest != "" && tag == w.req.Ref.Tag && doc.Digest != w.req.Ref.Digest && n.doc.Digest == w.req.Root.Digest {
		return doc, errs.New(errs.Invalid, fmt.Sprintf("its digest would be %s: the registry has not all of its blobs as they were, and they are not kept here", doc.Digest))
	}
	if n.index == nil {
		res.Images = append(res.Images, doc)
	}
	return doc, w.t.PutManifest(ctx, tag, doc)
}

// EventKind says what happened.
type EventKind uint8

// The events of a layer, in this order.
const (
	Preparing EventKind = iota
	Waiting
	Pushing // Done of Total bytes, which is -1 if not known
	Exists
	Mounted // from the repository Text
	Pushed
	Skipped // a foreign layer
)

// Event is progress. It is for people: nothing follows from it.
type Event struct {
	Kind        EventKind
	Layer       string // the first 12 digits of its diffID
	Done, Total int64
	Text        string
}

// emitter calls one at a time.
type emitter struct {
	mu sync.Mutex
	to func(Event)
}

func (e *emitter) emit(ev Event) {
	if e.to == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.to(ev)
}

func short(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(12, len(hex))]
}
