package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// Certs are the certificates that containers-certs.d(5) has for a registry, as
// PEM text.
type Certs struct {
	CAs     [][]byte    // trusted beside the system's
	Clients [][2][]byte // certificate and key, shown to the registry
	Dir     string      // where they were found; empty if nowhere
}

// ReadCerts reads the first directory that exists: certDir (--cert-dir) itself,
// else one named after the registry (host[:port]) in the user's, then the
// system's certs.d, then Docker's.
func ReadCerts(e Env, root fs.FS, certDir, registry string) (Certs, error) {
	dirs := []string{certDir}
	if certDir == "" {
		for _, d := range []string{
			path.Join(e.configHome(), "containers/certs.d"), path.Join(e.configHome(), "docker/certs.d"),
			"/etc/containers/certs.d", "/etc/docker/certs.d",
		} {
			dirs = append(dirs, path.Join(d, registry))
		}
	}
	for _, dir := range dirs {
		if !path.IsAbs(dir) {
			continue
		}
		entries, err := fs.ReadDir(root, strings.TrimPrefix(path.Clean(dir), "/"))
		if errors.Is(err, fs.ErrNotExist) {
			if certDir == "" {
				continue
			}
			return Certs{}, errs.New(errs.NotFound, "the directory of certificates "+dir+" does not exist")
		}
		if err != nil {
			return Certs{}, errs.WithHint(errs.E("read certificates in "+dir, errs.Denied, err), "Make the directory readable, or remove it.")
		}
		return readCertDir(root, dir, entries)
	}
	return Certs{}, nil
}

func readCertDir(root fs.FS, dir string, entries []fs.DirEntry) (Certs, error) {
	c := Certs{Dir: dir}
	read := func(name string) ([]byte, error) {
		raw, err := readFile(root, path.Join(dir, name))
		if err != nil {
			return nil, errs.WithHint(errs.E("read certificates", errs.Denied, err), "Make the file readable, or remove it.")
		}
		return raw, nil
	}
	for _, f := range entries {
		switch base := strings.TrimSuffix(f.Name(), path.Ext(f.Name())); path.Ext(f.Name()) {
		case ".crt":
			raw, err := read(f.Name())
			if err != nil {
				return c, err
			}
			c.CAs = append(c.CAs, raw)
		case ".cert":
			cert, err := read(f.Name())
			if err != nil {
				return c, err
			}
			key, err := read(base + ".key")
			if errors.Is(err, fs.ErrNotExist) {
				return c, errs.New(errs.Invalid, fmt.Sprintf("missing key %s.key for client certificate %s in %s", base, f.Name(), dir))
			}
			if err != nil {
				return c, err
			}
			c.Clients = append(c.Clients, [2][]byte{cert, key})
		}
	}
	return c, nil
}
