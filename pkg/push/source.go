// Package push takes images out of cais: to registries, and into archives that
// docker load, podman load and others read.
//
// What it takes them from is a [Source]: the store, a build's output, a layout.
// A source keeps layers as compressed blobs, as tars, or in both forms. A blob
// that the other side has is never sent: what is known of it decides, and only
// what is left is compressed.
package push

import (
	"context"
	"io"
	"strings"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Source holds manifests and what belongs to them.
type Source interface {
	// Document returns a manifest that an index names, or an image's config. It
	// fails with NotFound for a manifest that is not here.
	Document(ctx context.Context, d oci.Descriptor) ([]byte, error)
	// Layer tells what there is of a layer that a manifest names as d. diffID is
	// the digest of its tar as the config has it, empty for an artifact's blob.
	// Nothing is read yet.
	Layer(ctx context.Context, d oci.Descriptor, diffID string) (Layer, error)
}

// Layer is what a source has of a layer: at least one of Blob and Tar.
type Layer struct {
	// Blob opens exactly the bytes of the descriptor; nil: they are not kept.
	Blob func(context.Context) (io.ReadCloser, error)
	// Tar opens the uncompressed tar; nil: Blob has it.
	Tar func(context.Context) (io.ReadCloser, error)
	// Size is the length of Tar in bytes; -1: not known.
	Size int64
	// Known are forms of the same tar that registries were seen to have.
	Known []Known
}

// Known is a blob and a repository, as Domain/Path, that had it.
type Known struct {
	oci.Descriptor
	Repo string
}

// Compression says in what form layers leave. The zero value leaves compressed
// ones as they are and makes others gzip.
type Compression struct {
	Kind  compress.Kind // None: no wish
	Level int           // 0: the kind's own
	Force bool          // compress again what is compressed otherwise
	Plain bool          // with None: what is not compressed stays so
}

// Writer compresses to w.
func (c Compression) Writer(w io.Writer) (io.WriteCloser, error) {
	return compress.Writer(w, c.kind(), c.Level)
}

// LayerType is OCI's media type of a layer that Writer wrote.
func (c Compression) LayerType() string { return layerType(oci.TypeOCIManifest, c.kind()) }

// wants reports whether a layer in form kind is good as it is.
func (c Compression) wants(kind compress.Kind) bool {
	switch {
	case c.Plain:
		return kind == compress.None || !c.Force
	case c.Kind == compress.None || !c.Force:
		return kind != compress.None
	}
	return kind == c.Kind
}

// kind is what layers are compressed to.
func (c Compression) kind() compress.Kind {
	if c.Kind == compress.None && !c.Plain {
		return compress.Gzip
	}
	return c.Kind
}

// layerTypes are the media types of layers by their compression.
var layerSuffixes = [...]struct {
	suffix string
	kind   compress.Kind
}{
	{"+gzip", compress.Gzip}, {".gzip", compress.Gzip}, {"+zstd", compress.Zstd}, {".zstd", compress.Zstd},
	{".xz", compress.Xz}, {".bzip2", compress.Bzip2},
}

// layerKind tells how a layer of this type is compressed, and what its type is
// without.
func layerKind(mediaType string) (base string, kind compress.Kind) {
	for _, s := range layerSuffixes {
		if base, ok := strings.CutSuffix(mediaType, s.suffix); ok {
			return base, s.kind
		}
	}
	return mediaType, compress.None
}

const (
	dockerLayer = "application/vnd.docker.image.rootfs.diff.tar"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// layerType is the media type of a layer in an image of the given manifest type.
func layerType(manifest string, kind compress.Kind) string {
	switch {
	case manifest == oci.TypeDockerManifest && kind == compress.None:
		return dockerLayer
	case manifest == oci.TypeDockerManifest:
		return dockerLayer + "." + string(kind)
	case kind == compress.None:
		return ociLayer
	}
	return ociLayer + "+" + string(kind)
}

// isLayer reports whether the type is one of an image's layers; others, such as
// those of artifacts and foreign ones, are left alone.
func isLayer(mediaType string) bool {
	base, _ := layerKind(mediaType)
	return base == dockerLayer || base == ociLayer
}

// Format is a kind of manifest.
type Format string

// The formats, in podman's words.
const (
	Same   Format = ""
	OCI    Format = "oci"
	Docker Format = "v2s2"
)

// ParseFormat reads a format.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "":
		return Same, nil
	case "oci":
		return OCI, nil
	case "docker", "v2s2":
		return Docker, nil
	case "v2s1":
		return "", errs.WithHint(errs.New(errs.Unsupported, "Docker's first format (schema 1) is obsolete and cannot be verified"), "Use oci or v2s2.")
	}
	return "", errs.New(errs.Invalid, "unknown format "+s+": want oci or v2s2")
}
