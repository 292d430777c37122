package launch

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"cais.dev/cais/pkg/run/wire"
)

// Init is the name under which the program is executed as the fallback init.
const Init = "cais-init"

// fallback is what the fallback init is given. With CAIS_INIT=exec the child
// carries out no more than the plan's prefix as a copy of this process; then it
// executes this program again, which carries out the rest. That costs a second
// start of a Go program, and shows whether the raw clone does anything that a
// clean process does not: both must give the same.
type fallback struct{ exe, page, blob int }

func newFallback(p *wire.Plan) (*fallback, error) {
	f := &fallback{-1, -1, -1}
	var err error
	if f.exe, err = syscall.Open("/proc/self/exe", syscall.O_RDONLY|syscall.O_CLOEXEC, 0); err != nil {
		return nil, &os.PathError{Op: "open", Path: "/proc/self/exe", Err: err}
	}
	if f.page, err = memfd(make([]byte, pageSize)); err == nil {
		f.blob, err = memfd(p.Marshal())
	}
	if err != nil {
		f.close()
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return f, nil
}

func memfd(content []byte) (int, error) {
	name := []byte("plan\x00")
	fd, _, errno := syscall.Syscall(sysMemfdCreate, uintptr(unsafe.Pointer(&name[0])), 1, 0) // MFD_CLOEXEC
	if errno != 0 {
		return -1, errno
	}
	if _, err := syscall.Write(int(fd), content); err != nil {
		_ = syscall.Close(int(fd)) // the write told
		return -1, err
	}
	return int(fd), nil
}

func (f *fallback) close() {
	for _, fd := range []int{f.exe, f.page, f.blob} {
		if fd >= 0 {
			_ = syscall.Close(fd) // memory
		}
	}
}

// plan is p's prefix, and the execve of the init.
func (f *fallback) plan(p *wire.Plan, slots *[wire.NumSlots]int) *wire.Plan {
	short := *p
	short.Steps = append([]wire.Step(nil), p.Steps[:p.Prefix]...)
	short.Data = append([]byte(nil), p.Data...)
	short.Relocs = append([]wire.Reloc(nil), p.Relocs...)
	put := func(b []byte) uint64 {
		for len(short.Data)%8 != 0 {
			short.Data = append(short.Data, 0)
		}
		short.Data = append(short.Data, b...)
		return uint64(len(short.Data) - len(b))
	}
	args := []string{Init, strconv.Itoa(f.page), strconv.Itoa(f.blob)}
	keep := []int{f.page, f.blob}
	for _, fd := range slots {
		args = append(args, strconv.Itoa(fd))
		if fd >= 0 {
			keep = append(keep, fd)
		}
	}
	list := make([]byte, 8*(len(args)+1))
	var at []uint64
	for _, a := range args {
		at = append(at, put(append([]byte(a), 0)))
	}
	argv := put(list)
	for i, a := range at {
		short.Relocs = append(short.Relocs, wire.Reloc{At: uint32(argv) + 8*uint32(i), To: uint32(a)})
	}
	call := func(nr uintptr, args ...wire.Arg) {
		s := wire.Step{Op: wire.OpCall, Nr: uint16(nr)}
		copy(s.Args[:], args)
		short.Steps = append(short.Steps, s)
	}
	for _, fd := range keep {
		call(syscall.SYS_FCNTL, wire.Num(int64(fd)), wire.Num(syscall.F_SETFD), wire.Num(0))
	}
	const atEmptyPath = 0x1000
	call(sysExecveat, wire.Num(int64(f.exe)), wire.Arg{Kind: wire.ArgData, Value: put([]byte{0})},
		wire.Arg{Kind: wire.ArgData, Value: argv}, wire.Arg{Kind: wire.ArgData, Value: argv + 8*uint64(len(args))}, wire.Num(atEmptyPath))
	return &short
}

// Main is the fallback init: it carries out the rest of a plan in this process,
// and returns only if it was not started as one.
func Main() int {
	runtime.LockOSThread()
	if len(os.Args) != 3+wire.NumSlots {
		return 125
	}
	pageFD, err1 := strconv.Atoi(os.Args[1])
	blobFD, err2 := strconv.Atoi(os.Args[2])
	if err1 != nil || err2 != nil {
		return 125
	}
	var slots [wire.NumSlots]int
	for i, t := range os.Args[3:] {
		fd, err := strconv.Atoi(t)
		if err != nil {
			return 125
		}
		slots[i] = fd
		if fd >= 0 {
			syscall.CloseOnExec(fd)
		}
	}
	mem, err := syscall.Mmap(pageFD, 0, pageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return 125
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(blobFD, &st); err != nil {
		return 125
	}
	blob := make([]byte, st.Size)
	if n, err := syscall.Pread(blobFD, blob, 0); err != nil || n != len(blob) {
		return 125
	}
	p, err := wire.UnmarshalPlan(blob)
	if err != nil {
		return 125
	}
	syscall.CloseOnExec(pageFD)
	syscall.CloseOnExec(blobFD)
	const prSetDumpable = 4
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0) // execve has undone the prefix's
	m := newMachine(p, &slots, (*page)(unsafe.Pointer(&mem[0])))
	m.start = int32(p.Prefix)
	m.prologue()
	m.run()
	return 125 // not reached
}
