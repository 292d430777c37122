// Package run is the life of a container: create, start, stop, kill, wait,
// attach, exec, remove, list, inspect and logs. It knows no flags and prints
// nothing. Two commands meet only in the files of package container and in
// kernel objects.
package run

import (
	"context"
	"log/slog"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
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
	// Unprotect takes the note away; none is no error.
	Unprotect(ctx context.Context, id string) error
	// Protected returns the ids of the containers that cais noted.
	Protected(ctx context.Context) ([]string, error)
}

// Options are what a service works on.
type Options struct {
	Store   container.Store
	Images  images
	Exe     string // this program, to start again in its roles; "": /proc/self/exe
	Log     *slog.Logger
	Environ []string // for the programs it starts
}

// Service is the life of one user's containers. Its methods may be called at
// once from several goroutines.
type Service struct {
	o     Options
	store container.Store
	log   *slog.Logger
}

// New returns a service. It touches nothing yet.
func New(o Options) *Service {
	if o.Exe == "" {
		o.Exe = "/proc/self/exe"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, store: o.Store, log: o.Log}
}

// Image finds the image that ref means, for Create.
func (s *Service) Image(ctx context.Context, ref string) (*Image, error) {
	return s.o.Images.Image(ctx, ref)
}

var errLater = errs.New(errs.Unsupported, "containers are being written")

// CreateOptions are what Create makes a container from.
type CreateOptions struct {
	Ref     string // the image as the user typed it
	Image   *Image
	Name    string // empty: a random one
	Replace bool   // remove the container that has the name
	Request plan.Request
}

// Created is what Create made.
type Created struct {
	ID       string
	Name     string
	Warnings []plan.Warning
}

// Create makes a container and leaves it not started. If it fails, nothing is
// left.
func (s *Service) Create(ctx context.Context, o CreateOptions) (*Created, error) {
	return nil, errLater
}

// StopOptions say how to stop a container.
type StopOptions struct {
	Signal  string         // empty: the container's own, else SIGTERM
	Timeout *time.Duration // until SIGKILL; nil: the container's own; negative: never
}

// Stop ends a container, politely at first. One that does not run is no error.
func (s *Service) Stop(ctx context.Context, ref string, o StopOptions) error { return errLater }

// Kill sends a signal to a container's first process. It fails with Conflict
// unless the container runs.
func (s *Service) Kill(ctx context.Context, ref, signal string) error { return errLater }

// RemoveOptions say what to remove.
type RemoveOptions struct {
	Force   bool           // kill it first
	Volumes bool           // its anonymous volumes too
	Timeout *time.Duration // stop it with this time to end, instead of killing it
}

// Remove removes a container. When it returns, its name is free.
func (s *Service) Remove(ctx context.Context, ref string, o RemoveOptions) error { return errLater }

// Wait waits until the container does not run and returns its exit code.
func (s *Service) Wait(ctx context.Context, ref string) (int, error) { return 0, errLater }

// List returns all containers as their files say, newest first.
func (s *Service) List(ctx context.Context) ([]*container.Container, error) { return nil, errLater }

// Find returns the container that ref means.
func (s *Service) Find(ctx context.Context, ref string) (*container.Container, error) {
	id, err := s.store.Find(ref)
	if err != nil {
		return nil, err
	}
	return s.store.Load(id)
}

// Cleanup does what is left to do for an ended container whose command is gone.
// It is what "cais-cleanup" calls, and idempotent.
func (s *Service) Cleanup(ctx context.Context, id string) error { return errLater }
