package run

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cais.dev/cais/pkg/run/plan"
)

// The files that a container gets for its own, by where they go.
const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
	resolvFile   = "resolv.conf"
)

// etcFiles returns the contents of the container's own files in /etc, by their
// names in its directory. Which there are depends on the request alone.
func etcFiles(req plan.Request, hostname string) (map[string]string, error) {
	files := map[string]string{}
	if strings.HasPrefix(req.Network, "container:") {
		return files, nil // the other container's are mounted instead
	}
	if !req.NoHostname {
		files[hostnameFile] = hostname + "\n"
	}
	if !req.NoHosts {
		text, err := hosts(req, hostname)
		if err != nil {
			return nil, err
		}
		files[hostsFile] = text
	}
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	files[resolvFile] = resolv(text, req.Network == "host")
	return files, nil
}

const localhosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

func hosts(req plan.Request, hostname string) (string, error) {
	if req.Network == "host" {
		b, err := os.ReadFile("/etc/hosts")
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return string(b), err
		}
	}
	name := hostname
	if req.Domainname != "" {
		name = hostname + "." + req.Domainname + " " + hostname
	}
	return localhosts + "127.0.1.1\t" + name + "\n", nil
}

// resolv is this machine's resolv.conf without the servers that a container
// with a network of its own cannot reach: those on our loopback interface.
func resolv(text []byte, hostNetwork bool) string {
	if hostNetwork {
		return string(text)
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "nameserver" && (strings.HasPrefix(f[1], "127.") || f[1] == "::1") {
			continue
		}
		out.WriteString(line)
	}
	return out.String()
}

// writeEtc writes them. They are bind-mounted, so they keep their inode: a
// later change must write into them.
func writeEtc(dir string, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil { //nolint:forbidigo // new, and its inode counts
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask
			return err
		}
	}
	return nil
}

// mountPoints makes, once for all containers, the lowest layer of every
// container: empty places for what is always mounted, so that no mount needs to
// make one in the upper layer. Its name carries a version.
func mountPoints(root string) (string, error) {
	dir := filepath.Join(root, "mountpoints-1")
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(root, ".mountpoints-")
	if err != nil {
		return "", err
	}
	if err = fillMountPoints(tmp); err == nil {
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(tmp))
	}
	if _, other := os.Lstat(dir); other == nil {
		return dir, nil // somebody else was quicker
	}
	return dir, err
}

func fillMountPoints(dir string) error {
	var all []error
	for _, d := range []string{"dev", "proc", "sys", "etc"} {
		all = append(all, makeDir(filepath.Join(dir, d), 0o755))
	}
	all = append(all, writeEtc(filepath.Join(dir, "etc"), map[string]string{hostsFile: "", hostnameFile: "", resolvFile: ""}))
	return errors.Join(append(all, os.Chmod(dir, 0o755))...)
}
