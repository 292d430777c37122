// Package pull brings images into the store: from registries, and from archives
// that docker save, podman save and others wrote.
//
// An image becomes visible by its last step, one record. What is before it, the
// layers, is recorded bottom first as they are complete, and a later pull finds
// them: killed anywhere, pull leaves no image and loses little.
package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// registry is what pull needs of the network: [registry.Client] without its
// package.
type registry interface {
	Head(ctx context.Context, ref oci.Reference) (oci.Descriptor, error)
	Manifest(ctx context.Context, ref oci.Reference) (oci.Document, error)
	Config(ctx context.Context, ref oci.Reference, d oci.Descriptor) ([]byte, error)
	Blob(ctx context.Context, ref oci.Reference, d oci.Descriptor, attempt int) (io.ReadCloser, error)
	// Part has the bytes of a blob from from on, up to to.
	Part(ctx context.Context, ref oci.Reference, d oci.Descriptor, from, to int64) (io.ReadCloser, error)
	Tags(ctx context.Context, ref oci.Reference) ([]string, error)
}

// images is what pull needs of the store to see that there is nothing to do.
type images interface {
	// Local returns the image with this name in normal form, or this id; nil if
	// there is none.
	Local(ctx context.Context, name string) (*Local, error)
}

// Store is what pull needs of the store to change it. It is exported because
// whoever opens one must name it.
type Store interface {
	// LayerID returns the id of the layer diffID on top of the layer parent,
	// which is empty at the bottom.
	LayerID(parent, diffID string) string
	HasLayer(id string) bool
	// LockDigest excludes other processes that work on the same; waiting is
	// called once if there are any.
	LockDigest(ctx context.Context, digest string, waiting func()) (release func(), err error)
	Stage(ctx context.Context, l Layer) (Staged, error)
	// StageTwin stages the layer diffID from one with the same content that the
	// store has above another; nil: it has none.
	StageTwin(ctx context.Context, diffID string) (*Staged, error)
	// StageParts stages a layer, without a Body, from files of other layers that the
	// store has, and from what get has of the layer's blob d; nil: it would save little.
	StageParts(ctx context.Context, l Layer, d oci.Descriptor, get Get) (*Staged, error)
	// Commit records staged layers, bottom first, on top of the layer parent. If
	// that one is gone, the error is ErrParentGone.
	Commit(ctx context.Context, parent string, layers []Staged) (top string, err error)
	Discard(layers []Staged) error
	PutImage(ctx context.Context, img Image) (id string, err error)
}

// Get opens the bytes of a blob from from on, up to to.
type Get = func(ctx context.Context, from, to int64) (io.ReadCloser, error)

// ErrParentGone says that a layer to build on was removed by somebody else.
var ErrParentGone = errors.New("a layer below was removed meanwhile")

// Local is an image that the store has.
type Local struct {
	ID       string
	Digests  []string // of its manifest, and of the index that it came from
	Platform oci.Platform
}

// Layer is a layer on its way into the store. Whoever stages it checks both
// digests, and the size.
type Layer struct {
	DiffID     string
	BlobDigest string // empty: not known, taken as found
	Size       int64  // of Body; 0 if not known
	Body       io.Reader
	Unpacked   func(bytes int64) // called now and then; may be nil
}

// Staged is a layer whose files are complete. Blob and Size are what Body was.
type Staged struct {
	Handle any // the store's own
	Blob   string
	Size   int64
}

// Image is an image's record.
type Image struct {
	Names    []string // in normal form
	TopLayer string
	Config   []byte
	Manifest []byte
	Index    []byte // nil: not found through one
	Created  time.Time
	Repo     string   // where it was seen, as Domain/Path; empty: in no registry
	Checked  []string // digests of the layers' blobs that came and are what they say
}

// Policy says when to ask the registry.
type Policy string

// The policies, in podman's and docker's words.
const (
	Always  Policy = "always"  // and fail if it cannot be asked
	Missing Policy = "missing" // only for what is not here
	Newer   Policy = "newer"   // always, but what is here will do
	Never   Policy = "never"
)

// ParsePolicy reads a policy; the empty string is def.
func ParsePolicy(s string, def Policy) (Policy, error) {
	switch p := Policy(s); p {
	case Always, Missing, Newer, Never:
		return p, nil
	case "":
		return def, nil
	case "ifnotpresent", "IfNotPresent":
		return Missing, nil
	}
	return "", errs.New(errs.Invalid, fmt.Sprintf("invalid pull policy %q: want always, missing, newer or never", s))
}

// Options are what a Puller works with.
type Options struct {
	Registry registry
	Images   images
	// Open returns the store; it is called once something must be changed, and
	// the caller of New closes the store.
	Open func(ctx context.Context) (Store, error)
	// Allow refuses what the policy does not allow: [config.Policy.Check]. nil
	// allows all.
	Allow func(transport, scope string) error
	// Verify checks the signatures that the policy wants of an image in a registry,
	// by the digest of the index, if there is one, and that of its manifest. nil:
	// Allow has refused what would need it.
	Verify func(ctx context.Context, ref oci.Reference, digests []string) error
	// Spool is the directory for an archive that must be kept for a moment; a
	// file there has no name.
	Spool string
}

