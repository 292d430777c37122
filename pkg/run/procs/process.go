package procs

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Process is what /proc says of one.
type Process struct {
	host *host

	pid     int
	comm    string
	args    []string
	state   string
	stat    []string // proc_pid_stat(5), from the third field on
	nspid   string   // in its own pid namespace
	uids    []string // real, effective, saved, file system
	gids    []string
	threads string
	locked  bool
}

// host is what all processes have in common.
type host struct {
	now    time.Time
	boot   time.Time
	memory uint64 // bytes
	users  map[string]string
	groups map[string]string
}

func newHost(now time.Time) *host {
	h := &host{now: now, users: map[string]string{}, groups: map[string]string{}}
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "btime "); ok {
				n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64) // the kernel wrote it
				h.boot = time.Unix(n, 0)
			}
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			n, _ := strconv.ParseUint(f[1], 10, 64) // the first line is MemTotal, in kB
			h.memory = n << 10
		}
	}
	return h
}

// name is a user's or group's name on this machine, its number if it has none.
func (h *host) name(cache map[string]string, id string, find func(string) (string, error)) string {
	name, ok := cache[id]
	if !ok {
		var err error
		if name, err = find(id); err != nil {
			name = id
		}
		if len(name) > 8 {
			name = name[:7] + "+"
		}
		cache[id] = name
	}
	return name
}

func (h *host) user(id string) string {
	return h.name(h.users, id, func(id string) (string, error) {
		u, err := user.LookupId(id)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func (h *host) group(id string) string {
	return h.name(h.groups, id, func(id string) (string, error) {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

func read(pid int) (*Process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, err
	}
	text := string(b)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return nil, errors.New("/proc/PID/stat is not what it was")
	}
	p := &Process{pid: pid, comm: printable(text[open+1 : end]), stat: strings.Fields(text[end+1:])}
	if len(p.stat) < 40 {
		return nil, errors.New("/proc/PID/stat is too short")
	}
	p.state = p.stat[0]
	if b, err = os.ReadFile(dir + "/cmdline"); err == nil && len(b) > 0 {
		p.args = strings.Split(printable(strings.TrimRight(string(b), "\x00")), "\x00")
	}
	if b, err = os.ReadFile(dir + "/status"); err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(value)
		if len(f) == 0 {
			continue
		}
		switch key {
		case "Uid":
			p.uids = f
		case "Gid":
			p.gids = f
		case "NSpid":
			p.nspid = f[len(f)-1]
		case "Threads":
			p.threads = f[0]
		case "VmLck":
			p.locked = f[0] != "0"
		}
	}
	if len(p.uids) < 4 || len(p.gids) < 4 {
		return nil, errors.New("/proc/PID/status is not what it was")
	}
	return p, nil
}

// field is field number n of proc_pid_stat(5).
func (p *Process) field(n int) string { return p.stat[n-3] }

func (p *Process) number(n int) int64 {
	v, _ := strconv.ParseInt(p.field(n), 10, 64) // the kernel wrote it
	return v
}

// tick is the length of the kernel's clock tick for programs: USER_HZ is 100 on
// every architecture of Go's linux.
const tick = 10 * time.Millisecond

func (p *Process) started() time.Time { return p.host.boot.Add(time.Duration(p.number(22)) * tick) }

func (p *Process) elapsed() time.Duration { return max(0, p.host.now.Sub(p.started())) }

func (p *Process) used() time.Duration { return time.Duration(p.number(14)+p.number(15)) * tick }

func (p *Process) cpu() float64 {
	if e := p.elapsed(); e > 0 {
		return float64(p.used()) / float64(e) * 100
	}
	return 0
}

func (p *Process) rss() int64 { return p.number(24) * int64(os.Getpagesize()) }

// tty is the name of the controlling terminal.
func (p *Process) tty() string {
	nr := p.number(7)
	major, minor := nr>>8&0xfff, nr&0xff|nr>>12&0xfff00
	switch {
	case nr == 0:
		return "?"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)<<8|minor)
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	case major == 4:
		return fmt.Sprintf("ttyS%d", minor-64)
	}
	return "?"
}

// flags are the letters behind the state in STAT.
func (p *Process) flags() string {
	s := p.state
	switch n := p.number(19); {
	case n < 0:
		s += "<"
	case n > 0:
		s += "N"
	}
	if p.locked {
		s += "L"
	}
	if p.field(6) == strconv.Itoa(p.pid) {
		s += "s"
	}
	if p.threads != "1" && p.threads != "" {
		s += "l"
	}
	if p.field(8) == p.field(5) {
		s += "+"
	}
	return s
}

// printable is what a process calls itself without what a terminal would obey, as ps
// shows it. What separates arguments stays.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != 0 && unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// command is the command line; what has none is a kernel's thread or a zombie.
func (p *Process) command() string {
	if len(p.args) == 0 {
		if p.state == "Z" {
			return "[" + p.comm + "] <defunct>"
		}
		return "[" + p.comm + "]"
	}
	return strings.Join(p.args, " ")
}

// clock is d as [DD-]HH:MM:SS.
func clock(d time.Duration) string {
	s := int(d / time.Second)
	text := fmt.Sprintf("%02d:%02d:%02d", s/3600%24, s/60%60, s%60)
	if days := s / 86400; days > 0 {
		return fmt.Sprintf("%d-%s", days, text)
	}
	return text
}

// elapsedClock is d as [[DD-]HH:]MM:SS.
func elapsedClock(d time.Duration) string {
	if d < time.Hour {
		s := int(d / time.Second)
		return fmt.Sprintf("%02d:%02d", s/60, s%60)
	}
	return clock(d)
}

// since is a moment as STIME has it.
func (h *host) since(t time.Time) string {
	t, now := t.Local(), h.now.Local()
	switch {
	case now.Sub(t) < 24*time.Hour && t.Day() == now.Day():
		return t.Format("15:04")
	case t.Year() == now.Year():
		return t.Format("Jan02")
	}
	return t.Format("2006")
}
