// Package sock holds the system calls of a relay: sockets by number, addresses
// that can be compared and are never allocated. A monitor is made of it.
package sock

import (
	"strconv"
	"syscall"
	"unsafe"
)

// Addr is an address with a port. IPv4 is in its mapped form.
type Addr struct {
	IP   [16]byte
	Port uint16
	V6   bool
}

// At returns the address of 4 or 16 bytes; anything else is 0.0.0.0.
func At(ip []byte, port uint16) Addr {
	a := Addr{Port: port}
	if len(ip) == 16 {
		copy(a.IP[:], ip)
		a.V6 = true
		return a
	}
	a.IP[10], a.IP[11] = 0xff, 0xff
	if len(ip) == 4 {
		copy(a.IP[12:], ip)
	}
	return a
}

// Bytes returns the 4 or 16 bytes of the address.
func (a *Addr) Bytes() []byte {
	if a.V6 {
		return a.IP[:]
	}
	return a.IP[12:]
}

// With returns the address with another port.
func (a Addr) With(port uint16) Addr {
	a.Port = port
	return a
}

// Is reports whether the address, whatever its port, is ip.
func (a *Addr) Is(ip []byte) bool { return string(a.Bytes()) == string(ip) }

// Unmapped returns ::ffff:a.b.c.d as the IPv4 address that it is.
func (a Addr) Unmapped() Addr {
	if a.V6 && a.Mapped() {
		a.V6 = false
	}
	return a
}

// Mapped reports whether an IPv6 address is a form of an IPv4 one.
func (a *Addr) Mapped() bool {
	for i := range 10 {
		if a.IP[i] != 0 {
			return false
		}
	}
	return a.IP[10] == 0xff && a.IP[11] == 0xff
}

// Loopback reports whether the address is this machine's own loopback.
func (a *Addr) Loopback() bool {
	if !a.V6 {
		return a.IP[12] == 127
	}
	return a.IP == [16]byte{15: 1}
}

// String returns the address as people write it; IPv6 without shortening.
func (a Addr) String() string {
	b := make([]byte, 0, 48)
	if a.V6 {
		b = append(b, '[')
		for i := 0; i < 16; i += 2 {
			if i > 0 {
				b = append(b, ':')
			}
			b = strconv.AppendUint(b, uint64(a.IP[i])<<8|uint64(a.IP[i+1]), 16)
		}
		b = append(b, ']')
	} else {
		for i := 12; i < 16; i++ {
			if i > 12 {
				b = append(b, '.')
			}
			b = strconv.AppendUint(b, uint64(a.IP[i]), 10)
		}
	}
	return string(strconv.AppendUint(append(b, ':'), uint64(a.Port), 10))
}

// Raw is a struct sockaddr_in or sockaddr_in6.
type Raw [28]byte

// Put writes the address as a struct and returns its length.
func (a *Addr) Put(r *Raw) uint32 {
	*r = Raw{2: byte(a.Port >> 8), 3: byte(a.Port)}
	if a.V6 {
		r[0] = syscall.AF_INET6
		copy(r[8:24], a.IP[:])
		return 28
	}
	r[0] = syscall.AF_INET
	copy(r[4:8], a.IP[12:])
	return 16
}

// Get reads the address from a struct. Of another family it is the zero Addr.
func (r *Raw) Get() Addr {
	port := uint16(r[2])<<8 | uint16(r[3])
	switch r[0] {
	case syscall.AF_INET:
		return At(r[4:8], port)
	case syscall.AF_INET6:
		return At(r[8:24], port)
	}
	return Addr{}
}

// Kind is a kind of socket that a relay uses.
type Kind uint8

// The kinds.
const (
	TCP4 Kind = iota
	TCP6
	UDP4
	UDP6
	Raw4 // whole IP packets, to be sent
	Raw6
	Kinds
)

// KindOf returns the kind for address a.
func KindOf(a *Addr, udp bool) Kind {
	k := TCP4
	if udp {
		k = UDP4
	}
	if a.V6 {
		k++
	}
	return k
}

// Open makes a socket of kind k in the calling thread's namespace that does not
// block.
func Open(k Kind) (int, error) {
	domain, typ, proto := syscall.AF_INET, syscall.SOCK_STREAM, 0
	if k == TCP6 || k == UDP6 || k == Raw6 {
		domain = syscall.AF_INET6
	}
	switch k {
	case UDP4, UDP6:
		typ = syscall.SOCK_DGRAM
	case Raw4, Raw6:
		typ, proto = syscall.SOCK_RAW, syscall.IPPROTO_RAW
	}
	fd, err := syscall.Socket(domain, typ|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, proto)
	if err == nil && (k == TCP6 || k == UDP6) {
		_ = Option(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 1) // a fresh socket takes it
	}
	return fd, err
}

