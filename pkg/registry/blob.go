package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// How long a body that breaks off is resumed: as long as it gets on.
const (
	maxBreaks   = 5       // without progress in between
	progress    = 1 << 20 // bytes since the last break that count as progress
	lastBackoff = 5 * time.Second
)

// errStalled is why a body was given up that sent nothing.
var errStalled = errors.New("no data for too long")

// Body is a blob as the registry keeps it. Broken connections are resumed where
// they broke, so a reader sees one stream of exactly the blob's size. The digest
// is the reader's to check: it hashes anyway.
type Body struct {
	ctx  context.Context
	c    *Client
	s    *session
	d    oci.Descriptor
	path string

	resp    *http.Response // nil between a break and the next request
	cancel  context.CancelCauseFunc
	timer   *time.Timer // ends the request if a Read takes too long
	part    bool        // the bytes from off to end are all that is wanted
	end     int64       // where the reader stops
	off     int64       // up to where the reader has it
	mark    int64       // off at the last break
	breaks  int         // since the last progress
	backoff time.Duration
	err     error // what Read keeps returning
}

// Blob opens a blob of ref's repository. attempt counts the tries of the caller
// to get it right: another one starts with another mirror, if there is one.
func (c *Client) Blob(ctx context.Context, ref oci.Reference, d oci.Descriptor, attempt int) (io.ReadCloser, error) {
	return c.blob(ctx, ref, Body{d: d, end: d.Size}, attempt)
}

// Part opens the bytes of a blob from from on, up to to. A registry that only has all
// of it to give is Unsupported.
func (c *Client) Part(ctx context.Context, ref oci.Reference, d oci.Descriptor, from, to int64) (io.ReadCloser, error) {
	return c.blob(ctx, ref, Body{d: d, part: true, off: from, mark: from, end: to}, 0)
}

func (c *Client) blob(ctx context.Context, ref oci.Reference, want Body, attempt int) (io.ReadCloser, error) {
	d := want.d
	ref.Digest = d.Digest // what mirrors may be limited to
	list, err := c.endpoints(ref)
	if err != nil {
		return nil, err
	}
	if n := attempt % len(list); n > 0 {
		list = list[n:]
	}
	b := &want
	err = c.each(ctx, list, func(s *session) error {
		b.ctx, b.c, b.s, b.path, b.backoff = ctx, c, s, "/blobs/"+d.Digest, firstBackoff
		return b.open()
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Host is the registry or the mirror that the bytes come from.
func (b *Body) Host() string { return b.s.host }

// Read returns the next bytes, resuming if it must.
func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.off == b.end {
		return 0, io.EOF
	}
	// More than the manifest says is never read: a larger body would be refused
	// at its end anyway.
	if left := b.end - b.off; int64(len(p)) > left {
		p = p[:left]
	}
	for {
		if b.resp == nil {
			if b.err = b.resume(); b.err != nil {
				return 0, b.err
			}
		}
		b.timer.Reset(b.c.stall)
		n, err := b.resp.Body.Read(p)
		b.timer.Stop()
		b.off += int64(n)
		if err != nil && b.off < b.end {
			err = b.broke(err)
		} else {
			err = nil
		}
		if b.err = err; n > 0 || err != nil {
			return n, err
		}
	}
}

// Close ends the request.
func (b *Body) Close() error {
	b.release()
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	return nil
}

func (b *Body) release() {
	if b.resp == nil {
		return
	}
	b.timer.Stop()
	b.resp.Body.Close()
	b.cancel(nil)
	b.resp = nil
}

// broke takes note of a break; it returns an error if there is no going on.
func (b *Body) broke(err error) error {
	if b.ctx.Err() == nil && (errors.Is(err, context.Canceled) || errors.Is(err, errStalled)) {
		err = fmt.Errorf("%w (%v)", errStalled, b.c.stall)
	}
	b.release()
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if b.off-b.mark >= progress {
		b.breaks, b.backoff = 0, firstBackoff
	}
	b.mark = b.off
	if b.breaks++; b.breaks > maxBreaks {
		return errs.WithHint(
			errs.E("", errs.Unavailable, fmt.Errorf("%s: connection broke %d times at byte %d of %d of %s: %w",
				b.s.host, b.breaks, b.off, b.d.Size, b.d.Digest, err)),
			"Try again: what was complete is kept.")
	}
	b.c.log.Debug("download broke off", "registry", b.s.host, "digest", b.d.Digest, "at", b.off, "of", b.d.Size, "reason", err)
	return nil
}

// resume asks for the rest until it comes or patience ends.
func (b *Body) resume() error {
	for {
		if err := b.c.sleep(b.ctx, b.backoff); err != nil {
			return err
		}
		b.backoff = min(2*b.backoff, lastBackoff)
		err := b.open()
		if err == nil {
			return nil
		}
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		answer, ok := errors.AsType[*transport.Error](err)
		_, decided := errors.AsType[*errs.Error](err)
		if decided || ok && answer.StatusCode < 500 {
			return b.c.explain(b.s, err)
		}
		if err := b.broke(err); err != nil {
			return err
		}
	}
}

// open sends the request for everything from off on and checks that this is
// what the answer holds.
func (b *Body) open() error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	resp, err := b.send(ctx)
	if err != nil {
		cancel(nil)
		return err
	}
	b.resp, b.cancel = resp, cancel
	b.timer = time.AfterFunc(b.c.stall, func() { cancel(errStalled) })
	b.timer.Stop()
	if err := b.check(resp); err != nil {
		b.release()
		return err
	}
	if resp.StatusCode == http.StatusOK && b.off > 0 {
		return b.skip()
	}
	return nil
}

// ranged reports whether less than the whole blob is asked for.
func (b *Body) ranged() bool { return b.off > 0 || b.end < b.d.Size }

func (b *Body) send(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+b.s.host+"/v2/"+b.s.path+b.path, nil)
	if err != nil {
		return nil, err
	}
	if b.ranged() {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.off, b.end-1)) // some servers do not know open ranges
	}
	return b.s.http.Do(req)
}

