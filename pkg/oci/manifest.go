package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
)

// The media types of what a registry serves.
const (
	TypeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	TypeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	TypeOCIConfig      = "application/vnd.oci.image.config.v1+json"
	TypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	TypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	TypeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	TypeSchema1        = "application/vnd.docker.distribution.manifest.v1+json"
	TypeSchema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// What an image may ask of us. The numbers are what registries accept or, for
// layers, what one overlay mount takes.
const (
	MaxManifest = 4 << 20
	MaxConfig   = 16 << 20
	MaxLayers   = 500
)

// Descriptor points to content: of which type, which digest, how long.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Platform     *Platform         `json:"platform,omitempty"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// Manifest describes one image.
type Manifest struct {
	MediaType    string            // never empty
	Config       Descriptor        `json:"config"`
	Layers       []Descriptor      `json:"layers"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// Index lists the images of one name, one for each platform.
type Index struct {
	MediaType   string            // never empty
	Manifests   []Descriptor      `json:"manifests"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// ParseManifest reads what a registry or an archive says is the content of a
// name, announced as mediaType (may be empty). Exactly one of the two results
// is not nil. A document that could be read as both is refused: two readers
// would see two images under one digest (CVE-2021-41190).
func ParseManifest(raw []byte, mediaType string) (*Manifest, *Index, error) {
	if len(raw) > MaxManifest {
		return nil, nil, invalid("manifest is larger than %d bytes", MaxManifest)
	}
	var doc struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        json.RawMessage   `json:"config"`
		Layers        json.RawMessage   `json:"layers"`
		Manifests     json.RawMessage   `json:"manifests"`
		FSLayers      json.RawMessage   `json:"fsLayers"`
		Annotations   map[string]string `json:"annotations"`
		ArtifactType  string            `json:"artifactType"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, nil, invalid("manifest is not JSON: %w", err)
	}
	mediaType, _, _ = strings.Cut(mediaType, ";") // parameters: "; charset=utf-8"
	mediaType = strings.TrimSpace(mediaType)
	if doc.SchemaVersion == 1 || len(doc.FSLayers) > 0 || mediaType == TypeSchema1 || mediaType == TypeSchema1Signed {
		return nil, nil, errs.WithHint(
			errs.New(errs.Unsupported, "the image is in Docker's first format (schema 1), which is obsolete and cannot be verified"),
			"Push it again with any Docker since 1.10.")
	}
	if doc.SchemaVersion != 2 {
		return nil, nil, invalid("manifest has schema version %d, not 2", doc.SchemaVersion)
	}
	isIndex := len(doc.Manifests) > 0
	if isIndex && (len(doc.Layers) > 0 || len(doc.Config) > 0) {
		return nil, nil, invalid("manifest is ambiguous: it has both manifests and layers")
	}
	// Some registries send their own or a general type: then what the document
	// says decides, and at last what it holds.
	kind := mediaType
	if !isManifestType(kind) && !isIndexType(kind) {
		kind = doc.MediaType
	} else if doc.MediaType != "" && doc.MediaType != kind {
		return nil, nil, invalid("manifest is ambiguous: sent as %s, but says that it is %s", kind, doc.MediaType)
	}
	switch {
	case kind == "" && isIndex:
		kind = TypeOCIIndex
	case kind == "":
		kind = TypeOCIManifest
	}
	switch {
	case isIndexType(kind) && isIndex:
		x := &Index{MediaType: kind, Annotations: doc.Annotations}
		if err := json.Unmarshal(doc.Manifests, &x.Manifests); err != nil {
			return nil, nil, invalid("index: %w", err)
		}
		return nil, x, x.check()
	case isManifestType(kind) && !isIndex:
		m := &Manifest{MediaType: kind, Annotations: doc.Annotations, ArtifactType: doc.ArtifactType}
		if err := unmarshal(doc.Config, &m.Config); err != nil {
			return nil, nil, invalid("manifest's config: %w", err)
		}
		if err := unmarshal(doc.Layers, &m.Layers); err != nil {
			return nil, nil, invalid("manifest's layers: %w", err)
		}
		return m, nil, m.check()
	case isIndexType(kind), isManifestType(kind):
		return nil, nil, invalid("manifest is ambiguous: %s with the content of the other kind", kind)
	}
	return nil, nil, errs.E("", errs.Unsupported, invalid("unknown type of manifest %q", kind))
}

// check refuses what could do harm later, before any of it is used.
func (m *Manifest) check() error {
	if len(m.Layers) > MaxLayers {
		return invalid("image has %d layers; %d is the limit", len(m.Layers), MaxLayers)
	}
	if err := m.Config.check(); err != nil {
		return invalid("manifest's config: %w", err)
	}
	if m.Config.Size > MaxConfig {
		return invalid("image's config is larger than %d bytes", MaxConfig)
	}
	for i, l := range m.Layers {
		if err := l.check(); err != nil {
			return invalid("manifest's layer %d: %w", i+1, err)
		}
	}
	return nil
}

func (x *Index) check() error {
	for i, d := range x.Manifests {
		if err := d.check(); err != nil {
			return invalid("index's entry %d: %w", i+1, err)
		}
		if d.Size > MaxManifest {
			return invalid("index's entry %d is larger than %d bytes", i+1, MaxManifest)
		}
	}
	return nil
}

func (d Descriptor) check() error {
	if d.Size < 0 {
		return invalid("size %d is negative", d.Size)
	}
	return ValidateDigest(d.Digest)
}

// IsImage reports whether m is an image that can be run, not an artifact
// (a signature, a chart, an attestation) in the same form.
func (m *Manifest) IsImage() bool {
	return m.Config.MediaType == TypeOCIConfig || m.Config.MediaType == TypeDockerConfig ||
		m.Config.MediaType == "" || m.Config.MediaType == "application/octet-stream"
}

// ParseImage reads an image's config document.
func ParseImage(raw []byte) (*Image, error) {
	if len(raw) > MaxConfig {
		return nil, invalid("image's config is larger than %d bytes", MaxConfig)
	}
	// Old tools wrote "created" as "" or null, where a time refuses to be read.
	var img struct {
		Image
		Created any `json:"created"`
		History []struct {
			History
			Created any `json:"created"`
		} `json:"history"`
	}
	if err := json.Unmarshal(raw, &img); err != nil {
		return nil, invalid("image's config is not JSON: %w", err)
	}
	img.Image.Created = parseTime(img.Created)
	for _, h := range img.History {
		h.History.Created = parseTime(h.Created)
		img.Image.History = append(img.Image.History, h.History)
	}
	if len(img.RootFS.DiffIDs) > MaxLayers {
		return nil, invalid("image has %d layers; %d is the limit", len(img.RootFS.DiffIDs), MaxLayers)
	}
	for i, d := range img.RootFS.DiffIDs {
		if err := ValidateDigest(d); err != nil {
			return nil, invalid("image's layer %d: %w", i+1, err)
		}
	}
	return &img.Image, nil
}

func parseTime(v any) time.Time {
	s, _ := v.(string)
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

func isIndexType(t string) bool { return t == TypeOCIIndex || t == TypeDockerIndex }

func isManifestType(t string) bool { return t == TypeOCIManifest || t == TypeDockerManifest }

func unmarshal(raw json.RawMessage, v any) error {
	if len(raw) == 0 {
		return nil
	}
	return json.Unmarshal(raw, v)
}

// Document is a manifest, an index or a config as it came: the bytes that its
// digest is of.
type Document struct {
	MediaType string
	Digest    string
	Data      []byte
}

// DigestError says that content is not what its digest says. It is Invalid,
// and retrying elsewhere can help.
type DigestError struct {
	What      string // "layer", "uncompressed layer", "config", "manifest"
	Want, Got string // digests
	Bytes     int64  // how many were read
}

// Error names both digests and the size, which tells a truncated body from a
// forged one.
func (e *DigestError) Error() string {
	return fmt.Sprintf("%s does not have its digest: want %s, got %s (%d bytes)", e.What, e.Want, e.Got, e.Bytes)
}

// Digest returns the digest of a document.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
