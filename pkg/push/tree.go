package push

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// node is a manifest, or an index with the manifests below it.
type node struct {
	doc      oci.Document
	index    *oci.Index
	children []*node // one for each of index.Manifests

	manifest *oci.Manifest
	config   []byte
	layers   []layer
}

// layer is one of a manifest's.
type layer struct {
	oci.Descriptor
	diffID string
	src    Layer
}

// maxDepth bounds indexes of indexes.
const maxDepth = 3

// read reads all that is small, and finds out about the rest.
func read(ctx context.Context, src Source, doc oci.Document, depth int) (*node, error) {
	n := &node{doc: doc}
	var err error
	if n.manifest, n.index, err = oci.ParseManifest(doc.Data, doc.MediaType); err != nil {
		return nil, err
	}
	if n.index != nil {
		n.doc.MediaType = n.index.MediaType
		if depth >= maxDepth {
			return nil, errs.New(errs.Unsupported, "indexes of indexes of indexes")
		}
		for _, d := range n.index.Manifests {
			data, err := src.Document(ctx, d)
			if err != nil {
				return nil, err
			}
			if got := oci.Digest(data); got != d.Digest {
				return nil, errs.E("", errs.Invalid, &oci.DigestError{What: "manifest", Want: d.Digest, Got: got, Bytes: int64(len(data))})
			}
			child, err := read(ctx, src, oci.Document{MediaType: d.MediaType, Digest: d.Digest, Data: data}, depth+1)
			if err != nil {
				return nil, err
			}
			n.children = append(n.children, child)
		}
		return n, nil
	}
	n.doc.MediaType = n.manifest.MediaType
	if n.config, err = src.Document(ctx, n.manifest.Config); err != nil {
		return nil, err
	}
	if got := oci.Digest(n.config); got != n.manifest.Config.Digest {
		return nil, errs.E("", errs.Invalid, &oci.DigestError{What: "config", Want: n.manifest.Config.Digest, Got: got, Bytes: int64(len(n.config))})
	}
	var diffIDs []string
	if n.manifest.IsImage() {
		img, err := oci.ParseImage(n.config)
		if err != nil {
			return nil, err
		}
		if diffIDs = img.RootFS.DiffIDs; len(diffIDs) != len(n.manifest.Layers) {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("the manifest has %d layers, the config %d", len(n.manifest.Layers), len(diffIDs)))
		}
	}
	for i, d := range n.manifest.Layers {
		l := layer{Descriptor: d}
		if diffIDs != nil {
			l.diffID = diffIDs[i]
		}
		if l.src, err = src.Layer(ctx, d, l.diffID); err != nil {
			return nil, err
		}
		n.layers = append(n.layers, l)
	}
	return n, nil
}

// each calls f for every manifest of an image, in order.
func (n *node) each(f func(*node)) {
	for _, c := range n.children {
		c.each(f)
	}
	if n.index == nil {
		f(n)
	}
}

// kind is how a layer is compressed, as its type says.
func (l layer) kind() compress.Kind {
	_, k := layerKind(l.MediaType)
	return k
}

// rewrite returns the document with other layers, or children, in the place of
// its own, and of another format if one is given. What it does not know of a
// document stays in it.
func (n *node) rewrite(format Format, below []oci.Descriptor) (oci.Document, error) {
	mediaType := n.doc.MediaType
	switch format {
	case OCI:
		if mediaType = oci.TypeOCIManifest; n.index != nil {
			mediaType = oci.TypeOCIIndex
		}
	case Docker:
		if mediaType = oci.TypeDockerManifest; n.index != nil {
			mediaType = oci.TypeDockerIndex
		}
	}
	key, own := "layers", []oci.Descriptor(nil)
	if n.index != nil {
		key, own = "manifests", n.index.Manifests
	} else {
		own = n.manifest.Layers
	}
	same := mediaType == n.doc.MediaType
	for i, d := range below {
		same = same && d.Digest == own[i].Digest && d.MediaType == own[i].MediaType
	}
	if same {
		return n.doc, nil
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(n.doc.Data, &doc); err != nil {
		return oci.Document{}, err
	}
	var raws []map[string]json.RawMessage
	if err := json.Unmarshal(doc[key], &raws); err != nil || len(raws) != len(below) {
		return oci.Document{}, errs.New(errs.Invalid, "manifest has entries that are no objects")
	}
	for i, d := range below {
		if raws[i] == nil {
			return oci.Document{}, errs.New(errs.Invalid, "manifest has entries that are no objects")
		}
		raws[i]["mediaType"], raws[i]["digest"], raws[i]["size"] = quote(d.MediaType), quote(d.Digest), fmt.Appendf(nil, "%d", d.Size)
		if d.Digest != own[i].Digest && n.index == nil {
			delete(raws[i], "urls")
			delete(raws[i], "annotations") // they tell of the blob that it was
		}
	}
	list, err := marshal(raws)
	if err != nil {
		return oci.Document{}, err
	}
	doc[key], doc["mediaType"] = list, quote(mediaType)
	if n.index == nil && n.manifest.IsImage() {
		var config map[string]json.RawMessage
		if err := json.Unmarshal(doc["config"], &config); err != nil {
			return oci.Document{}, err
		}
		config["mediaType"] = quote(oci.TypeOCIConfig)
		if mediaType == oci.TypeDockerManifest {
			config["mediaType"] = quote(oci.TypeDockerConfig)
			delete(doc, "annotations") // Docker's format has none
		}
		if doc["config"], err = marshal(config); err != nil {
			return oci.Document{}, err
		}
	}
	data, err := marshal(doc)
	if err != nil {
		return oci.Document{}, err
	}
	return oci.Document{MediaType: mediaType, Digest: oci.Digest(data), Data: data}, nil
}

// marshal is JSON whose text is what it says, with < and > as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// quote is s, of which every character stands for itself, as JSON.
func quote(s string) json.RawMessage { return json.RawMessage(`"` + s + `"`) }
