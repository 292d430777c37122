package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Found is one result of a search.
type Found struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
	Automated   bool   `json:"is_automated"`
}

// Search asks a registry for repositories by a word, at most limit of them. It is
// Docker's first API, which Docker Hub and few others have.
func (c *Client) Search(ctx context.Context, host, term string, limit int) ([]Found, error) {
	s := &session{host: cmp.Or(host, "index.docker.io")}
	s.Name = cmp.Or(host, oci.DefaultDomain) + "/" + term
	if s.Insecure = isLoopback(s.host); c.o.TLSVerify != nil {
		s.Insecure = !*c.o.TLSVerify
	}
	var err error
	if c.o.Credentials != nil {
		if s.creds, err = c.o.Credentials(ctx, s.Name); err != nil {
			return nil, err
		}
	}
	q := url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}
	resp, err := c.ask(ctx, s, "https", q)
	if err != nil && s.Insecure && ctx.Err() == nil { // as for all else: only if it has no TLS
		resp, err = c.ask(ctx, s, "http", q)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.explain(s, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, errs.WithHint(errs.New(errs.Unsupported, fmt.Sprintf("%s cannot be searched", s.host)), "Most registries cannot; 'cais search --list-tags' shows the tags of one repository.")
	}
	if resp.StatusCode != http.StatusOK {
		return nil, c.explain(s, status(resp))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxManifest))
	if err != nil {
		return nil, c.explain(s, err)
	}
	var answer struct {
		Results []Found `json:"results"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, errs.E("", errs.Invalid, errors.Join(fmt.Errorf("%s sends no list", s.host), err))
	}
	return answer.Results[:min(len(answer.Results), limit)], nil
}

// ask sends a search.
func (c *Client) ask(ctx context.Context, s *session, scheme string, q url.Values) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+s.host+"/v1/search?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", cmp.Or(c.o.UserAgent, "cais"))
	if s.creds.Username != "" {
		req.SetBasicAuth(s.creds.Username, s.creds.Password)
	}
	return (&retrier{next: &edge{c, s}, sleep: c.sleep, log: c.log}).RoundTrip(req)
}
