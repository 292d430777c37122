package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

const (
	smallBlob   = 1 << 20     // sent in one request that can be repeated
	firstChunk  = 64 << 20    // of an upload in parts, which some proxies force
	leastChunk  = 5 << 20     // smaller ones are refused by stores such as S3
	maxRestarts = 3           // of a whole upload
	cancelAfter = time.Second // for telling the registry that nothing more comes
)

// Content is a blob to upload.
type Content struct {
	// Open returns the bytes from off on. It may be called again after a break.
	Open func(off int64) (io.ReadCloser, error)
	// Size is how many bytes there are, -1 if that is not known yet.
	Size int64
	// Expected is the digest if it is known before; it may be empty.
	Expected string
	// Digest returns the digest and the size. It is called once all bytes were
	// read, and waits for what is not known before.
	Digest func() (digest string, size int64, err error)
	// Progress is told how many bytes are out; may be nil.
	Progress func(sent int64)
}

// PutBlob uploads a blob. What breaks off is resumed where the registry says
// that it stands, else begun anew.
func (t *Target) PutBlob(ctx context.Context, c Content) error {
	u := &upload{t: t, c: c, backoff: firstBackoff}
	err := u.run(ctx)
	if err != nil && u.at != "" {
		u.cancel(ctx)
	}
	if err != nil {
		return t.fail(ctx, err)
	}
	return nil
}

// upload is one blob on its way.
type upload struct {
	t *Target
	c Content

	at      string // where the registry wants the next request; empty: nowhere yet
	off     int64  // bytes that the registry has
	chunk   int64  // send at most so many bytes in one request; 0: all
	least   int64  // smallest part that the registry takes, but for the last
	mark    int64  // off at the last break
	breaks  int
	backoff time.Duration
}

