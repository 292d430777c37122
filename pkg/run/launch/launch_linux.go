// Package launch carries out a [wire.Plan]: it clones a child that runs the
// plan's steps as raw system calls up to its execve, answers what the child asks
// on the way (its id map, the start), and turns a failed step into an error that
// says which one it was.
//
// The child shares nothing with this process but one page of memory and a
// socket. Between clone and execve it is a copy of a Go program with a single
// thread and no scheduler, so it may not allocate, grow its stack, take a lock or
// move a pointer past a write barrier: what package syscall allows itself between
// fork and exec. The interpreter is one function without calls but raw system
// calls, and is under the same pragmas.
package launch

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"cais.dev/cais/pkg/run/launch/nofile"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys/raw"
)

// Proc is a process that a plan made. It is the caller's child, and he reaps it.
type Proc struct {
	PID   int // as this process sees it
	PidFD int
	// MntNS is the child's mount namespace, or -1. While it is open the exit of
	// the child is reported without waiting for its mounts to be torn down, which
	// takes 1 ms and, on a busy host, many: close it once the exit is told.
	MntNS  int
	Master int  // the terminal's master, or -1
	Gated  bool // the child waits for Release

	sync    int
	page    *page
	pageMem []byte
	plan    *wire.Plan
	mntns   bool
	stage   int // the process that the plan's fork step leaves behind, until it is reaped
	forkAt  int // index of that step
}

// Phase is the part of a plan that a step belongs to.
type Phase uint8

// The phases.
const (
	PhaseSetup Phase = iota // making the container
	PhaseExec               // the execve of the container's program
)

// StepError is a step that failed in the child.
type StepError struct {
	Index  int            // of the step in the plan
	What   string         // what the step does, for people
	Errno  syscall.Errno  // 0 if a signal ended the child
	Signal syscall.Signal // that ended the child
	Phase  Phase
}

// Error says what failed and why.
func (e *StepError) Error() string {
	if e.Errno == 0 {
		return e.What + ": the child was ended by signal " + strconv.Itoa(int(e.Signal)) + " (" + e.Signal.String() + ")"
	}
	if e.ExitCode() == 127 && !hasSlash(e.What) {
		return e.What + ": executable file not found in $PATH"
	}
	return e.What + ": " + e.Errno.Error()
}

// hasSlash tells a path from a name that was looked for. Package strings has it,
// too, and makes a monitor start later.
func hasSlash(s string) bool {
	for i := range len(s) {
		if s[i] == '/' {
			return true
		}
	}
	return false
}

