package storage

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	library "go.podman.io/storage"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/lock"
)

// intent is what a removal was about to do, for whoever finishes it.
type intent struct {
	Version int      `json:"v"`
	Image   string   `json:"image"`
	Layers  []string `json:"layers"` // top first; empty: the image goes when its containers are gone
}

const intentVersion = 1

func (s *Store) intentPath(image string) string {
	return filepath.Join(s.stateDir(), "rmi-"+image+".json")
}

func (s *Store) intend(img *Image, layers []string) error {
	doc, err := json.Marshal(intent{intentVersion, img.ID, layers})
	if err != nil {
		return err
	}
	return atomicfile.Write(s.intentPath(img.ID), doc, 0o600, true)
}

func (s *Store) forget(image string) error {
	err := os.Remove(s.intentPath(image))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// recover removes layers that dead processes were recording, finishes cut removals
// and removes the staging directories of dead processes.
func (s *Store) recover(ctx context.Context) error {
	s.HasLayer("") // the library looks for the first when it is asked about any layer
	intents, err := filepath.Glob(filepath.Join(s.stateDir(), "rmi-*.json"))
	if err != nil {
		return err
	}
	for _, path := range intents {
		if err := s.finish(ctx, path); err != nil {
			return err
		}
	}
	_, err = s.sweepStaging(false)
	return err
}

// finish does what is left of one intent. It never removes an image that has a
// name: it may have been pulled again since.
func (s *Store) finish(ctx context.Context, path string) error {
	doc, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody was faster
	}
	if err != nil {
		return err
	}
	var in intent
	if err := json.Unmarshal(doc, &in); err != nil || in.Version > intentVersion || !validID(in.Image) {
		return nil // a newer cais's, or nobody's
	}
	img, err := s.lib.Image(in.Image)
	switch {
	case err == nil && len(img.Names) > 0:
		return s.forget(in.Image)
	case err == nil:
		users, err := s.users(ctx, img.ID)
		if err != nil || len(users) > 0 {
			return err
		}
		layers := s.layersOf(img.TopLayer)
		in.Layers = nil
		for _, l := range layers {
			in.Layers = append(in.Layers, l.ID)
		}
		if err := s.intend(&Image{ID: img.ID}, in.Layers); err != nil {
			return err
		}
		if _, err := s.lib.DeleteImage(img.ID, true); err != nil && !errors.Is(err, library.ErrImageUsedByContainer) && !errors.Is(err, library.ErrNotAnImage) {
			return err
		}
	case !errors.Is(err, library.ErrImageUnknown):
		return err
	}
	for _, id := range in.Layers {
		if err := s.deleteLayer(id); err != nil {
			return err
		}
	}
	return s.forget(in.Image)
}

// deleteLayer removes a layer unless something uses it.
func (s *Store) deleteLayer(id string) error {
	err := s.lib.DeleteLayer(id)
	for _, fine := range []error{
		library.ErrLayerUnknown, library.ErrNotALayer, library.ErrLayerHasChildren,
		library.ErrLayerUsedByImage, library.ErrLayerUsedByContainer, library.ErrParentUnknown,
	} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	return err
}

// CollectOptions say what is garbage.
type CollectOptions struct {
	// Live tells whether the container of one of cais's records exists; nil: the
	// records are left alone. Several cais may use one store: it must not say of
	// another's (see ContainerRef.Owner) what it cannot know.
	Live func(ContainerRef) bool
	// Age is how old an unreferenced layer must be; 0: an hour.
	Age time.Duration
	// DryRun only counts.
	DryRun bool
}

// youngRecord is the age below which a record's container may be on its way.
const youngRecord = 10 * time.Minute

// Collected is what Collect removed.
type Collected struct {
	Layers     []string // ids of layers that nothing used, top before bottom
	Containers []string // ids of records whose container is gone
	Staging    int      // directories left by killed processes
	Bytes      int64    // as far as known
}

// Collect removes what killed processes and failed pulls of any tool left.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (c Collected, err error) {
	s.spendReserve()
	if o.Age == 0 {
		o.Age = time.Hour
	}
	if o.Live != nil {
		dead := func(r ContainerRef) bool { return time.Since(r.Created) > youngRecord && !o.Live(r) }
		if o.DryRun {
			all, err := s.reader.Containers(ctx)
			if err != nil {
				return c, err
			}
			for _, r := range all {
				if r.Ours && dead(r) {
					c.Containers = append(c.Containers, r.ID)
				}
			}
		} else if c.Containers, err = s.reader.removeContainers(ctx, dead); err != nil {
			return c, s.explain("remove stale container records", err)
		}
	}
	if !o.DryRun {
		if err := s.recover(ctx); err != nil { // the records may have been what an intent waited for
			return c, s.explain("finish removals", err)
		}
		if err := s.lib.GarbageCollect(); err != nil {
			return c, s.explain("collect garbage", err)
		}
	}
	if !o.DryRun {
		if err := s.tidySeen(ctx); err != nil {
			return c, s.explain("make the notes smaller", err)
		}
	}
	if c.Staging, err = s.sweepStaging(o.DryRun); err != nil {
		return c, s.explain("remove staging directories", err)
	}
	unused, err := s.unreferenced(time.Now().Add(-o.Age))
	if err != nil {
		return c, s.explain("find unreferenced layers", err)
	}
	for _, l := range unused {
		if ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		if !o.DryRun {
			if err := s.deleteLayer(l.ID); err != nil {
				return c, s.explain("remove layer "+short(l.ID), err)
			}
			if s.HasLayer(l.ID) {
				continue // taken into use meanwhile
			}
		}
		c.Layers = append(c.Layers, l.ID)
		c.Bytes += s.freed(l)
	}
	return c, nil
}

