package connect

import (
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
)

// firstInherited is the first descriptor of sd_listen_fds(3).
const firstInherited = 3

// inherited is a bound socket that whoever started this process has passed on, by
// LISTEN_FDS.
type inherited struct {
	fd    int
	proto string
	at    netip.AddrPort
	both  bool // of IPv6, and for IPv4 clients, too
}

// sockets reads the inherited sockets once: nobody else is to get them from us.
func (s *Service) sockets() []inherited {
	s.inherit.Do(func() {
		if pid, err := strconv.Atoi(s.env("LISTEN_PID")); err != nil || pid != os.Getpid() {
			return
		}
		n, err := strconv.Atoi(s.env("LISTEN_FDS"))
		if err != nil || n < 1 || n > 4096 {
			return
		}
		s.inherited = inheritedFrom(firstInherited, n)
	})
	return s.inherited
}

// inheritedFrom looks at n descriptors. What is no bound socket is left alone.
func inheritedFrom(first, n int) []inherited {
	var list []inherited
	for fd := first; fd < first+n; fd++ {
		at, err := syscall.Getsockname(fd)
		if err != nil {
			continue
		}
		syscall.CloseOnExec(fd)
		kind, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE)
		if err != nil {
			continue
		}
		in := inherited{fd: fd}
		switch listens, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN); {
		case kind == syscall.SOCK_STREAM && err == nil && listens == 1:
			in.proto = "tcp"
		case kind == syscall.SOCK_DGRAM:
			in.proto = "udp"
		default:
			continue
		}
		switch at := at.(type) {
		case *syscall.SockaddrInet4:
			in.at = netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))
		case *syscall.SockaddrInet6:
			in.at = netip.AddrPortFrom(netip.AddrFrom16(at.Addr), uint16(at.Port))
			only, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY)
			in.both = err == nil && only == 0 && at.Addr == [16]byte{}
		default:
			continue
		}
		list = append(list, in)
	}
	return list
}

// passed returns a copy of the inherited socket at an address; nil if there is none.
// covered says that the one for all IPv6 addresses takes IPv4 clients of this port, too.
func passed(list []inherited, proto string, host netip.Addr, port int) (f *os.File, covered bool, err error) {
	for _, in := range list {
		if in.proto != proto || port == 0 || int(in.at.Port()) != port {
			continue
		}
		if in.at.Addr() == host {
			var fd uintptr
			var errno syscall.Errno
			if fd, _, errno = syscall.Syscall(syscall.SYS_FCNTL, uintptr(in.fd), syscall.F_DUPFD_CLOEXEC, 0); errno != 0 {
				return nil, false, os.NewSyscallError("fcntl", errno)
			}
			return os.NewFile(fd, "port "+strconv.Itoa(port)), false, nil
		}
		covered = covered || in.both && host == netip.IPv4Unspecified()
	}
	return nil, covered, nil
}

// inheritance is what a Service remembers of them.
type inheritance struct {
	inherit   sync.Once
	inherited []inherited
}
