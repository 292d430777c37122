package plan

import (
	"slices"
	"strings"

	"cais.dev/cais/pkg/oci"
)

// defaultPath is PATH where the image sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment merges what cais sets, what the image sets and what the user
// sets, each beating those before it. HOME comes from the image's passwd file
// and only where nobody set it.
func environment(req Request, img oci.Config, hostname, home string) []string {
	var e envList
	if req.UnsetEnvAll {
		for _, kv := range req.Env {
			e.set(kv)
		}
		return e
	}
	e.set("PATH=" + defaultPath)
	e.set("HOSTNAME=" + hostname)
	if req.TTY {
		e.set("TERM=xterm")
	}
	for _, kv := range img.Env {
		e.set(kv)
	}
	for _, key := range req.UnsetEnv {
		e.unset(key)
	}
	for _, kv := range req.Env {
		e.set(kv)
	}
	if (!e.has("HOME") || slices.Contains(e, "HOME=")) && !slices.Contains(req.UnsetEnv, "HOME") {
		e.set("HOME=" + home)
	}
	return e
}

// SetEnv is env with kv, K=V, in it.
func SetEnv(env []string, kv string) []string {
	e := envList(slices.Clone(env))
	e.set(kv)
	return e
}

// envList is an environment in which a key occurs once.
type envList []string

// set replaces the value of kv's key in its place, or appends it. A key without
// "=" is removed; an entry with an empty key or a NUL can be nobody's wish and
// would cut execve's list short.
func (e *envList) set(kv string) {
	key, _, ok := strings.Cut(kv, "=")
	switch {
	case key == "" || strings.IndexByte(kv, 0) >= 0:
	case !ok:
		e.unset(key)
	default:
		if i := e.index(key); i >= 0 {
			(*e)[i] = kv
			return
		}
		*e = append(*e, kv)
	}
}

func (e *envList) unset(key string) {
	if i := e.index(key); i >= 0 {
		*e = slices.Delete(*e, i, i+1)
	}
}

// get is the value of key, empty if there is none.
func (e envList) get(key string) string {
	if i := e.index(key); i >= 0 {
		return e[i][len(key)+1:]
	}
	return ""
}

func (e envList) has(key string) bool { return e.index(key) >= 0 }

func (e envList) index(key string) int {
	return slices.IndexFunc(e, func(kv string) bool {
		return len(kv) > len(key) && kv[len(key)] == '=' && kv[:len(key)] == key
	})
}
