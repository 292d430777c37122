package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	library "go.podman.io/storage"
	"go.podman.io/storage/drivers"
	_ "go.podman.io/storage/drivers/overlay" // the one driver that cais mounts
	"go.podman.io/storage/types"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
)

// LayerID is the id of the layer with the given diffID on top of parent, which
// is a layer's id or empty. It is the same in every tool of this store.
func LayerID(parent, diffID string) string {
	hexID := strings.TrimPrefix(diffID, "sha256:")
	if parent == "" {
		return hexID
	}
	sum := sha256.Sum256([]byte(parent + "+" + hexID))
	return hex.EncodeToString(sum[:])
}

// Store is the side that changes images. Its methods may be called at once from
// several goroutines.
type Store struct {
	o      Options
	lib    library.Store
	reader *Reader
	ids    func() string
}

// Open opens the store for changes, making it if it is missing. It finishes
// what a killed process left half done.
func Open(ctx context.Context, o Options) (*Store, error) {
	op := "open the image store " + o.GraphRoot
	if os.Geteuid() != 0 {
		return nil, errs.E(op, errs.Internal, errors.New("not in the user namespace"))
	}
	s := &Store{o: o, reader: NewReader(o), ids: sync.OnceValue(idRange)}
	if err := s.reader.mountable(); err != nil {
		return nil, err
	}
	if err := s.ours(); err != nil {
		return nil, errs.E(op, errs.KindOf(err), err)
	}
	if o.Log == nil {
		logrus.SetOutput(io.Discard) // the library's; its errors are returned besides
	}
	opts := types.StoreOptions{
		GraphRoot: o.GraphRoot, RunRoot: o.RunRoot, ImageStore: o.ImageStore, TransientStore: o.Transient,
		GraphDriverName: s.reader.Driver(),
		// Without it, opening bind-mounts the store's directory on itself, and as
		// root that mount stays in the host's table for good.
		GraphDriverOptions: []string{"overlay.skip_mount_home=true"},
	}
	for _, opt := range o.DriverOptions {
		if strings.HasSuffix(opt, "ignore_chown_errors=true") {
			s.o.IgnoreChown = true
		}
		if !strings.Contains(opt, "skip_mount_home") {
			opts.GraphDriverOptions = append(opts.GraphDriverOptions, opt)
		}
	}
	for _, dir := range o.ImageStores {
		opts.GraphDriverOptions = append(opts.GraphDriverOptions, "overlay.imagestore="+dir)
	}
	for _, dir := range []string{s.stateDir(), o.RunRoot} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, s.explain(op, err)
		}
	}
	if err := s.sweepTemporary(ctx); err != nil {
		return nil, s.explain(op, err)
	}
	lib, err := getStore(opts)
	if err != nil {
		return nil, s.explain(op, err)
	}
	s.lib = lib
	if err := s.recover(ctx); err != nil {
		return nil, errors.Join(s.explain(op, err), s.Close())
	}
	s.keepReserve()
	return s, nil
}

// opening guards what is one for the process: the environment that the library
// reads, and its list of open stores, which it forgets to guard when one is closed.
var opening sync.Mutex

// getStore is the library's GetStore, which reads storage.conf even if every
// option is given: by rules that break users' stores, and failing for files that
// have been read, or are none of its business under CAIS_ROOT. So it gets an
// empty one, and directories that exist in the place of the user's own.
func getStore(o types.StoreOptions) (_ library.Store, err error) {
	opening.Lock()
	defer opening.Unlock()
	for name, value := range map[string]string{
		"CONTAINERS_STORAGE_CONF": os.DevNull, "CONTAINERS_STORAGE_CONF_OVERRIDE": os.DevNull,
		"XDG_RUNTIME_DIR": o.RunRoot, "XDG_DATA_HOME": o.GraphRoot, "XDG_CONFIG_HOME": o.GraphRoot,
	} {
		old, had := os.LookupEnv(name)
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
		defer func() {
			if had {
				err = errors.Join(err, os.Setenv(name, old))
			} else {
				err = errors.Join(err, os.Unsetenv(name))
			}
		}()
	}
	return library.GetStore(o)
}

// ours checks that the graph root, or what it will be made in, may be written.
func (s *Store) ours() error {
	if s.o.GraphRoot == "" || s.o.RunRoot == "" || !filepath.IsAbs(s.o.GraphRoot) || !filepath.IsAbs(s.o.RunRoot) {
		return errs.New(errs.Invalid, "the graph root and the run root must be absolute paths")
	}
	for dir := s.o.GraphRoot; ; dir = filepath.Dir(dir) {
		err := unix.Access(dir, unix.W_OK|unix.X_OK)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.ENOENT) && dir != "/":
			continue
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			err = errs.E("", errs.Denied, fmt.Errorf("no write access to %s: %w", dir, err))
			return errs.WithHint(err, "It belongs to another user; was it made with sudo? Set graphroot in storage.conf, or CAIS_ROOT, to a directory of yours.")
		}
		return fmt.Errorf("%s: %w", dir, err)
	}
}

// stateDir holds what cais keeps beside the store: the reserve and intents.
func (s *Store) stateDir() string { return filepath.Join(s.o.GraphRoot, "cais") }

// Close ends the use of the store.
func (s *Store) Close() error {
	opening.Lock()
	defer opening.Unlock()
	s.lib.Free()
	return nil
}

// Reader returns a Reader of the same store. It must not be closed.
func (s *Store) Reader() *Reader { return s.reader }

func (s *Store) idRange() string { return s.ids() }

