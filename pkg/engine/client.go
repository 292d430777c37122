package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// clientDir is the directory of Docker's client configuration.
func (e *Engine) clientDir() string {
	if e.o.ConfigDir != "" {
		return e.o.ConfigDir
	}
	if dir := e.o.Getenv("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	if h := e.o.Getenv("HOME"); h != "" {
		return filepath.Join(h, ".docker")
	}
	return ""
}

// ClientFormat returns the --format that the user's Docker configuration has
// for a list ("psFormat", "imagesFormat", also "detachKeys"); empty if it has
// none.
func (e *Engine) ClientFormat(key string) string {
	var format string
	if json.Unmarshal(e.client()[key], &format) != nil {
		return ""
	}
	return format
}

// PruneFilters are given and the filters that the user's Docker configuration
// adds to those of every prune, but for labels that given has the opposite of.
func (e *Engine) PruneFilters(given []string) []string {
	var filters []string
	if json.Unmarshal(e.client()["pruneFilters"], &filters) != nil {
		return given
	}
	filters = slices.DeleteFunc(filters, func(f string) bool {
		if label, not := strings.CutPrefix(f, "label!="); not {
			return slices.Contains(given, "label="+label)
		}
		label, is := strings.CutPrefix(f, "label=")
		return is && slices.Contains(given, "label!="+label)
	})
	return append(filters, given...)
}

// ClientProxies are the variables that the "proxies" of Docker's configuration
// give to new containers, in capitals and in small letters.
func (e *Engine) ClientProxies() []string {
	var proxies map[string]map[string]string
	if json.Unmarshal(e.client()["proxies"], &proxies) != nil {
		return nil
	}
	p, ok := proxies["unix:///var/run/docker.sock"] // by the daemon's address, of which we stand in for this one
	if !ok {
		p = proxies["default"]
	}
	var env []string
	for _, v := range [][2]string{
		{"HTTP_PROXY", "httpProxy"}, {"HTTPS_PROXY", "httpsProxy"}, {"NO_PROXY", "noProxy"}, {"FTP_PROXY", "ftpProxy"}, {"ALL_PROXY", "allProxy"},
	} {
		if value := p[v[1]]; value != "" {
			env = append(env, v[0]+"="+value, strings.ToLower(v[0])+"="+value)
		}
	}
	return env
}

// readClient reads config.json. A file that cannot be read is none: it says how
// things look and where proxies are; who needs it for credentials complains.
func (e *Engine) readClient() map[string]json.RawMessage {
	dir := e.clientDir()
	if dir == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil
	}
	var c map[string]json.RawMessage
	if json.Unmarshal(data, &c) != nil {
		return nil
	}
	return c
}
