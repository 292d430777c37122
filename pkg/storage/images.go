package storage

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	library "go.podman.io/storage"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
)

// ImageSpec is a new image.
type ImageSpec struct {
	Names    []string // full references; taken away from the images that had them
	TopLayer string   // layer id; empty for an image without layers
	Config   []byte   // its sha256 is the image's id
	Manifest []byte   // the platform's; its sha256 is the image's digest
	Index    []byte   // the index it was found through; nil if none
	Created  time.Time
}

func sha(doc []byte) digest.Digest {
	sum := sha256.Sum256(doc)
	return digest.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// PutImage records an image, or adds names and documents to the one that has
// its id already, and returns that. The names come last: whoever is killed in
// between leaves an image that no name finds, and the next PutImage completes.
// Whoever prunes in between removes it, so it is recorded again.
func (s *Store) PutImage(ctx context.Context, spec ImageSpec) (id string, err error) {
	for tries := 1; ; tries++ {
		id, err = s.putImage(spec)
		if !unknown(err) || tries == 10 || ctx.Err() != nil {
			return id, err
		}
	}
}

// unknown reports whether an image was not there: the library takes what is no image
// for a layer.
func unknown(err error) bool {
	return errors.Is(err, library.ErrImageUnknown) || errors.Is(err, library.ErrLayerUnknown)
}

func (s *Store) putImage(spec ImageSpec) (string, error) {
	id := strings.TrimPrefix(string(sha(spec.Config)), "sha256:")
	op := "record image " + short(id)
	manifest := sha(spec.Manifest)
	docs := []library.ImageBigDataOption{
		{Key: "sha256:" + id, Data: spec.Config, Digest: sha(spec.Config)},
		{Key: "manifest-" + string(manifest), Data: spec.Manifest, Digest: manifest},
		{Key: "manifest", Data: spec.Manifest, Digest: manifest},
	}
	if len(spec.Index) > 0 {
		d := sha(spec.Index)
		docs = append(docs, library.ImageBigDataOption{Key: "manifest-" + string(d), Data: spec.Index, Digest: d})
	}
	metadata, err := json.Marshal(map[string]any{"signatures-sizes": map[string]any{string(manifest): []int{}}})
	if err != nil {
		return "", err
	}
	created, err := s.lib.CreateImage(id, nil, spec.TopLayer, string(metadata), &library.ImageOptions{
		CreationDate: spec.Created, Digest: manifest, BigData: docs,
	})
	switch {
	case errors.Is(err, library.ErrDuplicateID):
		err = s.complete(id, spec.TopLayer, docs)
	case errors.Is(err, library.ErrLayerUnknown):
		return "", ErrParentGone
	case err == nil:
		id = created.ID
	}
	if err == nil && len(spec.Names) > 0 {
		err = s.lib.AddNames(id, spec.Names)
	}
	if err != nil {
		return "", s.explain(op, err)
	}
	return id, nil
}

// complete adds documents to the image that is there.
func (s *Store) complete(id, top string, docs []library.ImageBigDataOption) error {
	img, err := s.lib.Image(id)
	if err != nil {
		return err
	}
	if img.TopLayer != top {
		return errs.New(errs.Conflict, fmt.Sprintf("the store has an image of this id with another top layer (%s)", short(img.TopLayer)))
	}
	for _, d := range docs {
		if slices.Contains(img.BigDataNames, d.Key) && img.BigDataDigests[d.Key] == d.Digest {
			continue
		}
		want := d.Digest
		if err := s.lib.SetImageBigData(id, d.Key, d.Data, func([]byte) (digest.Digest, error) { return want, nil }); err != nil {
			return err
		}
	}
	return nil
}

// Tag gives the image that refs mean (as for [Reader.Image]) one more name.
func (s *Store) Tag(ctx context.Context, name string, refs ...string) error {
	img, err := s.reader.Image(ctx, refs...)
	if err != nil {
		return err
	}
	if img.ReadOnly { // an image of an additional store: the record is copied
		_, err := s.lib.CreateImage(img.ID, nil, img.TopLayer, "", nil)
		if err != nil && !errors.Is(err, library.ErrDuplicateID) {
			return s.explain("tag "+familiar(name), err)
		}
	}
	return s.explain("tag "+familiar(name), s.lib.AddNames(img.ID, []string{name}))
}

// Untag takes names away from whatever image has them.
func (s *Store) Untag(ctx context.Context, names ...string) error {
	s.spendReserve()
	for _, name := range names {
		img, err := s.reader.Image(ctx, name)
		if err != nil {
			return err
		}
		if err := s.lib.RemoveNames(img.ID, []string{name}); err != nil && !unknown(err) { // it went with the image
			return s.explain("untag "+familiar(name), err)
		}
	}
	return nil
}

// RemoveOptions are rmi's.
type RemoveOptions struct {
	Force   bool
	NoPrune bool // keep the layers: nothing but the image's record goes
	// Running tells whether the cais container id runs; nil: none does.
	Running func(id string) bool
}

// Removed is one line of rmi: exactly one field is set.
type Removed struct {
	Untagged string // the full reference
	Deleted  string // "sha256:…": the image, then its layers' chain ids, leaf first
	Bytes    int64  // beside Deleted: what was freed
}

// RemoveImage does what rmi does with one argument, and returns what it did,
// also beside an error. refs are as for [Reader.Image].
//
// One thing differs from Docker: an image whose last container is stopped loses
// its names by force, but stays, without a name, until the container is gone,
// since the container could not start again without its layers. What opens the
// store for changes after that removes it.
func (s *Store) RemoveImage(ctx context.Context, o RemoveOptions, refs ...string) (removed []Removed, err error) {
	img, err := s.reader.Image(ctx, refs...)
	if err != nil {
		return nil, err
	}
	s.spendReserve()
	if refs, err = s.reader.withShort(refs); err != nil {
		return nil, err
	}
	if img.ReadOnly {
		return nil, errs.New(errs.Denied, "the image is in a read-only store")
	}
	users, err := s.users(ctx, img.ID)
	if err != nil {
		return nil, err
	}
	named := "" // the name that was asked for; empty: an id was
	for _, ref := range refs {
		if slices.Contains(img.Names, ref) {
			named = ref
			break
		}
	}
	if err := conflict(img, users, named, o); err != nil {
		return nil, err
	}
	names := img.Names
	if named != "" && len(tags(img.Names)) > 1 {
		names = []string{named}
	}
	keep := len(names) < len(img.Names) || len(users) > 0
	if keep {
		removed, err = s.untag(img, names)
		if err != nil || len(names) < len(img.Names) {
			return removed, err
		}
		return removed, s.intend(img, nil) // removed when its containers are gone
	}
	parts, err := s.partsOf(ctx, img)
	if err != nil {
		return nil, err
	}
	if removed, err = s.delete(ctx, img, o.NoPrune); err != nil {
		return removed, err
	}
	more, err := s.removeParts(ctx, parts)
	return append(removed, more...), err
}

// tags are the names that are not digests.
func tags(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.Contains(n, "@") })
}

