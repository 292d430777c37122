// Package docker holds the JSON that Docker's clients expect, and the mapping
// to it.
package docker

import (
	"path"
	"strings"
	"time"

	"cais.dev/cais/pkg/oci"
)

// Image is what `image inspect` prints. The Go names are Docker's, because
// templates may use them beside the JSON keys.
type Image struct {
	ID            string `json:"Id"`
	RepoTags      []string
	RepoDigests   []string
	Parent        string
	Comment       string
	Created       string
	DockerVersion string
	Author        string
	Config        *ImageConfig
	Architecture  string
	Variant       string `json:",omitempty"`
	Os            string
	OsVersion     string `json:",omitempty"`
	Size          int64
	VirtualSize   int64
	GraphDriver   GraphDriver
	RootFS        RootFS
	Metadata      ImageMetadata

	// What Podman's templates name: not in the JSON, which is Docker's.
	Digest string            `json:"-"` // of the platform's manifest
	Labels map[string]string `json:"-"`
	User   string            `json:"-"`
}

// ImageConfig is an image's config. Every key that scripts read is there, null
// if it is not set, so that templates do not fail on it.
type ImageConfig struct {
	User         string
	ExposedPorts map[string]struct{}
	Env          []string
	Cmd          []string
	Healthcheck  *oci.Healthcheck `json:",omitempty"`
	ArgsEscaped  bool             `json:",omitempty"`
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	OnBuild      []string
	Labels       map[string]string
	StopSignal   string   `json:",omitempty"`
	Shell        []string `json:",omitempty"`
}

// GraphDriver says where the files of an image or a container are.
type GraphDriver struct {
	Name string
	Data map[string]string
}

// RootFS lists the layers by the digests of their uncompressed tars.
type RootFS struct {
	Type   string
	Layers []string `json:",omitempty"`
}

// ImageMetadata is what is known of an image beside its content.
type ImageMetadata struct{ LastTagTime string }

// ImageFacts are what an inspected image is made from.
type ImageFacts struct {
	ID     string   // hex
	Digest string   // of the platform's manifest; may be empty
	Names  []string // full references, with tags and with digests
	Config oci.Image
	Size   int64
	Driver string
	Lower  []string // its directories, top first; nil if unknown
}

// NewImage returns the JSON form of an image.
func NewImage(f ImageFacts) *Image {
	tags, digests := Names(f.Names)
	c := f.Config.Config
	return &Image{
		ID:            "sha256:" + f.ID,
		RepoTags:      tags,
		RepoDigests:   digests,
		Comment:       comment(f.Config),
		Created:       f.Config.Created.UTC().Format(time.RFC3339Nano),
		DockerVersion: f.Config.DockerVersion,
		Author:        f.Config.Author,
		Architecture:  f.Config.Architecture,
		Variant:       f.Config.Variant,
		Os:            f.Config.OS,
		OsVersion:     f.Config.OSVersion,
		Size:          f.Size,
		VirtualSize:   f.Size,
		GraphDriver:   graphDriver(f.Driver, f.Lower),
		RootFS:        RootFS{Type: "layers", Layers: f.Config.RootFS.DiffIDs},
		Metadata:      ImageMetadata{LastTagTime: time.Time{}.Format(time.RFC3339Nano)},
		Digest:        f.Digest, Labels: c.Labels, User: c.User,
		Config: &ImageConfig{
			User: c.User, ExposedPorts: c.ExposedPorts, Env: c.Env, Cmd: c.Cmd, Healthcheck: c.Healthcheck,
			ArgsEscaped: c.ArgsEscaped, Volumes: c.Volumes, WorkingDir: c.WorkingDir, Entrypoint: c.Entrypoint,
			OnBuild: c.OnBuild, Labels: c.Labels, StopSignal: c.StopSignal, Shell: c.Shell,
		},
	}
}

// comment is the document's, or that of its last step, where Docker's builder
// leaves it.
func comment(img oci.Image) string {
	if img.Comment == "" && len(img.History) > 0 {
		return img.History[len(img.History)-1].Comment
	}
	return img.Comment
}

// Names sorts full references into familiar ones with tags and with digests.
// Neither list is ever null in JSON.
func Names(names []string) (tags, digests []string) {
	tags, digests = []string{}, []string{}
	for _, n := range names {
		ref, err := oci.Parse(n)
		switch {
		case err != nil:
		case ref.Digest != "":
			digests = append(digests, ref.FamiliarName()+"@"+ref.Digest)
		default:
			tags = append(tags, ref.WithDefaultTag().Familiar())
		}
	}
	return tags, digests
}

func graphDriver(name string, lower []string) GraphDriver {
	g := GraphDriver{Name: name, Data: map[string]string{}}
	if len(lower) == 0 {
		return g
	}
	if len(lower) > 1 {
		g.Data["LowerDir"] = strings.Join(lower[1:], ":")
	}
	dir := path.Dir(lower[0])
	g.Data["UpperDir"] = lower[0]
	g.Data["MergedDir"] = path.Join(dir, "merged")
	g.Data["WorkDir"] = path.Join(dir, "work")
	return g
}
