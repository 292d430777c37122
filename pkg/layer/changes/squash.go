package changes

import (
	"context"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/layer/tree"
)

// Squash writes what several layers, uppers, top first, change together in lower: of
// each path its last state. The same files give the same bytes.
func Squash(ctx context.Context, w io.Writer, uppers, lower []string, o TarOptions) (*Summary, error) {
	s := squash{paths: map[string]*squashed{}}
	all := slices.Concat(uppers, lower)
	for i := range slices.Backward(uppers) {
		err := Walk(ctx, uppers[i], all[i+1:], Options{}, func(e *Entry) error {
			s.add(i, e)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if err := s.forget(lower); err != nil {
		return nil, err
	}
	return pack(ctx, w, uppers[0], o, func(ctx context.Context, f func(*Entry) error) error {
		for i := range slices.Backward(uppers) {
			err := Walk(ctx, uppers[i], all[i+1:], Options{}, func(e *Entry) error {
				p := s.paths[e.Path]
				if e.Kind == Same || p == nil || p.layer != i {
					return nil
				}
				e.Opaque = p.opaque
				if to := s.paths[e.Hard]; e.Hard != "" && (to == nil || to.layer != i) {
					e.Hard = "" // its other name is another file by now
				}
				return f(e)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// squash is what is known of the layers so far.
type squash struct{ paths map[string]*squashed }

// squashed is a path's last state.
type squashed struct {
	layer   int // that has it
	dir     bool
	deleted bool
	opaque  bool // nothing of it is from below all layers
}

func (s *squash) add(layer int, e *Entry) {
	old := s.paths[e.Path]
	now := &squashed{layer: layer, deleted: e.Kind == Deleted, dir: e.Kind != Deleted && e.Stat.Mode&unix.S_IFMT == unix.S_IFDIR}
	if e.Kind == Same {
		return
	}
	if now.dir {
		now.opaque = e.Opaque || old != nil && (old.opaque || old.deleted || !old.dir)
	}
	if old != nil && old.dir && (!now.dir || e.Opaque) {
		for p := range s.paths {
			if strings.HasPrefix(p, e.Path+"/") {
				delete(s.paths, p)
			}
		}
	}
	s.paths[e.Path] = now
}

// forget leaves out what hides nothing: overlay shows such whiteouts, and what was
// made and deleted in these layers is nobody's affair.
func (s *squash) forget(lower []string) error {
	below, err := tree.Open(lower...)
	if err != nil {
		return err
	}
	defer below.Close()
	for p, x := range s.paths {
		if !x.deleted {
			continue
		}
		hides, err := s.hides(below.Root(), p)
		if err != nil {
			return err
		}
		if !hides {
			delete(s.paths, p)
		}
	}
	return nil
}

// hides reports whether there is something at p below all layers that would be seen.
func (s *squash) hides(at *tree.Dir, p string) (bool, error) {
	for i := range p {
		if p[i] != '/' {
			continue
		}
		if x := s.paths[p[:i]]; x != nil && x.opaque {
			return false, nil
		}
	}
	names := strings.Split(p, "/")
	for i, name := range names {
		e, err := at.Child(name)
		if err == unix.ENOENT {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if i == len(names)-1 {
			return true, nil
		}
		if !e.IsDir() {
			return false, nil
		}
		if at, err = at.Open(name); err != nil {
			return false, err
		}
		defer at.Close()
	}
	return false, nil
}
