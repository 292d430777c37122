package userns

import (
	"fmt"
	"os"

	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/wire"
	"golang.org/x/sys/unix"
)

// Empty makes a user namespace that nobody is in: for its map, by which a mount can
// show other owners. Only the machine's root may.
func Empty(uids, gids []IDMap) (*os.File, error) {
	var b wire.Builder
	b.WaitForMap(unix.SYS_WRITE, unix.SYS_READ)
	b.Gate(unix.SYS_WRITE, unix.SYS_READ)
	b.Do(wire.OpExit, "leave", 0, 0)
	p, err := b.Plan()
	if err != nil {
		return nil, err
	}
	p.CloneFlags, p.UIDs, p.GIDs = unix.CLONE_NEWUSER, wireMap(uids), wireMap(gids)
	var slots [wire.NumSlots]int
	for i := range slots {
		slots[i] = -1
	}
	pr, err := launch.Start(p, &slots)
	if err != nil {
		return nil, explain(err)
	}
	defer pr.Abort()
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", pr.PID))
}
