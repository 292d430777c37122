package registry

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
)

func TestSearch(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("q") {
		case "busybox":
			fmt.Fprint(w, `{"results":[{"name":"busybox","description":"d","star_count":7,"is_official":true},{"name":"x/busybox"},{"name":"third"}]}`)
		case "garbage":
			fmt.Fprint(w, `<html>`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	c, _ := client(t, Options{})
	found, err := c.Search(t.Context(), host, "busybox", 2)
	if err != nil || len(found) != 2 || found[0] != (Found{Name: "busybox", Description: "d", Stars: 7, Official: true}) {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := c.Search(t.Context(), host, "garbage", 2); errs.KindOf(err) != errs.Invalid {
		t.Errorf("garbage: %v", err)
	}
	if _, err := c.Search(t.Context(), host, "nothing", 2); errs.KindOf(err) != errs.Unsupported || !strings.Contains(err.Error(), "cannot be searched") {
		t.Errorf("nothing: %v", err)
	}
}

// A password goes to a registry without a valid certificate by TLS, if it has that.
func TestSearchPrefersTLS(t *testing.T) {
	var auth string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth = r.Header.Get("Authorization")
		fmt.Fprint(w, `{"results":[{"name":"x"}]}`)
	}))
	t.Cleanup(srv.Close)
	no := false
	c, _ := client(t, Options{TLSVerify: &no, Credentials: func(context.Context, string) (config.Credentials, error) {
		return config.Credentials{Username: "u", Password: "p"}, nil
	}})
	found, err := c.Search(t.Context(), strings.TrimPrefix(srv.URL, "https://"), "x", 2)
	if err != nil || len(found) != 1 || auth == "" {
		t.Errorf("%+v, %v, authorization %q", found, err, auth)
	}
}
