package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
)

// Devices fills in's Devices, HostDevices and BlockDevices with what req names.
// A device that is not there is an error; whether the caller may open it is the
// kernel's affair.
func Devices(req plan.Request, in *plan.Inputs) error {
	devices := slices.Clone(req.Devices)
	for _, n := range in.Edits.Nodes {
		devices = append(devices, n.Device)
	}
	if len(devices) > 0 {
		in.Devices = make(map[string][]plan.DeviceNode, len(devices))
	}
	for _, d := range devices {
		nodes, err := named(d.Host)
		if err != nil {
			return err
		}
		in.Devices[d.Host] = nodes
	}
	if req.Privileged {
		in.HostDevices = all("/dev")
	}
	r := req.Resources
	var paths []string
	for _, w := range r.BlkioWeightDevice {
		paths = append(paths, w.Path)
	}
	for _, list := range [][]plan.Rate{r.ReadBPS, r.WriteBPS, r.ReadIOPS, r.WriteIOPS} {
		for _, x := range list {
			paths = append(paths, x.Path)
		}
	}
	if len(paths) > 0 {
		in.BlockDevices = make(map[string]plan.DeviceNode, len(paths))
	}
	for _, p := range paths {
		n, ok, err := node(p)
		if err != nil || !ok {
			return missing(p, err)
		}
		in.BlockDevices[p] = n
	}
	return nil
}

func missing(path string, err error) error {
	if err == nil {
		err = errors.New("not a device node")
	}
	return errs.E(fmt.Sprintf("error gathering device information while adding custom device %q", path), errs.Invalid, err)
}

// named returns the node at path, or those below it if it is a directory.
func named(path string) ([]plan.DeviceNode, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, missing(path, err)
	}
	if !st.IsDir() {
		n, ok, err := node(path)
		if err != nil || !ok {
			return nil, missing(path, err)
		}
		return []plan.DeviceNode{n}, nil
	}
	var list []plan.DeviceNode
	err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.Type()&fs.ModeDevice == 0 {
			return nil // what cannot be read is not ours to give
		}
		if n, ok, err := node(p); err == nil && ok {
			list = append(list, n)
		}
		return nil
	})
	if err != nil || len(list) == 0 {
		return nil, missing(path, err)
	}
	return list, nil
}

// all returns the devices of dir that a privileged container gets: not those
// that every container has of its own, and as an ordinary user only what may be
// opened, for the rest would be dead entries.
func all(dir string) []plan.DeviceNode {
	own := " console full null ptmx random tty urandom zero "
	var list []plan.DeviceNode
	_ = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		name := strings.TrimPrefix(p, dir+"/")
		switch {
		case err != nil:
			return nil
		case e.IsDir() && (name == "pts" || name == "shm" || name == "mqueue"):
			return filepath.SkipDir
		case e.Type()&fs.ModeDevice == 0 || strings.Contains(own, " "+name+" "):
			return nil
		}
		if n, ok, err := node(p); err == nil && ok && (os.Geteuid() == 0 || syscall.Access(p, 4 /* R_OK */) == nil) {
			list = append(list, n)
		}
		return nil
	})
	return list
}

// node reads what path, or the file it links to, is.
func node(path string) (plan.DeviceNode, bool, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return plan.DeviceNode{}, false, errors.Join(&fs.PathError{Op: "stat", Path: path, Err: err})
	}
	kind := st.Mode & syscall.S_IFMT
	if kind != syscall.S_IFBLK && kind != syscall.S_IFCHR {
		return plan.DeviceNode{}, false, nil
	}
	dev := uint64(st.Rdev)
	return plan.DeviceNode{
		Path: path, Block: kind == syscall.S_IFBLK,
		// makedev(3)'s layout on Linux
		Major: int64(dev>>8&0xfff | dev>>32&^0xfff), Minor: int64(dev&0xff | dev>>12&^0xff&0xffffffff),
		Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
	}, true, nil
}
