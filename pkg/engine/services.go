package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/connect"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/events"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/storage"
)

// services are what is made on demand.
type services struct {
	storage    func() (storage.Options, error)
	reader     func() (*storage.Reader, error)
	networks   func() (*connect.Service, error)
	containers func() (*run.Service, error)
	log        func() *slog.Logger
}

func (e *Engine) wire() {
	e.s = services{
		storage:    sync.OnceValues(e.storageOptions),
		reader:     sync.OnceValues(e.newReader),
		networks:   sync.OnceValues(e.newConnections),
		containers: sync.OnceValues(e.newContainers),
		log:        sync.OnceValue(e.newLog),
	}
}

// StorageOptions say which image store it is, from the flags, the environment
// and storage.conf.
func (e *Engine) StorageOptions() (storage.Options, error) { return e.s.storage() }

func (e *Engine) storageOptions() (storage.Options, error) {
	p, err := e.Paths()
	if err != nil {
		return storage.Options{}, err
	}
	env, err := e.env()
	if err != nil {
		return storage.Options{}, err
	}
	c, err := config.ReadStorage(env, p, os.DirFS("/"))
	if err != nil {
		return storage.Options{}, err
	}
	if len(e.o.StorageOpts) > 0 {
		c.SetDriverOptions(e.o.StorageOpts)
	}
	single, err := e.singleID(env.UID)
	if err != nil {
		return storage.Options{}, err
	}
	o := storage.Options{
		ShortNames:    e.shortNames(),
		GraphRoot:     c.GraphRoot,
		RunRoot:       c.RunRoot,
		Driver:        c.Driver,
		DriverOptions: c.DriverOptions,
		ImageStore:    c.ImageStore,
		ImageStores:   c.ImageStores,
		Transient:     c.Transient,
		Rootless:      env.UID != 0,
		Single:        single,
		Log:           e.Log(),
	}
	if e.o.GraphRoot != "" {
		o.GraphRoot = p.GraphRoot
	}
	if e.o.RunRoot != "" {
		o.RunRoot = p.RunRoot
	}
	if e.o.StorageDriver != "" {
		o.Driver = e.o.StorageDriver
	}
	return o, nil
}

// Reader returns the reading side of the image store. It needs no user
// namespace.
func (e *Engine) Reader() (*storage.Reader, error) { return e.s.reader() }

func (e *Engine) newReader() (*storage.Reader, error) {
	o, err := e.StorageOptions()
	if err != nil {
		return nil, err
	}
	return storage.NewReader(o), nil
}

// Store opens the changing side of the image store; the caller closes it. The
// process must be root, or root of the user's namespace: see [Engine.EnterUserNS].
func (e *Engine) Store(ctx context.Context) (*storage.Store, error) { return e.openStore(ctx, false) }

func (e *Engine) openStore(ctx context.Context, noSync bool) (*storage.Store, error) {
	if err := e.Prepare(); err != nil {
		return nil, err
	}
	o, err := e.StorageOptions()
	if err != nil {
		return nil, err
	}
	o.NoSync = noSync
	return storage.Open(ctx, o)
}

// ContainerStore is where the containers' files are.
func (e *Engine) ContainerStore() (container.Store, error) {
	p, err := e.Paths()
	return container.Store{Root: p.Root, Run: p.Run}, err
}

// Networks is where the networks' files are.
func (e *Engine) Networks() (network.Store, error) {
	p, err := e.Paths()
	c := connect.New(connect.Options{Containers: container.Store{Root: p.Root, Run: p.Run}, Environ: e.environ()})
	return c.Networks(), err
}

// Events is where this store's events are.
func (e *Engine) Events() (events.Log, error) {
	p, err := e.Paths()
	if err != nil {
		return events.Log{}, err
	}
	return events.In(p.Root), nil
}

// Note adds to the events; nothing fails for want of them.
func (e *Engine) Note(list ...events.Event) {
	log, err := e.Events()
	if err == nil {
		err = log.Append(list...)
	}
	if err != nil {
		e.Log().Debug("an event is lost", "error", err)
	}
}

// Connections returns the service that brings containers onto networks.
func (e *Engine) Connections() (*connect.Service, error) { return e.s.networks() }

func (e *Engine) newConnections() (*connect.Service, error) {
	if err := e.Prepare(); err != nil {
		return nil, err
	}
	store, err := e.ContainerStore()
	return connect.New(connect.Options{Containers: store, Log: e.Log(), Note: e.Note, Environ: e.environ()}), err
}

// Containers returns the service for the life of containers.
func (e *Engine) Containers() (*run.Service, error) { return e.s.containers() }

// Healed is Containers once what died is put right: for commands that change it.
func (e *Engine) Healed(ctx context.Context) (*run.Service, error) {
	s, err := e.Containers()
	if err == nil {
		s.Heal(ctx)
	}
	return s, err
}

func (e *Engine) newContainers() (*run.Service, error) {
	store, err := e.ContainerStore()
	if err != nil {
		return nil, err
	}
	networks, err := e.Connections()
	if err != nil {
		return nil, err
	}
	cdi, err := e.CDIDirs()
	if err != nil {
		return nil, err
	}
	return run.New(run.Options{
		Store:    store,
		CDIDirs:  cdi,
		Images:   images{e},
		Networks: networks,
		Log:      e.Log(),
		Events:   events.In(store.Root),
		Environ:  e.environ(),
		Flags:    e.globalFlags(),
	}), nil
}

