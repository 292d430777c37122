package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/signature"
)

// What a server can make us look at.
const (
	maxSignatures = 128
	maxSize       = 2 * signature.MaxPayload
)

// place is where signatures of a registry, or of some of its repositories, are. The
// older names mean the same.
type place struct {
	Lookaside string `yaml:"lookaside"`
	Sigstore  string `yaml:"sigstore"`
}

// lookaside is the address below which ref's signatures are, by
// containers-registries.d(5): that of the longest name that ref is within, else the
// default, else fallback.
func lookaside(dir, fallback string, ref oci.Reference) (*url.URL, error) {
	places, def, err := readPlaces(dir)
	if err != nil {
		return nil, err
	}
	at := place{Lookaside: fallback}
	if def != nil {
		at = *def
	}
	scopes := []string{ref.String(), ref.Name()}
	for s := ref.Name(); strings.Contains(s, "/"); {
		s = s[:strings.LastIndexByte(s, '/')]
		scopes = append(scopes, s)
	}
	for _, s := range scopes {
		if p, ok := places[s]; ok {
			at = p
			break
		}
	}
	text := at.Lookaside
	if text == "" {
		text = at.Sigstore
	}
	if text == "" {
		text = fallback
	}
	if filepath.IsAbs(text) {
		text = "file://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("lookaside of %s: %w", ref.Name(), err)
	}
	return u.JoinPath(ref.Path), nil
}

// readPlaces reads all files of a directory. A name that is told twice is an error.
func readPlaces(dir string) (places map[string]place, def *place, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, nil, err
	}
	places = map[string]place{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, nil, err
		}
		var doc struct {
			Default *place           `yaml:"default-docker"`
			Docker  map[string]place `yaml:"docker"`
		}
		if err := yaml.Unmarshal(raw, &doc); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		if doc.Default != nil && def != nil {
			return nil, nil, fmt.Errorf("%s: default-docker is told in another file, too", file)
		}
		if doc.Default != nil {
			def = doc.Default
		}
		for name, p := range doc.Docker {
			if _, twice := places[name]; twice {
				return nil, nil, fmt.Errorf("%s: %s is told in another file, too", file, name)
			}
			places[name] = p
		}
	}
	return places, def, nil
}

// patience is for one signature, from the connection to its last byte.
const patience = time.Minute

// newClient returns what gets signatures from servers, which may have certificates of
// the registry's authorities.
func newClient(cas [][]byte) (*http.Client, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without any: the registry's own are enough
	}
	for _, pem := range cas {
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("the registry's certs.d has a CA file without a certificate")
		}
	}
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: pool}}
	return &http.Client{Transport: t, Timeout: patience}, nil
}

// fetch returns the nth signature of what has the digest; nil if there are no more.
func fetch(ctx context.Context, c *http.Client, at *url.URL, digest string, n int) ([]byte, error) {
	u := *at
	u.Path = fmt.Sprintf("%s@%s/signature-%d", u.Path, strings.Replace(digest, ":", "=", 1), n)
	switch u.Scheme {
	case "file":
		f, err := os.Open(u.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return limited(f)
	case "http", "https":
	default:
		return nil, fmt.Errorf("%s: lookaside wants file, http or https", at.Redacted())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return limited(resp.Body)
	case http.StatusNotFound:
		return nil, nil
	}
	return nil, fmt.Errorf("%s: %s", u.Redacted(), resp.Status)
}

func limited(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if len(data) > maxSize {
		return nil, fmt.Errorf("it has more than %d bytes", maxSize)
	}
	return data, err
}
