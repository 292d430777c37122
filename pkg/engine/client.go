package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// ClientDir is the directory of Docker's client configuration.
func (e *Engine) ClientDir() string {
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
// none. A file that cannot be read is none: it says how things look, no more.
func (e *Engine) ClientFormat(key string) string {
	dir := e.ClientDir()
	if dir == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return ""
	}
	var c map[string]json.RawMessage
	if json.Unmarshal(data, &c) != nil {
		return ""
	}
	var format string
	if json.Unmarshal(c[key], &format) != nil {
		return ""
	}
	return format
}