// idRange describes the ids of this user namespace; empty outside of one.
func idRange() string {
	m, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return ""
	}
	total := int64(0)
	for line := range strings.Lines(string(m)) {
		var inside, outside, size int64
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err == nil {
			total = max(total, inside+size)
		}
	}
	if total == 0 || total > 1<<31 {
		return ""
	}
	return fmt.Sprintf("0 to %d", total-1)
}

// HasLayer reports whether the store has the layer with this id (see [LayerID]).
func (s *Store) HasLayer(id string) bool {
	l, err := s.lib.Layer(id)
	if err != nil || l.ID != id {
		return false
	}
	incomplete, _ := l.Flags["incomplete"].(bool)
	return !incomplete
}

// LockDigest waits until no other process works on the blob with this digest
// and returns what ends the exclusion. waiting, if not nil, is called once if it
// has to wait.
//
// The library's own lock for this cannot be cancelled while waiting.
func (s *Store) LockDigest(ctx context.Context, digest string, waiting func()) (release func(), err error) {
	name, err := digestHex(digest)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.o.RunRoot, "cais-blobs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return lock.Temporary(ctx, filepath.Join(dir, name), waiting)
}

// ErrParentGone says that the layer to build on was removed in the meantime.
var ErrParentGone = errs.New(errs.Unavailable, "a layer below was removed meanwhile")

// CommitLayers records the staged layers, bottom first, on top of the layer
// parent (empty: none) and returns the id of the last. All of them are flushed
// to disk at once before the first is recorded. A layer that exists already is
// taken, and ours dropped. If parent is gone, it fails with [ErrParentGone] and
// the layers not yet recorded stay staged.
func (s *Store) CommitLayers(ctx context.Context, parent string, layers ...*Staged) (top string, err error) {
	if len(layers) > 0 && !s.o.NoSync {
		if err := s.sync(); err != nil {
			return "", s.explain("flush the layers to disk", err)
		}
	}
	top = parent
	for _, l := range layers {
		if ctx.Err() != nil {
			return top, context.Cause(ctx)
		}
		if top, err = s.commit(ctx, top, l); err != nil {
			return top, err
		}
	}
	return top, nil
}

// sync flushes the store's file system: one call for any number of files.
func (s *Store) sync() error {
	root := s.o.GraphRoot
	if s.o.ImageStore != "" {
		root = s.o.ImageStore
	}
	d, err := os.Open(root)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

func (s *Store) commit(ctx context.Context, parent string, l *Staged) (string, error) {
	if l.out == nil { // recorded before, perhaps on another parent
		id := LayerID(parent, l.DiffID)
		if s.HasLayer(id) {
			return id, nil
		}
		return parent, errs.E("record layer "+short(id), errs.Internal, errors.New("it is no longer staged"))
	}
	flags := map[string]any{pulledFlag: time.Now().Unix(), sizeFlag: l.Content}
	if l.twinOf != "" {
		flags[twinFlag] = l.twinOf
	}
	id, err := s.apply(ctx, parent, l.split, l.out, library.LayerOptions{
		OriginalDigest: l.out.CompressedDigest, OriginalSize: &l.BlobSize, Flags: flags,
	})
	if err != nil {
		return parent, err
	}
	return id, s.Discard(l)
}

// apply records a directory as the layer above parent and returns its id; if the
// store has that layer, the directory stays where it is.
//
// The library would put it into the place of a layer that is recorded, while
// containers may have that one mounted. So it is looked for first, and of cais's
// processes one records at a time.
func (s *Store) apply(ctx context.Context, parent string, split *os.File, out *graphdriver.DriverWithDifferOutput, o library.LayerOptions) (string, error) {
	id := LayerID(parent, string(out.UncompressedDigest))
	recording, err := lock.Acquire(ctx, filepath.Join(s.o.RunRoot, "cais-recording"), true)
	if err != nil {
		return "", s.explain("record layer "+short(id), err)
	}
	defer recording.Release()
	if parent != "" && !s.HasLayer(parent) {
		return "", ErrParentGone
	}
	if s.HasLayer(id) {
		return id, nil
	}
	if split != nil {
		fd, err := unix.FcntlInt(split.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		out.TarSplit = os.NewFile(uintptr(fd), "tar-split") // the library closes it, also when it fails
	}
	o.UncompressedDigest = out.UncompressedDigest
	_, err = s.lib.ApplyStagedLayer(library.ApplyStagedLayerOptions{ID: id, ParentLayer: parent, DiffOutput: out, LayerOptions: &o})
	switch {
	case errors.Is(err, library.ErrLayerUnknown):
		return "", ErrParentGone
	case errors.Is(err, library.ErrDuplicateID) && s.HasLayer(id):
	case err != nil:
		return "", s.explain("record layer "+short(id), err)
	}
	return id, nil
}

// Discard removes staged layers that are not committed; others are left alone.
func (s *Store) Discard(layers ...*Staged) error {
	var failed []error
	for _, l := range layers {
		if l == nil || l.out == nil {
			continue
		}
		failed = append(failed, s.lib.CleanupStagedLayer(l.out))
		l.out = nil
		if l.split != nil {
			failed = append(failed, l.split.Close())
			l.split = nil
		}
	}
	return errors.Join(failed...)
}

// layersOf reads the records of the layers from top down.
func (s *Store) layersOf(top string) []library.Layer {
	var layers []library.Layer
	for id := top; id != ""; {
		l, err := s.lib.Layer(id)
		if err != nil || slices.ContainsFunc(layers, func(o library.Layer) bool { return o.ID == l.ID }) {
			break
		}
		layers = append(layers, *l)
		id = l.Parent
	}
	return layers
}
