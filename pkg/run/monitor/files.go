package monitor

import (
	"os"
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/logs/jsonfile"
	"cais.dev/cais/pkg/run/wire"
)

// exit is what exit.json says: package container's Exit, by hand.
type exit struct {
	code              int
	oom               bool
	err               string
	started, finished time.Time
	restarts          int
}

// json returns the record. A test of package container's type reads it back.
func (e exit) json() []byte {
	b := []byte(`{"v":1,"code":`)
	b = strconv.AppendInt(b, int64(e.code), 10)
	if e.oom {
		b = append(b, `,"oomKilled":true`...)
	}
	if e.err != "" {
		b = append(b, `,"error":"`...)
		b = jsonfile.AppendString(b, []byte(e.err))
		b = append(b, '"')
	}
	b = append(b, `,"startedAt":"`...)
	b = e.started.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","finishedAt":"`...)
	b = e.finished.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	if e.restarts > 0 {
		b = append(b, `,"restarts":`...)
		b = strconv.AppendInt(b, int64(e.restarts), 10)
	}
	return append(b, '}')
}

// keepRoom makes a draft of exit.json, so that a disk that has filled up until the
// container ends does not lose how it ended.
func (m *monitor) keepRoom() {
	if m.job.AutoRemove { // nobody will ask
		return
	}
	if temp, err := draft(m.job.Dir, "exit.json", make([]byte, 512)); err != nil {
		_ = syscall.Unlink(temp) // then its writing tells
	}
}

// writeExit replaces exit.json. It is made durable later, when nobody waits.
func (m *monitor) writeExit(e exit) {
	if err := replace(m.job.Dir, "exit.json", e.json()); err != nil {
		m.note(err.Error())
	}
}

// state is what state.json says: package container's State, by hand.
type state struct {
	status             string
	pid, monitor       int
	pidStart, monitor0 uint64
	boot               string
	started            time.Time
	restarts           int
	execs              []string
}

func (s state) json() []byte {
	b := []byte(`{"v":1,"status":"`)
	b = append(b, s.status...)
	b = append(b, `","pid":`...)
	b = strconv.AppendInt(b, int64(s.pid), 10)
	b = append(b, `,"pidStart":`...)
	b = strconv.AppendUint(b, s.pidStart, 10)
	b = append(b, `,"monitorPID":`...)
	b = strconv.AppendInt(b, int64(s.monitor), 10)
	b = append(b, `,"monitorStart":`...)
	b = strconv.AppendUint(b, s.monitor0, 10)
	b = append(b, `,"bootID":"`...)
	b = append(b, s.boot...)
	b = append(b, `","startedAt":"`...)
	b = s.started.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","restartCount":`...)
	b = strconv.AppendInt(b, int64(s.restarts), 10)
	before := `,"execs":["`
	for _, id := range s.execs {
		b = append(append(b, before...), id...)
		before = `","`
	}
	if len(s.execs) > 0 {
		b = append(b, `"]`...)
	}
	return append(b, '}')
}

// writeState replaces state.json, which a reboot takes away. That it failed is noted.
func (m *monitor) writeState(status string) error {
	if m.bootID == "" {
		m.bootID, _ = readSmall("/proc/sys/kernel/random/boot_id") // without it nobody signals by pid
	}
	s := state{status: status, monitor: os.Getpid(), monitor0: m.pidStart, boot: m.bootID, started: m.startedAt, restarts: m.restarts}
	if m.main != nil {
		s.pid, s.pidStart = m.main.pid, startTime(m.main.pid)
	}
	for _, e := range m.execs {
		if e.id != "" {
			s.execs = append(s.execs, e.id)
		}
	}
	err := replace(m.job.RunDir, "state.json", s.json())
	if err != nil {
		m.note(err.Error())
	}
	return err
}

// writeExecs is writeState once an exec has begun or ended.
func (m *monitor) writeExecs(p *proc) {
	switch {
	case p.id == "" || m.main == nil: // a probe; or all have ended, and what comes now is written by itself
	case m.paused:
		_ = m.writeState("paused") // noted
	default:
		_ = m.writeState("running") // noted
	}
}

// settings reads what concerns a monitor from the text of settings.json: whether
// the user stopped the container, and the restart policy, which may have changed
// since the start. The text is written by package container: keys are unique, and
// no name can hold a quotation mark.
func settings(text []byte, was wire.Restart) (byUser bool, now wire.Restart) {
	s := string(text)
	now = was
	if v, ok := after(s, `"stoppedByUser"`); ok {
		byUser = hasPrefix(v, "true")
	}
	v, ok := after(s, `"restart"`)
	if !ok || !hasPrefix(v, "{") {
		return byUser, now
	}
	v, _, _ = cut(v, "}")
	if n, ok := after(v, `"name"`); ok && hasPrefix(n, `"`) {
		now = wire.Restart{}
		now.Name, _, _ = cut(n[1:], `"`)
	}
	if n, ok := after(v, `"max"`); ok {
		now.Max, _ = strconv.Atoi(digits(n)) // digits only; too many of them are no limit
	}
	return byUser, now
}

// running returns the process, and its start time, of which the text of another
// container's state.json says that it runs; -1 if it says no such thing.
func running(text string) (pid int, start uint64) {
	status, _ := after(text, `"status"`)
	p, ok := after(text, `"pid"`)
	s, _ := after(text, `"pidStart"`)
	if !ok || !hasPrefix(status, `"running"`) && !hasPrefix(status, `"paused"`) {
		return -1, 0
	}
	pid, _ = strconv.Atoi(digits(p)) // digits only
	start, _ = strconv.ParseUint(digits(s), 10, 64)
	return pid, start
}

// digits returns the number that s begins with.
func digits(s string) string {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	return s[:end]
}

// rename takes the container's present name from the text of settings.json,
// where it is the first thing called so.
func (m *monitor) rename(text []byte) {
	if n, ok := after(string(text), `"name"`); ok && hasPrefix(n, `"`) {
		m.job.Name, _, _ = cut(n[1:], `"`)
	}
}

// after returns what follows key and its colon. The same text without a colon is
// a value: a container may be called "restart".
func after(s, key string) (string, bool) {
	for {
		_, v, ok := cut(s, key)
		if !ok {
			return "", false
		}
		if rest := trimLeft(v); hasPrefix(rest, ":") {
			return trimLeft(rest[1:]), true
		}
		s = v
	}
}

// replace replaces a file of ours in dir, whose only writer we are while we hold
// alive. It is package atomicfile's Write without package os's files, which
// would bring the runtime's own epoll along, and without path/filepath.
func replace(dir, name string, data []byte) error {
	temp, err := draft(dir, name, data)
	if err == nil {
		err = syscall.Rename(temp, dir+"/"+name)
	}
	if err != nil {
		_ = syscall.Unlink(temp) // the first error tells
		return &os.PathError{Op: "write", Path: dir + "/" + name, Err: err}
	}
	return nil
}

// draft writes what is to replace a file. The room that an older draft has is used,
// not given back: on a full disk there may be no other.
func draft(dir, name string, data []byte) (temp string, err error) {
	temp = dir + "/." + name + ".monitor"
	fd, err := syscall.Open(temp, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return temp, err
	}
	n, err := again(func() (int, error) { return syscall.Write(fd, data) })
	if err == nil && n < len(data) {
		err = syscall.ENOSPC
	}
	if err == nil {
		err = syscall.Ftruncate(fd, int64(n))
	}
	if e := syscall.Close(fd); err == nil {
		err = e
	}
	return temp, err
}
