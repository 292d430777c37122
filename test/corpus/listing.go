package corpus

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Tree is a file system as layers make it: a line for each path, without what
// differs from build to build.
type Tree map[string]string

// Archive is an image in an OCI layout in a tar, as build --output type=oci
// writes it.
type Archive struct {
	blobs map[string][]byte // by name in the tar
}

// ReadArchive reads a tar.
func ReadArchive(r io.Reader) (*Archive, error) {
	a := &Archive{blobs: map[string][]byte{}}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, err
		}
		if a.blobs[path.Clean(h.Name)], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
}

func (a *Archive) blob(digest string) ([]byte, error) {
	data, ok := a.blobs["blobs/"+strings.Replace(digest, ":", "/", 1)]
	if !ok {
		return nil, fmt.Errorf("%s is not in the archive", digest)
	}
	return data, nil
}

func (a *Archive) read(digest string, v any) error {
	data, err := a.blob(digest)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// Image returns the config and the layers, uncompressed, of the only image, or of
// the first of an index.
func (a *Archive) Image() (config map[string]any, layers [][]byte, err error) {
	type desc struct{ MediaType, Digest string }
	var index struct{ Manifests []desc }
	if err := json.Unmarshal(a.blobs["index.json"], &index); err != nil {
		return nil, nil, fmt.Errorf("index.json: %w", err)
	}
	var m struct {
		Config    desc
		Layers    []desc
		Manifests []desc
	}
	for at := index.Manifests; len(at) > 0; at = m.Manifests {
		m.Manifests = nil
		if err := a.read(at[0].Digest, &m); err != nil {
			return nil, nil, err
		}
	}
	if err := a.read(m.Config.Digest, &config); err != nil {
		return nil, nil, err
	}
	for _, l := range m.Layers {
		data, err := a.blob(l.Digest)
		if err != nil {
			return nil, nil, err
		}
		if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
			z, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				return nil, nil, err
			}
			if data, err = io.ReadAll(z); err != nil {
				return nil, nil, err
			}
		}
		layers = append(layers, data)
	}
	return config, layers, nil
}

// Apply puts a layer over t. since is when the build began: times after it are not
// told.
func (t Tree) Apply(layer []byte, since time.Time) error {
	links := map[string][]string{}
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if err == io.EOF {
			t.link(links)
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Join("/", h.Name)
		dir, base := path.Split(name)
		switch {
		case base == ".wh..wh..opq":
			t.below(path.Clean(dir))
			continue
		case strings.HasPrefix(base, ".wh."):
			gone := dir + base[len(".wh."):]
			t.below(gone)
			delete(t, gone)
			continue
		}
		if h.Typeflag != tar.TypeDir {
			t.below(name)
		}
		if name == "/" {
			continue // its mode is what the tool that unpacks gives it
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeLink {
			target := path.Join("/", h.Linkname)
			links[target] = append(links[target], name)
			continue
		}
		t[name] = entry(h, data, since)
	}
}

// link gives all names of a file the same line, whichever of them the tar has the
// contents under.
func (t Tree) link(links map[string][]string) {
	for target, names := range links {
		names = append(names, target)
		slices.Sort(names)
		line := fmt.Sprintf("%s links %v", t[target], names)
		for _, n := range names {
			t[n] = line
		}
	}
}

// below removes what is in a directory.
func (t Tree) below(dir string) {
	maps.DeleteFunc(t, func(p, _ string) bool { return strings.HasPrefix(p, dir+"/") })
}

func entry(h *tar.Header, data []byte, since time.Time) string {
	line := fmt.Sprintf("%c %04o %d:%d", kind(h.Typeflag), h.Mode&0o7777, h.Uid, h.Gid)
	if h.ModTime.Before(since) && h.ModTime.Unix() > 0 && h.Typeflag == tar.TypeReg {
		line += " " + h.ModTime.UTC().Format(time.DateTime)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if len(data) <= 2000 {
			line += " " + strconv.Quote(string(data))
		} else {
			line += fmt.Sprintf(" %d bytes", len(data))
		}
	case tar.TypeSymlink:
		line = fmt.Sprintf("l %d:%d -> %s", h.Uid, h.Gid, h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		line += fmt.Sprintf(" %d,%d", h.Devmajor, h.Devminor)
	}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if x, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			line += fmt.Sprintf(" %s=%q", x, h.PAXRecords[k])
		}
	}
	return line
}

func kind(t byte) byte {
	switch t {
	case tar.TypeDir:
		return 'd'
	case tar.TypeSymlink:
		return 'l'
	case tar.TypeChar:
		return 'c'
	case tar.TypeBlock:
		return 'b'
	case tar.TypeFifo:
		return 'p'
	}
	return '-'
}

// Listing is what a build made, for people and for comparison: the config, the
// history, and how the file system differs from the base image's.
func Listing(a *Archive, base Tree, since time.Time) (string, error) {
	cfg, layers, err := a.Image()
	if err != nil {
		return "", err
	}
	tree := Tree{}
	for _, l := range layers {
		if err := tree.Apply(l, since); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	c, err := json.Marshal(cfg["config"])
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "config %s\n", c)
	for _, k := range []string{"architecture", "os", "variant", "author"} {
		if v, ok := cfg[k]; ok {
			fmt.Fprintf(&b, "%s %v\n", k, v)
		}
	}
	h, _ := cfg["history"].([]any)
	for _, e := range h {
		e, _ := e.(map[string]any)
		if e["created_by"] == nil {
			continue // the base image's
		}
		mark := "layer"
		if e["empty_layer"] == true {
			mark = "-----"
		}
		fmt.Fprintf(&b, "%s %v\n", mark, e["created_by"])
	}
	fmt.Fprintf(&b, "layers %d\n", len(layers))
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		if base[p] != tree[p] {
			fmt.Fprintf(&b, "%s %s\n", p, tree[p])
		}
	}
	whole := slices.ContainsFunc(slices.Collect(maps.Keys(tree)), func(p string) bool { return base[p] != "" })
	for _, p := range slices.Sorted(maps.Keys(base)) {
		if _, ok := tree[p]; !ok && whole {
			fmt.Fprintf(&b, "%s gone\n", p)
		}
	}
	return b.String(), nil
}

// BaseTree is the file system of the base image that both sides have.
func BaseTree(layers [][]byte) (Tree, error) {
	t := Tree{}
	for _, l := range layers {
		if err := t.Apply(l, time.Now()); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Differ lists the lines that differ between what cais made of a case and what
// BuildKit did, but for those that known explains.
func Differ(name, got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	var out []string
	for _, l := range b {
		if !slices.Contains(a, l) && !explained(name, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range a {
		if !slices.Contains(b, l) && !explained(name, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// explained are the differences that are meant; docs/builds.md gives the reasons.
func explained(name, line string) bool {
	switch name {
	case "epoch": // files of the Dockerfile have the epoch's time
		return strings.HasPrefix(line, "/f ")
	case "copy-devices": // a block device stays one
		return strings.HasPrefix(line, "/new/loop ")
	case "run-sandbox": // /dev/core is there, as in containers
		return strings.HasPrefix(line, "/dev.list ")
	}
	return false
}
