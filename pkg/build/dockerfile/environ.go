package dockerfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// environ is a list of "K=V". It is never changed: with and without return
// another one, so that stages and nodes can keep theirs.
type environ []string

// Get implements shell.EnvGetter.
func (e environ) Get(key string) (string, bool) {
	for _, kv := range e {
		if k, v, _ := strings.Cut(kv, "="); k == key {
			return v, true
		}
	}
	return "", false
}

// Keys implements shell.EnvGetter.
func (e environ) Keys() []string {
	keys := make([]string, len(e))
	for i, kv := range e {
		keys[i], _, _ = strings.Cut(kv, "=")
	}
	return keys
}

// with has key set to value, last, wherever it stood before: the order in which
// BuildKit hands variables to a command.
func (e environ) with(key, value string) environ {
	return append(e.without(key), key+"="+value)
}

func (e environ) without(key string) environ {
	return slices.DeleteFunc(append(make(environ, 0, len(e)+1), e...), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		return k == key
	})
}

// masked shows some variables as stars.
type masked struct {
	environ
	names []string
}

// Get implements shell.EnvGetter.
func (m masked) Get(key string) (string, bool) {
	if slices.Contains(m.names, key) {
		return "****", true
	}
	return m.environ.Get(key)
}

// setEnv is how an image's config changes: in place.
func setEnv(env []string, key, value string) []string {
	for i, kv := range env {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// maxWord is what the variables of one word may make of it, in bytes. The kernel
// takes 128 KiB for one variable; a heredoc may be longer.
const maxWord = 16 << 20

// bounded refuses a word that could become longer than maxWord: ENV A=$A$A, said
// thirty times, would fill the memory.
func bounded(word string, env shell.EnvGetter) error {
	refs := strings.Count(word, "$")
	if refs == 0 {
		return nil
	}
	longest := 0
	for _, k := range env.Keys() {
		v, _ := env.Get(k)
		longest = max(longest, len(v))
	}
	if longest > 0 && refs > (maxWord-min(len(word), maxWord))/longest {
		return fmt.Errorf("%.40q… may become longer than %d MiB by its variables", word, maxWord>>20)
	}
	return nil
}