// users are the containers that keep an image.
func (s *Store) users(ctx context.Context, id string) ([]ContainerRef, error) {
	all, err := s.reader.Containers(ctx)
	return slices.DeleteFunc(all, func(c ContainerRef) bool { return c.ImageID != id }), err
}

// inUseError is a name that may not go, because a container uses its image.
type inUseError struct {
	ref   string
	by    ContainerRef
	image string
}

// Error names the container as people know it.
func (e *inUseError) Error() string {
	return fmt.Sprintf("image %s is in use by container %s (use -f to untag)", e.ref, cmp.Or(e.by.Name, short(e.by.ID)))
}

// DockerText is what Docker says, for scripts that look for it.
func (e *inUseError) DockerText() string {
	return fmt.Sprintf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s",
		e.ref, short(e.by.ID), short(e.image))
}

// conflict says why the image may not go, in Docker's words.
func conflict(img *Image, users []ContainerRef, named string, o RemoveOptions) error {
	if named != "" {
		if len(tags(img.Names)) > 1 || len(users) == 0 || o.Force {
			return nil
		}
		return errs.E("", errs.Conflict, &inUseError{ref: familiar(named), by: users[0], image: img.ID})
	}
	for _, c := range users {
		switch {
		case !c.Ours:
			err := errs.New(errs.Conflict, fmt.Sprintf("conflict: unable to delete %s (cannot be forced) - image is being used by container %s of another tool", short(img.ID), short(c.ID)))
			return errs.WithHint(err, "Remove it there: 'podman ps -a --external' shows it.")
		case o.Running != nil && o.Running(c.ID):
			return errs.New(errs.Conflict, fmt.Sprintf("conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", short(img.ID), short(c.ID)))
		case !o.Force:
			return errs.New(errs.Conflict, fmt.Sprintf("conflict: unable to delete %s (must be forced) - image is being used by stopped container %s", short(img.ID), short(c.ID)))
		}
	}
	if len(tags(img.Names)) > 1 && !o.Force {
		return errs.New(errs.Conflict, fmt.Sprintf("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", short(img.ID)))
	}
	return nil
}

