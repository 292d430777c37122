package config

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"cais.dev/cais/pkg/errs"
)

// auths returns a config.json with the entries key, user, key, user…; each
// password is "pw-" and the user.
func auths(pairs ...string) string {
	var list []string
	for i := 0; i < len(pairs); i += 2 {
		auth := base64.StdEncoding.EncodeToString([]byte(pairs[i+1] + ":pw-" + pairs[i+1]))
		list = append(list, `"`+pairs[i]+`":{"auth":"`+auth+`"}`)
	}
	return `{"auths":{` + strings.Join(list, ",") + `}}`
}

func source(files, env map[string]string) AuthSource {
	fsys := fstest.MapFS{}
	for name, data := range files {
		fsys[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(data)}
	}
	return AuthSource{
		Env:  Env{UID: 1000, Home: "/home/u", Getenv: func(k string) string { return env[k] }},
		Root: fsys,
		Helper: func(_ context.Context, name, server string) (Credentials, error) {
			switch name {
			case "good":
				return Credentials{Username: "helped", Password: server}, nil
			case "empty":
				return Credentials{}, nil
			case "broken":
				return Credentials{}, errors.New("no bus")
			}
			return Credentials{}, fs.ErrNotExist
		},
	}
}

func TestFindCredentials(t *testing.T) {
	const docker, legacy = "/home/u/.docker/config.json", "/home/u/.dockercfg"
	const run, conf = "/run/user/1000/containers/auth.json", "/home/u/.config/containers/auth.json"
	all := map[string]string{
		docker: auths("h.x", "docker"), run: auths("h.x", "run"), conf: auths("h.x", "conf"),
		legacy: strings.TrimSuffix(strings.TrimPrefix(auths("h.x", "legacy"), `{"auths":`), "}"),
		"/f":   auths("h.x", "file"), "/d/config.json": auths("h.x", "dir"),
	}
	runtime := map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"}
	only := func(names ...string) map[string]string {
		m := map[string]string{}
		for _, n := range names {
			m[n] = all[n]
		}
		return m
	}
	file := func(text string) map[string]string { return map[string]string{docker: text} }
	tests := []struct {
		name       string
		files, env map[string]string
		authfile   string
		helpers    []string
		repo       string
		user       string
		password   string // default "pw-" and user
		warning    string
	}{
		{name: "authfile is the only one", files: all, authfile: "/f", user: "file"},
		{name: "REGISTRY_AUTH_FILE", files: all, env: map[string]string{"REGISTRY_AUTH_FILE": "/f"}, user: "file"},
		{name: "missing REGISTRY_AUTH_FILE is empty", files: all, env: map[string]string{"REGISTRY_AUTH_FILE": "/nope"}},
		{name: "inline", files: all, env: map[string]string{"DOCKER_AUTH_CONFIG": auths("h.x", "inline")}, user: "inline"},
		{name: "inline without it goes on", files: all, env: map[string]string{"DOCKER_AUTH_CONFIG": auths("o.x", "inline")}, user: "docker"},
		{name: "DOCKER_CONFIG", files: all, env: map[string]string{"DOCKER_CONFIG": "/d"}, user: "dir"},
		{name: "Docker's first", files: all, env: runtime, user: "docker"},
		{name: "then the runtime directory's", files: only(run, conf, legacy), env: runtime, user: "run"},
		{name: "then the user's", files: only(conf, legacy), env: runtime, user: "conf"},
		{name: "then the legacy one", files: only(legacy), user: "legacy"},
		{name: "none"},
		{name: "empty file", files: file(" \n")},
		{name: "no entry", files: file(auths("o.x", "u"))},

		{name: "hub", repo: "docker.io/library/x", files: file(auths(hubKey, "hub")), user: "hub"},
		{name: "hub by name", repo: "docker.io/library/x", files: file(auths("docker.io", "hub")), user: "hub"},
		{name: "hub by both", repo: "docker.io/library/x", files: file(auths("docker.io", "a", hubKey, "b", "index.docker.io", "c")), user: "b"},
		{name: "url", files: file(auths("https://h.x/v1/", "url")), user: "url"},
		{name: "port", repo: "h.x:5000/a", files: file(auths("h.x", "no", "h.x:5000", "port")), user: "port"},
		{name: "longest path", repo: "h.x/ns/repo", files: file(auths("h.x", "a", "h.x/ns", "b", "h.x/ns/re", "c")), user: "b"},
		{name: "whole path", repo: "h.x/ns/repo", files: file(auths("h.x/ns", "b", "h.x/ns/repo", "c")), user: "c"},
		{name: "host is no prefix of another", repo: "h.xy/a", files: file(auths("h.x", "a"))},

		{name: "own helper", files: file(`{"credHelpers":{"h.x":"good"},"credsStore":"broken"}`), user: "helped", password: "h.x"},
		{name: "common helper", files: file(`{"credsStore":"good"}`), user: "helped", password: "h.x"},
		{name: "helper for the hub", repo: "docker.io/a/b", files: file(`{"credsStore":"good"}`), user: "helped", password: hubKey},
		{name: "helper knows none", files: file(strings.TrimSuffix(auths("h.x", "own"), "}") + `,"credsStore":"empty"}`), user: "own"},
		{name: "helper is missing", files: file(`{"credsStore":"desktop"}`), warning: "docker-credential-desktop is not installed"},
		{name: "plain fields", files: file(`{"auths":{"h.x":{"username":"u","password":"p"}}}`), user: "u", password: "p"},
		{name: "entry of a helper", files: file(`{"auths":{"h.x":{}}}`)},
		{name: "registries.conf's helper", files: file(auths("h.x", "file")), helpers: []string{"empty", "good"}, user: "helped", password: "h.x"},
		{name: "files beside helpers", files: file(auths("h.x", "file")), helpers: []string{"empty", "containers-auth.json", "good"}, user: "file"},
		{name: "helpers instead of files", files: file(auths("h.x", "file")), helpers: []string{"empty"}},
		{name: "no padding", files: file(`{"auths":{"h.x":{"auth":"dTpwOnE"}}}`), user: "u", password: "p:q"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := source(tt.files, tt.env)
			a.Helpers = tt.helpers
			if a.AuthFile = tt.authfile; tt.repo == "" {
				tt.repo = "h.x/a"
			}
			if tt.user != "" && tt.password == "" {
				tt.password = "pw-" + tt.user
			}
			c, err := a.Find(t.Context(), tt.repo)
			if err != nil || c.Username != tt.user || c.Password != tt.password || !strings.Contains(c.Warning, tt.warning) {
				t.Errorf("got %+v, %v; want %q %q, warning %q", c, err, tt.user, tt.password, tt.warning)
			}
		})
	}
}

