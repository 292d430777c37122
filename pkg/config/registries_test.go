package config

import (
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

const (
	etcRegistries  = "/etc/containers/registries.conf"
	userRegistries = "/home/u/.config/containers/registries.conf"
)

func TestEndpoints(t *testing.T) {
	const conf = `
unqualified-search-registries = ["docker.io"]
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.x/hub"
insecure = true
[[registry.mirror]]
location = "digests.x"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tags.x"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "docker.io/blocked"
blocked = true
[[registry]]
prefix = "old.x/ns"
location = "new.x:5000/other"
insecure = true
[[registry]]
prefix = "*.corp.x"
insecure = true
[[registry]]
prefix = "*.deep.corp.x"
location = "cache.x/deep"
[[registry]]
prefix = "exact.corp.x"
[[registry]]
prefix = "pin.x"
mirror-by-digest-only = true
[[registry.mirror]]
location = "pinned.x"
[[registry]]
location = "registry-only"
[aliases]
"a" = "b.x/a"
`
	a := source(map[string]string{etcRegistries: conf}, nil)
	r, err := ReadRegistries(a.Env, a.Root)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		digest bool
		want   []Endpoint
	}{
		{"docker.io/library/a", false, []Endpoint{
			{"mirror.x/hub/library/a", true, true}, {"tags.x/library/a", false, true}, {"docker.io/library/a", false, false}}},
		{"docker.io/library/a", true, []Endpoint{
			{"mirror.x/hub/library/a", true, true}, {"digests.x/library/a", false, true}, {"docker.io/library/a", false, false}}},
		{"old.x/ns/a", false, []Endpoint{{"new.x:5000/other/a", true, false}}},
		{"old.x/nsa/a", false, []Endpoint{{"old.x/nsa/a", false, false}}},
		{"host.corp.x/a", false, []Endpoint{{"host.corp.x/a", true, false}}},
		{"host.corp.x:5000/a", false, []Endpoint{{"host.corp.x:5000/a", true, false}}},
		{"host.deep.corp.x/a", false, []Endpoint{{"cache.x/deep/a", false, false}}},
		{"exact.corp.x/a", false, []Endpoint{{"exact.corp.x/a", false, false}}},
		{"corp.x/a", false, []Endpoint{{"corp.x/a", false, false}}},
		{"pin.x/a", false, []Endpoint{{"pin.x/a", false, false}}},
		{"pin.x/a", true, []Endpoint{{"pinned.x/a", false, true}, {"pin.x/a", false, false}}},
		{"other.x/a", false, []Endpoint{{"other.x/a", false, false}}},
	}
	for _, tt := range tests {
		got, err := r.Endpoints(tt.name, tt.digest)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s (digest: %v): got %v, %v; want %v", tt.name, tt.digest, got, err, tt.want)
		}
	}
	if _, err := r.Endpoints("docker.io/blocked/a", false); errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), etcRegistries) {
		t.Errorf("blocked: %v, want Denied naming the file", err)
	}
	if got, err := (*Registries)(nil).Endpoints("a.x/b", false); err != nil || len(got) != 1 || got[0].Name != "a.x/b" {
		t.Errorf("without files: %v, %v", got, err)
	}
}

func TestReadRegistries(t *testing.T) {
	insecure := func(host string) string { return "[[registry]]\nlocation = '" + host + "'\ninsecure = true\n" }
	tests := []struct {
		name       string
		files, env map[string]string
		want       []string // insecure hosts, in order
		fails      string
	}{
		{name: "none"},
		{name: "user's before system's", files: map[string]string{userRegistries: insecure("u"), etcRegistries: insecure("e")}, want: []string{"u"}},
		{name: "named", files: map[string]string{userRegistries: insecure("u"), "/f": insecure("f")},
			env: map[string]string{"CONTAINERS_REGISTRIES_CONF": "/f"}, want: []string{"f"}},
		{name: "drop-ins", files: map[string]string{etcRegistries: insecure("e"),
			etcRegistries + ".d/2.conf":  insecure("two"),
			etcRegistries + ".d/1.conf":  insecure("one"),
			etcRegistries + ".d/README":  "not read",
			userRegistries + ".d/1.conf": "[[registry]]\nlocation = 'one'\n"},
			want: []string{"e", "two"}},
		{name: "version 1", files: map[string]string{etcRegistries: "[registries.insecure]\nregistries = ['old']\n"}, want: []string{"old"}},
		{name: "broken", files: map[string]string{etcRegistries: "[[registry"}, fails: etcRegistries},
		{name: "empty table", files: map[string]string{etcRegistries: "[[registry]]\ninsecure=true"}, fails: "neither"},
		{name: "scheme", files: map[string]string{etcRegistries: "[[registry]]\nlocation='http://x'"}, fails: "scheme"},
		{name: "mirror without location", files: map[string]string{etcRegistries: "[[registry]]\nlocation='x'\n[[registry.mirror]]\n"}, fails: "no location"},
		{name: "unknown rule", files: map[string]string{etcRegistries: "[[registry]]\nlocation='x'\n[[registry.mirror]]\nlocation='y'\npull-from-mirror='never'"}, fails: "pull-from-mirror"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := source(tt.files, tt.env)
			r, err := ReadRegistries(a.Env, a.Root)
			if tt.fails != "" {
				if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("got %v, want Invalid with %q", err, tt.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range r.Entries {
				if e.Insecure {
					got = append(got, e.Location)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
