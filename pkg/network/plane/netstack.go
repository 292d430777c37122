package plane

import (
	"os"
	"syscall"
	"unsafe"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network/gateway"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/relay"
	"cais.dev/cais/pkg/run/wire"
)

// useStack prepares the engine for kernels that cannot relay: cais-netstack, which
// speaks TCP itself on packet sockets.
func (p *Plane) useStack() (err error) {
	if p.net.Program == "" {
		return errs.WithHint(errs.New(errs.Unsupported, "cais-netstack is not installed"), "It belongs beside the program cais.")
	}
	p.net.Engine = Netstack
	if p.gw, err = gateway.Open(p.net.Dir, gateway.Plain); err != nil {
		return err
	}
	p.r = relay.New(p.config(hostSockets, false)) // it has nothing to do
	for i := range p.net.Ports {
		fd := p.take(p.net.Ports[i].Socket)
		if fd < 0 {
			return errs.New(errs.Internal, "wire: a published port without its socket")
		}
		p.ports = append(p.ports, fd)
	}
	return nil
}

// packets opens a socket for the frames that the container at the device name
// sends to the gateway, on the thread of the gateway's namespace. Of what goes to
// all, questions for a neighbour's hardware address stay away from the stack: it
// would say that each is its own.
func packets(name string, w *wire.Interface) (int, error) {
	const (
		afPacket, solPacket      = 17, 263
		vnetHeader, ignoreOwn    = 15, 23
		attachFilter, rcvbuf     = 26, 8 << 20
		ethAll, arp, ipv6        = 3, 0x0806, 0x86dd
		icmpv6, solicitation     = 58, 135
		ldb, ldh, ldw, jset, jeq = 0x30, 0x28, 0x20, 0x45, 0x15
		ret                      = 0x06
	)
	mac := bridgeMAC(w)
	var gw4 [4]byte
	var gw6 [16]byte
	copy(gw4[:], w.Gateway4)
	copy(gw6[:], w.Gateway6)
	word := func(b []byte) uint32 { return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]) }
	index, err := netlink.Index(name)
	if err != nil {
		return -1, err
	}
	fd, err := syscall.Socket(afPacket, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket(AF_PACKET)", err)
	}
	type insn struct {
		code   uint16
		jt, jf uint8
		k      uint32
	}
	filter := []insn{
		{ldb, 0, 0, 0}, {jset, 4, 0, 1}, // to all
		{ldw, 0, 0, 0}, {jeq, 0, 16, word(mac)},
		{ldh, 0, 0, 4}, {jeq, 13, 14, uint32(mac[4])<<8 | uint32(mac[5])},
		{ldh, 0, 0, 12}, {jeq, 0, 2, arp},
		{ldw, 0, 0, 38}, {jeq, 9, 10, word(gw4[:])},
		{jeq, 0, 8, ipv6}, {ldb, 0, 0, 20}, {jeq, 0, 6, icmpv6}, {ldb, 0, 0, 54}, {jeq, 0, 4, solicitation},
		{ldw, 0, 0, 70}, {jeq, 0, 3, word(gw6[8:])}, {ldw, 0, 0, 74}, {jeq, 0, 1, word(gw6[12:])},
		{ret, 0, 0, 1 << 18}, {ret, 0, 0, 0},
	}
	prog := struct {
		n uint16
		_ [6]byte
		p *insn
	}{n: uint16(len(filter)), p: &filter[0]}
	_, _, errno := syscall.Syscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), syscall.SOL_SOCKET, attachFilter, uintptr(unsafe.Pointer(&prog)), 16, 0)
	if errno == 0 {
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, rcvbuf) // as far as the host allows
		if err := syscall.SetsockoptInt(fd, solPacket, vnetHeader, 1); err != nil {
			errno = err.(syscall.Errno)
		}
	}
	if errno == 0 {
		_ = syscall.SetsockoptInt(fd, solPacket, ignoreOwn, 1) // Linux 4.20; the stack overlooks its own frames
		at := [20]byte{afPacket, 0, 0, ethAll, byte(index), byte(index >> 8), byte(index >> 16), byte(index >> 24)}
		_, _, errno = syscall.Syscall(syscall.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&at)), uintptr(len(at)))
	}
	if errno != 0 {
		_ = syscall.Close(fd) // unused
		return -1, os.NewSyscallError("packet socket", errno)
	}
	return fd, nil
}

// startStack starts the program for the container that is there.
func (p *Plane) startStack() error {
	job, err := memfd(wire.Marshal(&p.net))
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(job) }() // a copy is the program's
	var ready [2]int
	if err := syscall.Pipe2(ready[:], syscall.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer func() { _ = syscall.Close(ready[0]) }() // only read
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	defer func() { _ = syscall.Close(null) }() // nothing is written
	files := []uintptr{uintptr(null), uintptr(ready[1]), uintptr(ready[1]), uintptr(job)}
	for _, i := range p.ifs {
		files = append(files, uintptr(i.packets))
	}
	for _, fd := range p.ports {
		files = append(files, uintptr(fd))
	}
	pid, err := syscall.ForkExec(p.net.Program, []string{"cais-netstack"}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=2"}, Files: files, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	_ = syscall.Close(ready[1]) // the program has it
	for _, i := range p.ifs {
		p.l.Close(&i.packets)
	}
	if err != nil {
		return &os.PathError{Op: "fork/exec", Path: p.net.Program, Err: err}
	}
	p.stack = pid
	var b [512]byte
	n, err := syscall.Read(ready[0], b[:])
	if err == nil && n > 0 && b[0] == 1 {
		return nil
	}
	p.stopStack()
	text := "cais-netstack ended"
	if n > 0 {
		text = string(b[:n])
	}
	return errs.New(errs.Internal, text)
}

// stopStack ends the program.
func (p *Plane) stopStack() {
	if p.stack <= 0 {
		return
	}
	_ = syscall.Kill(p.stack, syscall.SIGKILL) // our own child, not reaped
	for {
		_, err := syscall.Wait4(p.stack, nil, 0, nil)
		if err != syscall.EINTR { //nolint:errorlint // a system call's own errno
			break
		}
	}
	p.stack = 0
}

// memfd returns a file in memory that holds b, at its start.
func memfd(b []byte) (int, error) {
	name := [4]byte{'n', 'e', 't'}
	fd, _, errno := syscall.Syscall(sysMemfdCreate, uintptr(unsafe.Pointer(&name)), 1, 0) // MFD_CLOEXEC
	if errno != 0 {
		return -1, os.NewSyscallError("memfd_create", errno)
	}
	if n, err := syscall.Pwrite(int(fd), b, 0); err != nil || n < len(b) {
		_ = syscall.Close(int(fd)) // unused
		return -1, os.NewSyscallError("write", err)
	}
	return int(fd), nil
}

// remembered reports whether a relay has been found to be impossible on this
// machine, and remember notes it, until the next boot.
func remembered(dir string) bool {
	text, err := os.ReadFile(dir + "/engine")
	return err == nil && string(text) == Netstack
}

func remember(dir string) {
	fd, err := syscall.Open(dir+"/engine", syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return // the next one tries again
	}
	_, _ = syscall.Write(fd, []byte(Netstack)) // likewise
	_ = syscall.Close(fd)                      // likewise
}