// Cleanup is the whole program's third role, [run.CleanupRole]: what neither a
// command as the user nor a monitor can do.
func (e *Engine) Cleanup(ctx context.Context, words []string) error {
	return run.Cleanup(ctx, words, e.Containers)
}

// images is the part of the image store that containers need.
type images struct{ e *Engine }

func (i images) Image(ctx context.Context, ref string) (*run.Image, error) {
	r, err := i.e.Reader()
	if err != nil {
		return nil, err
	}
	img, name, err := FindImage(ctx, r, ref)
	if err != nil {
		return nil, err
	}
	if img, err = OfList(ctx, r, img, nil); err != nil {
		return nil, err
	}
	out := &run.Image{ID: img.ID, Ref: name}
	data, err := r.Config(ctx, img)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &out.Config); err != nil {
		return nil, fmt.Errorf("read the config of image %s: %w", ref, err)
	}
	return out, nil
}

func (i images) LowerDirs(ctx context.Context, id string) ([]string, error) {
	r, err := i.e.Reader()
	if err != nil {
		return nil, err
	}
	img, err := r.Image(ctx, "sha256:"+id)
	if err != nil {
		return nil, err
	}
	return r.LowerDirs(ctx, img)
}

func (i images) Protect(ctx context.Context, p run.Protection) error {
	r, err := i.e.Reader()
	if err != nil {
		return err
	}
	paths, err := i.e.Paths()
	if err != nil {
		return err
	}
	return r.AddContainer(ctx, storage.ContainerRef{
		ID: p.ID, Name: p.Name, ImageID: p.ImageID, ImageName: p.ImageRef, Created: p.Created, Volatile: p.Volatile, Owner: paths.Root,
	})
}

func (i images) Rename(ctx context.Context, id, name string) error {
	r, err := i.e.Reader()
	if err != nil {
		return err
	}
	return r.RenameContainer(ctx, id, name)
}

func (i images) Unprotect(ctx context.Context, id string) error {
	r, err := i.e.Reader()
	if err != nil {
		return err
	}
	return r.RemoveContainer(ctx, id)
}

// RemoveUnused asks a command of its own, which may enter the user's namespace,
// where this process must not be.
func (i images) RemoveUnused(ctx context.Context, ref string) error {
	args := append(append([]string{i.e.program()}, i.e.globalFlags()...), "rmi", "--", ref)
	code, err := i.e.runChild(ctx, args, nil)
	if err == nil && code != 0 { // in use, or gone: both are fine
		i.e.Log().Debug("the image stays", "image", ref, "code", code)
	}
	return err
}

func (i images) Protected(ctx context.Context) ([]string, error) {
	r, err := i.e.Reader()
	if err != nil {
		return nil, err
	}
	paths, err := i.e.Paths()
	if err != nil {
		return nil, err
	}
	refs, err := r.Containers(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range refs {
		if c.Ours && c.Owner == paths.Root {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// Finder is what finding an image needs of the store.
type Finder interface {
	Image(ctx context.Context, refs ...string) (*storage.Image, error)
	Short(typed string) ([]string, error)
}

// FindImage returns the image that a user means by typed and the full name it
// was found by, which is empty if that was an id.
func FindImage(ctx context.Context, r Finder, typed string) (img *storage.Image, name string, err error) {
	refs, shown, err := ImageRefs(typed)
	if err != nil {
		return nil, "", err
	}
	img, err = r.Image(ctx, refs...)
	if errs.KindOf(err) == errs.NotFound {
		return nil, "", errs.New(errs.NotFound, "no such image: "+shown)
	}
	if err != nil {
		return nil, "", err
	}
	names, err := r.Short(typed)
	if err != nil {
		return nil, "", err
	}
	for _, n := range append(names, refs[0]) {
		if slices.Contains(img.Names, n) {
			return img, n, nil
		}
	}
	return img, "", nil
}

// ImageRefs returns what to look for in the store for what the user typed, in
// order: the name in normal form, then an id. shown is how errors name it. It
// fails with Invalid if typed can be neither.
func ImageRefs(typed string) (refs []string, shown string, err error) {
	if strings.HasPrefix(typed, "sha256:") && isID(typed) { // by Docker's grammar also the name "sha256" with a tag
		return []string{typed}, typed, nil
	}
	ref, err := oci.Parse(typed)
	if err != nil {
		if isID(typed) {
			return []string{typed}, typed, nil
		}
		return nil, "", err
	}
	ref = ref.WithDefaultTag()
	if ref.Digest != "" { // it decides; a tag beside it is for display
		return []string{ref.WithDigest(ref.Digest).String(), typed}, ref.Familiar(), nil
	}
	return []string{ref.String(), typed}, ref.Familiar(), nil
}

// isID reports whether s looks like an image's id, which is no valid name when
// it is complete.
func isID(s string) bool {
	s = strings.TrimPrefix(s, "sha256:")
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// Live reports whether the container of one of cais's records in the store
// exists. Of a cais whose directory is not there (another root, on a disk that is
// not mounted) nothing can be known: its records stay.
func (e *Engine) Live(c storage.ContainerRef) bool {
	if c.Owner == "" {
		return true
	}
	if _, err := os.Stat(c.Owner); err != nil {
		return true
	}
	_, err := os.Lstat(container.Store{Root: c.Owner}.Dir(c.ID))
	return !errors.Is(err, fs.ErrNotExist)
}
