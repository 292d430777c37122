package config

import (
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

func TestShortNames(t *testing.T) {
	const noted = "/home/u/.cache/containers/short-name-aliases.conf"
	a := source(map[string]string{
		etcRegistries: "unqualified-search-registries = ['a.x', 'docker.io/', 'a.x']\nshort-name-mode = 'enforcing'\n[aliases]\nfedora = 'r.x/fedora'\ngone = 'r.x/gone'\nnoted = 'r.x/noted'\n",
		"/etc/containers/registries.conf.d/1.conf": "[aliases]\n'ns/app' = 'localhost/app'\ngone = ''\n",
		noted: "[aliases]\nnoted = 'asked.x/noted'\n",
	}, nil)
	r, err := ReadRegistries(a.Env, a.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.ReadAliases(a.Env, a.Root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"fedora": {"r.x/fedora"}, "ns/app": {"localhost/app"}, "noted": {"asked.x/noted"},
		"gone": {"a.x/gone", "docker.io/gone"}, "other": {"a.x/other", "docker.io/other"},
	} {
		if got := r.Short(name); !slices.Equal(got, want) {
			t.Errorf("Short(%q) = %q, want %q", name, got, want)
		}
		err := r.Ambiguous(name)
		if len(want) == 1 && err != nil || len(want) > 1 && (errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), strings.Join(want, ", "))) {
			t.Errorf("Ambiguous(%q) = %v", name, err)
		}
	}
	r.mode = ""
	if err := r.Ambiguous("other"); err != nil {
		t.Errorf("permissive: %v", err)
	}
	if err := (&Registries{}).Ambiguous("other"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("nothing to search: %v", err)
	}

	for file, text := range map[string]string{
		etcRegistries: "short-name-mode = 'maybe'", userRegistries: "[aliases]\nx = 'short'", noted: "[aliases",
	} {
		a := source(map[string]string{file: text}, nil)
		r, err := ReadRegistries(a.Env, a.Root)
		if err == nil {
			err = r.ReadAliases(a.Env, a.Root)
		}
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want an error that names it", text, err)
		}
	}
	a = source(map[string]string{userRegistries: "[registries.search]\nregistries = ['old.x']"}, nil)
	if r, err := ReadRegistries(a.Env, a.Root); err != nil || !slices.Equal(r.Short("x"), []string{"old.x/x"}) {
		t.Errorf("version 1: %+v, %v", r, err)
	}
}
