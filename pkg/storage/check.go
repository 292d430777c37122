package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Problem is something that is not as it should be in the store.
type Problem struct {
	Text string
	// What it is about; at most one is set. Repairing removes it.
	Image, Layer string
}

// CheckOptions say how thoroughly to look.
type CheckOptions struct {
	Quick bool          // records and directories alone: no layer is read
	Age   time.Duration // of an unreferenced layer that is no problem yet; 0: an hour
	// Live is as in [CollectOptions].
	Live func(ContainerRef) bool
}

// Check looks for what is damaged or left over. It changes nothing but what
// opening the store has put right already.
func (s *Store) Check(ctx context.Context, o CheckOptions) ([]Problem, error) {
	found, err := s.look(ctx, o)
	if err != nil || len(found) == 0 {
		return found, err
	}
	// Others make and remove images meanwhile: a problem is there at a second look, too.
	again, err := s.look(ctx, o)
	return slices.DeleteFunc(found, func(p Problem) bool { return !slices.Contains(again, p) }), err
}

func (s *Store) look(ctx context.Context, o CheckOptions) ([]Problem, error) {
	var found []Problem
	add := func(p Problem, format string, a ...any) {
		p.Text = fmt.Sprintf(format, a...)
		found = append(found, p)
	}
	// The library removes the layers that were being recorded when somebody was killed,
	// as soon as it reads them.
	if _, err := s.lib.Layers(); err != nil {
		return nil, s.explain("read the layers", err)
	}
	layers, err := s.reader.layers(ctx)
	if err != nil {
		return nil, err
	}
	imgs, err := s.reader.Images(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(layers))
	for id := range layers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	own := s.reader.noImage()
	for _, id := range ids {
		l := layers[id]
		if strings.HasPrefix(id, holderPrefix) {
			continue
		}
		bad := Problem{Layer: id}
		dir, err := s.reader.layerDir(own, id)
		switch {
		case l.incomplete:
			add(bad, "layer %s is incomplete", short(id))
			continue
		case err != nil:
			add(bad, "layer %s has a record and no files", short(id))
			continue
		case l.Parent != "" && layers[l.Parent].ID == "":
			add(bad, "layer %s stands on layer %s, which is not there", short(id), short(l.Parent))
			continue
		}
		if o.Quick || l.DiffID == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(s.reader.dir(filepath.Dir(filepath.Dir(dir)), "layers"), id+".tar-split.gz")); errors.Is(err, fs.ErrNotExist) {
			continue // some have none
		}
		if err := s.verify(ctx, own, l); err != nil {
			if ctx.Err() != nil {
				return found, context.Cause(ctx)
			}
			add(bad, "layer %s: %v", short(id), err)
		}
	}
	for _, img := range imgs {
		bad := Problem{Image: img.ID}
		if _, err := chain(layers, img); err != nil {
			add(bad, "%v", err)
			continue
		}
		if problem := s.checkDocuments(ctx, img); problem != nil {
			add(bad, "image %s: %v", short(img.ID), problem)
		}
	}
	refs, err := s.reader.Containers(ctx)
	if err != nil {
		return found, err
	}
	for _, c := range refs {
		if c.ImageID != "" && !slices.ContainsFunc(imgs, func(img *Image) bool { return img.ID == c.ImageID }) {
			add(Problem{}, "the record of container %s names image %s, which is not there", short(c.ID), short(c.ImageID))
		}
	}
	c, err := s.Collect(ctx, CollectOptions{DryRun: true, Age: o.Age, Live: o.Live})
	if err != nil {
		return found, err
	}
	for _, id := range c.Containers {
		add(Problem{}, "the record of container %s is left over", short(id))
	}
	if c.Staging > 0 {
		add(Problem{}, "%d directories of killed processes are left over", c.Staging)
	}
	for _, id := range c.Layers {
		add(Problem{}, "layer %s is used by nothing", short(id))
	}
	left, err := s.strays(layers)
	for _, path := range left {
		add(Problem{}, "%s belongs to nothing", path)
	}
	return found, err
}

