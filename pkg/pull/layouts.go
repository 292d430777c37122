package pull

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// images reads what the archive says that it holds.
func (a *archive) images(platform *oci.Platform) (all []archived, transport string, err error) {
	switch {
	case a.has("oci-layout") && a.has("index.json"):
		transport = "oci-archive"
		if a.root != nil {
			transport = "oci"
		}
		all, err = a.ociImages(platform)
	case a.has("manifest.json"):
		transport = "docker-archive"
		all, err = a.dockerImages()
	case a.has("repositories"):
		transport = "docker-archive"
		all, err = a.legacyImages()
	default:
		return nil, "", errNotArchive
	}
	if err == nil && len(all) == 0 {
		err = errs.New(errs.Invalid, "the archive holds no image")
	}
	return all, transport, err
}

// dockerImages reads manifest.json.
func (a *archive) dockerImages() ([]archived, error) {
	raw, err := a.read("manifest.json", oci.MaxManifest)
	if err != nil {
		return nil, err
	}
	var doc []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, errs.E("manifest.json", errs.Invalid, err)
	}
	var all []archived
	for _, d := range doc {
		img := archived{}
		if img.config, err = a.read(d.Config, oci.MaxConfig); err != nil {
			return nil, err
		}
		if len(d.Layers) > oci.MaxLayers {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("image has %d layers; %d is the limit", len(d.Layers), oci.MaxLayers))
		}
		for _, l := range d.Layers {
			img.layers = append(img.layers, archivedLayer{file: l})
		}
		for _, t := range d.RepoTags {
			ref, err := oci.Parse(t)
			if err != nil {
				return nil, err
			}
			// Who asks for an image by digest is to get that image: an archive's word
			// for it would be no proof.
			if ref.Digest != "" {
				return nil, errs.New(errs.Invalid, fmt.Sprintf("the archive names its image %q: only tags are allowed", t))
			}
			img.names = append(img.names, ref.WithDefaultTag())
		}
		all = append(all, img)
	}
	return all, nil
}

// ociIndex reads index.json.
func (a *archive) ociIndex() (*oci.Index, error) {
	raw, err := a.read("index.json", oci.MaxManifest)
	if err != nil {
		return nil, err
	}
	_, x, err := oci.ParseManifest(raw, "")
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	if x == nil {
		return nil, errs.New(errs.Invalid, "index.json is not an index")
	}
	return x, nil
}

// ociImageOf is the image of OpenLayoutImage.
func (a *archive) ociImageOf(tag, digest string, platform *oci.Platform) (archived, error) {
	if digest != "" {
		if err := oci.ValidateDigest(digest); err != nil {
			return archived{}, err
		}
		img, _, err := a.ociImage(oci.Descriptor{Digest: digest}, platform)
		return img, err
	}
	x, err := a.ociIndex()
	if err != nil {
		return archived{}, err
	}
	var tags []string
	for _, d := range x.Manifests {
		have := d.Annotations["org.opencontainers.image.ref.name"]
		if ref, ok := annotatedName(d); ok {
			have = ref.Tag
		}
		if have == cmp.Or(tag, "latest") || tag == "" && len(x.Manifests) == 1 {
			img, _, err := a.ociImage(d, platform)
			return img, err
		}
		tags = append(tags, have)
	}
	return archived{}, errs.WithHint(errs.New(errs.NotFound, fmt.Sprintf("the layout has no image with the tag %q", cmp.Or(tag, "latest"))),
		fmt.Sprintf("It has %q; an image's digest can be given after @.", tags))
}

// ociImages reads index.json. Of several images with one name, or none, the
// platform chooses.
func (a *archive) ociImages(platform *oci.Platform) ([]archived, error) {
	x, err := a.ociIndex()
	if err != nil {
		return nil, err
	}
	var order []string
	groups := map[string][]oci.Descriptor{}
	for _, d := range x.Manifests {
		if d.Platform != nil && d.Platform.OS == "unknown" {
			continue // an attestation
		}
		key := ""
		if ref, ok := annotatedName(d); ok {
			key = ref.String()
		} else if d.Platform == nil {
			key = d.Digest
		}
		if _, ok := groups[key]; !ok {
			order = append(order, key)
		}
		groups[key] = append(groups[key], d)
	}
	var all []archived
	by := map[string]int{} // manifest digest → index in all: one image may have several names
	for _, key := range order {
		list := groups[key]
		d := list[0]
		if len(list) > 1 || d.Platform != nil && platform != nil {
			if d, err = choose(&oci.Index{Manifests: list}, platform); err != nil {
				return nil, err
			}
		}
		img, digest, err := a.ociImage(d, platform)
		if err != nil {
			return nil, err
		}
		i, ok := by[digest]
		if !ok {
			i = len(all)
			by[digest] = i
			all = append(all, img)
		}
		if ref, ok := annotatedName(d); ok && !slices.Contains(all[i].names, ref) {
			all[i].names = append(all[i].names, ref)
		}
	}
	return all, nil
}