// unreferenced lists the layers made before the given time that no image and no
// container needs, children first. Nothing is unreferenced while a pull holds a
// blob: its layers may be waiting for their image.
func (s *Store) unreferenced(before time.Time) ([]library.Layer, error) {
	if s.pulling() {
		return nil, nil
	}
	layers, err := s.lib.Layers()
	if err != nil {
		return nil, err
	}
	images, err := s.lib.Images()
	if err != nil {
		return nil, err
	}
	containers, err := s.lib.Containers()
	if err != nil {
		return nil, err
	}
	byID := map[string]library.Layer{}
	for _, l := range layers {
		byID[l.ID] = l
	}
	used := map[string]bool{}
	use := func(id string) {
		for ; id != "" && !used[id]; id = byID[id].Parent {
			used[id] = true
		}
	}
	for _, img := range images {
		use(img.TopLayer)
		for _, m := range img.MappedTopLayers {
			use(m)
		}
	}
	for _, c := range containers {
		use(c.LayerID)
	}
	for _, l := range layers {
		if strings.HasPrefix(l.ID, holderPrefix) { // for a build's cache
			use(l.ID)
		}
	}
	for _, l := range layers { // a young layer is about to be used, and so is what it stands on
		if l.Created.After(before) {
			use(l.ID)
		}
	}
	depth := func(id string) (n int) {
		for ; id != "" && n <= maxLayers; id = byID[id].Parent {
			n++
		}
		return n
	}
	unused := slices.DeleteFunc(layers, func(l library.Layer) bool { return used[l.ID] || l.ReadOnly })
	slices.SortStableFunc(unused, func(a, b library.Layer) int { return depth(b.ID) - depth(a.ID) })
	return unused, nil
}

// pulling reports whether any process holds a blob.
func (s *Store) pulling() bool {
	entries, err := os.ReadDir(filepath.Join(s.o.RunRoot, "cais-blobs"))
	if err != nil {
		return false
	}
	for _, e := range entries {
		if held, err := lock.Held(filepath.Join(s.o.RunRoot, "cais-blobs", e.Name())); err == nil && held {
			return true
		}
	}
	return false
}

// sweepStaging removes staging directories whose process is gone: the lock on
// their file is free. It never closes a lock file that it could not lock, as
// this process may be the one that holds it (see the package comment).
func (s *Store) sweepStaging(dryRun bool) (n int, err error) {
	root := s.o.GraphRoot
	if s.o.ImageStore != "" {
		root = s.o.ImageStore
	}
	base := filepath.Join(root, "overlay", "staging")
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		// A young one is perhaps not locked yet, or was let go just now.
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < 10*time.Second {
			continue
		}
		dir := filepath.Join(base, e.Name())
		fd, err := unix.Open(filepath.Join(dir, "staging.lock"), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return n, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		if lk := (unix.Flock_t{Type: unix.F_WRLCK}); err == nil && unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lk) != nil {
			continue
		}
		n++
		if !dryRun {
			err = os.RemoveAll(dir)
		}
		if fd >= 0 {
			_ = unix.Close(fd) // drops the lock
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// sweepTemporary removes the files that writers of the store's records left when
// they were killed. The library writes them under the lock of their directory:
// with it in our hands, nobody is about to rename one.
func (s *Store) sweepTemporary(ctx context.Context) error {
	root := s.o.GraphRoot
	if s.o.ImageStore != "" {
		root = s.o.ImageStore
	}
	containers, _ := s.reader.containerFiles()
	for _, of := range []struct{ dir, records string }{
		{s.reader.dir(root, "images"), "images"},
		{s.reader.dir(root, "layers"), "layers"},
		{s.reader.dir(s.o.RunRoot, "layers"), "mountpoints"},
		{filepath.Dir(containers), "containers"},
	} {
		if len(temporary(of.dir, of.records)) == 0 {
			continue // nearly always, and then there is no lock to wait for
		}
		err := s.reader.locked(ctx, filepath.Join(of.dir, of.records+".lock"), true, func(*lockFile) error {
			for _, path := range temporary(of.dir, of.records) {
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// temporary lists the temporary files of dir's records. The directories of images
// are looked into only if they have changed no earlier than the records: a writer
// that lived would have changed those last.
func temporary(dir, records string) (paths []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var changed time.Time
	if info, err := os.Lstat(filepath.Join(dir, records+".json")); err == nil {
		changed = info.ModTime()
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if e.IsDir() {
			if info, err := e.Info(); records != "images" || err != nil || info.ModTime().Before(changed.Add(-time.Second)) {
				continue
			}
			inside, _ := filepath.Glob(filepath.Join(name, ".tmp-*")) // the pattern is a good one
			paths = append(paths, inside...)
			continue
		}
		if strings.HasPrefix(e.Name(), ".tmp-"+records+".json") || strings.HasPrefix(e.Name(), ".tmp-volatile-"+records+".json") {
			paths = append(paths, name)
		}
	}
	return paths
}

// Unreferenced returns the layers that nothing uses and their size, for system
// df. Young ones count, too: they are there.
func (s *Store) Unreferenced() (n int, bytes int64, err error) {
	unused, err := s.unreferenced(time.Now())
	for _, l := range unused {
		bytes += bytesOf(l)
	}
	return len(unused), bytes, err
}
