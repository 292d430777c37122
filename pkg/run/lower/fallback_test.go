package lower

import (
	"errors"
	"strings"
	"testing"

	"cais.dev/cais/pkg/run/launch"
)

// TestFallbackGivesTheSame runs plans by the raw clone alone and by the init
// that is executed, and compares what the container sees. (Not its pids: the
// threads of a Go program use some up.)
func TestFallbackGivesTheSame(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	script := `id; umask; ulimit -S -n; ulimit -H -n; env | sort; mount | sort | grep -v overlay; ls -l /dev | sed 's/[0-9:]* null//;s/ [A-Z].*[0-9] / /'
		grep -E 'Cap|Sig[BIC]|NoNew|Seccomp|Groups' /proc/self/status; readlink /proc/self/cwd; ls /proc/self/fd; cat /proc/self/oom_score_adj; exit 6`
	for name, change := range map[string]func(*container){
		"plain": func(*container) {},
		"init":  func(c *container) { c.o.Init = true },
		"limited": func(c *container) {
			c.spec.Process.NoNewPrivileges, c.spec.Process.Cwd = true, "/new"
			c.o.Seccomp = bpf([4]uint32{0x06, 0, 0, 0x7fff0000})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var outs []string
			for _, how := range []string{"", "exec"} {
				t.Setenv("CAIS_INIT", how)
				c := sh(t, script)
				change(c)
				out, code, err := c.run(t)
				if err != nil || code != 6 {
					t.Fatalf("%q: code %d, %v\n%s", how, code, err, out)
				}
				outs = append(outs, out)
			}
			if outs[0] != outs[1] {
				a, b := strings.Split(outs[0], "\n"), strings.Split(outs[1], "\n")
				for i := range min(len(a), len(b)) {
					if a[i] != b[i] {
						t.Errorf("line %d: clone %q, exec %q", i, a[i], b[i])
					}
				}
				t.Errorf("%d and %d lines", len(a), len(b))
			}
		})
	}
	t.Setenv("CAIS_INIT", "exec")
	_, _, err := newContainer(t, "nope").run(t)
	if e, ok := errors.AsType[*launch.StepError](err); !ok || e.ExitCode() != 127 || !strings.Contains(e.What, "nope") {
		t.Errorf("got %v", err)
	}
}
