package faultproxy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"

	"github.com/google/go-containerregistry/pkg/registry"

	"cais.dev/cais/pkg/oci"
)

// Registry returns an empty registry in memory.
func Registry() http.Handler {
	return registry.New(registry.Logger(log.New(io.Discard, "", 0)))
}

// Blob is content with its digest.
type Blob struct {
	oci.Descriptor
	Data []byte
}

// NewBlob returns data as a blob.
func NewBlob(mediaType string, data []byte) Blob {
	return Blob{oci.Descriptor{MediaType: mediaType, Digest: Digest(data), Size: int64(len(data))}, data}
}

// Digest returns "sha256:…".
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Layer is a layer in both its forms.
type Layer struct {
	Blob          // compressed
	Tar    []byte // uncompressed
	DiffID string // the digest of Tar
}

// NewLayer makes a gzip layer of files, name and content in turn.
func NewLayer(files ...string) Layer {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for i := 0; i+1 < len(files); i += 2 {
		must(tw.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg}))
		_, err := io.WriteString(tw, files[i+1])
		must(err)
	}
	must(tw.Close())
	return layer(buf.Bytes())
}

// RandomLayer makes a layer of one file of size random bytes, which do not
// compress: the blob is about as large. The same seed gives the same layer.
func RandomLayer(name string, size int, seed uint64) Layer {
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	_, err := r.Read(data)
	must(err)
	return NewLayer(name, string(data))
}

func layer(tarball []byte) Layer {
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestSpeed)
	must(err)
	_, err = w.Write(tarball)
	must(err)
	must(w.Close())
	return Layer{NewBlob("application/vnd.oci.image.layer.v1.tar+gzip", z.Bytes()), tarball, Digest(tarball)}
}

// Image is an image and what it is made of.
type Image struct {
	Manifest Blob
	Config   Blob
	Layers   []Layer
}

// NewImage makes an OCI image of layers for the platform os/arch[/variant].
func NewImage(platform string, cmd []string, layers ...Layer) Image {
	p, err := oci.ParsePlatform(platform, oci.HostPlatform())
	must(err)
	conf := oci.Image{Platform: p, Config: oci.Config{Cmd: cmd}, RootFS: oci.RootFS{Type: "layers"}}
	m := map[string]any{"schemaVersion": 2, "mediaType": oci.TypeOCIManifest}
	descriptors := []oci.Descriptor{}
	for _, l := range layers {
		conf.RootFS.DiffIDs = append(conf.RootFS.DiffIDs, l.DiffID)
		conf.History = append(conf.History, oci.History{CreatedBy: "test"})
		descriptors = append(descriptors, l.Descriptor)
	}
	img := Image{Config: NewBlob(oci.TypeOCIConfig, encode(conf)), Layers: layers}
	m["config"], m["layers"] = img.Config.Descriptor, descriptors
	img.Manifest = NewBlob(oci.TypeOCIManifest, encode(m))
	return img
}

// NewIndex makes an index of images.
func NewIndex(images ...Image) Blob {
	list := []oci.Descriptor{}
	for _, img := range images {
		conf, err := oci.ParseImage(img.Config.Data)
		must(err)
		d := img.Manifest.Descriptor
		d.Platform = &conf.Platform
		list = append(list, d)
	}
	return NewBlob(oci.TypeOCIIndex, encode(map[string]any{"schemaVersion": 2, "mediaType": oci.TypeOCIIndex, "manifests": list}))
}

// Push puts an image into the registry, by tag; an empty tag means by digest.
func Push(reg http.Handler, repo, tag string, img Image) {
	for _, l := range img.Layers {
		PushBlob(reg, repo, l.Blob)
	}
	PushBlob(reg, repo, img.Config)
	PushManifest(reg, repo, tag, img.Manifest)
}

// PushBlob puts one blob.
func PushBlob(reg http.Handler, repo string, b Blob) {
	put(reg, http.MethodPost, fmt.Sprintf("/v2/%s/blobs/uploads/?digest=%s", repo, b.Digest), b.MediaType, b.Data)
}

// PushManifest puts a manifest or an index.
func PushManifest(reg http.Handler, repo, tag string, b Blob) {
	if tag == "" {
		tag = b.Digest
	}
	put(reg, http.MethodPut, fmt.Sprintf("/v2/%s/manifests/%s", repo, tag), b.MediaType, b.Data)
}

func put(reg http.Handler, method, path, mediaType string, data []byte) {
	req := httptest.NewRequest(method, path, bytes.NewReader(data))
	req.Header.Set("Content-Type", mediaType)
	rec := httptest.NewRecorder()
	reg.ServeHTTP(rec, req)
	if rec.Code != http.StatusCreated {
		panic(fmt.Sprintf("%s %s: %d %s", method, path, rec.Code, rec.Body))
	}
}

func encode(v any) []byte {
	raw, err := json.Marshal(v)
	must(err)
	return raw
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