func (u *upload) run(ctx context.Context) error {
	var err error
	for range maxRestarts {
		if err = u.begin(ctx); err != nil {
			return err
		}
		if u.c.Size >= 0 && u.c.Size <= smallBlob && u.c.Expected != "" {
			err = u.whole(ctx)
		} else if err = u.parts(ctx); err == nil {
			err = u.commit(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		if again, ok := errors.AsType[*restartError](err); ok {
			u.t.c.log.Debug("upload begins anew", "registry", u.t.s.host, "reason", again.err)
			err = again.err
			u.at, u.off, u.mark = "", 0, 0
			continue
		}
		return err
	}
	_, answered := errors.AsType[*transport.Error](err)
	_, decided := errors.AsType[*errs.Error](err)
	if !answered && !decided {
		err = errs.WithHint(errs.E("", errs.Unavailable, fmt.Errorf("%s: the upload broke again and again: %w", u.t.s.host, err)),
			"Try again: what was complete is kept by the registry.")
	}
	return err
}

// restartError is a failure after which the upload may be tried from its
// beginning.
type restartError struct{ err error }

func (e *restartError) Error() string { return e.err.Error() }
func (e *restartError) Unwrap() error { return e.err }

// begin asks for a place to send to.
func (u *upload) begin(ctx context.Context) error {
	u.t.mu.Lock()
	u.at = u.t.begun[u.c.Expected]
	delete(u.t.begun, u.c.Expected)
	u.t.mu.Unlock()
	if u.at != "" {
		return nil
	}
	resp, err := u.t.send(ctx, http.MethodPost, "/blobs/uploads/", nil, nil, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return status(resp)
	}
	if n, err := parseSize(resp.Header.Get("OCI-Chunk-Min-Length")); err == nil {
		u.least = n
	}
	u.at, err = location(resp)
	return err
}

// location is where the registry wants the next request.
func location(resp *http.Response) (string, error) {
	at, err := resp.Location()
	if err != nil {
		return "", errs.E("", errs.Invalid, fmt.Errorf("%s does not say where to upload to: %w", resp.Request.URL.Host, err))
	}
	return at.String(), nil
}

// whole sends a small blob in one request, which the retrier may repeat.
func (u *upload) whole(ctx context.Context) error {
	r, err := u.c.Open(0)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r, u.c.Size+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	return u.finish(ctx, u.c.Expected, data)
}

// parts sends everything, mostly in one request.
func (u *upload) parts(ctx context.Context) error {
	for {
		more, err := u.part(ctx)
		if err == nil && !more {
			return nil
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := u.broke(ctx, err); err != nil {
			return err
		}
	}
}

// part sends from off on: all, or one chunk. more says that there is more.
func (u *upload) part(ctx context.Context) (more bool, err error) {
	r, err := u.c.Open(u.off)
	if err != nil {
		return false, &ownError{err}
	}
	defer r.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body := &sending{u: u, r: r, start: u.off, left: -1}
	body.timer = time.AfterFunc(u.t.c.stall, func() { cancel(errStalled) })
	body.timer.Stop()
	defer body.timer.Stop()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	size := int64(-1)
	if u.c.Size >= 0 {
		size = u.c.Size - u.off
	}
	if u.chunk > 0 {
		// A part has a length that is said before: what is not known is read first.
		buf := make([]byte, u.chunk)
		n, err := io.ReadFull(r, buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, &ownError{err}
		}
		more = err == nil
		size, body.r, body.left = int64(n), bytes.NewReader(buf[:n]), int64(n)
		if n == 0 {
			return false, nil
		}
	}
	if u.chunk > 0 || u.off > 0 && size >= 0 {
		header.Set("Content-Range", fmt.Sprintf("%d-%d", u.off, u.off+size-1))
	}
	resp, err := u.t.send(ctx, http.MethodPatch, u.at, header, body, size)
	if body.fail != nil {
		if err == nil {
			resp.Body.Close()
		}
		return false, &ownError{body.fail}
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = fmt.Errorf("%w (%v)", errStalled, u.t.c.stall)
		}
		return false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusAccepted, http.StatusNoContent, http.StatusCreated:
	default:
		return false, status(resp)
	}
	if u.at, err = location(resp); err != nil {
		return false, err
	}
	u.off += body.sent
	// What the registry says it has counts: a proxy may have lost the rest.
	if last, ok := lastByte(resp.Header.Get("Range")); ok && last+1 < u.off {
		u.off = last + 1
		return false, fmt.Errorf("it has %d bytes of %d", u.off, u.off+body.sent)
	}
	return more, nil
}

// ownError is a failure of ours to read what is to be sent.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }
func (e *ownError) Unwrap() error { return e.err }

// answerStalls is how many times as long as for a piece of a body is waited for the
// answer to all of it.
const answerStalls = 10

// sending counts what goes out, and ends a request that nobody takes bytes of.
type sending struct {
	u           *upload
	r           io.Reader
	start, sent int64
	left        int64
	told        int64
	timer       *time.Timer
	fail        error
}

func (s *sending) Read(p []byte) (int, error) {
	s.timer.Stop() // how long we take to make the bytes is not the line's fault
	n, err := s.r.Read(p)
	s.sent += int64(n)
	if s.u.c.Progress != nil && (s.sent-s.told >= 256<<10 || err != nil) {
		s.told = s.sent
		s.u.c.Progress(s.start + s.sent)
	}
	if err != nil && err != io.EOF {
		s.fail = err
	}
	switch err {
	case nil:
		s.timer.Reset(s.u.t.c.stall)
	case io.EOF: // a registry may have to move or check all of it before it answers
		s.timer.Reset(answerStalls * s.u.t.c.stall)
	}
	return n, err
}

// broke decides how to go on after a failure; an error ends the upload.
func (u *upload) broke(ctx context.Context, err error) error {
	if own, ok := errors.AsType[*ownError](err); ok {
		return own.err
	}
	if _, decided := errors.AsType[*errs.Error](err); decided {
		return err
	}
	if errors.Is(err, errSpent) && u.breaks < maxBreaks { // a new token is there
		u.breaks++
		return u.stand(ctx, err)
	}
	wait := time.Duration(0)
	var limit *limitError
	switch answer, ok := errors.AsType[*transport.Error](err); {
	case errors.As(err, &limit):
		wait = time.Second << u.breaks
		if n, err := strconv.Atoi(limit.after); err == nil {
			wait = time.Duration(n) * time.Second
		}
		if wait > maxRetryAfter {
			return err
		}
	case ok && answer.StatusCode == http.StatusRequestEntityTooLarge:
		return u.smaller(err)
	case ok && answer.StatusCode == http.StatusRequestedRangeNotSatisfiable:
	case ok && answer.StatusCode == http.StatusNotFound:
		return u.again(ctx, err)
	case ok && answer.StatusCode < 500:
		return err
	}
	if u.off-u.mark >= progress {
		u.breaks, u.backoff = 0, firstBackoff
	}
	u.mark = u.off
	if u.breaks++; u.breaks > maxBreaks {
		return errs.WithHint(errs.E("", errs.Unavailable, fmt.Errorf("%s: the upload broke %d times: %w", u.t.s.host, u.breaks, withStatus(err))),
			"Try again: what was complete is kept by the registry.")
	}
	if err := u.t.c.sleep(ctx, max(wait, u.backoff)); err != nil {
		return err
	}
	u.backoff = min(2*u.backoff, lastBackoff)
	return u.stand(ctx, err)
}

// again is a new upload after a while, as long as there are any left.
func (u *upload) again(ctx context.Context, err error) error {
	if err := u.t.c.sleep(ctx, u.backoff); err != nil {
		return err
	}
	u.backoff = min(2*u.backoff, lastBackoff)
	return &restartError{err}
}

// smaller begins anew in smaller parts.
func (u *upload) smaller(err error) error {
	least := max(u.least, leastChunk)
	switch {
	case u.chunk == 0:
		u.chunk = max(firstChunk, least)
	case u.chunk/2 >= least:
		u.chunk /= 2
	default:
		return err
	}
	return &restartError{err}
}

// stand asks how much of the upload the registry has.
func (u *upload) stand(ctx context.Context, cause error) error {
	resp, err := u.t.send(ctx, http.MethodGet, u.at, nil, nil, 0)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &restartError{cause}
	}
	defer resp.Body.Close()
	last, ok := lastByte(resp.Header.Get("Range"))
	if resp.StatusCode != http.StatusNoContent || !ok {
		return &restartError{cause}
	}
	if at, err := location(resp); err == nil {
		u.at = at
	}
	// "0-0" is what registries say of nothing and of one byte.
	if last == 0 {
		if u.off = 0; cause != nil {
			return &restartError{cause}
		}
	}
	u.off = last + 1
	return nil
}

// lastByte reads "0-41" into 41.
func lastByte(s string) (int64, bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(s, "bytes="), "-")
	n, err := parseSize(last)
	return n, ok && err == nil && first == "0"
}

