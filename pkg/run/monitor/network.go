package monitor

import (
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network/dns"
	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/plane"
	"cais.dev/cais/pkg/run/wire"
)

// linger is how long the last bytes of a container that has ended may take to
// reach whom it spoke to.
const linger = 5 * time.Second

// prepareNet makes what the container's network needs around the container.
func (m *monitor) prepareNet() error {
	if len(m.job.Net) == 0 {
		return nil
	}
	var n wire.Net
	if err := wire.Unmarshal(m.job.Net, &n); err != nil {
		return err
	}
	var err error
	if m.netLoop, err = loop.New(); err != nil {
		return err
	}
	m.netLoop.Alone = true
	m.net = plane.New(m.netLoop, dns.New(m.netLoop, m.inside, m.note), m.note)
	m.netStart, m.netEnd = n.StartEvents, n.EndEvents
	held := m.held
	m.held = nil
	return m.net.Prepare(&n, held)
}

// inside calls f in the container's network namespace.
func (m *monitor) inside(f func() error) error {
	if m.main == nil {
		return errs.New(errs.Conflict, "the container is not running")
	}
	ns, err := netns.Open("/proc/" + strconv.Itoa(m.main.pid) + "/ns/net")
	if err != nil {
		return err
	}
	err = netns.Visit(ns, f)
	_ = syscall.Close(ns) // a handle
	return err
}

// connect gives the container its network, while it waits at its gate.
func (m *monitor) connect(p *proc) error {
	if m.net == nil {
		return nil
	}
	return m.net.Attach(p.pid)
}

// network makes the container's network another one.
func (c *client) network(fds []int) {
	err := errs.New(errs.Conflict, "the container has no network of its own")
	held := c.held
	c.held = nil
	if len(fds) == 1 && c.m.net != nil {
		err = c.m.changeNet(fds[0], held)
	} else {
		closeAll(held)
	}
	if err != nil {
		c.refuse(err)
		return
	}
	c.last(wire.Marshal(&wire.Done{}))
}

func (m *monitor) changeNet(fd int, held []int) error {
	text, unmap, err := mapAll(fd)
	if err != nil {
		closeAll(held)
		return err
	}
	text = append([]byte(nil), text...) // the net shares its memory
	unmap()
	var n wire.Net
	if err := wire.Unmarshal(text, &n); err != nil {
		closeAll(held)
		return err
	}
	m.netStart, m.netEnd = n.StartEvents, n.EndEvents
	return m.net.Update(&n, held)
}

// lingers reports whether the last bytes of the container are still on their way.
func (m *monitor) lingers() bool {
	return m.ended && m.net.Linger(!m.lingerAt.IsZero() && !m.now.Before(m.lingerAt))
}
