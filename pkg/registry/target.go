package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Target is a repository to push to. It may be used by several goroutines.
type Target struct {
	c   *Client
	s   *session
	ref oci.Reference

	mu    sync.Mutex
	begun map[string]string // digest → location of an upload that a refused mount began
}

// Target returns the repository of ref, to push to. from are other repositories
// of the same registry, as Domain/Path, whose blobs are wanted by [Target.Mount].
func (c *Client) Target(ctx context.Context, ref oci.Reference, from ...string) (*Target, error) {
	byTag := ref
	byTag.Digest = ""
	list, err := c.endpoints(byTag)
	if err != nil {
		return nil, err
	}
	own := list[len(list)-1] // mirrors come before it, and nothing is pushed to them
	s := &session{Endpoint: own.Endpoint, host: own.host, path: own.path, push: true}
	for _, f := range from {
		if path, ok := s.sibling(f); ok {
			s.from = append(s.from, path)
		}
	}
	if err := c.connect(ctx, s); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.explain(s, err)
	}
	return &Target{c: c, s: s, ref: ref, begun: map[string]string{}}, nil
}

// sibling returns the path of another repository of the same registry.
func (s *session) sibling(name string) (path string, ok bool) {
	own, _, _ := strings.Cut(s.Name, "/")
	host, path, found := strings.Cut(name, "/")
	return path, found && host == own && path != s.path
}

// fail gives an error its words.
func (t *Target) fail(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return t.c.explain(t.s, err)
}

// send sends one request about this repository, or to where the registry said.
func (t *Target) send(ctx context.Context, method, target string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	if strings.HasPrefix(target, "/") {
		target = "https://" + t.s.host + "/v2/" + t.s.path + target
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if body != nil && req.GetBody == nil {
		req.ContentLength = size // -1: not known
		req.Body = &onceBody{r: body}
	}
	return t.s.http.Do(req)
}

// errSpent is why a request was not repeated: its body had been sent already.
var errSpent = errors.New("the request's body is spent")

// onceBody is a body that cannot be sent again: go-containerregistry, which
// repeats a request with a new token, must not send what is left of it.
type onceBody struct {
	r     io.Reader
	begun bool
}

func (b *onceBody) Read(p []byte) (int, error) {
	b.begun = true
	return b.r.Read(p)
}

func (b *onceBody) Close() error { return nil }

// HasBlob reports whether the repository has a blob, and its size, -1 if the
// registry does not say.
func (t *Target) HasBlob(ctx context.Context, digest string) (size int64, ok bool, err error) {
	resp, err := t.send(ctx, http.MethodHead, "/blobs/"+digest, nil, nil, 0)
	if err != nil {
		return 0, false, t.fail(ctx, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		if said := resp.Header.Get("Docker-Content-Digest"); oci.ValidateDigest(said) == nil && said != digest {
			return 0, false, nil
		}
		return resp.ContentLength, true, nil
	case http.StatusNotFound:
		return 0, false, nil
	}
	return 0, false, t.fail(ctx, status(resp))
}

// Head returns what tag, or digest, is in the repository now; the zero value if
// there is nothing.
func (t *Target) Head(ctx context.Context, tagOrDigest string) (oci.Descriptor, error) {
	resp, err := t.send(ctx, http.MethodHead, "/manifests/"+tagOrDigest, http.Header{"Accept": {accept}}, nil, 0)
	if err != nil {
		return oci.Descriptor{}, t.fail(ctx, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return oci.Descriptor{}, nil
	default:
		return oci.Descriptor{}, t.fail(ctx, status(resp))
	}
	d := oci.Descriptor{MediaType: resp.Header.Get("Content-Type"), Digest: resp.Header.Get("Docker-Content-Digest"), Size: resp.ContentLength}
	if oci.ValidateDigest(d.Digest) != nil {
		d.Digest = ""
	}
	return d, nil
}

// Mount takes a blob over from another repository of the registry without its
// bytes being sent. false is no error: the registry may have its reasons.
func (t *Target) Mount(ctx context.Context, digest, from string) (bool, error) {
	path, ok := t.s.sibling(from)
	if !ok {
		return false, nil
	}
	q := url.Values{"mount": {digest}, "from": {path}}
	resp, err := t.send(ctx, http.MethodPost, "/blobs/uploads/?"+q.Encode(), nil, nil, 0)
	if err != nil {
		return false, t.fail(ctx, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated:
		return true, nil
	case http.StatusAccepted: // an upload like any other
		if at, err := location(resp); err == nil {
			t.mu.Lock()
			t.begun[digest] = at
			t.mu.Unlock()
		}
	}
	return false, nil // what is wrong is told by the upload that follows
}

// PutManifest gives the repository a manifest or an index, by the name tag; an
// empty tag leaves it without any but its digest.
func (t *Target) PutManifest(ctx context.Context, tag string, doc oci.Document) error {
	header := http.Header{"Content-Type": {doc.MediaType}}
	resp, err := t.send(ctx, http.MethodPut, "/manifests/"+cmp.Or(tag, doc.Digest), header, bytes.NewReader(doc.Data), int64(len(doc.Data)))
	if err != nil {
		return t.fail(ctx, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated, http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		if said := resp.Header.Get("Docker-Content-Digest"); oci.ValidateDigest(said) == nil && said != doc.Digest {
			return errs.E("", errs.Invalid, fmt.Errorf("%s: %w", t.s.host, &oci.DigestError{What: "pushed manifest", Want: doc.Digest, Got: said, Bytes: int64(len(doc.Data))}))
		}
		return nil
	}
	err = status(resp)
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch {
		case hasCode(answer, transport.ManifestBlobUnknownErrorCode, transport.BlobUnknownErrorCode):
			return errs.E("", errs.NotFound, &BlobsGoneError{t.s.host, answer})
		case answer.StatusCode == http.StatusUnsupportedMediaType || hasCode(answer, transport.ManifestInvalidErrorCode):
			return errs.WithHint(errs.E("", errs.Unsupported, fmt.Errorf("%s refuses a manifest of type %s: %w", t.s.host, doc.MediaType, answer)),
				"An old registry may take the other format: push --format docker, or --format oci.")
		}
	}
	return t.fail(ctx, err)
}

// BlobsGoneError says that the registry lacks a blob that it said it had.
type BlobsGoneError struct {
	host string
	err  error
}

// Error names the registry.
func (e *BlobsGoneError) Error() string { return e.host + ": " + e.err.Error() }

// Unwrap returns the registry's answer.
func (e *BlobsGoneError) Unwrap() error { return e.err }
