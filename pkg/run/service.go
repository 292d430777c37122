// Package run is the life of a container: create, start, stop, kill, wait,
// attach, exec, remove, list, inspect and logs. It knows no flags and prints
// nothing. Two commands meet only in the files of package container and in
// kernel objects.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/connect"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/events"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/plainjson"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/probe"
	"cais.dev/cais/pkg/userns"
	"cais.dev/cais/pkg/volume"
)

// Image is what this package needs to know of an image.
type Image struct {
	ID     string // hex, without "sha256:"
	Ref    string // the full reference it was found by; empty if by id
	Config oci.Image
}

// Protection is the store's note that a container uses an image.
type Protection struct {
	ID, Name string // the container's
	ImageID  string
	ImageRef string
	Created  time.Time
	Volatile bool // --rm: not flushed to disk
}

// images is what this package asks of the image store. None of it may enter a
// user namespace: `run` pays for it.
type images interface {
	// Image finds what the user typed. It fails with NotFound.
	Image(ctx context.Context, ref string) (*Image, error)
	// LowerDirs returns the directories to mount, top first, absolute.
	LowerDirs(ctx context.Context, imageID string) ([]string, error)
	// Protect keeps every tool of this store from removing the image.
	Protect(ctx context.Context, p Protection) error
	// Rename changes the container's name in that note; no note is no error.
	Rename(ctx context.Context, id, name string) error
	// Unprotect takes the note away; none is no error.
	Unprotect(ctx context.Context, id string) error
	// RemoveUnused removes the image that the user named so; one that something
	// else uses stays, without error.
	RemoveUnused(ctx context.Context, ref string) error
	// Protected returns the ids of the containers that were noted here, not by
	// another cais that keeps its containers elsewhere.
	Protected(ctx context.Context) ([]string, error)
}

// Options are what a service works on.
type Options struct {
	Store    container.Store
	Images   images
	Networks *connect.Service
	Exe      string // this program, to start again in its roles; "": /proc/self/exe
	Log      *slog.Logger
	Events   events.Log // what happens is told there
	Environ  []string   // for the programs it starts
	Flags    []string   // the global flags for this program in [CleanupRole]
	CDIDirs  []string   // where vendors describe devices
}

// Service is the life of one user's containers. Its methods may be called at
// once from several goroutines.
type Service struct {
	o     Options
	store container.Store
	vols  volume.Store
	log   *slog.Logger

	host    func() (plan.Host, error)    // this machine, read when first asked for
	cgroups func() (*cgroup.Host, error) // its cgroups, likewise
}

// New returns a service. It touches nothing yet.
func New(o Options) *Service {
	if o.Exe == "" {
		o.Exe = "/proc/self/exe"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{o: o, store: o.Store, vols: volume.In(o.Store.Root), log: o.Log, cgroups: sync.OnceValues(cgroup.Detect)}
	s.host = sync.OnceValues(s.readHost)
	return s
}

// Host returns what planning has to know of this machine: a build needs it, too.
func (s *Service) Host() (plan.Host, error) { return s.planHost() }

// readHost reads what planning has to know.
func (s *Service) readHost() (plan.Host, error) {
	o := probe.Options{Rootless: userns.Needed() || userns.Inside()}
	if o.Rootless {
		m, err := userns.Map(userns.OuterUID())
		if err != nil {
			return plan.Host{}, err
		}
		o.SingleID, o.UIDs, o.GIDs = m.Single, ranges(m.UIDs), ranges(m.GIDs)
	}
	h, err := probe.Host(o)
	if err != nil {
		return h, err
	}
	return h, nil
}

// planHost is host with what the cgroups can do: it asks the kernel for each of them,
// which a command that plans no limits need not wait for.
func (s *Service) planHost() (plan.Host, error) {
	h, err := s.host()
	if err != nil {
		return h, err
	}
	g, err := s.cgroups()
	if err != nil {
		return h, err
	}
	h.Cgroup = g.Plan()
	return h, nil
}

func ranges(maps []userns.IDMap) []plan.IDMap {
	out := make([]plan.IDMap, len(maps))
	for i, m := range maps {
		out[i] = plan.IDMap{Container: m.Inside, Host: m.Outside, Size: m.Count}
	}
	return out
}

// Image finds the image that ref means, for Create.
func (s *Service) Image(ctx context.Context, ref string) (*Image, error) {
	return s.o.Images.Image(ctx, ref)
}

// List returns all containers as their files say, newest first. Those that
// cannot be read are an error beside the others. One whose monitor was killed, and whose restart policy wants it, is started.
func (s *Service) List(ctx context.Context) ([]*container.Container, error) {
	all, err := s.store.List()
	for i, c := range all {
		all[i] = s.back(ctx, c)
	}
	slices.SortFunc(all, func(a, b *container.Container) int { return b.Record.Created.Compare(a.Record.Created) })
	return all, err
}

// back starts a container whose monitor was killed since the machine came up, if
// its restart policy says so, and returns how it is then.
func (s *Service) back(ctx context.Context, c *container.Container) *container.Container {
	if c.State == nil || c.Settings == nil || !c.Lost() || !s.wanted(c, c.LastExit()) {
		return c
	}
	if err := s.healOne(ctx, c.ID); err != nil {
		s.log.Warn("a container could not be started again", "id", c.ID, "error", err)
	}
	now, err := s.store.Load(c.ID)
	if err != nil {
		return c // it went meanwhile
	}
	return now
}

// Find returns the container that ref means.
func (s *Service) Find(_ context.Context, ref string) (*container.Container, error) {
	id, err := s.store.Find(ref)
	if err != nil {
		return nil, err
	}
	return s.store.Load(id)
}

func (s *Service) upper(id string) string { return filepath.Join(s.store.Dir(id), "upper") }

func (s *Service) spec(id string) (*specs.Spec, error) {
	text, err := s.store.Spec(id)
	if err != nil {
		return nil, err
	}
	spec := new(specs.Spec)
	if err := plainjson.Unmarshal(text, spec); err != nil {
		return nil, fmt.Errorf("read the container's spec: %w", err)
	}
	if spec.Process == nil || spec.Root == nil || spec.Linux == nil {
		err := errors.New("the container's config.json lacks what was written to it")
		return nil, errs.WithHint(err, "The file is damaged; 'cais rm -f' removes its container.")
	}
	return spec, nil
}
