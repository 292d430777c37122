package config

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cais.dev/cais/pkg/errs"
)

func TestAuthFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "docker", "config.json")
	var told []string
	file := AuthFile{Path: path, Helper: func(_ context.Context, name, verb, text string) error {
		told = append(told, name+" "+verb+" "+text)
		if name == "broken" {
			return errors.New("no bus")
		}
		return nil
	}}
	read := func() map[string]any {
		t.Helper()
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		return doc
	}
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o640), os.Chmod(path, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	auth := func(doc map[string]any, key string) string {
		auths, _ := doc["auths"].(map[string]any)
		entry, _ := auths[key].(map[string]any)
		text, _ := entry["auth"].(string)
		raw, _ := base64.StdEncoding.DecodeString(text)
		return string(raw)
	}
	creds := Credentials{Username: "u", Password: "p:q"}
	if s, err := file.Set(t.Context(), "h.x", "h.x", creds); err != nil || s.Path != path || auth(read(), "h.x") != "u:p:q" {
		t.Errorf("new file: %+v, %v", s, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	write(`{"psFormat":"keep","auths":{"https://h.x/v1/":{"auth":"b2xk"},"o.x":{"auth":"b3RoZXI="}}}`)
	if _, err := file.Set(t.Context(), "h.x", "h.x", creds); err != nil {
		t.Fatal(err)
	}
	doc := read()
	if doc["psFormat"] != "keep" || auth(doc, "h.x") != "u:p:q" || auth(doc, "o.x") != "other" || auth(doc, "https://h.x/v1/") != "" {
		t.Errorf("%v", doc)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file's mode is now %v, %v", info.Mode(), err)
	}
	if found, err := file.Erase(t.Context(), "h.x", "h.x"); !found || err != nil || auth(read(), "o.x") != "other" {
		t.Errorf("%v, %v", found, err)
	}
	if found, err := file.Erase(t.Context(), "h.x", "h.x"); found || err != nil {
		t.Errorf("again: %v, %v", found, err)
	}

	write(`{"credsStore":"good","credHelpers":{"bad.x":"broken"}}`)
	if s, err := file.Set(t.Context(), "h.x", "h.x", creds); err != nil || s.Helper != "good" || s.Path != "" || auth(read(), "h.x") != "" {
		t.Errorf("helper: %+v, %v", s, err)
	}
	if want := `good store {"Secret":"p:q","ServerURL":"h.x","Username":"u"}`; told[len(told)-1] != want {
		t.Errorf("told %q", told)
	}
	if _, err := file.Set(t.Context(), "bad.x", "bad.x", creds); err == nil || auth(read(), "bad.x") != "" {
		t.Errorf("a broken helper: %v", err)
	}
	if err := file.EraseAll(t.Context()); err != nil || strings.Contains(strings.Join(told, "\n"), "broken erase") || read()["auths"] != nil {
		t.Errorf("all: %v, %q", err, told)
	}

	write(`not json`)
	if _, err := file.Set(t.Context(), "h.x", "h.x", creds); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a damaged file: %v", err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != "not json" {
		t.Errorf("it was written over: %s", raw)
	}

	// A link stays one, and several at once lose nothing.
	link := filepath.Join(dir, "link.json")
	write(`{}`)
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, host := range []string{"a.x", "b.x", "c.x", "d.x"} {
		wg.Go(func() {
			if _, err := (AuthFile{Path: link}).Set(t.Context(), host, host, creds); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if to, err := os.Readlink(link); err != nil || to != path {
		t.Errorf("the link is %q, %v", to, err)
	}
	doc = read()
	for _, host := range []string{"a.x", "b.x", "c.x", "d.x"} {
		if auth(doc, host) != "u:p:q" {
			t.Errorf("%s is lost", host)
		}
	}
}

func TestServer(t *testing.T) {
	for typed, want := range map[string][2]string{
		"": {"docker.io", hubKey}, "docker.io": {"docker.io", hubKey}, "https://index.docker.io/v1/": {"docker.io", hubKey},
		"h.x": {"h.x", "h.x"}, "https://h.x:5000/v2/": {"h.x:5000", "h.x:5000"}, "localhost": {"localhost", "localhost"},
	} {
		host, key, err := Server(typed)
		if err != nil || host != want[0] || key != want[1] {
			t.Errorf("%q: %q %q, %v", typed, host, key, err)
		}
	}
	if _, _, err := Server("user@h.x"); err == nil {
		t.Error("user@h.x is taken for a registry")
	}
}
