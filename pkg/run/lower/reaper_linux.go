package lower

import (
	"encoding/binary"
	"runtime"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
	"golang.org/x/sys/unix"
)

// With --init the container's first process is a reaper: it passes signals on to
// the program, collects the dead, and ends as the program ends. It is an ELF
// image of some 350 bytes that is written here instruction by instruction, put
// into a sealed memory file and executed from there. So /proc/1/exe shows neither
// a host's program nor anything that can be written to, there is nothing to
// install, and no second tool chain is needed to build it. (The plan's child
// itself could loop instead, but it is a copy of the monitor, and /proc/1/exe
// would be the whole of cais.)
//
// It is started with all signals blocked and the program's pid, four bytes, in a
// pipe at descriptor 0:
//
//	        read(0, &pid, 4); close(0); set = all
//	next:   sig = rt_sigtimedwait(&set)
//	        if sig <= 0 goto next
//	        if sig != SIGCHLD { kill(pid, sig); goto next }
//	reap:   got = wait4(-1, &status, WNOHANG)
//	        if got <= 0 goto next
//	        if got != pid goto reap
//	        exit_group(status & 0x7f != 0 ? 128 + (status & 0x7f) : status >> 8 & 0xff)
func reaperImage(arch string) ([]byte, bool) {
	switch arch {
	case "amd64":
		return elfImage(62, reaperAMD64()), true
	case "arm64":
		var code []byte
		for _, word := range reaperARM64() {
			code = binary.LittleEndian.AppendUint32(code, word)
		}
		return elfImage(183, code), true
	}
	return nil, false
}

func reaperAMD64() []byte {
	return []byte{
		0x48, 0x83, 0xec, 0x40, // sub rsp, 64
		0x31, 0xc0, // xor eax, eax: read
		0xbf, 0, 0, 0, 0, // mov edi, 0
		0x48, 0x89, 0xe6, // mov rsi, rsp
		0xba, 4, 0, 0, 0, // mov edx, 4
		0x0f, 0x05, // syscall
		0x44, 0x8b, 0x24, 0x24, // mov r12d, [rsp]: pid
		0xb8, 3, 0, 0, 0, // mov eax, close
		0xbf, 0, 0, 0, 0, // mov edi, 0
		0x0f, 0x05, // syscall
		0x48, 0xc7, 0x04, 0x24, 0xff, 0xff, 0xff, 0xff, // mov qword [rsp], -1: set
		// next:
		0xb8, 0x80, 0, 0, 0, // mov eax, rt_sigtimedwait
		0x48, 0x89, 0xe7, // mov rdi, rsp
		0x31, 0xf6, // xor esi, esi
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
		0x0f, 0x05, // syscall
		0x85, 0xc0, // test eax, eax
		0x7e, 0xe8, // jle next
		0x83, 0xf8, 0x11, // cmp eax, SIGCHLD
		0x74, 0x0e, // je reap
		0x89, 0xc6, // mov esi, eax
		0x44, 0x89, 0xe7, // mov edi, r12d
		0xb8, 0x3e, 0, 0, 0, // mov eax, kill
		0x0f, 0x05, // syscall
		0xeb, 0xd5, // jmp next
		// reap:
		0xb8, 0x3d, 0, 0, 0, // mov eax, wait4
		0xbf, 0xff, 0xff, 0xff, 0xff, // mov edi, -1
		0x48, 0x8d, 0x74, 0x24, 8, // lea rsi, [rsp+8]: status
		0xba, 1, 0, 0, 0, // mov edx, WNOHANG
		0x45, 0x31, 0xd2, // xor r10d, r10d
		0x0f, 0x05, // syscall
		0x85, 0xc0, // test eax, eax
		0x7e, 0xb8, // jle next
		0x44, 0x39, 0xe0, // cmp eax, r12d
		0x75, 0xde, // jne reap
		0x8b, 0x7c, 0x24, 8, // mov edi, [rsp+8]
		0x89, 0xfe, // mov esi, edi
		0x83, 0xe6, 0x7f, // and esi, 0x7f
		0x74, 0x08, // je exited
		0x8d, 0xbe, 0x80, 0, 0, 0, // lea edi, [rsi+128]
		0xeb, 0x09, // jmp exit
		// exited:
		0xc1, 0xef, 8, // shr edi, 8
		0x81, 0xe7, 0xff, 0, 0, 0, // and edi, 0xff
		// exit:
		0xb8, 0xe7, 0, 0, 0, // mov eax, exit_group
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp exit
	}
}

