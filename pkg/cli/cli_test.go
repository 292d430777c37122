package cli

import (
	"bytes"
	"strings"
	"testing"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// call runs a command line as main does.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	env := map[string]string{"CAIS_ROOT": t.TempDir()}
	code = Main(t.Context(), Process{
		Args:    args,
		Getenv:  func(k string) string { return env[k] },
		Streams: ui.Streams{In: strings.NewReader(""), Out: &out, Err: &err},
		Build:   engine.Build{Version: "1.2.3", Commit: "abcdef0"},
	})
	return code, out.String(), err.String()
}

func TestMain_(t *testing.T) {
	tests := []struct {
		args           string
		code           int
		stdout, stderr string // a prefix; "" is nothing
	}{
		{"cais", 0, "", "Usage:  cais [OPTIONS] COMMAND"},
		{"cais --help", 0, "Usage:  cais [OPTIONS] COMMAND", ""},
		{"cais -v", 0, "cais version 1.2.3, build abcdef0\n", ""},
		{"/usr/bin/docker --version", 0, "Docker version 28.5.2, build abcdef0 (cais 1.2.3)\n", ""},
		{"cais bogus", 1, "", "Error: unknown command: cais bogus\n\nRun 'cais --help' for more information\n"},
		{"docker bogus", 1, "", "docker: unknown command: docker bogus\n\nRun 'docker --help' for more information\n"},
		{"cais version --bogus", 125, "", "Error: unknown flag: --bogus\n\nRun 'cais version --help' for more information\n"},
		{"cais version x", 1, "", "Error: 'cais version' accepts no arguments\n\nUsage:  cais version [OPTIONS]\n\nRun 'cais version --help' for more information\n"},
		{"cais --bogus version", 125, "", "Error: unknown flag: --bogus\n\nRun 'cais --help' for more information\n"},
		{"cais version --help", 0, "Usage:  cais version [OPTIONS]\n\nShow version information\n", ""},
		{"cais swarm init", 1, "", "Error: \"docker swarm\" is not supported by cais\n"},
		{"cais compose up -d --bogus", 1, "", "Error: cais compose (several containers from one file) is not in this version of cais yet\n"},
		{"cais -H tcp://x:1 version", 125, "", "Error: --host tcp://x:1: cais has no daemon"},
		{"cais -c other version", 125, "", "Error: context \"other\" does not exist\nHint: "},
		{"cais -l loud version", 125, "", "Error: unable to parse logging level: loud\n"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			code, stdout, stderr := call(t, strings.Fields(tt.args)...)
			same := func(got, want string) bool { return strings.HasPrefix(got, want) && (want != "" || got == "") }
			if code != tt.code || !same(stdout, tt.stdout) || !same(stderr, tt.stderr) {
				t.Errorf("code %d, stdout %q, stderr %q; want %d, %q, %q", code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
			}
		})
	}
}
