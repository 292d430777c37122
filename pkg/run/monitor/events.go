package monitor

import (
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/logs/jsonfile"
)

// tell appends an event of the container to the store's file: package events'
// lines, by hand. more are further attributes, name and value in turn, in plain
// ASCII.
func (m *monitor) tell(action string, more ...string) {
	if m.job.Events == "" {
		return
	}
	m.append(m.event(nil, action, more...))
}

// event appends one line to b.
func (m *monitor) event(b []byte, action string, more ...string) []byte {
	b = append(b, `{"Type":"container","Action":"`...)
	b = jsonfile.AppendString(b, []byte(action))
	b = append(b, `","Actor":{"ID":"`...)
	b = append(b, m.job.ID...)
	b = append(b, `","Attributes":{`...)
	b = append(b, m.job.EventAttrs...)
	if m.job.EventAttrs != "" {
		b = append(b, ',')
	}
	for i := 0; i+1 < len(more); i += 2 {
		b = append(b, '"')
		b = append(b, more[i]...)
		b = append(b, `":"`...)
		b = append(b, more[i+1]...)
		b = append(b, '"', ',')
	}
	b = append(b, `"name":"`...)
	b = append(b, m.job.Name...)
	b = append(b, `"}}`...)
	return stamp(b, m.now)
}

// heads appends lines that only lack their time.
func (m *monitor) heads(b []byte, heads []string) []byte {
	for _, h := range heads {
		b = append(b, h...)
		b = stamp(b, m.now)
	}
	return b
}

func stamp(b []byte, t time.Time) []byte {
	b = append(b, `,"time":`...)
	b = strconv.AppendInt(b, t.Unix(), 10)
	b = append(b, `,"timeNano":`...)
	b = strconv.AppendInt(b, t.UnixNano(), 10)
	return append(b, '}', '\n')
}

// append writes lines at once. Who reads events is not who runs containers: what
// cannot be written is lost.
func (m *monitor) append(b []byte) {
	fd, err := syscall.Open(m.job.Events, syscall.O_WRONLY|syscall.O_APPEND|syscall.O_CREAT|syscall.O_CLOEXEC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return
	}
	_, _ = syscall.Write(fd, b)
	_ = syscall.Close(fd) // nobody is to be told
}

// started tells that a run began, with what it makes of others.
func (m *monitor) started() {
	if m.job.Events != "" {
		m.append(m.event(m.heads(m.heads(nil, m.netStart), m.job.StartEvents), "start"))
	}
}

// died tells that a run ended.
func (m *monitor) died(code int, oom bool) {
	if m.job.Events == "" {
		return
	}
	var b []byte
	if oom {
		b = m.event(b, "oom")
	}
	ran := int(m.now.Sub(m.startedAt) / time.Second)
	b = m.event(b, "die", "exitCode", strconv.Itoa(code), "execDuration", strconv.Itoa(ran))
	m.append(m.heads(m.heads(b, m.netEnd), m.job.EndEvents))
}
