package config

import "testing"

func TestLocate(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	tests := []struct {
		name string
		env  Env
		want Paths
	}{
		{"root", Env{UID: 0, Getenv: env(nil)},
			Paths{"/var/lib/cais", "/run/cais", "/var/lib/containers/storage", "/run/containers/storage"}},
		{"user", Env{UID: 1000, Home: "/home/u", Getenv: env(map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"})},
			Paths{"/home/u/.local/share/cais", "/run/user/1000/cais", "/home/u/.local/share/containers/storage", "/run/user/1000/containers"}},
		{"user without a runtime directory", Env{UID: 1000, Home: "/home/u", Getenv: env(nil)},
			Paths{"/home/u/.local/share/cais", "/tmp/cais-1000", "/home/u/.local/share/containers/storage", "/tmp/storage-run-1000"}},
		{"private root", Env{UID: 1000, Home: "/home/u", Getenv: env(map[string]string{"CAIS_ROOT": "/x"})},
			Paths{"/x", "/x/run", "/x/storage", "/x/run/storage"}},
	}
	for _, tt := range tests {
		if got := Locate(tt.env); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
