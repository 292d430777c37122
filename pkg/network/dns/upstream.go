package dns

import (
	"syscall"
	"time"

	"cais.dev/cais/pkg/network/sock"
)

// upstream is who is asked: the user's servers, or this machine's, which change as
// a VPN comes and goes.
type upstream struct {
	path    string // of resolv.conf; not looked at if there are servers of the user's
	inside  bool   // they are asked from the container's side
	servers []sock.Addr

	looked time.Time
	stamp  [3]int64 // inode, and time of the change, of the file
	chosen int      // who answered last
	until  time.Time
}

// refresh reads the file again if it is another one; it looks once a second at
// most.
func (u *upstream) refresh(now time.Time) {
	if u.inside || !u.looked.IsZero() && now.Sub(u.looked) < time.Second {
		return
	}
	u.looked = now
	var st syscall.Stat_t
	if syscall.Stat(u.path, &st) != nil {
		return // it comes back, or what was in it is still good
	}
	stamp := [3]int64{int64(st.Ino), st.Mtim.Sec, st.Mtim.Nsec}
	if stamp == u.stamp {
		return
	}
	fd, err := syscall.Open(u.path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	var b [16 << 10]byte
	n, err := syscall.Read(fd, b[:])
	_ = syscall.Close(fd) // only read
	if err != nil {
		return
	}
	u.stamp, u.servers, u.chosen = stamp, nameservers(b[:max(n, 0)]), 0
}

// best is the server to ask first: the first of the list, but for a while after it
// did not answer the one that did.
func (u *upstream) best(now time.Time) int {
	if u.chosen < len(u.servers) && now.Before(u.until) {
		return u.chosen
	}
	return 0
}

// good notes who answered.
func (u *upstream) good(i int, now time.Time) {
	if i != u.chosen || i != 0 {
		u.chosen, u.until = i, now.Add(30*time.Second)
	}
}

// nameservers are those of a resolv.conf. One with a zone, or that is none, is
// left out; no more than eight are asked.
func nameservers(text []byte) []sock.Addr {
	var all []sock.Addr
	for len(text) > 0 && len(all) < 8 {
		line := text
		for i, c := range text {
			if c == '\n' {
				line = text[:i]
				break
			}
		}
		text = text[min(len(line)+1, len(text)):]
		word, rest := field(line)
		if string(word) != "nameserver" {
			continue
		}
		word, _ = field(rest)
		if ip := parseIP(string(word)); ip != nil {
			all = append(all, sock.At(ip, 53))
		}
	}
	return all
}

// field is the first word of a line, and what follows it.
func field(line []byte) (word, rest []byte) {
	i := 0
	for i < len(line) && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r') {
		i++
	}
	k := i
	for k < len(line) && line[k] != ' ' && line[k] != '\t' && line[k] != '\r' {
		k++
	}
	return line[i:k], line[k:]
}
