package session

import (
	"fmt"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// defaultDetachKeys is what ends an attachment unless the user chose otherwise.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// ParseDetachKeys reads --detach-keys: single characters, ctrl-<a-z@[\]^_> and
// DEL, separated by commas. The empty string means the default.
func ParseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		s = defaultDetachKeys
	}
	var keys []byte
	for _, k := range strings.Split(s, ",") {
		c, ok := key(k)
		if !ok {
			err := errs.New(errs.Invalid, fmt.Sprintf("invalid detach keys (%s): unknown character: %q", s, k))
			return nil, errs.WithHint(err, `Name them like "ctrl-p,ctrl-q" or "ctrl-],q".`)
		}
		keys = append(keys, c)
	}
	return keys, nil
}

func key(k string) (byte, bool) {
	if len(k) == 1 {
		return k[0], true
	}
	if k == "DEL" {
		return 127, true
	}
	c, ok := strings.CutPrefix(k, "ctrl-")
	if !ok || len(c) != 1 {
		return 0, false
	}
	switch {
	case c[0] >= 'a' && c[0] <= 'z':
		return c[0] - 'a' + 1, true
	case c[0] == '@':
		return 0, true
	case c[0] >= '[' && c[0] <= '_':
		return c[0] - '[' + 27, true
	}
	return 0, false
}

// detacher finds the detach keys in what the user types. Keys that may be the
// beginning of the sequence are held back until they turn out not to be.
type detacher struct {
	keys []byte
	held int // how many of keys have been read
}

// filter returns what is to be passed on, and whether the sequence is complete.
func (d *detacher) filter(in []byte) (out []byte, detached bool) {
	if len(d.keys) == 0 {
		return in, false
	}
	out = make([]byte, 0, len(in)+d.held)
	for _, c := range in {
		for d.held > 0 && d.keys[d.held] != c {
			// What is held may contain a shorter beginning: give away as little as
			// leaves one.
			n := 1
			for n < d.held && string(d.keys[n:d.held]) != string(d.keys[:d.held-n]) {
				n++
			}
			out = append(out, d.keys[:n]...)
			d.held -= n
		}
		if d.keys[d.held] != c {
			out = append(out, c)
			continue
		}
		if d.held++; d.held == len(d.keys) {
			d.held = 0
			return out, true
		}
	}
	return out, false
}

// rest returns what is held back when nothing more comes.
func (d *detacher) rest() []byte {
	p := d.keys[:d.held]
	d.held = 0
	return p
}