// commit tells the digest of what was sent.
func (u *upload) commit(ctx context.Context) error {
	digest, size, err := u.c.Digest()
	if err != nil {
		return err
	}
	if size >= 0 && u.off != size {
		return &restartError{fmt.Errorf("%d bytes were sent of %d", u.off, size)}
	}
	return u.finish(ctx, digest, nil)
}

// finish ends the upload with its digest, and with all of it if it is small.
func (u *upload) finish(ctx context.Context, digest string, data []byte) error {
	at, err := url.Parse(u.at)
	if err != nil {
		return err
	}
	q := at.Query()
	q.Set("digest", digest)
	at.RawQuery = q.Encode()
	var body io.Reader
	header := http.Header{}
	if data != nil {
		body = bytes.NewReader(data)
		header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := u.t.send(ctx, http.MethodPut, at.String(), header, body, int64(len(data)))
	if err == nil {
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusCreated, http.StatusNoContent, http.StatusAccepted, http.StatusOK:
			u.at = ""
			if said := resp.Header.Get("Docker-Content-Digest"); oci.ValidateDigest(said) == nil && said != digest {
				return errs.E("", errs.Invalid, fmt.Errorf("%s: %w", u.t.s.host, &oci.DigestError{What: "uploaded blob", Want: digest, Got: said, Bytes: u.off}))
			}
			if u.c.Progress != nil && data != nil {
				u.c.Progress(int64(len(data)))
			}
			return nil
		}
		err = status(resp)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// It may have been done all the same: an answer can get lost.
	if _, ok, _ := u.t.HasBlob(ctx, digest); ok {
		u.at = ""
		return nil
	}
	answer, ok := errors.AsType[*transport.Error](err)
	if ok && answer.StatusCode < 500 && answer.StatusCode != http.StatusNotFound && !hasCode(answer, transport.DigestInvalidErrorCode, transport.BlobUploadInvalidErrorCode, transport.SizeInvalidErrorCode) {
		return err
	}
	return u.again(ctx, err)
}

// cancel frees what the registry keeps of an upload that will not be finished.
func (u *upload) cancel(ctx context.Context) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelAfter)
	defer stop()
	resp, err := u.t.send(ctx, http.MethodDelete, u.at, nil, nil, 0)
	if err == nil {
		resp.Body.Close()
	}
}