// Unwrap returns the errno.
func (e *StepError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// ExitCode returns Docker's code for the failure: 127 if the program is not
// there, 126 if it cannot be executed, 125 for all before it.
func (e *StepError) ExitCode() int {
	switch {
	case e.Phase != PhaseExec:
		return 125
	case e.Errno == syscall.ENOENT:
		return 127
	}
	return 126
}

const pageSize = 4096

// page is the memory that child and parent share.
type page struct {
	at    uint32 // step being carried out, + 1
	step  uint32 // step that failed, + 1
	errno uint32
	pid   int32 // of the process that the fork step made
}

// Start carries out plan p with the descriptors in slots; -1 is none. It returns
// once the container's program runs, or, if the plan has a gate, once the child
// waits there. On failure no child is left.
//
// The kernel kills the child when the thread that called Start ends, because a
// container must not outlive its monitor: call it from a thread that lives as
// long (runtime.LockOSThread in main's goroutine), and Release likewise from any.
func Start(p *wire.Plan, slots *[wire.NumSlots]int) (*Proc, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	var f *fallback
	pageFD, how := -1, syscall.MAP_SHARED|syscall.MAP_ANON
	if os.Getenv(wire.InitEnv) == "exec" {
		var err error
		if f, err = newFallback(p); err != nil {
			return nil, err
		}
		defer f.close()
		pageFD, how = f.page, syscall.MAP_SHARED
	}
	mem, err := syscall.Mmap(pageFD, 0, pageSize, syscall.PROT_READ|syscall.PROT_WRITE, how)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	pr := &Proc{PidFD: -1, MntNS: -1, Master: -1, sync: -1, stage: -1, plan: p, pageMem: mem, page: (*page)(unsafe.Pointer(&mem[0]))}
	if err := pr.spawn(*slots, f); err != nil {
		pr.Close()
		return nil, err
	}
	if err := pr.follow(); err != nil {
		return nil, err
	}
	return pr, nil
}

// openNull opens the null device for a container's stream. Root in a container
// is root: by way of the stream it could change the mode of the host's device,
// so where we have the power to it gets a read-only mount of it. (An ordinary
// user lacks the power, and his container has none over the device.)
func openNull() (int, error) {
	path := "/dev/null"
	if twin, err := raw.ReadOnlyTwin(path); err == nil {
		defer func() { _ = syscall.Close(twin) }() // a handle
		path = "/proc/self/fd/" + strconv.Itoa(twin)
	}
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	return fd, nil
}

// spawn clones the child.
func (pr *Proc) spawn(slots [wire.NumSlots]int, f *fallback) error {
	null := -1
	for i := wire.SlotStdin; i <= wire.SlotStderr; i++ {
		if slots[i] >= 0 {
			continue
		}
		if null < 0 {
			var err error
			if null, err = openNull(); err != nil {
				return err
			}
			defer func() { _ = syscall.Close(null) }() // nothing was written
		}
		slots[i] = null
	}
	stage := false
	flags := pr.plan.CloneFlags
	for i := range pr.plan.Steps {
		if s := &pr.plan.Steps[i]; s.Op == wire.OpFork {
			stage, pr.forkAt = true, i
			flags |= s.Args[0].Value
		}
	}
	pr.mntns = flags&syscall.CLONE_NEWNS != 0

	// No other fork may happen while the child's end of the socket is open here:
	// its child would hold a copy, and the end of file that tells of a successful
	// execve would be late, for ever if that child waits at a gate.
	syscall.ForkLock.Lock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		syscall.ForkLock.Unlock()
		return os.NewSyscallError("socketpair", err)
	}
	slots[wire.SlotSync] = pair[1]
	if slots[wire.SlotConsole] < 0 {
		slots[wire.SlotConsole] = pair[1]
	}
	p := pr.plan
	if f != nil {
		p = f.plan(p, &slots)
	}
	m := newMachine(p, &slots, pr.page)
	if f != nil {
		m.own = int32(pr.plan.Prefix)
	}
	if f == nil { // the init closes nothing: what it needs is not in slots
		m.closeRest(&slots)
	}
	pid, errno := m.clone(uintptr(pr.plan.CloneFlags))
	_ = syscall.Close(pair[1]) // the child has it
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(m)
	pr.sync = pair[0]
	if errno != 0 {
		return os.NewSyscallError("clone", errno)
	}
	pr.PID = pid
	if stage {
		pr.stage = pid
		return nil
	}
	pr.open()
	return nil
}

// open takes the handles of the container's first process, as soon as its pid is
// known and before it can have changed what it is.
func (pr *Proc) open() {
	if pr.PidFD >= 0 {
		return
	}
	if fd, err := raw.PidfdOpen(pr.PID); err == nil {
		pr.PidFD = fd
	}
	if pr.mntns {
		// Without it everything works, only later.
		if fd, err := syscall.Open("/proc/"+strconv.Itoa(pr.PID)+"/ns/mnt", syscall.O_RDONLY|syscall.O_CLOEXEC, 0); err == nil {
			pr.MntNS = fd
		}
	}
}

// settle waits for the process that the fork step leaves behind, after which the
// pid of the one that goes on is known. That takes no longer than the fork.
func (pr *Proc) settle() {
	if pr.stage < 0 {
		return
	}
	if pr.page.pid != 0 || pr.page.step == 0 {
		reap(pr.stage)
		pr.stage = -1
		if pr.page.pid != 0 {
			pr.PID = int(pr.page.pid)
			pr.open()
		} else {
			pr.PID = 0 // it failed before it forked
		}
	}
}

// follow answers the child until it waits at the gate (nil, Gated) or has
// executed its program. If it fails, the child is gone and all is closed.
func (pr *Proc) follow() error {
	pr.Gated = false
	for {
		msg, fd, err := receive(pr.sync)
		if err != nil {
			pr.Abort()
			return os.NewSyscallError("recvmsg", err)
		}
		if msg != 0 && int(pr.page.at)-1 > pr.forkAt {
			pr.settle()
		}
		switch msg {
		case 0:
			return pr.finish()
		case wire.MsgConsole:
			pr.Master = fd
		case wire.MsgGate:
			pr.Gated = true
			return nil
		case wire.MsgMap:
			if err := pr.writeMaps(); err != nil {
				pr.Abort()
				return err
			}
			if err := pr.answer(); err != nil {
				pr.Abort()
				return err
			}
		}
	}
}

// Release opens the gate. It returns once the container's program runs.
func (pr *Proc) Release() error {
	if err := pr.answer(); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	} // a child that is gone has said why on the page, or follow finds the signal
	return pr.follow()
}

