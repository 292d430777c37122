package ociruntime

import (
	"bufio"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// setHome gives the process HOME, as crun and runc do, where its environment has
// none: what the image's passwd says of its user, or /.
func setHome(p *specs.Process, rootfs string) {
	if p == nil || slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		return
	}
	p.Env = append(slices.Clone(p.Env), "HOME="+home(rootfs, p.User.UID))
}

// home looks into a file that the image's author wrote: it is found below the
// root, must be a regular file, and is read so far as it makes sense.
func home(rootfs string, uid uint32) string {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return "/"
	}
	defer root.Close()
	f, err := root.OpenFile("etc/passwd", os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would have us wait
	if err != nil {
		return "/"
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return "/"
	}
	for s := bufio.NewScanner(io.LimitReader(f, 1<<20)); s.Scan(); {
		fields := strings.Split(s.Text(), ":")
		if len(fields) > 5 && fields[2] == strconv.FormatUint(uint64(uid), 10) && strings.HasPrefix(fields[5], "/") && !strings.ContainsRune(fields[5], 0) {
			return fields[5]
		}
	}
	return "/"
}
