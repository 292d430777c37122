package plan

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Ulimits are the names of --ulimit.
func Ulimits() []string {
	return []string{"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}
}

// limits decides rlimits and the oom score. What a process may not raise is
// clamped: a container with fewer open files beats none.
func (b *builder) limits() error {
	for _, u := range b.req.Ulimits {
		soft, hard := u.Soft, u.Hard
		have, known := b.host.Rlimits[u.Name]
		if known && !b.host.RaiseLimits && exceeds(hard, have.Hard) {
			hard = have.Hard
			if exceeds(soft, hard) {
				soft = hard
			}
			text := fmt.Sprintf("--ulimit %s=%s: this session's hard limit is %s, which is used instead", u.Name, limitText(u.Hard), limitText(hard))
			if err := b.short("ulimit", text); err != nil {
				return err
			}
		}
		b.spec.Process.Rlimits = append(b.spec.Process.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: limitValue(soft), Hard: limitValue(hard),
		})
	}
	score := b.req.OOMScoreAdj
	if score == 0 {
		return nil
	}
	if score < b.host.OOMScore && !b.host.RaiseLimits {
		text := fmt.Sprintf("--oom-score-adj %d: an ordinary user cannot go below this session's %d, which is used instead", score, b.host.OOMScore)
		if err := b.short("oom-score-adj", text); err != nil {
			return err
		}
		score = b.host.OOMScore
	}
	b.spec.Process.OOMScoreAdj = &score
	return nil
}

// exceeds compares limits, of which -1 is the highest.
func exceeds(a, b int64) bool { return limitValue(a) > limitValue(b) }

func limitValue(n int64) uint64 {
	if n < 0 {
		return math.MaxUint64 // RLIM_INFINITY
	}
	return uint64(n)
}

func limitText(n int64) string {
	if n < 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

func checkUlimits(list []Ulimit) error {
	seen := map[string]bool{}
	for _, u := range list {
		switch {
		case !slices.Contains(Ulimits(), u.Name):
			return errs.New(errs.Invalid, "invalid ulimit type: "+u.Name)
		case exceeds(u.Soft, u.Hard):
			return errs.New(errs.Invalid, fmt.Sprintf("ulimit soft limit must be less than or equal to hard limit: %s > %s", limitText(u.Soft), limitText(u.Hard)))
		case seen[u.Name]:
			return errs.New(errs.Invalid, "ulimit "+u.Name+" is given twice")
		}
		seen[u.Name] = true
	}
	return nil
}
