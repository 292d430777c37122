package config

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// Credentials are what a registry is shown. The zero value is anonymous.
type Credentials struct {
	Username, Password string
	IdentityToken      string // exchanged for access tokens instead of a password
	RegistryToken      string // an access token as it is

	Source  string // where they come from, for messages: a file, "--creds"
	Warning string // a source that could not be asked, and why; the search went on
}

// Anonymous reports whether there is nothing to show.
func (c Credentials) Anonymous() bool {
	return c.Username == "" && c.Password == "" && c.IdentityToken == "" && c.RegistryToken == ""
}

// AuthSource is where credentials are looked for.
type AuthSource struct {
	Env  Env
	Root fs.FS // the file system's root: os.DirFS("/")

	Creds    string // --creds, "user:password": before all files
	AuthFile string // --authfile: only this file is read
	// Helpers are asked in turn, instead of the files, for which "containers-auth.json"
	// stands: credential-helpers of containers-registries.conf(5). nil: the files.
	Helpers []string

	// Helper asks docker-credential-<name> for server. It returns empty
	// credentials if the helper knows none, fs.ErrNotExist if there is no such
	// program.
	Helper func(ctx context.Context, name, server string) (Credentials, error)
}

// hubKey is how Docker's files and helpers name Docker Hub.
const hubKey = "https://index.docker.io/v1/"

// Find returns the credentials for the repository name ("docker.io/library/x"),
// anonymous if no source has any. A source that is there but cannot be read is
// an error: to go on without it would be to log in as somebody else.
func (a AuthSource) Find(ctx context.Context, name string) (Credentials, error) {
	if a.Creds != "" {
		user, password, ok := strings.Cut(a.Creds, ":")
		if !ok || user == "" {
			return Credentials{}, errs.New(errs.Invalid, "--creds wants USER:PASSWORD")
		}
		return Credentials{Username: user, Password: password, Source: "--creds"}, nil
	}
	var warning string
	for _, s := range a.sources() {
		file, err := s.load(a.Root)
		if err != nil {
			return Credentials{}, err
		}
		if file == nil {
			continue
		}
		c, err := file.find(ctx, name, a.Helper)
		if err != nil {
			return Credentials{}, fmt.Errorf("credentials for %s from %s: %w", name, s.name, err)
		}
		if c.Warning != "" && warning == "" {
			warning = s.name + ": " + c.Warning
		}
		if !c.Anonymous() {
			c.Source, c.Warning = s.name, warning
			return c, nil
		}
	}
	return Credentials{Warning: warning}, nil
}

// authPlace is one source: a file, or inline text.
type authPlace struct {
	name   string // for messages
	path   string
	inline string
	must   bool // a missing file is an error
	old    bool // ~/.dockercfg: the auths alone
}

// sources lists where to look, first first. A file that was named, by flag or
// environment, is the only one, as for Podman.
func (a AuthSource) sources() []authPlace {
	if f := a.AuthFile; f != "" {
		return []authPlace{{name: f, path: f, must: true}}
	}
	if f := a.Env.Getenv("REGISTRY_AUTH_FILE"); f != "" {
		return []authPlace{{name: f, path: f}} // CI images name files that only jobs with secrets have
	}
	if a.Helpers == nil {
		return a.files()
	}
	var all []authPlace
	for _, h := range a.Helpers {
		if h == "containers-auth.json" {
			all = append(all, a.files()...)
			continue
		}
		doc, err := json.Marshal(authFile{CredsStore: h})
		if err == nil { // a string always can be
			all = append(all, authPlace{name: "registries.conf", inline: string(doc)})
		}
	}
	return all
}

// files are those that Docker and Podman read.
func (a AuthSource) files() []authPlace {
	var all []authPlace
	file := func(p string, old bool) {
		if path.IsAbs(p) {
			all = append(all, authPlace{name: p, path: p, old: old})
		}
	}
	if s := a.Env.Getenv("DOCKER_AUTH_CONFIG"); s != "" {
		all = append(all, authPlace{name: "DOCKER_AUTH_CONFIG", inline: s})
	}
	file(a.Env.dockerConfig(), false)
	run := a.Env.Getenv("XDG_RUNTIME_DIR")
	if run == "" {
		run = a.Env.RunUser
	}
	if run == "" && a.Env.UID == 0 {
		run = "/run/containers/0" // where Podman keeps root's
		file(run+"/auth.json", false)
	} else {
		file(path.Join(run, "containers/auth.json"), false)
	}
	file(path.Join(a.Env.configHome(), "containers/auth.json"), false)
	file(path.Join(a.Env.Home, ".dockercfg"), true)
	return all
}

func (e Env) dockerConfig() string {
	if d := e.Getenv("DOCKER_CONFIG"); d != "" {
		return path.Join(d, "config.json")
	}
	return path.Join(e.Home, ".docker/config.json")
}

// configHome is $XDG_CONFIG_HOME or its default.
func (e Env) configHome() string {
	if d := e.Getenv("XDG_CONFIG_HOME"); d != "" {
		return d
	}
	return path.Join(e.Home, ".config")
}