func reaperARM64() []uint32 {
	return []uint32{
		0xd10103ff, // sub sp, sp, #64
		0xd2800000, // mov x0, #0
		0x910003e1, // mov x1, sp
		0xb27e03e2, // mov x2, #4
		0xb24017e8, // mov x8, #63: read
		0xd4000001, // svc #0
		0xb94003f3, // ldr w19, [sp]: pid
		0xd2800000, // mov x0, #0
		0xd2800728, // mov x8, #57: close
		0xd4000001, // svc #0
		0x92800000, // mov x0, #-1
		0xf90003e0, // str x0, [sp]: set
		// next:
		0x910003e0, // mov x0, sp
		0xaa1f03e1, // mov x1, xzr
		0xaa1f03e2, // mov x2, xzr
		0xb27d03e3, // mov x3, #8
		0xd2801128, // mov x8, #137: rt_sigtimedwait
		0xd4000001, // svc #0
		0x7100001f, // cmp w0, #0
		0x54ffff2d, // b.le next
		0x7100441f, // cmp w0, #17: SIGCHLD
		0x540000c0, // b.eq reap
		0x93407c01, // sxtw x1, w0
		0x93407e60, // sxtw x0, w19
		0xd2801028, // mov x8, #129: kill
		0xd4000001, // svc #0
		0x17fffff2, // b next
		// reap:
		0x92800000, // mov x0, #-1
		0x910023e1, // add x1, sp, #8: status
		0xb24003e2, // mov x2, #1: WNOHANG
		0xaa1f03e3, // mov x3, xzr
		0xd2802088, // mov x8, #260: wait4
		0xd4000001, // svc #0
		0x7100001f, // cmp w0, #0
		0x54fffd4d, // b.le next
		0x6b13001f, // cmp w0, w19
		0x54fffee1, // b.ne reap
		0xb9400be0, // ldr w0, [sp, #8]
		0x72001801, // ands w1, w0, #0x7f
		0x54000060, // b.eq exited
		0x11020020, // add w0, w1, #128
		0x14000002, // b exit
		// exited:
		0x53083c00, // ubfx w0, w0, #8, #8
		// exit:
		0xd2800bc8, // mov x8, #94: exit_group
		0xd4000001, // svc #0
		0x17fffffe, // b exit
	}
}

// elfImage returns a static program of one segment: headers and code. Its stack
// is not executable.
func elfImage(machine uint16, code []byte) []byte {
	const base, header, program = 0x400000, 64, 56
	const size = header + 2*program
	le := binary.LittleEndian
	b := append(make([]byte, 0, size+len(code)), 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, v := range []uint16{2, machine} { // ET_EXEC
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1)
	for _, v := range []uint64{base + size, header, 0} { // entry, program headers, no sections
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{header, program, 2, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	total := uint64(size + len(code))
	const load, gnuStack, readWrite, readExec = 1, 0x6474e551, 6, 5
	b = le.AppendUint32(le.AppendUint32(b, load), readExec)
	for _, v := range []uint64{0, base, base, total, total, 0x1000} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(le.AppendUint32(b, gnuStack), readWrite)
	for _, v := range []uint64{0, 0, 0, 0, 0, 16} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}

// reaper are the descriptors that the reaper is started with.
type reaper struct{ image, pipeRead, pipeWrite wire.Arg }

// openReaper makes the memory file and the pipe, while opening is still free.
func (b *builder) openReaper() error {
	image, ok := reaperImage(runtime.GOARCH)
	if !ok {
		return errs.New(errs.Unsupported, "--init is not supported on "+runtime.GOARCH)
	}
	const what = "make the init process"
	const name = "cais-init"
	r := &b.reap
	r.image, r.pipeRead, r.pipeWrite = b.NewReg(), b.NewReg(), b.NewReg()
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	b.Call(what, unix.SYS_MEMFD_CREATE, name, flags|unix.MFD_EXEC).Expect(uint16(unix.EINVAL)).To(r.image)
	made := b.Jump(wire.OpJumpNe, r.image, -int(unix.EINVAL)) // before Linux 6.3 there was no such flag
	b.Call(what, unix.SYS_MEMFD_CREATE, name, flags).To(r.image)
	b.Land(made)
	b.Call(what, unix.SYS_WRITE, r.image, b.Bytes(image), len(image))
	b.Call(what, unix.SYS_FCHMOD, r.image, 0o555)
	b.Call(what, unix.SYS_FCNTL, r.image, unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	fds := b.Bytes(make([]byte, 8))
	b.Call(what, unix.SYS_PIPE2, fds, unix.O_CLOEXEC)
	b.Do(wire.OpLoad, what, 0, fds, 4).To(r.pipeRead)
	b.Do(wire.OpLoad, what, 0, fds.Plus(4), 4).To(r.pipeWrite)
	return nil
}

// startReaper forks: this process becomes the reaper, and its child goes on to be
// the program, in a process group of its own, so that what the terminal sends
// reaches it once.
func (b *builder) startReaper() {
	const what = "start the init process"
	all, none := b.Words(wire.Num(-1)), b.Words(wire.Num(0))
	pid, mem := b.NewReg(), b.Words(wire.Num(0))
	b.Call(what, unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1) // where the pid namespace is shared
	b.Call(what, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, all, 0, 8)
	b.Call(what, unix.SYS_CLONE, int(unix.SIGCHLD)).To(pid)
	child := b.Jump(wire.OpJumpEq, pid, 0)
	b.Do(wire.OpStore, what, 0, mem, pid, 4)
	b.Call(what, unix.SYS_WRITE, b.reap.pipeWrite, mem, 4)
	b.Call(what, unix.SYS_DUP3, b.reap.pipeRead, 0, 0)
	b.Call(what, unix.SYS_EXECVEAT, b.reap.image, "", b.Texts(append([]string{"cais-init", "--"}, b.proc.Args...)), b.Texts(nil), unix.AT_EMPTY_PATH).Final = true
	b.Land(child)
	b.Call(what, unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL))
	b.Call(what, unix.SYS_SETPGID, 0, 0)
	if b.proc.Terminal {
		b.Call(what, unix.SYS_GETPID).To(pid)
		b.Do(wire.OpStore, what, 0, mem, pid, 4)
		b.Call(what, unix.SYS_IOCTL, 0, unix.TIOCSPGRP, mem)
	}
	b.Call(what, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, none, 0, 8)
}