func TestFindCredentialsFails(t *testing.T) {
	const docker = "/home/u/.docker/config.json"
	tests := []struct {
		name, text, authfile, creds string
		want                        string
		kind                        errs.Kind
	}{
		{name: "not JSON", text: `{"auths":`, want: docker, kind: errs.Invalid},
		{name: "not base64", text: `{"auths":{"h.x":{"auth":"?"}}}`, want: docker, kind: errs.Invalid},
		{name: "no password", text: `{"auths":{"h.x":{"auth":"dQ=="}}}`, want: "h.x", kind: errs.Invalid},
		{name: "helper fails", text: `{"credsStore":"broken"}`, want: "no bus", kind: errs.Internal},
		{name: "authfile is missing", authfile: "/nope", want: "/nope", kind: errs.NotFound},
		{name: "creds without password", creds: "user", want: "--creds", kind: errs.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := source(map[string]string{docker: tt.text}, nil)
			a.AuthFile, a.Creds = tt.authfile, tt.creds
			c, err := a.Find(t.Context(), "h.x/a")
			if errs.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %+v, %v; want kind %v naming %q", c, err, tt.kind, tt.want)
			}
		})
	}
}

func TestCreds(t *testing.T) {
	a := source(nil, nil)
	a.Creds = "u:p:q"
	c, err := a.Find(t.Context(), "h.x/a")
	if err != nil || c.Username != "u" || c.Password != "p:q" || c.Source != "--creds" {
		t.Errorf("got %+v, %v", c, err)
	}
}
