package registry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// The limits of patience: for a request, not for a body that has begun, which
// [Body] resumes.
const (
	maxTries      = 4                      // of a request that a server or the line failed
	maxTriesBusy  = 5                      // of one that was told to come later
	maxRetryAfter = time.Minute            // told to wait longer, tell the user instead
	firstBackoff  = 200 * time.Millisecond // then four times as long each
)

// retrier repeats requests that may work the next time.
type retrier struct {
	next  http.RoundTripper
	sleep func(context.Context, time.Duration) error
	log   *slog.Logger
}

// RoundTrip sends req until there is an answer worth having. The last answer is
// returned whatever it is.
func (r *retrier) RoundTrip(req *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		if try > 1 && req.GetBody != nil {
			body, err := req.GetBody()
			if err != nil {
				return nil, err
			}
			req = req.Clone(req.Context())
			req.Body = body
		}
		resp, err := r.next.RoundTrip(req)
		if req.Body != nil && req.GetBody == nil || req.Context().Err() != nil {
			return resp, err
		}
		wait, again := delay(resp, err, try)
		if !again {
			return resp, err
		}
		why := slog.Any("error", err)
		if resp != nil {
			why = slog.Int("status", resp.StatusCode)
			io.CopyN(io.Discard, resp.Body, 64<<10) // lets the connection be used again
			resp.Body.Close()
		}
		r.log.Debug("request is repeated", "host", req.URL.Host, "path", req.URL.Path, "in", wait, why)
		if err := r.sleep(req.Context(), wait); err != nil {
			return nil, err
		}
	}
}

// delay decides whether a request that ended so is to be repeated, and when.
func delay(resp *http.Response, err error, try int) (time.Duration, bool) {
	backoff := firstBackoff
	for range try - 1 {
		backoff *= 4
	}
	if err != nil {
		return backoff, try < maxTries && isTemporary(err, try)
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		limit := maxTriesBusy
		if resp.StatusCode == http.StatusServiceUnavailable {
			limit = maxTries
		}
		if d, ok := retryAfter(resp.Header, time.Now()); ok {
			return d, try < limit && d <= maxRetryAfter
		}
		if resp.StatusCode == http.StatusTooManyRequests {
			backoff = time.Second << (try - 1)
		}
		return backoff, try < limit
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusGatewayTimeout, 499, 522: // nginx: client went away; Cloudflare: no connection to the origin
		return backoff, try < maxTries
	}
	return 0, false
}

// retryAfter reads Retry-After, in seconds or as a date (RFC 9110, 10.2.3).
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now)), true
	}
	return 0, false
}

// isTemporary reports whether a connection that failed so is worth another try:
// one that broke, not one that could not be made for a reason that stays.
func isTemporary(err error, try int) bool {
	var plain *plainHTTPError
	if errors.As(err, &plain) || errors.Is(err, syscall.ECONNREFUSED) {
		return false
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsTemporary && !dns.IsNotFound && try == 1
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout() && try == 1 // each costs up to a minute
}