// verify reads a layer and compares it with its digest.
func (s *Store) verify(ctx context.Context, own *Image, l Layer) error {
	r, err := s.reader.LayerTar(own, l)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(buf)
		sum.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != l.DiffID {
		return fmt.Errorf("its files were changed: they make %s, not %s", got, l.DiffID)
	}
	return nil
}

// checkDocuments returns what is wrong with an image's config and manifests.
func (s *Store) checkDocuments(ctx context.Context, img *Image) error {
	if img.IsList() {
		_, err := s.reader.List(ctx, img)
		return err
	}
	config, err := s.reader.Config(ctx, img)
	if errs.KindOf(err) == errs.NotFound && img.TopLayer != "" && len(img.BigData) == 0 {
		return nil // another tool's working image
	}
	if err != nil {
		return err
	}
	if oci.Digest(config) != "sha256:"+img.ID {
		return errors.New("its config was changed")
	}
	for _, d := range img.Digests {
		doc, err := s.reader.Document(ctx, img, "manifest-"+d)
		if errs.KindOf(err) == errs.NotFound {
			continue
		}
		if err != nil {
			return err
		}
		if oci.Digest(doc) != d {
			return fmt.Errorf("its manifest %s was changed", d)
		}
	}
	return nil
}

// strays are layers' directories without a record.
func (s *Store) strays(layers map[string]Layer) ([]string, error) {
	root := s.reader.roots()[0]
	entries, err := os.ReadDir(filepath.Join(root, "overlay"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	known := func(name string) bool {
		if _, ok := layers[name]; ok {
			return true
		}
		return slices.Contains([]string{"l", "staging", "tempdirs"}, name) || strings.HasPrefix(name, ".")
	}
	var left []string
	for _, e := range entries {
		if e.IsDir() && !known(e.Name()) {
			left = append(left, filepath.Join(root, "overlay", e.Name()))
		}
	}
	return left, nil
}

// Repair removes what problems are about, with all that stands on it: damaged
// images, whose names it returns, and layers, and what Collect does. Images that
// containers use stay.
func (s *Store) Repair(ctx context.Context, problems []Problem, o CollectOptions) (lost []string, err error) {
	layers, err := s.reader.layers(ctx)
	if err != nil {
		return nil, err
	}
	imgs, err := s.reader.Images(ctx)
	if err != nil {
		return nil, err
	}
	badLayer := map[string]bool{}
	badImage := map[string]bool{}
	for _, p := range problems {
		if p.Layer != "" {
			badLayer[p.Layer] = true
		}
		if p.Image != "" {
			badImage[p.Image] = true
		}
	}
	stands := func(id string) bool { // on something bad
		for n := 0; id != "" && n <= maxLayers; n++ {
			if badLayer[id] {
				return true
			}
			id = layers[id].Parent
		}
		return false
	}
	var failed []error
	for _, img := range imgs {
		if img.ReadOnly || !badImage[img.ID] && !stands(img.TopLayer) {
			continue
		}
		removed, err := s.RemoveImage(ctx, RemoveOptions{Force: true, Running: func(string) bool { return true }}, "sha256:"+img.ID)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		name := "sha256:" + img.ID
		for _, r := range removed {
			if r.Untagged != "" {
				name = familiar(r.Untagged)
				break
			}
		}
		lost = append(lost, name)
	}
	// The deepest first, and only what is bad or stands on it.
	var doomed []string
	for id := range layers {
		if stands(id) {
			doomed = append(doomed, id)
		}
	}
	depth := func(id string) (n int) {
		for ; id != "" && n <= maxLayers; id = layers[id].Parent {
			n++
		}
		return n
	}
	slices.SortFunc(doomed, func(a, b string) int { return depth(b) - depth(a) })
	for _, id := range doomed {
		if err := s.deleteLayer(id); err != nil {
			failed = append(failed, fmt.Errorf("remove layer %s: %w", short(id), err))
		}
	}
	_, err = s.Collect(ctx, o)
	return lost, errors.Join(append(failed, err)...)
}
