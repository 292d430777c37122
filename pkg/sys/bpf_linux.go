package sys

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AttachDeviceFilter loads an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE,
// given as the kernel's instructions, and attaches it to a cgroup v2 directory.
// The cgroup then holds it: it goes when the directory goes. Needs
// CAP_SYS_ADMIN (or CAP_BPF and CAP_NET_ADMIN) in the first user namespace; bpf(2).
func AttachDeviceFilter(dir string, code []byte) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	license := [4]byte{'G', 'P', 'L'} // the kernel wants to know; this one calls no helper that cares
	load := struct {
		kind, count    uint32
		insns, license uint64
		_              [96]byte // the rest of union bpf_attr, zero
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code) / 8)}
	load.insns = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(code))))
	load.license = uint64(uintptr(unsafe.Pointer(&license)))
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	runtime.KeepAlive(code)
	runtime.KeepAlive(&license)
	if errno != 0 {
		return fmt.Errorf("bpf BPF_PROG_LOAD: %w", errno)
	}
	defer unix.Close(int(fd))
	attach := struct {
		target, prog, kind, flags uint32
		_                         [96]byte
	}{uint32(d.Fd()), uint32(fd), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI, [96]byte{}}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attach)), unsafe.Sizeof(attach)); errno != 0 {
		return fmt.Errorf("bpf BPF_PROG_ATTACH %s: %w", dir, errno)
	}
	return nil
}
