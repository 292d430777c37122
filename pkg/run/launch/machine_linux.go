package launch

import (
	"syscall"
	"unsafe"

	"cais.dev/cais/pkg/run/wire"
)

// op is a step with its arguments resolved as far as the parent can.
type op struct {
	nr     uintptr
	args   [6]uintptr
	reg    [6]uint8 // register to take the argument from; 0: args
	kind   wire.Op
	save   uint8
	any    bool
	errnos [4]uint16
	skip   int32
}

// machine is all that the child touches. Only numbers are written after the
// clone, so that no write barrier is needed.
type machine struct {
	ops    unsafe.Pointer // *op, n of them
	n      int32
	start  int32          // the first step to carry out
	own    int32          // if not 0: steps from here on are not the plan's, and are told as ownStep+n
	base   unsafe.Pointer // the plan's Data
	page   *page
	holes  [wire.NumSlots + 1][2]uintptr // first and last of descriptors that the child closes
	nholes int32
	nofile [2]uint64
	action [8]uint64 // a zero struct sigaction, and a zero signal set
	regs   [256]uintptr

	list []op     // what ops points to
	data []uint64 // the plan's Data, aligned
}

// newMachine resolves p's arguments: addresses, slots.
func newMachine(p *wire.Plan, slots *[wire.NumSlots]int, pg *page) *machine {
	m := &machine{page: pg, n: int32(len(p.Steps)), nofile: inheritedNofile(p)}
	m.list = make([]op, len(p.Steps))
	m.ops = unsafe.Pointer(&m.list[0])
	m.data = make([]uint64, len(p.Data)/8+1)
	base := unsafe.Pointer(&m.data[0])
	copy(unsafe.Slice((*byte)(base), len(p.Data)), p.Data)
	m.base = base
	for _, r := range p.Relocs {
		m.data[r.At/8] = uint64(uintptr(base) + uintptr(r.To))
	}
	for i := range p.Steps {
		s, o := &p.Steps[i], &m.list[i]
		o.nr, o.kind, o.save, o.any, o.errnos, o.skip = uintptr(s.Nr), s.Op, s.Save, s.AnyError, s.Errnos, int32(s.Skip)
		for k, a := range s.Args {
			switch a.Kind {
			case wire.ArgImm:
				o.args[k] = uintptr(a.Value)
			case wire.ArgData:
				o.args[k] = uintptr(a.Value)
				if s.Op == wire.OpCall { // the others want the offset
					o.args[k] += uintptr(base)
				}
			case wire.ArgSlot:
				o.args[k] = uintptr(slots[a.Value])
			case wire.ArgReg:
				o.reg[k] = uint8(a.Value)
			}
		}
	}
	return m
}

// closeRest has the child close all that it inherits but the standard streams and
// its slots, before it does anything else. They would go at its execve, but until
// then it may be seen from inside the container, and ptraced there by who was
// given the right to.
func (m *machine) closeRest(slots *[wire.NumSlots]int) {
	const lastFD = 1<<32 - 1
	first := 3
	for {
		next := lastFD // the lowest slot from first on
		for _, fd := range slots {
			if fd >= first && fd < next {
				next = fd
			}
		}
		if next > first {
			last := next - 1
			if next == lastFD {
				last = lastFD
			}
			m.holes[m.nholes] = [2]uintptr{uintptr(first), uintptr(last)}
			m.nholes++
		}
		if next == lastFD {
			return
		}
		first = next + 1
	}
}

// The hooks around a fork: the first blocks all signals, so that none is handled
// by Go's handlers in the child; in the child handlers are set back to default
// before the mask is restored. They are granted to other packages for good
// (runtime/proc.go: "gVisor").

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// clone makes the child, which does not return.
//
//go:noinline
//go:norace
func (m *machine) clone(flags uintptr) (int, syscall.Errno) {
	beforeFork() // from here on nothing may grow the stack
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, flags|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return int(pid), errno
	}
	afterForkInChild()
	m.prologue()
	m.run()
	return 0, 0 // not reached
}

