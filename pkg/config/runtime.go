package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/BurntSushi/toml"

	"cais.dev/cais/pkg/errs"
)

// Runtime returns the command line that an OCI runtime's name stands for: a path
// itself, a name in Docker's daemon.json ("runtimes") or Podman's containers.conf
// ([engine.runtimes]), or a program where the system's programs are. It is nil for
// cais itself. It fails with NotFound.
func Runtime(e Env, root fs.FS, name string) ([]string, error) {
	if name == "io.containerd.runc.v2" {
		name = "runc" // Docker takes the name of containerd's shim, too
	}
	switch {
	case name == "" || name == "cais":
		return nil, nil
	case path.IsAbs(name):
		if !executable(root, name) {
			return nil, errs.New(errs.NotFound, fmt.Sprintf("the runtime %s is not a program", name))
		}
		return []string{name}, nil
	case strings.Contains(name, "/"):
		return nil, errs.New(errs.Invalid, fmt.Sprintf("the path of the runtime %s is not absolute", name))
	}
	for _, file := range []string{path.Join(e.configHome(), "docker/daemon.json"), "/etc/docker/daemon.json"} {
		if argv, err := dockerRuntime(root, file, name); argv != nil || err != nil {
			return argv, err
		}
	}
	files := []string{path.Join(e.configHome(), "containers/containers.conf"), "/etc/containers/containers.conf", "/usr/share/containers/containers.conf"}
	if f := e.Getenv("CONTAINERS_CONF"); f != "" {
		files = []string{f}
	}
	for _, file := range files {
		if argv, err := podmanRuntime(root, file, name); argv != nil || err != nil {
			return argv, err
		}
	}
	dirs := strings.Split(e.Getenv("PATH"), ":")
	for _, dir := range append(dirs, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin") {
		if p := path.Join(dir, name); path.IsAbs(p) && executable(root, p) {
			return []string{p}, nil
		}
	}
	err := errs.New(errs.NotFound, "unknown or invalid runtime name: "+name)
	return nil, errs.WithHint(err, "Give its path, or name it in daemon.json (runtimes) or containers.conf ([engine.runtimes]).")
}

func executable(root fs.FS, name string) bool {
	st, err := fs.Stat(root, strings.TrimPrefix(path.Clean(name), "/"))
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

func dockerRuntime(root fs.FS, file, name string) ([]string, error) {
	var conf struct {
		Runtimes map[string]struct {
			Path string   `json:"path"`
			Args []string `json:"runtimeArgs"`
		} `json:"runtimes"`
	}
	raw, err := optional(root, file)
	if len(raw) == 0 || err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &conf); err != nil {
		return nil, errs.E("read "+file, errs.Invalid, err)
	}
	r, ok := conf.Runtimes[name]
	if !ok || r.Path == "" {
		return nil, nil
	}
	if !path.IsAbs(r.Path) {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("%s: the path of the runtime %s is not absolute: %s", file, name, r.Path))
	}
	return append([]string{r.Path}, r.Args...), nil
}

func podmanRuntime(root fs.FS, file, name string) ([]string, error) {
	var conf struct {
		Engine struct {
			Runtimes map[string][]string `toml:"runtimes"`
		} `toml:"engine"`
	}
	raw, err := optional(root, file)
	if len(raw) == 0 || err != nil {
		return nil, err
	}
	if _, err := toml.Decode(string(raw), &conf); err != nil {
		return nil, errs.E("read "+file, errs.Invalid, err)
	}
	for _, p := range conf.Engine.Runtimes[name] {
		if path.IsAbs(p) && executable(root, p) {
			return []string{p}, nil
		}
	}
	return nil, nil
}

// optional reads a file that need not be there.
func optional(root fs.FS, file string) ([]byte, error) {
	if !path.IsAbs(file) {
		return nil, nil
	}
	raw, err := readFile(root, file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.E("read "+file, errs.Denied, err)
	}
	return raw, nil
}
