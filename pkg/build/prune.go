package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/errs"
)

// Usage is one record of the build cache.
type Usage struct {
	ID          string
	Type        string // regular, source.local, exec.cachemount
	Description string
	Parents     []string
	Created     time.Time
	Used        time.Time
	InUse       bool
	Shared      bool // an image has the layer
	Bytes       int64

	record cache.Record
	layer  string // its layer in the store, if it is one
}

// holder is what prune needs of the store beside Store.
type holder interface {
	Held() ([]string, error)
	ReleaseLayers(ids ...string) ([]string, error)
}

// Usage lists the build cache, last used first.
func (s *Service) Usage(ctx context.Context) ([]Usage, error) {
	c, err := s.Cache(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.usage(ctx, c)
	if err != nil {
		return nil, err
	}
	bases, err := s.bases(ctx, list)
	if err != nil {
		return nil, err
	}
	list = append(list, bases...)
	slices.SortStableFunc(list, func(a, b Usage) int { return b.Used.Compare(a.Used) })
	return slices.DeleteFunc(list, func(u Usage) bool { return u.record.Damaged }), nil
}

// bases lists the layers below those of list that no image has any longer: they
// go with what stands on them.
func (s *Service) bases(ctx context.Context, list []Usage) ([]Usage, error) {
	held, err := s.o.Layers.HeldLayers(ctx)
	if err != nil {
		return nil, err
	}
	made := map[string]bool{}
	for _, u := range list {
		made[u.layer] = true
	}
	var bases []Usage
	for _, l := range held {
		if made[l.ID] {
			continue
		}
		u := Usage{ID: l.ID, Type: "regular", Description: "layer of a base image that was removed", Created: l.Created, Used: l.Created, Bytes: l.Bytes, layer: l.ID}
		if l.Parent != "" {
			u.Parents = []string{l.Parent}
		}
		bases = append(bases, u)
	}
	slices.SortFunc(bases, func(a, b Usage) int { return strings.Compare(a.ID, b.ID) })
	return bases, nil
}

func (s *Service) usage(ctx context.Context, c *cache.Cache) ([]Usage, error) {
	records, err := c.List()
	if err != nil {
		return nil, err
	}
	byID := map[string]cache.Record{}
	for _, r := range records {
		byID[r.ID] = r
	}
	layers, err := s.o.Layers.ImageLayers(ctx)
	if err != nil {
		return nil, err
	}
	var list []Usage
	for _, r := range records {
		u := Usage{
			ID: r.ID, Type: r.Kind, Description: r.Text, Created: r.Created, Used: r.Used, InUse: r.InUse, record: r, layer: s.layerOf(byID, r, 0),
		}
		if r.Parent != "" {
			u.Parents = []string{r.Parent}
		}
		if u.layer != "" && s.o.Layers.LayerDir(u.layer) == "" {
			u.layer = ""
		}
		u.Shared = u.layer != "" && layers[u.layer]
		switch {
		case r.Files:
			u.Bytes = c.Bytes(ctx, r)
		case r.Sum != nil:
			u.Bytes = r.Sum.Size
		}
		if !r.Mount && !r.Files && u.layer == "" && (r.Diff == "" || !byID[r.Diff].Files) {
			u.record.Damaged = true // its layer was removed
		}
		list = append(list, u)
	}
	return list, nil
}

// layerOf is the id of the layer that a result is, once it was hashed and all below.
func (s *Service) layerOf(byID map[string]cache.Record, r cache.Record, depth int) string {
	if r.Mount || r.Sum == nil || depth > 500 {
		return ""
	}
	parent := r.Base
	if r.Parent != "" {
		below, ok := byID[r.Parent]
		if !ok {
			return ""
		}
		if parent = s.layerOf(byID, below, depth+1); parent == "" {
			return ""
		}
	}
	return s.o.Layers.LayerID(parent, r.Sum.DiffID)
}

// PruneOptions say what Prune removes.
type PruneOptions struct {
	All    bool          // what images have the layers of, too
	Unused time.Duration // only what was not used for so long
	Keep   int64         // bytes: the least recently used go until no more are left; 0: all go
	// Match, if not nil, says which records are meant.
	Match func(Usage) bool
}

// Prune removes records of the build cache that nobody uses, and what only they
// kept in the image store.
func (s *Service) Prune(ctx context.Context, o PruneOptions) (removed []Usage, err error) {
	c, err := s.Cache(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.usage(ctx, c)
	if err != nil {
		return nil, err
	}
	bases, err := s.bases(ctx, list)
	if err != nil {
		return nil, err
	}
	children, shown := map[string]int{}, map[string]bool{}
	var total int64
	for _, u := range list {
		total += u.Bytes
		children[u.record.Parent]++
		if u.record.Diff != "" {
			children[u.record.Diff]++
		}
	}
	slices.SortStableFunc(list, func(a, b Usage) int { return a.Used.Compare(b.Used) })
	now := time.Now()
	wanted := func(u Usage) bool {
		switch {
		case u.InUse:
			return false
		case u.record.Damaged:
			return true
		case u.Shared && !o.All, now.Sub(u.Used) < o.Unused, o.Match != nil && !o.Match(u):
			return false
		}
		return o.Keep <= 0 || total > o.Keep
	}
	for again := true; again; { // what others stand on goes after them
		again = false
		for _, u := range list {
			if shown[u.ID] || children[u.ID] > 0 && !u.record.Damaged || !wanted(u) {
				continue
			}
			if ctx.Err() != nil {
				return removed, context.Cause(ctx)
			}
			shown[u.ID] = true
			gone, err := c.Remove(u.record)
			if err != nil {
				return removed, err
			}
			if !gone {
				continue
			}
			again = true
			total -= u.Bytes
			children[u.record.Parent]--
			if u.record.Diff != "" {
				children[u.record.Diff]--
			}
			if !u.record.Damaged {
				removed = append(removed, u)
			}
		}
	}
	if err := c.RemoveKeys(); err != nil {
		return removed, err
	}
	gone, err := s.rehold(ctx, c)
	for _, u := range bases {
		if slices.Contains(gone, u.layer) {
			removed = append(removed, u)
		}
	}
	return removed, err
}

// rehold has the store keep the layers of what is left in the cache, and no others.
// It returns the layers that went.
func (s *Service) rehold(ctx context.Context, c *cache.Cache) (gone []string, err error) {
	st, err := s.o.Open(ctx)
	if err != nil {
		return nil, err
	}
	h, ok := st.(holder)
	if !ok {
		return nil, nil
	}
	held, err := h.Held()
	if err != nil || len(held) == 0 {
		return nil, err
	}
	left, err := s.usage(ctx, c)
	if err != nil {
		return nil, err
	}
	byID := map[string]cache.Record{}
	below := map[string]bool{} // layers on which another one of the cache is
	for _, u := range left {
		byID[u.ID] = u.record
	}
	for _, u := range left {
		if u.layer != "" && u.record.Parent != "" {
			below[s.layerOf(byID, byID[u.record.Parent], 0)] = true
		}
	}
	tops := map[string]bool{}
	for _, u := range left {
		if u.layer != "" && !below[u.layer] {
			tops[u.layer] = true
		}
	}
	for id := range tops {
		if !slices.Contains(held, id) {
			if err := st.HoldLayer(ctx, id); err != nil {
				return nil, err
			}
		}
	}
	var release []string
	for _, id := range held {
		if tops[id] {
			continue
		}
		unused, err := c.DropBase(id)
		if err != nil {
			return nil, err
		}
		if unused {
			release = append(release, id)
		}
	}
	if len(release) == 0 {
		return nil, nil
	}
	return h.ReleaseLayers(release...)
}

// collectEvery is how often a build looks after the size of the cache, unusedFor
// what it leaves alone, and keepShare the part of the disk that the cache may take.
const (
	collectEvery = 24 * time.Hour
	unusedFor    = 48 * time.Hour
	keepShare    = 10
)

// collect prunes, now and then, what was long not used when the cache is big.
func (s *Service) collect(ctx context.Context) error {
	stamp := filepath.Join(s.o.Layers.WorkDir(), cacheDir, "collected")
	if info, err := os.Lstat(stamp); err == nil && time.Since(info.ModTime()) < collectEvery {
		return nil
	}
	f, err := os.OpenFile(stamp, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	now := time.Now()
	if err := errors.Join(f.Close(), os.Chtimes(stamp, now, now)); err != nil {
		return err
	}
	total, _, err := disk(s.o.Layers.WorkDir())
	if err != nil {
		return err
	}
	_, err = s.Prune(ctx, PruneOptions{All: true, Unused: unusedFor, Keep: total / keepShare})
	return err
}

// ParseFilters reads `builder prune --filter`: until, id, parents, type, description,
// inuse, mutable, immutable, shared, private, each with = or ~= or != as BuildKit has it.
func ParseFilters(filters []string) (match func(Usage) bool, unused time.Duration, err error) {
	var tests []func(Usage) bool
	for _, f := range filters {
		name, value, hasValue := strings.Cut(f, "=")
		op := "="
		if n, ok := strings.CutSuffix(name, "!"); ok {
			name, op = n, "!="
		} else if n, ok := strings.CutSuffix(name, "~"); ok {
			name, op = n, "~="
		}
		if name == "until" || name == "unused-for" {
			if unused, err = time.ParseDuration(value); err != nil {
				return nil, 0, invalidFilter(f)
			}
			continue
		}
		var field func(Usage) string
		switch name {
		case "id":
			field = func(u Usage) string { return u.ID }
		case "parent", "parents":
			field = func(u Usage) string { return strings.Join(u.Parents, ";") }
		case "type":
			field = func(u Usage) string { return u.Type }
		case "description":
			field = func(u Usage) string { return u.Description }
		case "inuse", "shared", "private", "mutable", "immutable":
			if hasValue && value != "true" && value != "1" && value != "false" && value != "0" {
				return nil, 0, invalidFilter(f)
			}
			want := !hasValue || value == "true" || value == "1"
			if op == "!=" {
				want = !want
			}
			tests = append(tests, func(u Usage) bool { return u.flag(name) == want })
			continue
		default:
			return nil, 0, invalidFilter(f)
		}
		tests = append(tests, func(u Usage) bool {
			switch op {
			case "!=":
				return field(u) != value
			case "~=":
				return strings.Contains(field(u), value)
			}
			return field(u) == value
		})
	}
	return func(u Usage) bool {
		return !slices.ContainsFunc(tests, func(t func(Usage) bool) bool { return !t(u) })
	}, unused, nil
}

func (u Usage) flag(name string) bool {
	switch name {
	case "inuse":
		return u.InUse
	case "shared":
		return u.Shared
	case "private":
		return !u.Shared
	case "mutable":
		return u.record.Mount
	}
	return !u.record.Mount
}

func invalidFilter(f string) error {
	return errs.New(errs.Invalid, "invalid filter '"+f+"'")
}

// noRoom is so little that a command may have failed for it.
const noRoom = 1 << 20

// disk is the size of the file system that dir is on, and what is free of it, in bytes.
func disk(dir string) (size, free int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}
