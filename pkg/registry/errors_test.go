package registry

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

func TestThroughProxy(t *testing.T) {
	proxy := &url.URL{Scheme: "https", Host: "proxy.example:3128", User: url.UserPassword("me", "secret")}
	for _, tt := range []struct {
		status int
		hint   string
	}{
		{status: http.StatusOK},
		{http.StatusProxyAuthRequired, "HTTPS_PROXY=https://USER:PASSWORD@proxy.example:3128"},
		{http.StatusForbidden, "NO_PROXY"},
	} {
		err := throughProxy(t.Context(), proxy, &http.Request{Host: "registry.example:443"}, &http.Response{StatusCode: tt.status, Status: http.StatusText(tt.status)})
		if tt.hint == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if text := err.Error(); !strings.Contains(text, "proxy.example:3128 does not connect to registry.example:443") || strings.Contains(text, "secret") || !strings.Contains(errs.HintOf(err), tt.hint) {
			t.Errorf("%d: %v, hint %q", tt.status, err, errs.HintOf(err))
		}
	}
}