// Leave answers the gate and lets go of the child, which goes on by itself: what
// becomes of it this process does not hear.
func (pr *Proc) Leave() error {
	err := pr.answer()
	pr.Close()
	return err
}

func (pr *Proc) answer() error {
	for {
		err := syscall.Sendmsg(pr.sync, []byte{1}, nil, nil, syscall.MSG_NOSIGNAL)
		if err != syscall.EINTR {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// finish judges what the end of file on the socket means.
func (pr *Proc) finish() error {
	_ = syscall.Close(pr.sync) // a socket that was only read
	pr.sync = -1
	if pr.page.step == 0 {
		pr.settle()
	}
	failed, at := pr.page.step, pr.page.at
	if failed == 0 && at > 0 && int(at) <= len(pr.plan.Steps) && pr.plan.Steps[at-1].Final {
		pr.unmap()
		return nil
	}
	e := &StepError{Index: int(at) - 1, What: "start the child"}
	if failed != 0 {
		e.Index, e.Errno = int(failed)-1, syscall.Errno(pr.page.errno)
	}
	if e.Index >= 0 && e.Index < len(pr.plan.Steps) {
		s := &pr.plan.Steps[e.Index]
		e.What = pr.plan.Text(s.What)
		if s.Final {
			e.Phase = PhaseExec
		}
	} else if e.Index >= ownStep {
		e.What = "start the fallback init"
	} else if e.Errno != 0 {
		e.What = "the plan's end"
	}
	if status, ok := pr.abort(); ok && failed == 0 && status.Signaled() {
		e.Signal = status.Signal()
	}
	return e
}

// Abort kills the child, reaps it and closes everything.
func (pr *Proc) Abort() { _, _ = pr.abort() } // the status is of no use to a caller who killed it

func (pr *Proc) abort() (status syscall.WaitStatus, ok bool) {
	if pr.stage > 0 { // it may be about to fork: let it come to its end first
		pr.hangUp()
		status, ok = reap(pr.stage)
		pr.stage = -1
		pr.PID = int(pr.page.pid)
	}
	if pr.PID > 0 {
		// Our own unreaped child: the number cannot be another process's.
		_ = syscall.Kill(pr.PID, syscall.SIGKILL) // it may be dead already
		status, ok = reap(pr.PID)
	}
	pr.Close()
	return status, ok
}

func (pr *Proc) hangUp() {
	if pr.sync >= 0 {
		_ = syscall.Close(pr.sync) // nothing to flush
		pr.sync = -1
	}
}

// Close closes the descriptors. It does not end the process.
func (pr *Proc) Close() {
	pr.hangUp()
	for _, fd := range []*int{&pr.PidFD, &pr.MntNS, &pr.Master} {
		if *fd >= 0 {
			_ = syscall.Close(*fd) // handles only
			*fd = -1
		}
	}
	pr.unmap()
}

func (pr *Proc) unmap() {
	if pr.pageMem != nil {
		_ = syscall.Munmap(pr.pageMem) // it is ours, so this cannot fail
		pr.pageMem, pr.page = nil, nil
	}
}

func reap(pid int) (status syscall.WaitStatus, ok bool) {
	for {
		got, err := syscall.Wait4(pid, &status, 0, nil)
		if err != syscall.EINTR {
			return status, got == pid
		}
	}
}

// receive reads one byte, and a descriptor if there is one beside it. A byte of 0
// is the end of file.
func receive(sock int) (msg byte, fd int, err error) {
	var b [1]byte
	var oob [64]byte
	for {
		n, oobn, _, _, err := syscall.Recvmsg(sock, b[:], oob[:], syscall.MSG_CMSG_CLOEXEC)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.ECONNRESET: // the child died with a byte unread
			return 0, -1, nil
		case err != nil || n == 0:
			return 0, -1, err
		}
		fd = -1
		if oobn > 0 {
			if msgs, err := syscall.ParseSocketControlMessage(oob[:oobn]); err == nil && len(msgs) == 1 {
				if fds, err := syscall.ParseUnixRights(&msgs[0]); err == nil && len(fds) > 0 {
					fd = fds[0]
				}
			}
		}
		return b[0], fd, nil
	}
}

// inheritedNofile is what the child's prologue restores; zero for nothing.
func inheritedNofile(p *wire.Plan) [2]uint64 {
	if soft, hard, ok := nofile.Inherited(); ok && p.RestoreNofile {
		return [2]uint64{soft, hard}
	}
	return [2]uint64{}
}
