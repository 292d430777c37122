// Package merged has the kernel merge layers' directories into one, to be read,
// without a place in anybody's file tree: the merged directory is a descriptor and
// goes with it.
package merged

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
)

// Open merges dirs, top first, all absolute. userXattr says that overlay's marks
// in them are user.* attributes, as in a user namespace. It needs the right to
// mount here.
func Open(dirs []string, userXattr bool) (*os.File, error) {
	f, err := open(dirs, userXattr)
	if err != nil {
		return nil, errs.E("merge layers", errs.KindOf(err), err)
	}
	return f, nil
}

func open(dirs []string, userXattr bool) (*os.File, error) {
	if len(dirs) == 0 {
		return nil, errors.New("there are none")
	}
	if len(dirs) == 1 { // overlay wants two, and not the same twice; a mark in the lowest layer hides nothing
		return os.OpenFile(dirs[0], unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	f, err := detached(dirs, userXattr)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // before Linux 6.7
		return attached(dirs, userXattr)
	}
	return f, err
}

func detached(dirs []string, userXattr bool) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	for _, d := range dirs {
		if err := unix.FsconfigSetString(fs, "lowerdir+", d); err != nil {
			return nil, fmt.Errorf("%s: %w", d, reason(fs, err))
		}
	}
	if userXattr {
		if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
			return nil, reason(fs, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, reason(fs, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(fd), "merged layers"), nil
}

// reason adds what the kernel wrote to the context's log.
func reason(fs int, err error) error {
	buf := make([]byte, 1024)
	n, e := unix.Read(fs, buf)
	if e != nil || n <= 2 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(buf[2:n])))
}

// attached mounts in a namespace of a thread of its own, which ends with it; the
// descriptor keeps the mount.
func attached(dirs []string, userXattr bool) (*os.File, error) {
	base := filepath.Dir(dirs[0])
	for _, d := range dirs {
		for base != "/" && !strings.HasPrefix(d, base+"/") {
			base = filepath.Dir(base)
		}
	}
	var lower []string
	for _, d := range dirs {
		name := strings.TrimPrefix(strings.TrimPrefix(d, base), "/")
		lower = append(lower, strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(name))
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	if userXattr {
		options += ",userxattr"
	}
	if len(options) >= 4096 {
		return nil, errs.New(errs.Unsupported, strconv.Itoa(len(dirs))+" layers, which needs Linux 6.7")
	}
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		f, err := mountHere(base, dirs[0], options)
		done <- result{f, err}
	}()
	r := <-done
	return r.f, r.err
}

func mountHere(base, at, options string) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	if err := unix.Chdir(base); err != nil {
		return nil, os.NewSyscallError("chdir", err)
	}
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		return nil, os.NewSyscallError("mount", err)
	}
	fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return os.NewFile(uintptr(fd), "merged layers"), nil
}
