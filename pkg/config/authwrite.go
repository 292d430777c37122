package config

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/errs"
)

// AuthFile is a Docker config.json that credentials are written to. What it
// holds beside them stays as it is.
type AuthFile struct {
	Path string
	// Helper runs docker-credential-<name> with "store" or "erase" and that text.
	Helper func(ctx context.Context, name, verb, text string) error
}

// WritePath is the file that login writes to: the one that was named, by flag or
// environment, else Docker's.
func (a AuthSource) WritePath() string {
	if a.AuthFile != "" {
		return a.AuthFile
	}
	if f := a.Env.Getenv("REGISTRY_AUTH_FILE"); f != "" {
		return f
	}
	return a.Env.dockerConfig()
}

// Server is a registry as people write it, as the host that it is and the key
// that files have it by: Docker Hub's is a URL. Empty is Docker Hub.
func Server(typed string) (host, key string, err error) {
	host = strings.TrimPrefix(strings.TrimPrefix(typed, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io":
		return "docker.io", hubKey, nil
	}
	if strings.ContainsAny(host, " \t\n@?#\"\\") {
		return "", "", errs.New(errs.Invalid, fmt.Sprintf("%q is not the name of a registry", typed))
	}
	return host, host, nil
}

// keys are all that a registry may stand by in a file.
func serverKeys(auths map[string]json.RawMessage, host string) []string {
	var keys []string
	for key := range auths {
		if k := normalKey(key); k == host || host == "docker.io" && k == "docker.io" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// Stored is where credentials went.
type Stored struct {
	Path   string // the file, if they are in it, not encrypted
	Helper string // the helper, else
}

// Set keeps credentials for the registry that is host, under key: in the helper
// that the file names for it, else in the file itself.
func (a AuthFile) Set(ctx context.Context, host, key string, c Credentials) (stored Stored, err error) {
	err = a.edit(ctx, func(doc map[string]json.RawMessage) (bool, error) {
		helper, auths, err := a.parts(doc, host)
		if err != nil {
			return false, err
		}
		for _, old := range serverKeys(auths, host) { // one registry, one entry
			delete(auths, old)
		}
		if helper != "" {
			secret := c.Password
			user := c.Username
			if c.IdentityToken != "" {
				user, secret = "<token>", c.IdentityToken
			}
			text, err := json.Marshal(map[string]string{"ServerURL": key, "Username": user, "Secret": secret})
			if err != nil {
				return false, err
			}
			if err := a.Helper(ctx, helper, "store", string(text)); err != nil {
				return false, err
			}
			stored.Helper = helper
			auths[key] = json.RawMessage(`{}`) // as Docker does: others see that there is something
		} else {
			entry := map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))}
			if c.IdentityToken != "" {
				entry = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(c.Username + ":")), "identitytoken": c.IdentityToken}
			}
			if auths[key], err = json.Marshal(entry); err != nil {
				return false, err
			}
			stored.Path = a.Path
		}
		doc["auths"], err = json.Marshal(auths)
		return true, err
	})
	return stored, err
}

// Erase removes the credentials of the registry that is host. It reports whether
// there were any.
func (a AuthFile) Erase(ctx context.Context, host, key string) (found bool, err error) {
	err = a.edit(ctx, func(doc map[string]json.RawMessage) (bool, error) {
		helper, auths, err := a.parts(doc, host)
		if err != nil {
			return false, err
		}
		old := serverKeys(auths, host)
		found = len(old) > 0
		for _, k := range old {
			delete(auths, k)
		}
		if helper != "" {
			if err := a.Helper(ctx, helper, "erase", key); err != nil {
				return false, err
			}
			found = true
		}
		if len(old) == 0 {
			return false, nil
		}
		doc["auths"], err = json.Marshal(auths)
		return true, err
	})
	return found, err
}

// EraseAll removes all credentials that are in the file, and those of its
// helpers as far as the file names registries.
func (a AuthFile) EraseAll(ctx context.Context) error {
	return a.edit(ctx, func(doc map[string]json.RawMessage) (bool, error) {
		_, auths, err := a.parts(doc, "")
		if err != nil {
			return false, err
		}
		for key := range auths {
			helper, _, err := a.parts(doc, normalKey(key))
			if err != nil {
				return false, err
			}
			if helper != "" {
				if err := a.Helper(ctx, helper, "erase", key); err != nil {
					return false, err
				}
			}
		}
		had := len(auths) > 0
		delete(doc, "auths")
		return had, nil
	})
}

// parts are the helper for a registry and the entries.
func (a AuthFile) parts(doc map[string]json.RawMessage, host string) (helper string, auths map[string]json.RawMessage, err error) {
	var helpers map[string]string
	var store string
	for key, to := range map[string]any{"credHelpers": &helpers, "credsStore": &store, "auths": &auths} {
		if raw, ok := doc[key]; ok {
			if err := json.Unmarshal(raw, to); err != nil {
				return "", nil, errs.E("read "+a.Path, errs.Invalid, fmt.Errorf("%s: %w", key, err))
			}
		}
	}
	if auths == nil {
		auths = map[string]json.RawMessage{}
	}
	if key, ok := match(helpers, host); ok {
		store = helpers[key]
	}
	return store, auths, nil
}

// edit changes the file, which it makes if it is missing, with everybody else
// of ours kept out.
func (a AuthFile) edit(ctx context.Context, change func(doc map[string]json.RawMessage) (bool, error)) (err error) {
	path := a.Path
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to // the file, not the link to it, is replaced
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory for credentials: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("keep credentials: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return &os.PathError{Op: "flock", Path: dir, Err: err}
	}
	doc := map[string]json.RawMessage{}
	perm := fs.FileMode(0o600)
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("keep credentials: %w", err)
	case len(bytes.TrimSpace(raw)) > 0:
		if err := json.Unmarshal(raw, &doc); err != nil {
			return errs.WithHint(errs.E("read "+path, errs.Invalid, err), "Correct or remove it: cais does not write over what it does not understand.")
		}
		if info, err := os.Stat(path); err == nil {
			perm = info.Mode().Perm()
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	changed, err := change(doc)
	if err != nil || !changed {
		return err
	}
	out, err := json.MarshalIndent(doc, "", "\t")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(path, out, perm, true); err != nil {
		return fmt.Errorf("keep credentials: %w", err)
	}
	return nil
}
