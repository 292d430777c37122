package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Login reports whether a registry takes the credentials. It fails with Denied
// if it does not, with Unavailable if it cannot be asked.
func (c *Client) Login(ctx context.Context, host string, creds config.Credentials) error {
	list, err := c.endpoints(oci.Reference{Domain: host, Path: "x"})
	if err != nil {
		return err
	}
	own := list[len(list)-1]
	s := &session{Endpoint: own.Endpoint, host: own.host, path: own.path, creds: creds}
	opts := []name.Option{}
	if s.Insecure {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(s.host, opts...)
	if err != nil {
		return errs.E("", errs.Invalid, err)
	}
	inner := transport.NewUserAgent(&retrier{next: &edge{c, s}, sleep: c.sleep, log: c.log}, cmp.Or(c.o.UserAgent, "cais"))
	rt, err := transport.NewWithContext(ctx, reg, authenticator(creds), inner, nil) // gets a token if that is how it works
	if err == nil {
		s.http = &http.Client{Transport: rt}
		err = c.hello(ctx, s)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden) {
		return errs.E("", errs.Denied, fmt.Errorf("login attempt to https://%s/v2/ failed with status: %d %s: unauthorized: incorrect username or password",
			s.host, answer.StatusCode, http.StatusText(answer.StatusCode)))
	}
	return c.explain(s, err)
}

// hello is the request by which a registry says whether it knows us.
func (c *Client) hello(ctx context.Context, s *session) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.host+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return status(resp)
	}
	return nil
}