// untag takes names away and says so, with the digests of repositories that
// have no name any more.
func (s *Store) untag(img *Image, names []string) ([]Removed, error) {
	if len(names) == 0 {
		return nil, nil
	}
	if err := s.lib.RemoveNames(img.ID, names); err != nil && !errors.Is(err, library.ErrImageUnknown) {
		return nil, s.explain("untag "+familiar(names[0]), err)
	}
	return s.untagged(img, names), nil
}

func (s *Store) untagged(img *Image, names []string) []Removed {
	seen, err := s.reader.Seen()
	if err != nil {
		seen = &Seen{} // the lines are for people
	}
	var lines []Removed
	left := slices.DeleteFunc(slices.Clone(img.Names), func(n string) bool { return slices.Contains(names, n) })
	for _, n := range names {
		lines = append(lines, Removed{Untagged: n})
	}
	var repos []string
	for _, n := range names {
		repo := repository(n)
		gone := !slices.ContainsFunc(left, func(l string) bool { return repository(l) == repo })
		if !gone || slices.Contains(repos, repo) {
			continue
		}
		repos = append(repos, repo)
		for _, ref := range seen.RepoDigests(img) {
			if repository(ref) == repo && !slices.Contains(names, ref) {
				lines = append(lines, Removed{Untagged: ref})
			}
		}
	}
	return lines
}

// delete removes the image with its names and with the layers that nothing else
// uses. The intent comes first: if we are killed in between, the next process
// that opens the store finishes.
func (s *Store) delete(ctx context.Context, img *Image, keepLayers bool) ([]Removed, error) {
	layers := s.layersOf(img.TopLayer)
	chains := chainIDs(layers)
	ids := make([]string, len(layers))
	for i, l := range layers {
		ids[i] = l.ID
	}
	if !keepLayers {
		if err := s.intend(img, ids); err != nil {
			return nil, s.explain("remove image "+short(img.ID), err)
		}
	}
	gone, err := s.lib.DeleteImage(img.ID, true)
	if errors.Is(err, library.ErrImageUsedByContainer) { // one that came meanwhile
		_ = s.forget(img.ID)
		return nil, errs.E("", errs.Conflict, fmt.Errorf("conflict: unable to delete %s - %w", short(img.ID), err))
	}
	if errors.Is(err, library.ErrNotAnImage) || errors.Is(err, library.ErrImageUnknown) {
		_ = s.forget(img.ID)
		return nil, errs.New(errs.NotFound, "no such image: "+short(img.ID)+" (removed meanwhile)")
	}
	if errors.Is(err, library.ErrLayerUnknown) && !s.own(ctx, img.ID) {
		// Layers are an additional store's, or were lost; the record is gone.
		err, gone = nil, nil
		for _, id := range ids {
			if err = s.deleteLayer(id); err != nil {
				break
			}
			if !s.HasLayer(id) {
				gone = append(gone, id)
			}
		}
	}
	if err != nil {
		return nil, s.explain("remove image "+short(img.ID), err) // the intent stays
	}
	lines := s.untagged(img, img.Names)
	lines = append(lines, Removed{Deleted: "sha256:" + img.ID})
	for i, id := range ids {
		if slices.Contains(gone, id) {
			lines = append(lines, Removed{Deleted: chains[i], Bytes: s.freed(layers[i])})
		}
	}
	return lines, s.forget(img.ID)
}

// filesOf is what layers have in common whose files are links to each other's.
func filesOf(l library.Layer) string {
	if twin, ok := l.Flags[twinFlag].(string); ok {
		return twin
	}
	return l.ID
}

