package config

import (
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

func TestPolicy(t *testing.T) {
	const accept, reject, signed = `[{"type":"insecureAcceptAnything"}]`, `[{"type":"reject"}]`, `[{"type":"signedBy","keyType":"GPGKeys"}]`
	const ref = "docker.io/library/a:1@" + "sha256:aa"
	docker := func(def string, pairs ...string) string {
		var list []string
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, `"`+pairs[i]+`":`+pairs[i+1])
		}
		return `{"default":` + def + `,"transports":{"docker":{` + strings.Join(list, ",") + `}}}`
	}
	tests := []struct {
		name, policy, transport, scope string
		refused                        string // part of the text; empty: allowed
	}{
		{"accept", docker(accept), "docker", ref, ""},
		{"reject", docker(reject), "docker", ref, "rejects"},
		{"signed", docker(signed), "docker", ref, `wants "signedBy"`},
		{"both must hold", docker(`[{"type":"insecureAcceptAnything"},{"type":"sigstoreSigned"}]`), "docker", ref, "sigstoreSigned"},
		{"empty list", docker(`[]`), "docker", ref, "says nothing"},
		{"no default", `{}`, "docker", ref, "says nothing"},
		{"host", docker(reject, "docker.io", accept), "docker", ref, ""},
		{"repository", docker(accept, "docker.io", accept, "docker.io/library/a", reject), "docker", ref, "rejects"},
		{"tag", docker(accept, "docker.io/library/a:1", reject), "docker", ref, "rejects"},
		{"other tag", docker(accept, "docker.io/library/a:2", reject), "docker", ref, ""},
		{"host is no prefix", docker(accept, "docker", reject), "docker", ref, ""},
		{"wildcard", docker(accept, "*.corp.x", reject), "docker", "a.b.corp.x/n:1", "rejects"},
		{"wildcard of another", docker(accept, "*.corp.x", reject), "docker", "corp.x/n:1", ""},
		{"port", docker(accept, "h.x:5000", reject), "docker", "h.x:5000/n", "rejects"},
		{"another port", docker(reject, "h.x", accept), "docker", "h.x:5000/n:1", "rejects"},
		{"transport's default", docker(reject, "", accept), "docker", ref, ""},
		{"other transport", docker(reject, "", accept), "docker-archive", "", "rejects"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := source(map[string]string{"/etc/containers/policy.json": tt.policy}, nil)
			p, err := ReadPolicy(a.Env, a.Root)
			if err != nil {
				t.Fatal(err)
			}
			err = p.Check(tt.transport, tt.scope)
			if tt.refused == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if tt.refused != "" && (errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), tt.refused)) {
				t.Errorf("got %v; want Denied, %q", err, tt.refused)
			}
		})
	}
}

func TestReadPolicy(t *testing.T) {
	a := source(nil, nil)
	p, err := ReadPolicy(a.Env, a.Root)
	if err != nil || p.Check("docker", "h.x/a") != nil {
		t.Errorf("without a file: %v, %v", p, err)
	}
	a = source(map[string]string{
		"/home/u/.config/containers/policy.json": `{"default":[{"type":"insecureAcceptAnything"}]}`,
		"/etc/containers/policy.json":            `{"default":[{"type":"reject"}]}`,
	}, nil)
	if p, err := ReadPolicy(a.Env, a.Root); err != nil || p.Check("docker", "h.x/a") != nil {
		t.Errorf("the user's is not first: %v, %v", p, err)
	}
	for _, text := range []string{"", "{", `{"default":"x"}`, `{"default":[{"type":"insecureAcceptAnything"}],"transport":{}}`, `{"default":[{"type":"insecureAcceptAnything","keyPath":"/k"}]}`} {
		a = source(map[string]string{"/etc/containers/policy.json": text}, nil)
		if _, err := ReadPolicy(a.Env, a.Root); errs.KindOf(err) != errs.Invalid {
			t.Errorf("policy %q: %v, want Invalid", text, err)
		}
	}
}
