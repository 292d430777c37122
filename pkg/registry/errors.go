package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// plainHTTPError is a request that would go out unprotected.
type plainHTTPError struct {
	host       string
	redirected bool
}

func (e *plainHTTPError) Error() string {
	if e.redirected {
		return fmt.Sprintf("the registry redirects to %s without TLS", e.host)
	}
	return fmt.Sprintf("%s would be asked without TLS", e.host)
}

// limitError is an answer 429 that stayed.
type limitError struct {
	limit, remaining, after string // the headers, as they came
}

func (e *limitError) Error() string {
	s := "too many requests"
	if e.limit != "" {
		s += fmt.Sprintf(" (limit %s, remaining %s)", e.limit, e.remaining)
	}
	if e.after != "" {
		s += fmt.Sprintf(", to be tried again after %s", e.after)
		if strings.Trim(e.after, "0123456789") == "" {
			s += " s"
		}
	}
	return s
}

// missingError is content that a registry does not have: what says "manifest
// for x", "layer sha256:…".
type missingError struct {
	text string
}

func (e *missingError) Error() string { return e.text }

// status turns an answer that is not a success into an error.
func status(resp *http.Response) error {
	if resp.StatusCode == http.StatusTooManyRequests {
		return &limitError{
			limit:     resp.Header.Get("Ratelimit-Limit"),
			remaining: resp.Header.Get("Ratelimit-Remaining"),
			after:     resp.Header.Get("Retry-After"),
		}
	}
	return transport.CheckError(resp)
}

// withStatus adds the status to an answer that has words of its own: they may be
// those of a proxy before the registry, and say less.
func withStatus(err error) error {
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok || len(answer.Errors) == 0 || answer.StatusCode < 500 && answer.StatusCode != http.StatusRequestEntityTooLarge {
		return err
	}
	return fmt.Errorf("%d %s: %w", answer.StatusCode, http.StatusText(answer.StatusCode), err)
}

// hasCode reports whether the registry gave one of these reasons.
func hasCode(err *transport.Error, codes ...transport.ErrorCode) bool {
	return slices.ContainsFunc(err.Errors, func(d transport.Diagnostic) bool { return slices.Contains(codes, d.Code) })
}

// explain gives err its kind and the user a hint. It is applied once, where it is
// known which registry it was.
func (c *Client) explain(s *session, err error) error {
	kind, hint := errs.Unavailable, ""
	repo := repoName(s)
	wrap := func(err error) error {
		e := errs.E("", kind, fmt.Errorf("%s: %w", s.host, err))
		if hint == "" {
			return e
		}
		return errs.WithHint(e, hint)
	}
	if _, ok := errors.AsType[*errs.Error](err); ok {
		return err // it has its words
	}
	if digest, ok := errors.AsType[*oci.DigestError](err); ok {
		kind, hint = errs.Invalid, "What the registry, or a proxy before it, sent is not what was pushed: try again, or tell who runs it."
		return wrap(digest)
	}
	if missing, ok := errors.AsType[*missingError](err); ok {
		return errs.E("", errs.NotFound, missing)
	}
	if limit, ok := errors.AsType[*limitError](err); ok {
		if hint = "Try again later."; s.creds.Anonymous() {
			hint = fmt.Sprintf("Log in for a higher limit: 'cais login %s'; or try again later.", loginName(s))
		}
		return wrap(limit)
	}
	plain, isPlain := errors.AsType[*plainHTTPError](err)
	if isPlain && plain.redirected {
		kind, hint = errs.Denied, insecureHint(plain.host)
		return wrap(plain)
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch code := answer.StatusCode; {
		case code == http.StatusUnauthorized || code == http.StatusForbidden || hasCode(answer, transport.DeniedErrorCode, transport.UnauthorizedErrorCode):
			text := fmt.Sprintf("pull access denied for %s, repository does not exist or may require 'cais login'", repo)
			hint = fmt.Sprintf("Log in with 'cais login %s', and check the name.", loginName(s))
			if !s.creds.Anonymous() {
				text = fmt.Sprintf("pull access denied for %s, repository does not exist or the credentials of %s do not allow it", repo, s.creds.Source)
				hint = fmt.Sprintf("Check the name, or log in as somebody who may: 'cais login %s'.", loginName(s))
			}
			if s.push {
				text = fmt.Sprintf("push access denied for %s: requested access to the resource is denied", repo)
			}
			return errs.WithHint(errs.New(errs.Denied, text), hint)
		case code == http.StatusNotFound && hasCode(answer, transport.NameUnknownErrorCode):
			return errs.New(errs.NotFound, fmt.Sprintf("repository %s not found: name unknown", repo))
		case code == http.StatusNotFound:
			kind, hint = errs.NotFound, "Is it a registry, and is the name right?"
		case code == http.StatusTooManyRequests:
			return c.explain(s, &limitError{})
		case code < 500:
			kind = errs.Denied
		}
		return wrap(withStatus(answer))
	}
	if kind, hint = connectionHint(s, err); hint != "" {
		return wrap(plainCause(err))
	}
	if isPlain { // all else was tried before, and said no more
		kind, hint = errs.Denied, insecureHint(plain.host)
	}
	return wrap(err)
}

