package sock

import (
	"net"
	"strconv"
	"syscall"
	"testing"
)

func TestAddr(t *testing.T) {
	for _, tt := range []struct {
		ip   string
		want string
	}{{"10.1.2.3", "10.1.2.3:53"}, {"fd00::1", "[fd00:0:0:0:0:0:0:1]:53"}} {
		ip := net.ParseIP(tt.ip)
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		a := At(ip, 53)
		if a.String() != tt.want || !a.Is(ip) || a.Loopback() {
			t.Errorf("%s: %s", tt.ip, a)
		}
		var r Raw
		a.Put(&r)
		if b := r.Get(); b != a {
			t.Errorf("%s became %s", a, b)
		}
	}
	m := At(net.ParseIP("::ffff:1.2.3.4").To16(), 1)
	if !m.Mapped() || m.Unmapped() != At([]byte{1, 2, 3, 4}, 1) {
		t.Errorf("%s", m)
	}
	for _, ip := range []string{"127.9.9.9", "::1"} {
		b := net.ParseIP(ip)
		if v4 := b.To4(); v4 != nil {
			b = v4
		}
		if a := At(b, 0); !a.Loopback() {
			t.Errorf("%s is no loopback", a)
		}
	}
}

func TestTalk(t *testing.T) {
	l, err := Open(TCP4)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(l)
	a := At([]byte{127, 0, 0, 1}, 0)
	if err := Bind(l, &a); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(l, 8); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Accept(l); err != syscall.EAGAIN {
		t.Errorf("nobody is there: %v", err)
	}
	to := Name(l)
	c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(int(to.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fd, from, err := Accept(l)
	if err != nil || from.String() != c.LocalAddr().String() {
		t.Fatalf("%s, %v; want %s", from, err, c.LocalAddr())
	}
	defer syscall.Close(fd)
	if n, errno := Write(fd, []byte("hello")); n != 5 || errno != 0 {
		t.Errorf("%d, %v", n, errno)
	}
	b := make([]byte, 9)
	if n, err := c.Read(b); n != 5 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	// A port where nobody listens.
	syscall.Close(l)
	x, err := Open(TCP4)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(x)
	if err := Connect(x, &to); err == syscall.EINPROGRESS {
		if Fault(x) == 0 {
			t.Error("connected to nobody")
		}
	} else if err != syscall.ECONNREFUSED {
		t.Errorf("connect: %v", err)
	}
}

func FuzzControls(f *testing.F) {
	f.Add([]byte{20, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 104, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0})
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		Controls(b, func(_, _ int32, data []byte) {
			if len(data) > len(b) {
				t.Error("longer than it was")
			}
		})
	})
}
