package monitor

import (
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/logs/jsonfile"
	"cais.dev/cais/pkg/run/wire"
)

// health is how the container does, as its probes find.
type health struct {
	status string // starting, healthy, unhealthy; "": nobody probes
	streak int    // failures in a row
	log    []probed
	nextAt time.Time // zero: none is due
	probe  *proc     // running; nil: none
	killAt time.Time // of the running probe
	began  time.Time
	late   bool // it was killed for being late
	output []byte
}

// probed is the outcome of one probe.
type probed struct {
	began, ended time.Time
	code         int
	output       string
}

const (
	maxOutput = 4096 // bytes of a probe's output that are kept
	maxProbes = 5    // probes that are kept
)

// beginHealth starts over with a run of the container.
func (m *monitor) beginHealth() {
	if m.job.Health.Retries == 0 {
		return
	}
	m.health = health{status: "starting"}
	m.health.nextAt = m.now.Add(m.probeInterval())
	m.writeHealth()
}

// probeInterval is the pause before the next probe.
func (m *monitor) probeInterval() time.Duration {
	h := m.job.Health
	if m.health.status == "starting" && m.now.Sub(m.startedAt) < time.Duration(h.StartPeriod) {
		return time.Duration(h.StartInterval)
	}
	return time.Duration(h.Interval)
}

// checkHealth starts a probe that is due, and ends one that takes too long.
func (m *monitor) checkHealth() {
	h := &m.health
	if m.paused || m.main == nil {
		return
	}
	if h.probe != nil && !h.killAt.IsZero() && !m.now.Before(h.killAt) {
		h.killAt, h.late = time.Time{}, true
		h.probe.signal(syscall.SIGKILL)
	}
	if h.probe != nil || h.nextAt.IsZero() || m.now.Before(h.nextAt) {
		return
	}
	h.begin(m.now)
	p, err := m.startProbe()
	if err != nil {
		h.output = append(h.output, err.Error()...)
		m.probeEnded(failure(err).Code)
		return
	}
	m.probes(p)
	m.execs = append(m.execs, p)
	p.watch()
}

// begin forgets the probe before.
func (h *health) begin(now time.Time) {
	h.nextAt, h.began, h.late, h.output = time.Time{}, now, false, h.output[:0]
}

// probes makes p the probe that runs.
func (m *monitor) probes(p *proc) {
	p.probe, m.health.probe = true, p
	m.health.killAt = m.now.Add(time.Duration(m.job.Health.Timeout))
}

func (m *monitor) startProbe() (*proc, error) {
	job, unmap, err := readJob(m.jobFD)
	if err != nil {
		return nil, err
	}
	defer unmap()
	plan, err := wire.UnmarshalPlan(job.Health.Plan)
	if err != nil {
		return nil, err
	}
	var slots [wire.NumSlots]int
	for i := range slots {
		slots[i] = -1
	}
	slots[wire.SlotInit] = m.main.pidfd
	p := &proc{m: m, stdin: -1, master: -1}
	return p, p.run(plan, slots, false)
}

// said keeps what a probe wrote.
func (h *health) said(text []byte) {
	if room := maxOutput - len(h.output); room > 0 {
		h.output = append(h.output, text[:min(room, len(text))]...)
	}
}

// probeEnded takes a probe's outcome into account.
func (m *monitor) probeEnded(code int) {
	h := &m.health
	h.probe, h.killAt = nil, time.Time{}
	if m.main == nil {
		return // the container ended, and the probe with it
	}
	text := string(h.output)
	if h.late {
		code = -1
		text = "Health check exceeded timeout (" + strconv.FormatFloat(time.Duration(m.job.Health.Timeout).Seconds(), 'f', -1, 64) + "s)"
	}
	if len(h.log) == maxProbes {
		copy(h.log, h.log[1:])
		h.log = h.log[:maxProbes-1]
	}
	h.log = append(h.log, probed{h.began, m.now, code, text})
	was := h.status
	switch {
	case code == 0:
		h.status, h.streak = "healthy", 0
	case was == "starting" && m.now.Sub(m.startedAt) < time.Duration(m.job.Health.StartPeriod):
		// It is not expected to do well yet.
	default:
		if h.streak++; h.streak >= m.job.Health.Retries {
			h.status = "unhealthy"
		}
	}
	h.nextAt = m.now.Add(m.probeInterval())
	m.writeHealth()
	if h.status != was {
		m.tell("health_status: " + h.status)
		if h.status == "unhealthy" {
			m.unhealthy()
		}
	}
}

// unhealthy does what --health-on-failure asks for.
func (m *monitor) unhealthy() {
	switch m.job.Health.OnFailure {
	case "kill":
		m.main.signal(syscall.SIGKILL)
	case "stop":
		m.main.signal(syscall.Signal(max(m.job.StopSignal, 1)))
	case "restart":
		m.revive = true
		m.main.signal(syscall.SIGKILL)
	}
}

// endHealth forgets the probes of a run that has ended.
func (m *monitor) endHealth() {
	m.health.nextAt = time.Time{}
	if m.health.probe != nil {
		m.health.probe.signal(syscall.SIGKILL)
	}
}

// writeHealth replaces health.json: package container's Health, by hand.
func (m *monitor) writeHealth() {
	if err := replace(m.job.RunDir, "health.json", m.health.json()); err != nil {
		m.note(err.Error())
	}
}

func (h *health) json() []byte {
	b := append([]byte(`{"v":1,"status":"`), h.status...)
	b = append(b, `","failingStreak":`...)
	b = strconv.AppendInt(b, int64(h.streak), 10)
	b = append(b, `,"log":[`...)
	for i, p := range h.log {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"start":"`...)
		b = p.began.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, `","end":"`...)
		b = p.ended.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, `","exitCode":`...)
		b = strconv.AppendInt(b, int64(p.code), 10)
		b = append(b, `,"output":"`...)
		b = jsonfile.AppendString(b, []byte(p.output))
		b = append(b, `"}`...)
	}
	return append(b, `]}`...)
}
