package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// scopeSlice is where the user's manager puts scopes that say nothing else.
const scopeSlice = "app.slice"

// scopeName is the scope of container id.
func scopeName(id string) string { return prefix + id + ".scope" }

// userManager is the directory that was delegated to the user's manager, if there
// is one that can be asked; "" else.
func userManager(mount string) string {
	uid := strconv.Itoa(os.Geteuid())
	dir := filepath.Join(mount, "user.slice", "user-"+uid+".slice", "user@"+uid+".service")
	if !writable(dir) || !exists(manager(true)) {
		return ""
	}
	return dir
}

// NeedsScope says that the container at path, with the limits res, is to live in a
// scope of its own: for its limits, or since the user's manager outlives the
// session. Without linger it does not, and a container that needs no limits is
// better off where it is.
func (h *Host) NeedsScope(path string, res *specs.LinuxResources) bool {
	if !h.scoped || path == "" {
		return false
	}
	if limits(res) {
		return true
	}
	return lingers()
}

// limits says whether anything of res is kept by a cgroup that a user can have.
func limits(res *specs.LinuxResources) bool {
	if res == nil {
		return false
	}
	return res.Memory != nil || res.CPU != nil || res.BlockIO != nil || res.Pids != nil && res.Pids.Limit != nil && *res.Pids.Limit > 0
}

// lingers says whether the user's manager stays when his last session ends.
func lingers() bool {
	text, err := os.ReadFile("/run/systemd/users/" + strconv.Itoa(os.Geteuid())) // logind's notes
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut("\n"+string(text), "\nNAME=")
	name, _, _ := strings.Cut(rest, "\n")
	return name != "" && !strings.Contains(name, "/") && exists("/var/lib/systemd/linger/"+name)
}

// Scoped says that containers get cgroups by systemd's scopes.
func (h *Host) Scoped() bool { return h.scoped }

// Scope has the user's manager make the scope of container id and moves its monitor,
// the process pid, into it: below a directory of its own, as a directory with
// processes gives its children no controllers.
func (h *Host) Scope(ctx context.Context, id string, pid int) error {
	dir, err := StartUnit(ctx, Unit{Name: scopeName(id), Slice: scopeSlice, User: true}, pid)
	if err != nil {
		return err
	}
	for _, hy := range h.hierarchies {
		if hy.version != 2 {
			continue
		}
		leaf := filepath.Join(hy.mount, dir, "monitor")
		if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := write(leaf, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("move the monitor within its scope: %w", err)
		}
	}
	return nil
}
