// Package commit makes images from files that no Dockerfile describes: from a
// container's changes, and from a tar.
package commit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/build/dockerfile"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/storage"
)

// allowed are the instructions of --change.
func allowed(word string) bool {
	return slices.Contains([]string{
		"CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
	}, strings.ToUpper(word))
}

// Change applies lines of a Dockerfile, as --change has them, to an image's
// config. It fails with Invalid for what is none, or would run something.
func Change(ctx context.Context, c oci.Config, p oci.Platform, lines []string) (oci.Config, error) {
	if len(lines) == 0 {
		return c, nil
	}
	text := "FROM base\n"
	for _, l := range lines {
		l = strings.TrimSpace(l)
		word, rest, _ := strings.Cut(l, " ")
		if key, value, ok := strings.Cut(word, "="); ok && !allowed(word) && allowed(key) { // podman's form: CMD=/bin/sh
			word, rest = key, strings.TrimSpace(value+" "+rest)
		}
		if !allowed(word) {
			return c, errs.New(errs.Invalid, strings.ToLower(word)+" is not a valid change command")
		}
		if strings.ContainsAny(l, "\n\r") {
			return c, errs.New(errs.Invalid, fmt.Sprintf("--change %q is more than one line", l))
		}
		text += word + " " + rest + "\n"
	}
	base := oci.Image{Platform: p, Config: c, RootFS: oci.RootFS{Type: "layers"}}
	triggers := base.Config.OnBuild
	base.Config.OnBuild = nil // they are for builds
	plan, err := dockerfile.Convert(ctx, []byte(text), dockerfile.Options{
		Name: "--change", Platforms: []oci.Platform{p}, Build: oci.HostPlatform(), Resolver: fixed(base),
	})
	if err != nil {
		if at, ok := errors.AsType[*dockerfile.Error](err); ok {
			err = at.Err
		}
		return c, errs.E("--change", errs.Invalid, err)
	}
	out := plan.Graph.Results[0].Config.Config
	out.OnBuild = append(slices.Clone(triggers), out.OnBuild...)
	return out, nil
}

// fixed resolves everything to one config.
type fixed oci.Image

func (f fixed) Resolve(context.Context, dockerfile.Image) (dockerfile.Base, error) {
	return dockerfile.Base{Digest: oci.Digest(nil), Config: oci.Image(f)}, nil
}

// Base is the image that a container was made from.
type Base struct {
	TopLayer string
	Config   []byte
	Manifest []byte
}

// Request is a new image.
type Request struct {
	Base      *Base      // nil: none
	Config    oci.Config // as it is to be
	Platform  oci.Platform
	Created   time.Time
	CreatedBy string // of the history's new entry
	Author    string
	Message   string
	Names     []string // full references
	OCI       bool     // OCI's manifest; otherwise the base's form, which is Docker's if there is none
}

// Store is what a new image is put into: [storage.Store].
type Store interface {
	StageDir(ctx context.Context, parent string, dir storage.Dir) (*storage.Staged, error)
	StageLayer(ctx context.Context, src storage.LayerSource) (*storage.Staged, error)
	CommitLayers(ctx context.Context, parent string, layers ...*storage.Staged) (string, error)
	Discard(layers ...*storage.Staged) error
	PutImage(ctx context.Context, spec storage.ImageSpec) (id string, err error)
}

// Directory makes an image of what a directory changes in the request's base. The
// directory stays as it is.
func Directory(ctx context.Context, st Store, req Request, upper storage.Dir) (id string, err error) {
	parent := ""
	if req.Base != nil {
		parent = req.Base.TopLayer
	}
	layer, err := st.StageDir(ctx, parent, upper)
	if err != nil {
		return "", err
	}
	return put(ctx, st, req, parent, layer)
}

// Tar makes an image of the files of a tar, compressed or not.
func Tar(ctx context.Context, st Store, req Request, tar io.Reader, unlimited bool) (id string, err error) {
	layer, err := st.StageLayer(ctx, storage.LayerSource{Body: tar, Unlimited: unlimited})
	if err != nil {
		return "", err
	}
	return put(ctx, st, req, "", layer)
}

// put records the layer and the image.
func put(ctx context.Context, st Store, req Request, parent string, layer *storage.Staged) (string, error) {
	config, manifest, err := documents(req, layer.DiffID, layer.Size)
	if err != nil {
		return "", errors.Join(err, st.Discard(layer))
	}
	top, err := st.CommitLayers(ctx, parent, layer)
	if err != nil {
		return "", errors.Join(err, st.Discard(layer))
	}
	return st.PutImage(ctx, storage.ImageSpec{Names: req.Names, TopLayer: top, Config: config, Manifest: manifest, Created: req.Created})
}

// documents are the new image's config and manifest.
func documents(req Request, diffID string, size int64) (config, manifest []byte, err error) {
	img := oci.Image{Platform: req.Platform, RootFS: oci.RootFS{Type: "layers"}}
	kind := oci.TypeDockerManifest
	var layers []oci.Descriptor
	if req.Base != nil {
		old, err := oci.ParseImage(req.Base.Config)
		if err != nil {
			return nil, nil, err
		}
		img.Platform, img.RootFS, img.History = old.Platform, old.RootFS, old.History
		m, _, err := oci.ParseManifest(req.Base.Manifest, "")
		if err != nil || m == nil || len(m.Layers) != len(old.RootFS.DiffIDs) {
			m = plain(old.RootFS.DiffIDs)
		}
		kind, layers = m.MediaType, slices.Clone(m.Layers)
		if len(layers) >= oci.MaxLayers {
			return nil, nil, errs.New(errs.Unsupported, fmt.Sprintf("the image would have %d layers; %d is the limit", len(layers)+1, oci.MaxLayers))
		}
	}
	if req.OCI && kind != oci.TypeOCIManifest {
		kind = oci.TypeOCIManifest
		for i := range layers {
			layers[i].MediaType = strings.NewReplacer("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar", ".gzip", "+gzip").Replace(layers[i].MediaType)
		}
	}
	img.Created, img.Author, img.Comment, img.Config = req.Created, req.Author, req.Message, req.Config
	img.RootFS.DiffIDs = append(slices.Clone(img.RootFS.DiffIDs), diffID)
	img.History = append(slices.Clone(img.History), oci.History{
		Created: req.Created, CreatedBy: req.CreatedBy, Author: req.Author, Comment: req.Message,
	})
	if config, err = json.Marshal(img); err != nil {
		return nil, nil, err
	}
	configType, layerType := oci.TypeDockerConfig, "application/vnd.docker.image.rootfs.diff.tar"
	if kind == oci.TypeOCIManifest {
		configType, layerType = oci.TypeOCIConfig, "application/vnd.oci.image.layer.v1.tar"
	}
	manifest, err = json.Marshal(struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Config        oci.Descriptor   `json:"config"`
		Layers        []oci.Descriptor `json:"layers"`
	}{
		2, kind, oci.Descriptor{MediaType: configType, Digest: oci.Digest(config), Size: int64(len(config))},
		append(layers, oci.Descriptor{MediaType: layerType, Digest: diffID, Size: size}),
	})
	return config, manifest, err
}

// plain is a manifest of layers of which only the tars are known.
func plain(diffIDs []string) *oci.Manifest {
	m := &oci.Manifest{MediaType: oci.TypeOCIManifest}
	for _, d := range diffIDs {
		m.Layers = append(m.Layers, oci.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: d})
	}
	return m
}