// Puller brings images into one store.
type Puller struct{ o Options }

// New returns a Puller. It opens nothing.
func New(o Options) *Puller { return &Puller{o} }

// Request is one image, or all of a repository, to pull.
type Request struct {
	Ref      oci.Reference
	Or       []oci.Reference // what else may be meant, tried in turn if Ref cannot be had
	Platform *oci.Platform   // nil: this machine's, and others if there is no choice
	Policy   Policy          // empty: Always
	AllTags  bool            // all of Ref's repository
	Events   func(Event)     // progress; called from several goroutines, one at a time; may be nil
}

// Result is what became of one image.
type Result struct {
	Ref     oci.Reference // as pulled, with its tag
	ID      string        // hex
	Digest  string        // what the registry says the name is; may be empty if nothing was asked
	New     bool          // downloaded; otherwise it was up to date
	Warning error         // why the registry was not asked, for Newer
}

// Status is Docker's last line but one.
func (r Result) Status() string {
	if r.New {
		return "Status: Downloaded newer image for " + r.Ref.Familiar()
	}
	return "Status: Image is up to date for " + r.Ref.Familiar()
}

// Pull brings the request's images into the store. With AllTags it stops at the
// first failure and returns what was done before it.
func (p *Puller) Pull(ctx context.Context, req Request) ([]Result, error) {
	if req.Policy == "" {
		req.Policy = Always
	}
	e := newEmitter(req.Events)
	if !req.AllTags {
		r, err := p.first(ctx, req, e)
		if err != nil {
			return nil, err
		}
		return []Result{r}, nil
	}
	if req.Ref.Tag != "" || req.Ref.Digest != "" {
		return nil, errs.New(errs.Invalid, "tag can't be used with --all-tags/-a")
	}
	tags, err := p.o.Registry.Tags(ctx, req.Ref)
	if err != nil {
		return nil, wrap(req.Ref, err)
	}
	var done []Result
	for _, tag := range tags {
		one := req
		one.Ref = req.Ref.WithTag(tag)
		r, err := p.one(ctx, one, e)
		if err != nil {
			return done, wrap(one.Ref, err)
		}
		done = append(done, r)
	}
	return done, nil
}

// first pulls the first image that can be had of those that may be meant. If what is
// here will do, that comes first.
func (p *Puller) first(ctx context.Context, req Request, e *emitter) (Result, error) {
	refs := append([]oci.Reference{req.Ref}, req.Or...)
	for i := range refs {
		refs[i] = refs[i].WithDefaultTag()
	}
	if len(refs) > 1 && req.Policy != Always {
		for _, ref := range refs {
			if local, err := p.o.Images.Local(ctx, storeName(ref)); err == nil && local != nil {
				refs = []oci.Reference{ref}
				break
			}
		}
	}
	var failed error
	for i, ref := range refs {
		req.Ref = ref
		r, err := p.one(ctx, req, e)
		if err == nil || ctx.Err() != nil {
			return r, err
		}
		if err = wrap(ref, err); i > 0 {
			err = errs.E("", errs.KindOf(failed), fmt.Errorf("%w; %w", failed, err)) // all that was tried, in one line
		}
		failed = err
	}
	return Result{}, failed
}

// wrap names the image unless the error's own words do.
func wrap(ref oci.Reference, err error) error {
	if ctx := errors.Is(err, context.Canceled); ctx || strings.Contains(err.Error(), ref.FamiliarName()) {
		return err
	}
	return errs.E("pull "+ref.Familiar(), errs.KindOf(err), err)
}

// one pulls one image.
func (p *Puller) one(ctx context.Context, req Request, e *emitter) (Result, error) {
	res := Result{Ref: req.Ref}
	name := storeName(req.Ref)
	local, err := p.o.Images.Local(ctx, name)
	if err != nil {
		return res, err
	}
	if local != nil && req.Platform != nil && !req.Platform.Runs(local.Platform) {
		local = nil // another platform's: as good as none
	}
	if local != nil && (req.Policy == Missing || req.Policy == Never) {
		res.ID = local.ID
		return res, nil
	}
	if req.Policy == Never {
		return res, errs.New(errs.NotFound, "no such image: "+req.Ref.Familiar())
	}
	if req.Ref.FamiliarName() == "scratch" {
		return res, errs.New(errs.Invalid, "'scratch' is a reserved name")
	}
	if p.o.Allow != nil {
		if err := p.o.Allow("docker", req.Ref.String()); err != nil {
			return res, err
		}
	}
	if local != nil {
		head, err := p.o.Registry.Head(ctx, req.Ref)
		if err != nil && req.Policy == Newer && ctx.Err() == nil {
			res.ID, res.Warning = local.ID, err
			return res, nil
		}
		if err != nil {
			return res, err
		}
		if slices.Contains(local.Digests, head.Digest) {
			if p.o.Verify != nil { // the policy may be another since it came
				if err := p.o.Verify(ctx, req.Ref, local.Digests); err != nil {
					return res, err
				}
			}
			res.ID, res.Digest = local.ID, head.Digest
			return res, nil
		}
	}
	st, err := p.o.Open(ctx)
	if err != nil {
		return res, err
	}
	img, err := p.resolve(ctx, req, e)
	if err != nil {
		return res, err
	}
	if p.o.Verify != nil {
		digests := []string{img.digest}
		if d := oci.Digest(img.manifest); d != img.digest {
			digests = append(digests, d)
		}
		if err := p.o.Verify(ctx, req.Ref, digests); err != nil {
			return res, err
		}
	}
	res.Digest = img.digest
	if have, err := p.o.Images.Local(ctx, oci.Digest(img.config)); err == nil && have != nil {
		e = newEmitter(nil) // another name of what is here: as with Docker, no layer is told
	}
	top, checked, err := p.layers(ctx, st, img, e)
	if err != nil {
		return res, err
	}
	res.ID, err = st.PutImage(ctx, Image{
		Names: []string{name}, TopLayer: top, Checked: checked,
		Config: img.config, Manifest: img.manifest, Index: img.index, Created: img.parsed.Created, Repo: req.Ref.Name(),
	})
	if err != nil {
		return res, err
	}
	res.New = local == nil || local.ID != res.ID
	return res, nil
}