// authFile is a Docker config.json, as far as it is about credentials.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"`
	CredsStore  string               `json:"credsStore"`
}

type authEntry struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// load returns nil for a file that does not exist or is empty.
func (p authPlace) load(root fs.FS) (*authFile, error) {
	raw := []byte(p.inline)
	if p.path != "" {
		var err error
		raw, err = readFile(root, p.path)
		if errors.Is(err, fs.ErrNotExist) && !p.must {
			return nil, nil
		}
		if err != nil {
			kind := errs.Denied
			if errors.Is(err, fs.ErrNotExist) {
				kind = errs.NotFound
			}
			return nil, errs.WithHint(errs.E("read credentials", kind, err),
				fmt.Sprintf("Make %s readable for you, or name another file with REGISTRY_AUTH_FILE.", p.path))
		}
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, nil
	}
	var f authFile
	var target any = &f
	if p.old {
		target = &f.Auths
	}
	if err := json.Unmarshal(raw, target); err != nil {
		return nil, errs.WithHint(errs.E("read credentials from "+p.name, errs.Invalid, err),
			fmt.Sprintf("Correct %s, or remove it and log in again.", p.name))
	}
	return &f, nil
}

// find asks the file for a repository: a helper of its own, the common helper,
// then the entries; of these the longest prefix of the name.
func (f *authFile) find(ctx context.Context, name string, helper helperFunc) (Credentials, error) {
	var warning string
	ask := func(program, server string) (Credentials, error) {
		c, err := helper(ctx, program, server)
		if errors.Is(err, fs.ErrNotExist) {
			// A config.json that came from another machine often names a helper
			// that is not here: public images need none.
			warning = fmt.Sprintf("docker-credential-%s is not installed", program)
			return Credentials{}, nil
		}
		return c, err
	}
	if helper != nil {
		if key, ok := match(f.CredHelpers, name); ok {
			if c, err := ask(f.CredHelpers[key], serverKey(key, name)); err != nil || !c.Anonymous() {
				return c, err
			}
		}
		if f.CredsStore != "" {
			host, _, _ := strings.Cut(name, "/")
			if c, err := ask(f.CredsStore, serverKey(host, name)); err != nil || !c.Anonymous() {
				return c, err
			}
		}
	}
	key, ok := match(f.Auths, name)
	if !ok {
		return Credentials{Warning: warning}, nil
	}
	c, err := f.Auths[key].credentials()
	if err != nil {
		return Credentials{}, errs.WithHint(errs.E("entry "+key, errs.Invalid, err), "'cais login' writes it anew.")
	}
	c.Warning = warning
	return c, nil
}

type helperFunc = func(ctx context.Context, name, server string) (Credentials, error)

// serverKey is what a helper is asked for.
func serverKey(key, name string) string {
	if strings.HasPrefix(name, "docker.io/") {
		return hubKey
	}
	return key
}

// match returns the key of m that is the longest prefix of the repository name,
// by whole components.
func match[V any](m map[string]V, name string) (string, bool) {
	best, length := "", -1
	for _, key := range slices.Sorted(maps.Keys(m)) {
		k := normalKey(key)
		if name != k && !strings.HasPrefix(name, k+"/") {
			continue
		}
		if len(k) > length || len(k) == length && key == hubKey {
			best, length = key, len(k)
		}
	}
	return best, length >= 0
}

// normalKey turns the forms of a key into a prefix of repository names: Docker
// writes "https://index.docker.io/v1/", and old tools any URL of the registry.
func normalKey(key string) string {
	k, https := strings.CutPrefix(key, "https://")
	k, http := strings.CutPrefix(k, "http://")
	if https || http {
		k, _, _ = strings.Cut(k, "/") // a path in a URL is the API's
	}
	k = strings.TrimSuffix(k, "/")
	for _, api := range []string{"/v1", "/v2"} {
		if host, ok := strings.CutSuffix(k, api); ok && !strings.Contains(host, "/") {
			k = host
		}
	}
	host, rest, _ := strings.Cut(k, "/")
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		k = "docker.io"
		if rest != "" {
			k += "/" + rest
		}
	}
	return k
}

func (e authEntry) credentials() (Credentials, error) {
	c := Credentials{
		Username: e.Username, Password: e.Password,
		IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken,
	}
	if e.Auth == "" {
		return c, nil
	}
	// Some tools leave the padding out, old ones pad with zero bytes.
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(e.Auth), "="))
	if err != nil {
		return Credentials{}, fmt.Errorf("auth is not base64: %w", err)
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
	if !ok {
		return Credentials{}, errors.New("auth is not USER:PASSWORD")
	}
	c.Username, c.Password = user, password
	return c, nil
}

// readFile reads an absolute path below root.
func readFile(root fs.FS, p string) ([]byte, error) {
	rel := strings.TrimPrefix(path.Clean(p), "/")
	if !path.IsAbs(p) {
		return nil, fmt.Errorf("%s: not an absolute path", p)
	}
	raw, err := fs.ReadFile(root, rel)
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		e.Path = p // the error names what the user knows
	}
	return raw, err
}
