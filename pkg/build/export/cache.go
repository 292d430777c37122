package export

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// CacheConfigType is the media type of a cache's config (BuildKit's
// docs/cache-export and cache/remotecache/v1/spec.go).
const CacheConfigType = "application/vnd.buildkit.cacheconfig.v0"

// cacheConfig is BuildKit's form of a cache: layers, and records of which digests
// lead to them. What it has no place for, several keys of a step and the image at
// the bottom, is in a part of its own, which BuildKit does not look at.
type cacheConfig struct {
	Layers  []cacheLayer  `json:"layers,omitempty"`
	Records []cacheRecord `json:"records,omitempty"`
	Steps   *cacheSteps   `json:"dev.cais,omitempty"`
}

type cacheLayer struct {
	Blob        string            `json:"blob,omitempty"`
	Parent      int               `json:"parent,omitempty"`
	Annotations *layerAnnotations `json:"annotations,omitempty"`
}

type layerAnnotations struct {
	MediaType string    `json:"mediaType,omitempty"`
	DiffID    string    `json:"diffID,omitempty"`
	Size      int64     `json:"size,omitempty"`
	CreatedAt time.Time `json:"createdAt,omitzero"`
}

type cacheRecord struct {
	Results []cacheResult `json:"layers,omitempty"`
	Digest  string        `json:"digest,omitempty"`
}

type cacheResult struct {
	Layer     int       `json:"layer"`
	CreatedAt time.Time `json:"createdAt,omitzero"`
}

type cacheSteps struct {
	Version int         `json:"version"`
	Steps   []cacheStep `json:"steps"`
}

type cacheStep struct {
	Keys    []string  `json:"keys"`
	Parent  int       `json:"parent"`
	Base    []string  `json:"base,omitempty"`
	DiffID  string    `json:"diffID"`
	Size    int64     `json:"size"`
	Created time.Time `json:"created,omitzero"`
	Text    string    `json:"text,omitempty"`
}

// EncodeCache writes a cache's config. blobs are the compressed layers of records,
// in their order.
func EncodeCache(records []build.CacheRecord, blobs []oci.Descriptor) ([]byte, error) {
	c := cacheConfig{Steps: &cacheSteps{Version: 1, Steps: []cacheStep{}}}
	for i, r := range records {
		c.Layers = append(c.Layers, cacheLayer{Blob: blobs[i].Digest, Parent: r.Parent, Annotations: &layerAnnotations{
			MediaType: blobs[i].MediaType, DiffID: r.DiffID, Size: blobs[i].Size, CreatedAt: r.Created,
		}})
		for _, k := range r.Keys {
			c.Records = append(c.Records, cacheRecord{Digest: "sha256:" + strings.TrimPrefix(k, "sha256:"), Results: []cacheResult{{Layer: i, CreatedAt: r.Created}}})
		}
		c.Steps.Steps = append(c.Steps.Steps, cacheStep{r.Keys, r.Parent, r.Base, r.DiffID, r.Size, r.Created, r.Text})
	}
	return json.Marshal(c)
}

// EncodeInline writes the cache that an image's config has: the image's manifest
// says where the layers are.
func EncodeInline(records []build.CacheRecord) ([]byte, error) {
	c := cacheConfig{Steps: &cacheSteps{Version: 1, Steps: []cacheStep{}}}
	for _, r := range records {
		c.Steps.Steps = append(c.Steps.Steps, cacheStep{r.Keys, r.Parent, r.Base, r.DiffID, r.Size, r.Created, r.Text})
	}
	return json.Marshal(c)
}

// DecodeInline finds the cache in an image's config, which may come from anybody;
// none if it has none that is ours.
func DecodeInline(config []byte) ([]build.CacheRecord, error) {
	var c struct {
		Cache []byte `json:"moby.buildkit.cache.v0"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, errs.E("read the image's config", errs.Invalid, err)
	}
	if len(c.Cache) == 0 {
		return nil, nil
	}
	records, _, err := DecodeCache(c.Cache)
	return records, err
}

// DecodeCache reads a cache's config, which may come from anybody. blobs are the
// compressed layers by their diffIDs. A cache that BuildKit made has no records for
// us: its keys are not ours.
func DecodeCache(data []byte) (records []build.CacheRecord, blobs map[string]oci.Descriptor, err error) {
	var c cacheConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, nil, errs.E("read the cache's config", errs.Invalid, err)
	}
	blobs = map[string]oci.Descriptor{}
	if c.Steps == nil || c.Steps.Version != 1 {
		return nil, blobs, nil
	}
	for _, l := range c.Layers {
		if l.Annotations == nil || oci.ValidateDigest(l.Blob) != nil || l.Annotations.Size < 0 {
			continue
		}
		blobs[l.Annotations.DiffID] = oci.Descriptor{MediaType: l.Annotations.MediaType, Digest: l.Blob, Size: l.Annotations.Size}
	}
	for i, s := range c.Steps.Steps {
		bad := s.Parent < -1 || s.Parent >= i || oci.ValidateDigest(s.DiffID) != nil || len(s.Keys) == 0 || s.Size < 0
		for _, d := range s.Base {
			bad = bad || oci.ValidateDigest(d) != nil
		}
		for _, k := range s.Keys {
			bad = bad || !isHex(k)
		}
		if bad {
			return nil, nil, errs.New(errs.Invalid, fmt.Sprintf("the cache's config is damaged at step %d", i))
		}
		records = append(records, build.CacheRecord{Keys: s.Keys, Parent: s.Parent, Base: s.Base, DiffID: s.DiffID, Size: s.Size, Created: s.Created, Text: s.Text})
	}
	return records, blobs, nil
}

// isHex reports whether s can be a key: hexadecimal and neither short nor long,
// for it becomes a file's name.
func isHex(s string) bool {
	if len(s) < 32 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