// storeName is the name that an image gets: of a tag and a digest, the digest
// decides.
func storeName(ref oci.Reference) string {
	if ref.Digest != "" {
		return ref.WithDigest(ref.Digest).String()
	}
	return ref.String()
}

// remote is an image in a registry, as far as it is small.
type remote struct {
	ref      oci.Reference
	digest   string // what the name is: the index's if there is one
	index    []byte
	manifest []byte
	config   []byte
	layers   []oci.Descriptor
	parsed   *oci.Image
}

// resolve gets manifest and config, through an index if there is one, and
// checks that they belong together.
func (p *Puller) resolve(ctx context.Context, req Request, e *emitter) (*remote, error) {
	doc, err := p.o.Registry.Manifest(ctx, req.Ref)
	if err != nil {
		return nil, err
	}
	e.emit(Event{Kind: Pulling, Ref: req.Ref}) // Docker says so once it is sure, too
	img := &remote{ref: req.Ref, digest: doc.Digest}
	m, x, err := oci.ParseManifest(doc.Data, doc.MediaType)
	if err != nil {
		return nil, err
	}
	if x != nil {
		d, err := choose(x, req.Platform)
		if err != nil {
			return nil, err
		}
		img.index = doc.Data
		// By its digest: the tag may move meanwhile.
		if doc, err = p.o.Registry.Manifest(ctx, req.Ref.WithDigest(d.Digest)); err != nil {
			return nil, err
		}
		if m, x, err = oci.ParseManifest(doc.Data, doc.MediaType); err != nil {
			return nil, err
		}
		if x != nil {
			return nil, errs.New(errs.Unsupported, "an index of indexes: name the one for this machine by its digest")
		}
	}
	img.manifest, img.layers = doc.Data, m.Layers
	if !m.IsImage() {
		return nil, errs.New(errs.Unsupported, fmt.Sprintf("not an image but an artifact of type %s", m.Config.MediaType))
	}
	if img.config, err = p.o.Registry.Config(ctx, req.Ref, m.Config); err != nil {
		return nil, err
	}
	if img.parsed, err = oci.ParseImage(img.config); err != nil {
		return nil, err
	}
	if a, b := len(m.Layers), len(img.parsed.RootFS.DiffIDs); a != b {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("the manifest has %d layers, the config %d", a, b))
	}
	// An index has chosen; a lone manifest may be anything. One that does not say
	// what it is for (made by hand) is what was asked for.
	if want := req.Platform; want != nil && img.index == nil && img.parsed.OS+img.parsed.Architecture != "" && !want.Runs(img.parsed.Platform) {
		return nil, errs.New(errs.NotFound, fmt.Sprintf("image with reference %s was found but does not match the specified platform: wanted %s, actual: %s",
			req.Ref.Familiar(), want, img.parsed.Platform.Normalize()))
	}
	return img, nil
}

// choose picks the image for a platform.
func choose(x *oci.Index, platform *oci.Platform) (oci.Descriptor, error) {
	want := oci.HostPlatform()
	if platform != nil {
		want = *platform
	}
	if i := oci.Select(x.Manifests, want); i >= 0 {
		return x.Manifests[i], nil
	}
	var has []string
	for _, d := range x.Manifests {
		if d.Platform == nil {
			if platform == nil && len(x.Manifests) == 1 {
				return d, nil // nothing to choose from
			}
			continue
		}
		if d.Platform.OS != "unknown" {
			has = append(has, d.Platform.Normalize().String())
		}
	}
	err := errs.New(errs.NotFound, fmt.Sprintf("no matching manifest for %s in the manifest list entries", want))
	if len(has) == 0 {
		return oci.Descriptor{}, err
	}
	return oci.Descriptor{}, errs.WithHint(err, fmt.Sprintf("It is there for %s: choose with --platform.", strings.Join(has, ", ")))
}
