package secret

import (
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/secret"
)

func TestMatches(t *testing.T) {
	sec := &secret.Secret{ID: "ab12", Name: "password", Labels: map[string]string{"kind": "web"}}
	for filter, want := range map[string]bool{
		"name=pass": true, "name=other": false, "id=ab": true, "id=12": false,
		"label=kind": true, "label=kind=web": true, "label=kind=db": false, "label=none": false,
	} {
		k, v, _ := strings.Cut(filter, "=")
		if got := matches(sec, map[string][]string{k: {v}}); got != want {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	if matches(sec, map[string][]string{"name": {"pass"}, "id": {"x"}}) {
		t.Error("only one of two keys fits")
	}
}

func TestTable(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	list := []*secret.Secret{{ID: "ab", Name: "one", Created: now.Add(-time.Hour), Updated: now, Data: []byte("hidden")}}
	var out strings.Builder
	if err := table(now).Write(&out, list, ui.TableOptions{}); err != nil {
		t.Fatal(err)
	}
	want := "ID        NAME      DRIVER    CREATED             UPDATED\nab        one       file      About an hour ago   Less than a second ago\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
