package source

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/errs"
)

// download is what is known of a URL.
type download struct {
	Version  int       `json:"version"`
	URL      string    `json:"url"` // without a password
	ETag     string    `json:"etag,omitempty"`
	Modified string    `json:"lastModified,omitempty"` // the header
	Digest   string    `json:"digest"`
	Size     int64     `json:"size"`
	Time     time.Time `json:"time"` // of the file: what Modified says, or 1970
}

// openHTTP returns a tree with the one file that op means. A file that the server
// says did not change, by its ETag or its time, is not fetched again, and one with
// a checksum not even asked for.
func (s *Sources) openHTTP(ctx context.Context, op *graph.HTTP, step *progress.Step) (*Opened, error) {
	dir, err := s.entry(ctx, "http", name(op.URL))
	if err != nil {
		return nil, err
	}
	l, err := fetching(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	d, cached, err := s.fetch(ctx, op, dir, step)
	if err != nil {
		return nil, errs.E("get "+redact(op.URL), errs.KindOf(err), err)
	}
	// The file has the name that the Dockerfile gives it, which may differ.
	at := filepath.Join(dir, "as-"+name(op.Filename, d.Digest))
	if err := os.MkdirAll(at, 0o755); err != nil {
		return nil, err
	}
	err = os.Link(filepath.Join(dir, "blob-"+digestHex(d.Digest)), filepath.Join(at, filepath.Base("/"+op.Filename)))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	t, err := OpenTree(at, TreeOptions{IndexDir: filepath.Join(s.o.Dir, "index")})
	if err != nil {
		return nil, err
	}
	return &Opened{Tree: t, ID: d.Digest, Time: d.Time, Cached: cached}, nil
}

func digestHex(d string) string { return strings.TrimPrefix(d, "sha256:") }

// fetch brings dir up to date.
func (s *Sources) fetch(ctx context.Context, op *graph.HTTP, dir string, step *progress.Step) (d download, cached bool, err error) {
	var known *download
	if data, err := os.ReadFile(filepath.Join(dir, "meta.json")); err == nil {
		var k download
		if json.Unmarshal(data, &k) == nil && k.Version == 1 && isDigest(k.Digest) {
			if fi, err := os.Lstat(filepath.Join(dir, "blob-"+digestHex(k.Digest))); err == nil && fi.Size() == k.Size {
				known = &k
			}
		}
	}
	if known != nil && op.Checksum != "" && known.Digest == op.Checksum {
		return *known, true, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, op.URL, nil)
	if err != nil {
		return d, false, errs.E("", errs.Invalid, err)
	}
	req.Header.Set("User-Agent", cmp.Or(s.o.UserAgent, "cais"))
	req.Header.Set("Accept-Encoding", "identity") // the file, not a form of it for the way
	if err := s.authorize(ctx, req); err != nil {
		return d, false, err
	}
	if known != nil {
		if known.ETag != "" {
			req.Header.Set("If-None-Match", known.ETag)
		} else if known.Modified != "" {
			req.Header.Set("If-Modified-Since", known.Modified)
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the URL is named once, without its password
		}
		return d, false, errs.E("", errs.Unavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && known != nil {
		if op.Checksum != "" {
			return d, false, mismatch(known.Digest, op.Checksum)
		}
		return *known, true, nil
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		kind := errs.Unavailable
		switch resp.StatusCode {
		case http.StatusNotFound, http.StatusGone:
			kind = errs.NotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			kind = errs.Denied
		}
		return d, false, errs.New(kind, fmt.Sprintf("invalid response status %d", resp.StatusCode))
	}
	d = download{Version: 1, URL: redact(op.URL), ETag: resp.Header.Get("ETag"), Modified: resp.Header.Get("Last-Modified"), Time: time.Unix(0, 0).UTC()}
	if t, err := http.ParseTime(d.Modified); err == nil {
		d.Time = t
	}
	if err := s.save(ctx, resp, dir, op, &d, step); err != nil {
		return d, false, err
	}
	if known != nil && known.Digest != d.Digest {
		os.Remove(filepath.Join(dir, "blob-"+digestHex(known.Digest)))
	}
	data, err := json.Marshal(d)
	if err != nil {
		return d, false, err
	}
	return d, false, atomicfile.WriteLocked(filepath.Join(dir, "meta.json"), data, 0o600, false)
}

func mismatch(got, want string) error {
	return errs.New(errs.Invalid, fmt.Sprintf("digest mismatch %s: %s", got, want))
}

func isDigest(d string) bool {
	h, ok := strings.CutPrefix(d, "sha256:")
	_, err := hex.DecodeString(h)
	return ok && len(h) == 64 && err == nil
}

// save writes the body to its blob.
func (s *Sources) save(ctx context.Context, resp *http.Response, dir string, op *graph.HTTP, d *download, step *progress.Step) error {
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), &meter{r: resp.Body, step: step, name: "downloading " + filepath.Base(op.Filename), total: max(resp.ContentLength, 0)})
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errs.E("", errs.Unavailable, err)
	}
	if resp.ContentLength >= 0 && n != resp.ContentLength {
		return errs.E("", errs.Unavailable, io.ErrUnexpectedEOF)
	}
	d.Digest, d.Size = "sha256:"+hex.EncodeToString(h.Sum(nil)), n
	if op.Checksum != "" && op.Checksum != d.Digest {
		return mismatch(d.Digest, op.Checksum)
	}
	step.ItemDone("downloading "+filepath.Base(op.Filename), n)
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return err
	}
	if err := os.Chtimes(f.Name(), d.Time, d.Time); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, "blob-"+digestHex(d.Digest)))
}

// authorize adds what a secret has for the server.
func (s *Sources) authorize(ctx context.Context, req *http.Request) error {
	for _, host := range []string{req.URL.Host, req.URL.Hostname()} {
		for _, kind := range []string{"HTTP_AUTH_HEADER", "HTTP_AUTH_TOKEN"} {
			for _, sep := range []string{"_", "."} {
				v, ok, err := s.o.Secrets.Get(ctx, kind+sep+host)
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
				text := strings.TrimSpace(string(v))
				if kind == "HTTP_AUTH_TOKEN" {
					text = "Bearer " + text
				}
				req.Header.Set("Authorization", text)
				return nil
			}
		}
	}
	return nil
}

// redact is an address without its password.
func redact(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	return u.Redacted()
}

// meter reports what is read.
type meter struct {
	r           io.Reader
	step        *progress.Step
	name        string
	done, total int64
	last        time.Time
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	if now := time.Now(); now.Sub(m.last) > 100*time.Millisecond {
		m.last = now
		m.step.Item(m.name, m.done, m.total)
	}
	return n, err
}

// Get reads a URL that may be an archive or a Dockerfile, for a context. The
// caller closes the body. At most limit bytes may be read if it is not an
// archive; that is the caller's to keep.
func (s *Sources) Get(ctx context.Context, address string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errs.E("", errs.Invalid, err)
	}
	req.Header.Set("User-Agent", cmp.Or(s.o.UserAgent, "cais"))
	if err := s.authorize(ctx, req); err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, errs.E("get "+redact(address), errs.Unavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		kind := errs.Unavailable
		if resp.StatusCode == http.StatusNotFound {
			kind = errs.NotFound
		}
		return nil, errs.New(kind, fmt.Sprintf("get %s: invalid response status %d", redact(address), resp.StatusCode))
	}
	return resp.Body, nil
}
