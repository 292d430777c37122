package config

import (
	"testing"

	"cais.dev/cais/pkg/errs"
)

func TestReadCerts(t *testing.T) {
	const etc, docker, user = "/etc/containers/certs.d/h.x:5000/", "/etc/docker/certs.d/h.x:5000/", "/home/u/.config/containers/certs.d/h.x:5000/"
	tests := []struct {
		name, dir    string
		files        map[string]string
		cas, clients int
		where        string
		kind         errs.Kind
	}{
		{name: "none"},
		{name: "docker's", files: map[string]string{docker + "ca.crt": "x"}, cas: 1, where: docker},
		{name: "user's first", files: map[string]string{docker + "ca.crt": "x", user + "ca.crt": "y", user + "b.crt": "z"}, cas: 2, where: user},
		{name: "client", files: map[string]string{etc + "client.cert": "x", etc + "client.key": "y"}, clients: 1, where: etc},
		{name: "client without key", files: map[string]string{etc + "client.cert": "x"}, where: etc, kind: errs.Invalid},
		{name: "named", dir: "/c", files: map[string]string{"/c/ca.crt": "x", etc + "b.crt": "y"}, cas: 1, where: "/c/"},
		{name: "named is missing", dir: "/c", kind: errs.NotFound},
		{name: "another port's", files: map[string]string{"/etc/docker/certs.d/h.x/ca.crt": "x"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := source(tt.files, nil)
			c, err := ReadCerts(a.Env, a.Root, tt.dir, "h.x:5000")
			if errs.KindOf(err) != tt.kind || len(c.CAs) != tt.cas || len(c.Clients) != tt.clients || c.Dir != "" && c.Dir+"/" != tt.where {
				t.Errorf("got %d CAs, %d clients, %q, %v; want %d, %d, %q, kind %v",
					len(c.CAs), len(c.Clients), c.Dir, err, tt.cas, tt.clients, tt.where, tt.kind)
			}
		})
	}
}
