package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/run/plan"
)

// The files that a container gets for its own, by where they go.
const (
	hostnameFile  = "hostname"
	passwdFile    = "passwd"
	groupFile     = "group"
	localtimeFile = "localtime"
)

// etcFiles returns the contents of the container's own files in /etc, by their
// names in its directory. Which there are depends on the request alone. Those of
// a container with networks are made at its start, when its addresses are known.
func etcFiles(req plan.Request, hostname string) (map[string]string, error) {
	files := map[string]string{}
	if strings.HasPrefix(req.Network, "container:") {
		return files, nil // the other container's are mounted instead
	}
	if !req.NoHostname {
		files[hostnameFile] = hostname + "\n"
	}
	if len(req.Attached()) > 0 && !req.SharesNetwork() && req.Network != "none" {
		return files, nil
	}
	if !req.NoHosts {
		text, err := hosts(req)
		if err != nil {
			return nil, err
		}
		files[network.HostsFile] = text
	}
	path, keep := "/etc/resolv.conf", req.Network == "host"
	if ns, ok := strings.CutPrefix(req.Network, "ns:"); ok {
		keep = true
		if dir := filepath.Dir(ns); dir == "/run/netns" || dir == "/var/run/netns" { // made by ip netns
			if own := filepath.Join("/etc/netns", filepath.Base(ns), "resolv.conf"); exists(own) {
				path = own
			}
		}
	}
	text, err := readText(path)
	files[network.ResolvFile], _ = network.Resolv{
		Host: text, Servers: req.DNS, Search: req.DNSSearch, Options: req.DNSOptions, Keep: keep,
	}.Text()
	return files, err
}

// zone is the file of a time zone: this machine's, or one by its name.
func zone(name string) (string, error) {
	path := "/etc/localtime"
	if name != "local" {
		if !filepath.IsLocal(name) {
			return "", errs.New(errs.Invalid, "unknown time zone "+name)
		}
		path = filepath.Join("/usr/share/zoneinfo", name)
	}
	b, err := os.ReadFile(path)
	if err == nil {
		return string(b), nil
	}
	err = errs.E("", errs.Invalid, fmt.Errorf("unknown time zone %s: %w", name, err))
	return "", errs.WithHint(err, "See the names in /usr/share/zoneinfo, which tzdata brings, or set TZ with --env.")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readText reads a file that may be missing.
func readText(path string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return string(b), err
}

// hosts is /etc/hosts of a container without a network of its own.
func hosts(req plan.Request) (string, error) {
	if req.SharesNetwork() && len(req.AddHosts) == 0 {
		if text, err := readText("/etc/hosts"); err != nil || text != "" {
			return text, err
		}
	}
	return network.Hosts{Extra: req.AddHosts, IPv6: true}.Text(), nil
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
// make one in the upper layer, and the empty files by which programs see that they
// run in a container, Docker's and podman's. Its name carries a version.
func mountPoints(root string) (string, error) {
	dir := filepath.Join(root, "mountpoints-3")
	if _, err := os.Lstat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(root, ".mountpoints-")
	if err != nil {
		return "", errs.WithHint(fmt.Errorf("make the places for mounts: %w", err), "Set CAIS_ROOT to a directory that cais may write to.")
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
	for _, d := range []string{"dev", "proc", "sys", "etc", "run"} {
		all = append(all, makeDir(filepath.Join(dir, d), 0o755))
	}
	all = append(all, writeEtc(filepath.Join(dir, "etc"), map[string]string{network.HostsFile: "", hostnameFile: "", network.ResolvFile: ""}))
	all = append(all, writeEtc(dir, map[string]string{".dockerenv": "", "run/.containerenv": ""}))
	all = append(all, os.Symlink("/proc/mounts", filepath.Join(dir, "etc/mtab"))) // which older programs read
	return errors.Join(append(all, os.Chmod(dir, 0o755))...)
}

func makeDir(dir string, mode fs.FileMode) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, mode) // whatever the umask
}