// freed is what the layer's removal has freed: nothing if another has its files.
func (s *Store) freed(l library.Layer) int64 {
	others, err := s.lib.LayersByUncompressedDigest(l.UncompressedDigest)
	if err == nil && slices.ContainsFunc(others, func(o library.Layer) bool { return o.ID != l.ID && filesOf(o) == filesOf(l) }) {
		return 0
	}
	return bytesOf(l)
}

// bytesOf is [Layer.Bytes] of the library's record.
func bytesOf(l library.Layer) int64 {
	switch n := l.Flags[sizeFlag].(type) {
	case float64: // from JSON
		return int64(n)
	case int64:
		return n
	case json.Number:
		if i, err := n.Int64(); err == nil {
			return i
		}
	}
	return max(l.UncompressedSize, 0)
}

// own reports whether the store itself has a record of the image, not only an
// additional one.
func (s *Store) own(ctx context.Context, id string) bool {
	imgs, err := s.reader.Images(ctx)
	return err != nil || slices.ContainsFunc(imgs, func(i *Image) bool { return i.ID == id && !i.ReadOnly })
}

// chainIDs are Docker's names for layers with all below them; layers are top
// first.
func chainIDs(layers []library.Layer) []string {
	chains := make([]string, len(layers))
	below := ""
	for i, l := range slices.Backward(layers) {
		diff := string(l.UncompressedDigest)
		if diff == "" {
			diff = "sha256:" + l.ID
		}
		if below == "" {
			below = diff
		} else {
			below = string(sha([]byte(below + " " + diff)))
		}
		chains[i] = below
	}
	return chains
}

// AddManifest keeps one more manifest with an image: what a registry has it by.
func (s *Store) AddManifest(id string, doc []byte) error {
	d := sha(doc)
	err := s.lib.SetImageBigData(id, "manifest-"+string(d), doc, func([]byte) (digest.Digest, error) { return d, nil })
	return s.explain("record a manifest of image "+short(id), err)
}

// instancesKey is where Podman keeps where a list's images are from.
const instancesKey = "instances.json"

// List is a manifest list that the store keeps: an index without an image of its
// own, in Podman's form.
type List struct {
	ID        string
	Names     []string
	Index     []byte
	Instances []byte // a JSON object: digest → where it is from
}

// IsList reports whether a record is one of a manifest list.
func (img *Image) IsList() bool {
	_, config := img.BigData["sha256:"+img.ID]
	_, manifest := img.BigData["manifest"]
	return img.TopLayer == "" && !config && manifest
}

// LockLists waits until nobody else changes manifest lists, and returns what ends that.
// Who records a list changed has read it under this lock: what another put into it
// meanwhile would be lost.
func (s *Store) LockLists(ctx context.Context) (release func(), err error) {
	l, err := lock.Acquire(ctx, filepath.Join(s.o.RunRoot, "cais-lists"), true)
	if err != nil {
		return nil, s.explain("lock the manifest lists", err)
	}
	return func() { _ = l.Release() }, nil
}

// PutList records a manifest list, a new one if ID is empty, and returns its id.
func (s *Store) PutList(l List) (string, error) {
	fail := func(err error) (string, error) { return "", s.explain("record a manifest list", err) }
	if l.ID == "" {
		img, err := s.lib.CreateImage("", nil, "", "", &library.ImageOptions{CreationDate: time.Now()})
		if err != nil {
			return fail(err)
		}
		l.ID = img.ID
	}
	d := sha(l.Index)
	for _, doc := range []struct {
		key  string
		data []byte
		sum  func([]byte) (digest.Digest, error)
	}{
		{instancesKey, l.Instances, nil},
		{"manifest", l.Index, func([]byte) (digest.Digest, error) { return d, nil }},
	} {
		if err := s.lib.SetImageBigData(l.ID, doc.key, doc.data, doc.sum); err != nil {
			return fail(err)
		}
	}
	if len(l.Names) > 0 {
		if err := s.lib.AddNames(l.ID, l.Names); err != nil {
			return fail(err)
		}
	}
	return l.ID, nil
}

// List returns the manifest list that img is.
func (r *Reader) List(ctx context.Context, img *Image) (*List, error) {
	index, err := r.Manifest(ctx, img)
	if err != nil {
		return nil, err
	}
	l := &List{ID: img.ID, Names: img.Names, Index: index}
	l.Instances, err = r.Document(ctx, img, instancesKey)
	if errs.KindOf(err) == errs.NotFound {
		err = nil
	}
	return l, err
}
