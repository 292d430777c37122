package storage

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/atomicfile"
)

// What was seen in registries is noted beside the store, in a file of lines that
// are only ever appended to:
//
//	blob <diffID> <blob's digest> <size> <media type> <repository>
//	manifest <image id> <manifest's digest> <repository>
//
// Nothing depends on it: it says which blobs need not be sent again, from where
// they may be mounted, and of which digests a repository's name may be shown. A
// line that makes no sense is passed over.

// SeenBlob is a layer's blob in a repository.
type SeenBlob struct {
	DiffID    string
	Digest    string
	Size      int64
	MediaType string
	Repo      string // Domain/Path
}

// SeenManifest is an image's manifest, or its index, in a repository.
type SeenManifest struct {
	ImageID string
	Digest  string
	Repo    string
}

// Seen is what was seen of layers and images, the newest last.
type Seen struct {
	Blobs     map[string][]SeenBlob     // by diffID
	Manifests map[string][]SeenManifest // by image id
}

const (
	seenFile = "seen"
	seenSize = 1 << 20 // from which on it is made smaller
)

func (r *Reader) seenPath() string { return filepath.Join(r.o.GraphRoot, "cais", seenFile) }

// Seen reads the notes. A file that is not there is an empty one.
func (r *Reader) Seen() (*Seen, error) {
	s := &Seen{Blobs: map[string][]SeenBlob{}, Manifests: map[string][]SeenManifest{}}
	f, err := os.Open(r.seenPath())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		s.add(strings.Fields(lines.Text()))
	}
	return s, nil // a line that is too long ends the file, and nothing depends on it
}

func (s *Seen) add(f []string) {
	switch {
	case len(f) == 6 && f[0] == "blob":
		size, err := strconv.ParseInt(f[3], 10, 64)
		_, bad1 := digestHex(f[1])
		_, bad2 := digestHex(f[2])
		if cmp.Or(err, bad1, bad2) != nil {
			return
		}
		b := SeenBlob{DiffID: f[1], Digest: f[2], Size: size, MediaType: f[4], Repo: f[5]}
		list := slices.DeleteFunc(s.Blobs[b.DiffID], func(o SeenBlob) bool { return o.Digest == b.Digest && o.Repo == b.Repo })
		s.Blobs[b.DiffID] = append(list, b)
	case len(f) == 4 && f[0] == "manifest":
		if _, err := digestHex(f[2]); err != nil {
			return
		}
		m := SeenManifest{ImageID: f[1], Digest: f[2], Repo: f[3]}
		list := slices.DeleteFunc(s.Manifests[m.ImageID], func(o SeenManifest) bool { return o == m })
		s.Manifests[m.ImageID] = append(list, m)
	}
}

// RepoDigests are the references by digest that Docker shows an image with: of
// each repository that the image has a name in, what that repository was seen to
// have. Names with digests are not repeated. Of an image that another tool pulled
// nothing was seen: if it came through an index, that one's digest stands for all
// of its repositories.
func (s *Seen) RepoDigests(img *Image) []string {
	var refs []string
	add := func(repo, digest string) {
		if ref := repo + "@" + digest; !slices.Contains(refs, ref) && !slices.Contains(img.Names, ref) {
			refs = append(refs, ref)
		}
	}
	if img.IsList() {
		return nil
	}
	known := s.Manifests[img.ID]
	for _, n := range tags(img.Names) {
		repo := repository(n)
		for _, m := range known {
			if m.Repo == repo && slices.Contains(img.Digests, m.Digest) {
				add(repo, m.Digest)
			}
		}
		for _, d := range img.Digests {
			if len(known) == 0 && d != img.Digest {
				add(repo, d)
			}
		}
	}
	return refs
}

// Note adds what is new to the notes. That it failed is no reason to fail: the
// notes only save work.
func (r *Reader) Note(blobs []SeenBlob, manifests []SeenManifest) error {
	known, err := r.Seen()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, x := range blobs {
		if slices.Contains(known.Blobs[x.DiffID], x) {
			continue
		}
		writeFields(&b, "blob", x.DiffID, x.Digest, strconv.FormatInt(x.Size, 10), x.MediaType, x.Repo)
	}
	for _, m := range manifests {
		if known.last(m.ImageID, m.Repo) == m.Digest {
			continue
		}
		writeFields(&b, "manifest", m.ImageID, m.Digest, m.Repo)
	}
	if b.Len() == 0 {
		return nil
	}
	f, err := os.OpenFile(r.seenPath(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes()) // in one piece: others append, too
	return errors.Join(err, f.Close())
}

// last is the digest that a repository was last seen to have of an image; empty:
// none was.
func (s *Seen) last(image, repo string) string {
	for _, m := range slices.Backward(s.Manifests[image]) {
		if m.Repo == repo {
			return m.Digest
		}
	}
	return ""
}

// writeFields writes one line, or none if a field would break it.
func writeFields(b *bytes.Buffer, fields ...string) {
	for _, f := range fields {
		if f == "" || strings.ContainsAny(f, " \t\n\v\f\r\u0085\u00a0") {
			return
		}
	}
	b.WriteString(strings.Join(fields, " "))
	b.WriteByte('\n')
}

// tidySeen drops what is about layers and images that are gone, once the file
// has grown. A line that another process adds meanwhile may be lost.
func (s *Store) tidySeen(ctx context.Context) error {
	info, err := os.Stat(s.reader.seenPath())
	if err != nil || info.Size() < seenSize {
		return nil
	}
	seen, err := s.reader.Seen()
	if err != nil {
		return err
	}
	layers, err := s.reader.layers(ctx)
	if err != nil {
		return err
	}
	images, err := s.reader.Images(ctx)
	if err != nil {
		return err
	}
	diffs, ids := map[string]bool{}, map[string]bool{}
	for _, l := range layers {
		diffs[l.DiffID] = true
	}
	for _, img := range images {
		ids[img.ID] = true
	}
	var b bytes.Buffer
	for diff, list := range seen.Blobs {
		for _, x := range list[max(0, len(list)-8):] {
			if diffs[diff] {
				writeFields(&b, "blob", x.DiffID, x.Digest, strconv.FormatInt(x.Size, 10), x.MediaType, x.Repo)
			}
		}
	}
	for id, list := range seen.Manifests {
		for _, m := range list {
			if ids[id] {
				writeFields(&b, "manifest", m.ImageID, m.Digest, m.Repo)
			}
		}
	}
	return atomicfile.Write(s.reader.seenPath(), b.Bytes(), 0o600, false)
}
