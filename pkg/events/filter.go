package events

import (
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// Filter are the values of each --filter key. Of several values of one key one
// must match.
type Filter map[string][]string

// filterKeys are Docker's, then Podman's.
var filterKeys = [...]string{
	"container", "image", "volume", "network", "type", "event", "label", "scope", "daemon",
	"plugin", "service", "node", "secret", "config", "pod", "status",
}

// ParseFilter reads KEY=VALUE. It fails with Invalid for a key that Docker does
// not know.
func ParseFilter(args []string) (Filter, error) {
	f := Filter{}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		k, v = strings.ToLower(strings.TrimSpace(k)), strings.TrimSpace(v)
		if !slices.Contains(filterKeys[:], k) {
			return nil, errs.New(errs.Invalid, "invalid filter '"+k+"'")
		}
		f[k] = append(f[k], v)
	}
	return f, nil
}

// Match reports whether e passes every key.
func (f Filter) Match(e Event) bool {
	for key, values := range f {
		if !slices.ContainsFunc(values, func(v string) bool { return matches(e, key, v) }) {
			return false
		}
	}
	return true
}

func matches(e Event, key, v string) bool {
	switch key {
	case "type":
		return e.Type == v
	case "event", "status":
		// "exec_start" means "exec_start: sh -c …" too.
		if strings.HasPrefix(v, "health_status") || strings.HasPrefix(v, "exec_") {
			return strings.HasPrefix(e.Action, v)
		}
		return e.Action == v
	case "scope":
		return v == "local"
	case "label":
		k, want, valued := strings.Cut(v, "=")
		have, ok := e.Attributes[k]
		return ok && (!valued || have == want)
	case "image":
		if e.Type == Image {
			return isImage(e.ID, v) || isImage(e.Attributes["name"], v)
		}
		return e.Type == Container && isImage(e.Attributes["image"], v)
	default: // a kind, and what begins its id or its name
		v = strings.TrimPrefix(v, "/")
		return e.Type == key && (strings.HasPrefix(e.ID, v) || strings.HasPrefix(e.Attributes["name"], v))
	}
}

// isImage reports whether v is the reference, or that without its tag.
func isImage(ref, v string) bool {
	if ref == v {
		return true
	}
	slash, colon := strings.LastIndexByte(ref, '/'), strings.LastIndexByte(ref, ':')
	return colon > slash && ref[:colon] == v
}
