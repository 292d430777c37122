package registry

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

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
