package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// accept lists what we can read. A registry that has only Docker's first format
// sends it all the same, and is then told why we refuse.
const accept = oci.TypeOCIIndex + ", " + oci.TypeDockerIndex + ", " + oci.TypeOCIManifest + ", " + oci.TypeDockerManifest

// Head asks which digest the tag of ref has now: one small request. Digest is
// empty if the registry does not say; then only [Client.Manifest] knows.
func (c *Client) Head(ctx context.Context, ref oci.Reference) (oci.Descriptor, error) {
	list, err := c.endpoints(ref)
	if err != nil {
		return oci.Descriptor{}, err
	}
	var d oci.Descriptor
	err = c.each(ctx, list, func(s *session) error {
		resp, err := c.do(ctx, s, http.MethodHead, "/manifests/"+tagOrDigest(ref), accept)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			d = oci.Descriptor{MediaType: resp.Header.Get("Content-Type"), Digest: resp.Header.Get("Docker-Content-Digest"), Size: resp.ContentLength}
		case http.StatusNotFound:
			return manifestUnknown(ref)
		case http.StatusMethodNotAllowed:
			d = oci.Descriptor{}
			return nil
		default:
			return status(resp)
		}
		if oci.ValidateDigest(d.Digest) != nil {
			d.Digest = ""
		}
		return nil
	})
	return d, err
}

// Manifest gets what ref names, an index or a manifest, with its digest
// verified.
func (c *Client) Manifest(ctx context.Context, ref oci.Reference) (oci.Document, error) {
	list, err := c.endpoints(ref)
	if err != nil {
		return oci.Document{}, err
	}
	var doc oci.Document
	err = c.each(ctx, list, func(s *session) error {
		var header http.Header
		doc.Data, header, err = c.get(ctx, s, "/manifests/"+tagOrDigest(ref), accept, oci.MaxManifest, func(e *transport.Error) error {
			if e.StatusCode == http.StatusNotFound && !hasCode(e, transport.NameUnknownErrorCode) {
				return manifestUnknown(ref)
			}
			return e
		})
		if err != nil {
			return err
		}
		sum := sha256.Sum256(doc.Data)
		doc.Digest = "sha256:" + hex.EncodeToString(sum[:])
		doc.MediaType = header.Get("Content-Type")
		want := ref.Digest
		if said := header.Get("Docker-Content-Digest"); want == "" && oci.ValidateDigest(said) == nil {
			want = said
		}
		if want != "" && want != doc.Digest {
			return &oci.DigestError{What: "manifest", Want: want, Got: doc.Digest, Bytes: int64(len(doc.Data))}
		}
		return nil
	})
	return doc, err
}

// Config gets a small blob whole, with its digest and size verified.
func (c *Client) Config(ctx context.Context, ref oci.Reference, d oci.Descriptor) ([]byte, error) {
	list, err := c.endpoints(ref)
	if err != nil {
		return nil, err
	}
	var data []byte
	err = c.each(ctx, list, func(s *session) error {
		data, _, err = c.get(ctx, s, "/blobs/"+d.Digest, "", min(d.Size, oci.MaxConfig), func(e *transport.Error) error {
			if e.StatusCode == http.StatusNotFound {
				return &missingError{fmt.Sprintf("%s does not have the image's config %s: blob unknown", s.host, d.Digest)}
			}
			return e
		})
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		if got := "sha256:" + hex.EncodeToString(sum[:]); got != d.Digest {
			return &oci.DigestError{What: "config", Want: d.Digest, Got: got, Bytes: int64(len(data))}
		}
		return nil
	})
	return data, err
}

// maxTags bounds what a registry can make us keep.
const maxTags = 100_000

// Tags lists the tags of ref's repository.
func (c *Client) Tags(ctx context.Context, ref oci.Reference) ([]string, error) {
	ref.Digest = "" // so that mirrors for digests are not asked
	list, err := c.endpoints(ref)
	if err != nil {
		return nil, err
	}
	var tags []string
	err = c.each(ctx, list, func(s *session) error {
		tags = nil
		for next := "/tags/list?n=1000"; next != ""; {
			raw, header, err := c.get(ctx, s, next, "", oci.MaxConfig, func(e *transport.Error) error {
				if e.StatusCode == http.StatusNotFound {
					return &missingError{fmt.Sprintf("repository %s not found", repoName(s))}
				}
				return e
			})
			if err != nil {
				return err
			}
			var page struct {
				Tags []string `json:"tags"`
			}
			if err := json.Unmarshal(raw, &page); err != nil {
				return fmt.Errorf("list of tags: %w", err)
			}
			for _, t := range page.Tags {
				if oci.ValidTag(t) {
					tags = append(tags, t)
				}
			}
			if next = nextPage(header.Get("Link")); len(tags) > maxTags || len(page.Tags) == 0 {
				return nil
			}
		}
		return nil
	})
	return tags, err
}

// nextPage reads `<URL>; rel="next"`. Only the query is used: where to ask is
// not for the answer to say.
func nextPage(link string) string {
	target, params, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(params, "next") {
		return ""
	}
	u, err := url.Parse(target)
	if err != nil || u.RawQuery == "" {
		return ""
	}
	return "/tags/list?" + u.RawQuery
}

func tagOrDigest(ref oci.Reference) string {
	if ref.Digest != "" {
		return ref.Digest
	}
	return ref.WithDefaultTag().Tag
}

func manifestUnknown(ref oci.Reference) error {
	return &missingError{fmt.Sprintf("manifest for %s not found: manifest unknown", ref.Familiar())}
}

// get reads a whole answer of at most limit bytes, again if it breaks off.
// refused may give an answer other than 200 better words.
func (c *Client) get(ctx context.Context, s *session, path, accept string, limit int64, refused func(*transport.Error) error) ([]byte, http.Header, error) {
	for try := 1; ; try++ {
		data, header, err := c.getOnce(ctx, s, path, accept, limit)
		if err == nil {
			return data, header, nil
		}
		if e, ok := errors.AsType[*transport.Error](err); ok {
			return nil, nil, refused(e)
		}
		var broken *brokenError
		if try == maxTries || !errors.As(err, &broken) || ctx.Err() != nil {
			return nil, nil, err
		}
		if err := c.sleep(ctx, firstBackoff<<try); err != nil {
			return nil, nil, err
		}
	}
}

// brokenError is a body that ended before its end.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "the answer broke off: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

func (c *Client) getOnce(ctx context.Context, s *session, path, accept string, limit int64) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	resp, err := c.do(ctx, s, http.MethodGet, path, accept)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, status(resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, &brokenError{err}
	}
	if int64(len(data)) > limit {
		return nil, nil, errs.New(errs.Invalid, fmt.Sprintf("%s sends more than the %d bytes that it may", s.host, limit))
	}
	return data, resp.Header, nil
}

// do sends one request about s's repository.
func (c *Client) do(ctx context.Context, s *session, method, path, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+s.host+"/v2/"+s.path+path, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	return s.http.Do(req)
}