// prologue gives the child what every program expects: no ignored and no blocked
// signals, the inherited limit of open files, and no descriptor of its parent's.
//
//go:nosplit
//go:norace
func (m *machine) prologue() {
	zero := uintptr(unsafe.Pointer(&m.action))
	for sig := uintptr(1); sig <= 64; sig++ {
		// KILL and STOP refuse, and need no reset.
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, zero, 0, 8, 0, 0)
	}
	const sigSetmask = 2
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetmask, zero, 0, 8, 0, 0)
	const sysCloseRange = 436 // Linux 5.9; before, what is left goes at the execve
	for i := int32(0); i < m.nholes; i++ {
		syscall.RawSyscall6(sysCloseRange, m.holes[i][0], m.holes[i][1], 0, 0, 0, 0)
	}
	if m.nofile[1] != 0 {
		syscall.RawSyscall6(sysPrlimit64, 0, syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&m.nofile)), 0, 0, 0)
	}
}

// run carries out the steps. It ends with execve or exit.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (m *machine) run() {
	const cloneParent = 0x8000
	at := m.start
	var errno syscall.Errno
	// A plan retries what a race made fail (openat2's EAGAIN): a container that
	// races on purpose must not keep us busy for ever.
	for fuel := 1 << 18; ; fuel-- {
		m.page.at = m.told(at)
		if at >= m.n || fuel == 0 {
			errno = syscall.ELOOP
			break
		}
		o := (*op)(unsafe.Add(m.ops, uintptr(at)*unsafe.Sizeof(op{})))
		a, b := m.arg(o, 0), m.arg(o, 1)
		var r uintptr
		errno = 0
		jump := false
		switch o.kind {
		case wire.OpCall:
			r, _, errno = syscall.RawSyscall6(o.nr, a, b, m.arg(o, 2), m.arg(o, 3), m.arg(o, 4), m.arg(o, 5))
			if errno != 0 {
				e := uint16(errno)
				if o.any || o.errnos[0] == e || o.errnos[1] == e || o.errnos[2] == e || o.errnos[3] == e {
					r, errno, jump = -uintptr(e), 0, true
				}
			}
		case wire.OpSet:
			r = a
		case wire.OpLoad:
			switch p := unsafe.Add(m.base, a); b {
			case 1:
				r = uintptr(*(*uint8)(p))
			case 2:
				r = uintptr(*(*uint16)(p))
			case 4:
				r = uintptr(*(*uint32)(p))
			default:
				r = uintptr(*(*uint64)(p))
			}
		case wire.OpStore:
			switch p := unsafe.Add(m.base, a); m.arg(o, 2) {
			case 1:
				*(*uint8)(p) = uint8(b)
			case 2:
				*(*uint16)(p) = uint16(b)
			case 4:
				*(*uint32)(p) = uint32(b)
			default:
				*(*uint64)(p) = uint64(b)
			}
		case wire.OpAnd:
			r = a & b
		case wire.OpJumpEq:
			jump = a == b
		case wire.OpJumpNe:
			jump = a != b
		case wire.OpFork:
			r, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, a|cloneParent|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
			if errno == 0 && r != 0 {
				m.page.pid = int32(r)
				syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
			}
		case wire.OpFail:
			errno = syscall.Errno(a)
		case wire.OpExit:
			syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, a, 0, 0, 0, 0, 0)
		}
		if errno != 0 {
			break
		}
		if o.save != 0 {
			m.regs[o.save] = r
		}
		at++
		if jump {
			at += o.skip
		}
	}
	m.page.errno = uint32(errno)
	m.page.step = m.told(at)
	for {
		syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, 127, 0, 0, 0, 0, 0)
	}
}

//go:nosplit
//go:norace
func (m *machine) arg(o *op, k int) uintptr {
	if r := o.reg[k]; r != 0 {
		return m.regs[r]
	}
	return o.args[k]
}

// ownStep is the index of the first step that is not the plan's.
const ownStep = 1 << 20

// told is how a step is named on the page.
//
//go:nosplit
//go:norace
func (m *machine) told(at int32) uint32 {
	if m.own != 0 && at >= m.own {
		return uint32(at) + ownStep + 1
	}
	return uint32(at) + 1
}
