// Package storage keeps images, in the form and the place that Podman, Buildah,
// Skopeo and CRI-O use, so that all of them see the same images.
//
// It has two sides. A [Reader] finds images and the directories to mount with
// nothing but the store's own files and locks: it runs as the plain user, enters
// no user namespace and loads no library, because `run` and `ps` pay for it. A
// [Store] changes images through go.podman.io/storage; it must run as root, or
// as root of the user's namespace U in a mount namespace of its own: opened
// outside, the library takes native overlay for unsupported and may mark the
// store, for Podman too, as one that needs fuse-overlayfs.
//
// Both may be used in one process. The store's locks are POSIX record locks,
// which a process loses when it closes any descriptor of the file; the Reader
// therefore takes open file description locks, which exclude record locks but
// are not lost like them, and never closes a lock file.
package storage

import (
	"log/slog"
	"time"

	"go.podman.io/storage/pkg/reexec"
)

// Reexec does the work of a re-executed helper of the library and reports
// whether it did: then the program must end. It is the first line of main.
func Reexec() bool { return reexec.Init() }

// Options say which store it is and how it is used.
type Options struct {
	GraphRoot string // where images are, absolute
	RunRoot   string // the store's run directory, absolute

	Driver        string   // "": what the graph root holds already, else overlay
	DriverOptions []string // as in STORAGE_OPTS: "overlay.mount_program=/usr/bin/fuse-overlayfs"
	ImageStore    string   // where images are kept apart from containers; usually empty
	ImageStores   []string // additional, read-only stores
	Transient     bool     // container records live in the run root

	Rootless bool // not root on the host: overlay's marks are user.* attributes
	Single   bool // the user namespace has one id: owners are recorded in user.containers.override_stat

	// ShortNames returns the full names that a name without a registry stands for;
	// they come before Docker Hub's. nil: none.
	ShortNames func(typed string) ([]string, error)

	IgnoreChown bool // owners outside the user namespace become root

	NoSync bool         // do not flush before layers are recorded
	Log    *slog.Logger // nil: says nothing
}

// Image is an image's record. A Reader returns it; it is a copy.
type Image struct {
	ID       string    // hex, the digest of the config for images from a registry
	Names    []string  // docker.io/library/debian:bookworm, …@sha256:…; in the order of the record
	Digest   string    // of the platform's manifest; may be empty
	Digests  []string  // of all manifests kept, an index included
	Created  time.Time // from the config
	TopLayer string    // id of the topmost layer; empty for an image without layers
	ReadOnly bool      // it is in an additional store

	Mapped  []string         // top layers with other id mappings
	History []string         // names it had before
	BigData map[string]int64 // names and sizes of what is kept with it

	dir string // the image store's directory that it was found in
}

// Layer is a layer's record.
type Layer struct {
	ID         string
	Parent     string // empty for the bottom one
	DiffID     string // digest of the uncompressed tar; may be empty
	BlobDigest string // digest of the compressed blob; may be empty
	Size       int64  // bytes of the uncompressed tar; -1 unknown
	Content    int64  // bytes in its files, which is what Docker shows; -1 unknown
	Created    time.Time

	incomplete bool   // its files are not all there: the next writer removes it
	ours       bool   // a pull of cais's made it
	files      string // equal for layers whose files are links to each other's
}

// pulledFlag is on layers that a pull of cais's made; its value is the time.
const pulledFlag = "cais-pull"

// sizeFlag is on layers whose files' bytes were counted; its value is the sum.
const sizeFlag = "cais-size"

// twinFlag is on layers whose files are links to another's; its value is that one's
// id, or what it has itself in this flag. It may be gone since.
const twinFlag = "cais-twin"

// Bytes is what the layer counts for in lists: its content, or as much as is
// known.
func (l Layer) Bytes() int64 {
	if l.Content >= 0 {
		return l.Content
	}
	return max(l.Size, 0)
}

// ContainerRef is the record that protects an image from other tools while a
// container uses it.
type ContainerRef struct {
	ID        string
	Name      string
	ImageID   string
	ImageName string // what the user asked for, in normal form; written for Podman's listing, and not read again
	Created   time.Time
	Volatile  bool // --rm: not flushed to disk
	// Owner is whose containers it belongs to: config.Paths.Root. Several may use
	// one store, and nobody may take back what another keeps.
	Owner string

	// Layer is empty for cais's own containers, which keep their files beside
	// their records; others have a layer in the store. Not written.
	Layer string
	// Ours says that cais made the record. Not written.
	Ours bool
}
