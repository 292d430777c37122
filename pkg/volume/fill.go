package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/layer/tree"
)

// Plain reports whether the first content of a volume at target is what MakeData
// makes: the image of which layers are the directories, top first, has nothing
// there, or an empty directory with the usual mode and owner.
func Plain(target string, layers []string) (bool, error) {
	t, err := tree.Open(layers...)
	if err != nil {
		return false, err
	}
	defer t.Close()
	at, err := t.Walk(target, true)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return true, nil
	case errors.Is(err, fs.ErrPermission): // root of the user's namespace will see
		return false, nil
	case err != nil:
		return false, err
	}
	defer at.Close()
	if !at.Exists() || at.Dir == nil || at.Dir.Empty() {
		return true, nil
	}
	st, err := at.Dir.Stat()
	if err != nil || st.Mode&0o7777 != 0o755 || int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		return false, err
	}
	names, err := at.Dir.Names()
	if errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	return len(names) == 0, err
}

// Fill makes the directory data, which is empty or holds what a killed command
// copied of it, what layers have at target.
func Fill(ctx context.Context, data, target string, layers []string) error {
	t, err := tree.Open(layers...)
	if err != nil {
		return err
	}
	defer t.Close()
	at, err := t.Walk(target, true)
	if err != nil {
		return err
	}
	defer at.Close()
	if !at.Exists() || at.Dir == nil {
		return nil
	}
	to, err := os.Open(data)
	if err != nil {
		return err
	}
	defer to.Close()
	return at.Dir.Copy(ctx, to, nil)
}
