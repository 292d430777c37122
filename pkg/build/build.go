// Package build carries out the graph of a build: it finds out by keys alone what
// is there already, makes the rest, side by side where it can, and records the
// images. It reads no Dockerfile and knows no flags.
//
// A step's layer is made in a directory of the build cache, by a command that has
// it as the upper directory of its overlay or by package files, and becomes a layer
// of the image store by a rename once an image has it.
package build

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/layer/changes"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
)

// layers is what a build reads of the image store.
type layers interface {
	// LayerID returns the id of the layer diffID on the layer parent.
	LayerID(parent, diffID string) string
	// LayerDirs returns the directories of the layer id and all below it, top first.
	LayerDirs(ctx context.Context, id string) ([]string, error)
	// LayerDir returns the directory of one layer; empty if it is not there.
	LayerDir(id string) string
	// HasLayers reports whether the layer id and all below it are there.
	HasLayers(ctx context.Context, id string) bool
	// Sizes returns the bytes of the tars of the layer id and all below it, bottom
	// first; -1 for one that is not known.
	Sizes(ctx context.Context, id string) ([]int64, error)
	// Manifest returns the manifest of the image id if the store has it with all its
	// layers and under these names, else nil.
	Manifest(ctx context.Context, id string, names []string) ([]byte, error)
	// ImageLayers returns the layers that images have.
	ImageLayers(ctx context.Context) (map[string]bool, error)
	// HeldLayers returns the layers that only the cache keeps.
	HeldLayers(ctx context.Context) ([]HeldLayer, error)
	// WorkDir is a directory on the file system of the store's layers.
	WorkDir() string
	// Rootless says that overlay's marks are user.* attributes, Single that only
	// one id exists.
	Rootless() bool
	Single() bool
}

// HeldLayer is a layer of the store that the cache keeps.
type HeldLayer struct {
	ID, Parent string
	Bytes      int64
	Created    time.Time
}

// Store is what a build changes in the image store.
type Store interface {
	// AdoptLayer makes the directory a layer on parent, and returns its id. One
	// that is there already is taken, and the directory left.
	AdoptLayer(ctx context.Context, parent string, l NewLayer) (id string, err error)
	// HoldLayer keeps the layer, and those below it, for the cache.
	HoldLayer(ctx context.Context, id string) error
	// Sync flushes all files of the store.
	Sync() error
	// PutLayer makes a tar a layer on parent, unless it is there.
	PutLayer(ctx context.Context, parent, diffID string, tar func(io.Writer) error) (id string, err error)
	PutImage(ctx context.Context, img Image) (id string, err error)
}

// NewLayer is a layer to be.
type NewLayer struct {
	Dir      string
	Sum      changes.Summary
	TarSplit *os.File
	Keep     bool // copy it: others have the directory, too
}

// Image is an image's record.
type Image struct {
	Names    []string
	TopLayer string
	Config   []byte
	Manifest []byte
	Created  time.Time
}

// images gets the images that a build begins with.
type images interface {
	// Fetch sees to it that the store has the image's layers and returns the
	// uppermost's id; "" for an image without layers.
	Fetch(ctx context.Context, img *graph.Image, p oci.Platform, step *progress.Step) (top string, err error)
}

// Sources are where files come from that are no image's.
type Sources interface {
	// Local returns a context by its name. It belongs to the Sources.
	Local(ctx context.Context, name string) (*source.Tree, error)
	// Git and HTTP fetch. key tells what was found, so that the same has the same;
	// the tree belongs to the Sources.
	Git(ctx context.Context, op *graph.Git, step *progress.Step) (tree *source.Tree, key string, err error)
	HTTP(ctx context.Context, op *graph.HTTP, step *progress.Step) (tree *source.Tree, key string, err error)
	// Secret returns a secret's value; found is false if it was not given.
	Secret(ctx context.Context, id string) (value []byte, found bool, err error)
	// Agent connects to an ssh agent; found is false if it was not given.
	Agent(ctx context.Context, id string) (dial func(ctx context.Context) (io.ReadWriteCloser, error), found bool, err error)
}

// Options are what a Service works with.
type Options struct {
	Layers layers
	Images images
	// Open returns the store; it is called once something must be changed. Whoever
	// made the Service closes it.
	Open func(ctx context.Context) (Store, error)
	// Network makes a namespace on the default network for the commands of one
	// build; nil: they have the host's network.
	Network func(ctx context.Context, id string) (*Network, error)
	// Host returns what is known of this machine.
	Host func() (plan.Host, error)
	Log  *slog.Logger
}

// Network is a namespace with a network.
type Network struct {
	Path   string // of the namespace
	Resolv string // for /etc/resolv.conf
	HostIP string // what host-gateway means there
	Close  func() error
}

// Service builds.
type Service struct{ o Options }

// New returns a Service. It opens nothing.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o}
}

// Request is one build.
type Request struct {
	Graph    *graph.Graph
	Sources  Sources
	Progress *progress.Log

	// Record says that the results are recorded in the store, under Names, in normal form.
	Record bool
	Names  []string
	// OCI gives the images OCI's media types, not Docker's.
	OCI bool
	// Annotations are the manifests'.
	Annotations map[string]string

	// CacheFrom are caches of other machines, CacheMode says what of this build goes
	// into Result.Cache.
	CacheFrom []CacheSource
	CacheMode CacheMode
	// Inline, if not nil, makes of the records of an image's own layers what its
	// config has under [InlineKey].
	Inline func([]CacheRecord) ([]byte, error)

	// Rewrite changes the layers before they are recorded.
	Rewrite Rewrite

	Jobs int // commands at once; 0: as many as there are, -1 too

	// Limits and the like of all commands.
	Resources    plan.Resources
	CgroupParent string
	Ulimits      []plan.Ulimit
	CapAdd       []string
	CapDrop      []string
	Mounts       []plan.Mount // podman's build -v
	Devices      []plan.Device
	Security     plan.Security
	DNS          DNS
}

// Result is what a build made. Its results stay where they are until Close.
type Result struct {
	Images []Built
	Cache  []CacheRecord // parents before what is on them
	held   []*cache.Result
	open   []*os.File
}

// Close lets go of the results: prune may remove them then.
func (r *Result) Close() {
	for _, h := range r.held {
		h.Release()
	}
	closeAll(r.open)
	r.held, r.open = nil, nil
}

// Built is one image.
type Built struct {
	Platform oci.Platform
	ID       string // hex; the digest of Config. Only if recorded or summed up
	Config   []byte
	Manifest []byte
	Layers   []BuiltLayer // bottom first, the base image's too
	TopLayer string       // id in the store, if recorded
	// Dirs are the directories of the file system, top first.
	Dirs []string
}

// BuiltLayer is a layer of an image.
type BuiltLayer struct {
	DiffID string
	Size   int64  // of its tar; -1 if not known
	ID     string // in the store, if recorded
}