// connectionHint knows what to do about a connection that could not be made.
func connectionHint(s *session, err error) (errs.Kind, string) {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == proxyConnect {
		return errs.Unavailable, "This is of the proxy that HTTPS_PROXY names, not of the registry: check its address, or name hosts that need none in NO_PROXY."
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return errs.Denied, fmt.Sprintf("Put the authority's certificate into /etc/containers/certs.d/%s/ca.crt or ~/.config/containers/certs.d/%s/ca.crt.", s.host, s.host)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return errs.Denied, "The registry's certificate is not for this name or not valid now: check the name and this machine's clock."
	}
	_, notTLS := errors.AsType[tls.RecordHeaderError](err)
	if notTLS || errors.Is(err, http.ErrSchemeMismatch) {
		return errs.Denied, insecureHint(s.host)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return errs.Unavailable, "Check the registry's name and this machine's network; behind a proxy, set HTTPS_PROXY."
		}
		return errs.Unavailable, "No name server answers: check this machine's network; behind a proxy, set HTTPS_PROXY."
	}
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) {
		return errs.Unavailable, "This machine has no way there: check its network; behind a proxy, set HTTPS_PROXY."
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return errs.Unavailable, "Nothing listens there: is the registry running, and is the port right?"
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return errs.Unavailable, "The registry does not answer: try again; behind a proxy, set HTTPS_PROXY."
	}
	return errs.Unavailable, ""
}

// proxyConnect is what net/http calls the way to a proxy.
const proxyConnect = "proxyconnect"

// throughProxy refuses when the proxy does: net/http would say the answer's text
// only, as if it were the registry's.
func throughProxy(_ context.Context, proxy *url.URL, req *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	err := errs.New(errs.Denied, fmt.Sprintf("the proxy %s does not connect to %s: %s", proxy.Host, req.Host, resp.Status))
	if resp.StatusCode == http.StatusProxyAuthRequired {
		return errs.WithHint(err, "Put a user and the password into it: HTTPS_PROXY="+proxy.Scheme+"://USER:PASSWORD@"+proxy.Host+".")
	}
	return errs.WithHint(err, "HTTPS_PROXY names it: check the address and the proxy's rules, or name hosts that need none in NO_PROXY.")
}

func insecureHint(host string) string {
	return fmt.Sprintf("If %s is to be used without TLS, say so in registries.conf: [[registry]] location = %q, insecure = true.", host, host)
}

// plainCause leaves out the request's line and the other attempts: the host is
// named already.
func plainCause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Op == proxyConnect) {
		return op
	}
	if cert, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return cert
	}
	return err
}

// repoName is the repository as Docker shows it.
func repoName(s *session) string {
	host, path, _ := strings.Cut(s.Name, "/")
	return oci.Reference{Domain: host, Path: path}.FamiliarName()
}

// loginName is what 'cais login' wants; nothing for Docker Hub would do too.
func loginName(s *session) string {
	host, _, _ := strings.Cut(s.Name, "/")
	return host
}