// Option sets an option that is a number.
func Option(fd, level, name, value int) error {
	return syscall.SetsockoptInt(fd, level, name, value)
}

// Options of linux/in.h, in6.h, udp.h that package syscall lacks.
const (
	IPTransparent   = 19
	IPRecvOrigDst   = 20 // also the type of the control message
	IPv6RecvOrigDst = 74
	IPv6Transparent = 75
	UDPSegment      = 103
	UDPGRO          = 104
	SolUDP          = 17
	IPv6RecvPktinfo = 49
	IPv6Pktinfo     = 50
)

// Transparent lets the socket have addresses that are not this machine's.
func Transparent(fd int, v6 bool) error {
	if v6 {
		return Option(fd, syscall.IPPROTO_IPV6, IPv6Transparent, 1)
	}
	return Option(fd, syscall.IPPROTO_IP, IPTransparent, 1)
}

func errOf(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// Bind gives the socket an address.
func Bind(fd int, a *Addr) error {
	var r Raw
	n := a.Put(&r)
	_, _, errno := syscall.RawSyscall(syscall.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&r)), uintptr(n))
	return errOf(errno)
}

// Connect connects the socket; EINPROGRESS says that the answer is still to come.
func Connect(fd int, a *Addr) error {
	var r Raw
	n := a.Put(&r)
	for {
		_, _, errno := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&r)), uintptr(n))
		if errno != syscall.EINTR {
			return errOf(errno)
		}
	}
}

// Accept takes the next connection.
func Accept(fd int) (int, Addr, error) {
	var r Raw
	n := uint32(len(r))
	for {
		got, _, errno := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&r)), uintptr(unsafe.Pointer(&n)),
			syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return -1, Addr{}, errno
		}
		return int(got), r.Get(), nil
	}
}

// Name returns the socket's own address.
func Name(fd int) Addr {
	var r Raw
	n := uint32(len(r))
	_, _, errno := syscall.RawSyscall(syscall.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&r)), uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return Addr{}
	}
	return r.Get()
}

// Fault returns and clears the error of the socket.
func Fault(fd int) syscall.Errno {
	v, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
	if err != nil {
		return syscall.EBADF
	}
	return syscall.Errno(v)
}

// Read reads without telling the scheduler: the socket does not block.
func Read(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// Write writes to a socket that does not block. It raises no SIGPIPE.
func Write(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), syscall.MSG_NOSIGNAL, 0, 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// SendTo sends one packet to a.
func SendTo(fd int, b []byte, a *Addr) syscall.Errno {
	var r Raw
	n := a.Put(&r)
	for {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			syscall.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&r)), uintptr(n))
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// Splice moves up to n bytes between a pipe and a socket.
func Splice(in, out, n int) (int, syscall.Errno) {
	const move, nonblock = 1, 2
	for {
		got, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(in), 0, uintptr(out), 0, uintptr(n), move|nonblock)
		if errno != syscall.EINTR {
			return int(got), errno
		}
	}
}

// Message is a struct msghdr with one buffer.
type Message struct {
	Name    *Raw
	NameLen uint32
	_       uint32
	Iov     *syscall.Iovec
	IovLen  uint64
	Control *byte
	CtlLen  uint64
	Flags   int32
	_       int32
}

// Receive receives one packet.
func Receive(fd int, m *Message, flags int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(m)), uintptr(flags))
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// Send sends one packet.
func Send(fd int, m *Message) syscall.Errno {
	for {
		_, _, errno := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(m)), syscall.MSG_NOSIGNAL)
		if errno != syscall.EINTR {
			return errno
		}
	}
}

// Controls calls each with the control messages in b.
func Controls(b []byte, each func(level, typ int32, data []byte)) {
	const header = 16
	for len(b) >= header {
		n := *(*uint64)(unsafe.Pointer(unsafe.SliceData(b)))
		if n < header || n > uint64(len(b)) {
			return
		}
		each(*(*int32)(unsafe.Pointer(&b[8])), *(*int32)(unsafe.Pointer(&b[12])), b[header:n])
		b = b[min(int(n+7)&^7, len(b)):]
	}
}