// check refuses answers that are not the bytes from off to end.
func (b *Body) check(resp *http.Response) error {
	total := resp.ContentLength
	switch resp.StatusCode {
	case http.StatusOK:
		if b.part {
			return errs.New(errs.Unsupported, b.s.host+" does not send parts of blobs")
		}
	case http.StatusPartialContent:
		if !b.ranged() {
			return b.wrong("an answer to a range that was not asked for")
		}
		start, end, size, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || start != b.off || end != b.end {
			return b.wrong(fmt.Sprintf("the range %q, asked for the bytes %d-%d", resp.Header.Get("Content-Range"), b.off, b.end-1))
		}
		total = size
	case http.StatusNotFound:
		if len(b.d.URLs) > 0 {
			err := errs.New(errs.Unsupported, fmt.Sprintf("layer %s is not in the registry but elsewhere (%q), where cais does not get it from", b.d.Digest, b.d.URLs[0]))
			return errs.WithHint(err, "Have the image pushed again with all its layers: Docker does so with \"allow-nondistributable-artifacts\" in its daemon.json.")
		}
		return errs.New(errs.NotFound, fmt.Sprintf("%s does not have the layer %s: blob unknown", b.s.host, b.d.Digest))
	default:
		return status(resp)
	}
	if total >= 0 && total != b.d.Size {
		return b.wrong(fmt.Sprintf("%d bytes, the manifest says %d", total, b.d.Size))
	}
	return nil
}

func (b *Body) wrong(what string) error {
	return errs.WithHint(errs.New(errs.Invalid, fmt.Sprintf("%s sends for %s %s", b.s.host, b.d.Digest, what)),
		"What the registry, or a proxy before it, sent is not what was pushed: try again, or tell who runs it.")
}

// skip reads over what the reader has, of a server that knows no ranges.
func (b *Body) skip() error {
	buf := make([]byte, 64<<10)
	for left := b.off; left > 0; {
		b.timer.Reset(b.c.stall)
		n, err := b.resp.Body.Read(buf[:min(left, int64(len(buf)))])
		b.timer.Stop()
		if left -= int64(n); err != nil && left > 0 {
			b.release()
			return err
		}
	}
	return nil
}

// parseContentRange reads "bytes 5-9/10" into 5, 10 and 10: the end is the first
// byte that is not in it. An unknown size ("*") is -1.
func parseContentRange(s string) (start, end, size int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, 0, false
	}
	span, total, ok := strings.Cut(s, "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return 0, 0, 0, false
	}
	start, err1 := parseSize(first)
	last1, err2 := parseSize(last)
	if err1 != nil || err2 != nil || last1 < start {
		return 0, 0, 0, false
	}
	if total == "*" {
		return start, last1 + 1, -1, true
	}
	size, err := parseSize(total)
	if err != nil || last1 >= size {
		return 0, 0, 0, false
	}
	return start, last1 + 1, size, true
}

// parseSize reads digits only: no sign, no spaces.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}