// ociImage reads a manifest, through an index if d is one.
func (a *archive) ociImage(d oci.Descriptor, platform *oci.Platform) (archived, string, error) {
	img := archived{}
	for range 2 {
		raw, err := a.blob(d, oci.MaxManifest)
		if err != nil {
			return img, "", err
		}
		m, x, err := oci.ParseManifest(raw, d.MediaType)
		if err != nil {
			return img, "", err
		}
		if x != nil {
			img.index = raw
			if d, err = choose(x, platform); err != nil {
				return img, "", err
			}
			continue
		}
		if !m.IsImage() {
			return img, "", errs.New(errs.Unsupported, fmt.Sprintf("not an image but an artifact of type %s", m.Config.MediaType))
		}
		img.manifest = raw
		if img.config, err = a.blob(m.Config, oci.MaxConfig); err != nil {
			return img, "", err
		}
		for _, l := range m.Layers {
			img.layers = append(img.layers, archivedLayer{file: blobName(l.Digest), blob: l.Digest})
		}
		return img, d.Digest, nil
	}
	return img, "", errs.New(errs.Unsupported, "an index of indexes")
}

// annotatedName is the name that an OCI layout gives an image: containerd's and
// Docker's annotation is a full one, OCI's often only a tag, which names nothing.
// One with a digest names nothing either: it would be believed.
func annotatedName(d oci.Descriptor) (oci.Reference, bool) {
	s := d.Annotations["io.containerd.image.name"]
	if s == "" {
		if s = d.Annotations["org.opencontainers.image.ref.name"]; !strings.ContainsAny(s, ":/") {
			return oci.Reference{}, false
		}
	}
	ref, err := oci.Parse(s)
	return ref.WithDefaultTag(), err == nil && ref.Digest == ""
}

// legacyImages reads the form before manifest.json: a directory for each layer
// with its own JSON, which names its parent.
func (a *archive) legacyImages() ([]archived, error) {
	raw, err := a.read("repositories", oci.MaxManifest)
	if err != nil {
		return nil, err
	}
	var repos map[string]map[string]string
	if err := json.Unmarshal(raw, &repos); err != nil {
		return nil, errs.E("repositories", errs.Invalid, err)
	}
	var all []archived
	by := map[string]int{}
	for _, repo := range slices.Sorted(maps.Keys(repos)) {
		for _, tag := range slices.Sorted(maps.Keys(repos[repo])) {
			id := repos[repo][tag]
			ref, err := oci.Parse(repo + ":" + tag)
			if err != nil {
				return nil, err
			}
			if ref.Digest != "" {
				return nil, errs.New(errs.Invalid, fmt.Sprintf("the archive names its image %q: only tags are allowed", repo+":"+tag))
			}
			i, ok := by[id]
			if !ok {
				img, err := a.legacyImage(id)
				if err != nil {
					return nil, err
				}
				i = len(all)
				by[id] = i
				all = append(all, img)
			}
			all[i].names = append(all[i].names, ref)
		}
	}
	return all, nil
}

// legacyImage makes the config that the old form does not have. Its layers must
// be read for that: their digests are nowhere.
func (a *archive) legacyImage(id string) (archived, error) {
	img := archived{}
	conf := oci.Image{RootFS: oci.RootFS{Type: "layers"}}
	seen := map[string]bool{}
	for at := id; at != ""; {
		if seen[at] {
			return img, errs.New(errs.Invalid, fmt.Sprintf("the parents of %s go in a circle", id))
		}
		if seen[at] = true; len(seen) > oci.MaxLayers {
			return img, errs.New(errs.Invalid, fmt.Sprintf("image has more than %d layers", oci.MaxLayers))
		}
		raw, err := a.read(at+"/json", oci.MaxConfig)
		if err != nil {
			return img, err
		}
		var v1 struct {
			oci.Image
			Parent          string     `json:"parent"`
			Created         any        `json:"created"`
			ContainerConfig oci.Config `json:"container_config"`
		}
		if err := json.Unmarshal(raw, &v1); err != nil {
			return img, errs.E(at+"/json", errs.Invalid, err)
		}
		if at == id {
			conf.Platform, conf.Config, conf.Author = v1.Platform, v1.Image.Config, v1.Author
			conf.OS = cmp.Or(conf.OS, "linux")
			conf.Architecture = cmp.Or(conf.Architecture, "amd64") // there was no other
		}
		diffID, err := a.diffID(at + "/layer.tar")
		if err != nil {
			return img, err
		}
		img.layers = append(img.layers, archivedLayer{file: at + "/layer.tar"})
		conf.RootFS.DiffIDs = append(conf.RootFS.DiffIDs, diffID)
		conf.History = append(conf.History, oci.History{CreatedBy: strings.Join(v1.ContainerConfig.Cmd, " "), Author: v1.Author, Comment: v1.Comment})
		at = v1.Parent
	}
	slices.Reverse(img.layers)
	slices.Reverse(conf.RootFS.DiffIDs)
	slices.Reverse(conf.History)
	var err error
	img.config, err = json.Marshal(conf)
	return img, err
}

func (a *archive) diffID(name string) (string, error) {
	r, err := a.open(name)
	if err != nil {
		return "", err
	}
	z, err := compress.Reader(r)
	if err != nil {
		return "", err
	}
	defer z.Close()
	h := sha256.New()
	if _, err := io.Copy(h, z); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
