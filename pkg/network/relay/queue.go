package relay

import (
	"os"
	"syscall"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/sock"
)

// Queue is a queue of the kernel's, in which packets wait for a verdict:
// netfilter's NFQUEUE.
type Queue struct {
	r    *Relay
	conn *netlink.Conn
	fd   int
	Num  uint16
}

// The marks that a verdict gives a packet: rules of the gateway namespace answer
// packets with one instead of handing them to the relay.
const (
	MarkRefused     = 2
	MarkUnreachable = 3
)

const (
	queueMsg     = 3 << 8   // NFNL_SUBSYS_QUEUE, NFQNL_MSG_PACKET
	queueVerdict = 3<<8 | 1 // NFQNL_MSG_VERDICT
	queueConfig  = 3<<8 | 2 // NFQNL_MSG_CONFIG

	queueLength = 8192
)

func queueMessage(typ uint16, num uint16) *netlink.Message {
	return netlink.New("set up the packet queue", typ, 0).Raw(0, 0, byte(num>>8), byte(num))
}

// NewQueue binds a queue whose number nobody has, from first on. It is to be
// called on a thread of the gateway namespace; [Relay.Listen] does the rest.
func NewQueue(first uint16) (*Queue, error) {
	conn, err := netlink.Dial(netlink.FamilyNetfilter)
	if err != nil {
		return nil, err
	}
	q := &Queue{conn: conn, fd: conn.FD()}
	for range 1 << 12 {
		err = conn.Do(queueMessage(queueConfig, first).Attr(1, 1, 0, 0, 0)) // NFQA_CFG_CMD: BIND
		if !netlink.Is(err, syscall.EBUSY) && !netlink.Is(err, syscall.EPERM) {
			break // EPERM: somebody else's in this namespace
		}
		first++
	}
	if err == nil {
		const failOpen = 1
		q.Num = first
		err = conn.Do(queueMessage(queueConfig, first).
			Attr(2, 0, 0, 0xff, 0xff, 2).        // NFQA_CFG_PARAMS: whole packets
			BE32(3, queueLength).                // NFQA_CFG_QUEUE_MAXLEN
			BE32(4, failOpen).BE32(5, failOpen)) // NFQA_CFG_MASK, _FLAGS: when it is full, packets pass
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	const (
		solNetlink   = 270
		noENOBUFS    = 5
		rcvbufForce  = 33
		receiveBytes = 4 << 20
	)
	_ = sock.Option(q.fd, solNetlink, noENOBUFS, 1)                            // a burst must not end the reader; the kernel knows it for long
	_ = sock.Option(q.fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBytes) // as far as the host allows
	_ = sock.Option(q.fd, syscall.SOL_SOCKET, rcvbufForce, receiveBytes)       // in the first namespace alone
	return q, os.NewSyscallError("fcntl", syscall.SetNonblock(q.fd, true))
}

// Close gives the queue up: packets that would have gone there pass.
func (q *Queue) Close() {
	if q == nil {
		return
	}
	if q.r != nil {
		q.r.l.Forget(q.fd)
		q.r.queue = nil
	}
	q.conn.Close()
}

// Ready reads packets.
func (q *Queue) Ready(uint32) { q.read(64) }

// read reads as many packets as there are, but at most so many.
func (q *Queue) read(most int) {
	for range most {
		buf := q.r.buffer()
		n, errno := sock.Read(q.fd, buf)
		if errno != 0 {
			return // EAGAIN; ENOBUFS cannot come
		}
		netlink.Messages(buf[:n], func(typ uint16, _ uint32, body []byte) {
			if typ == queueMsg && len(body) >= 4 {
				q.packet(body[4:])
			}
		})
	}
}

// packet decides about one packet, now or, for a connection, when the host side
// has answered.
func (q *Queue) packet(attrs []byte) {
	var id, payload []byte
	netlink.Attributes(attrs, func(typ uint16, v []byte) {
		switch {
		case typ == 1 && len(v) >= 4: // NFQA_PACKET_HDR
			id = v[:4]
		case typ == 10: // NFQA_PAYLOAD
			payload = v
		}
	})
	if id == nil {
		return
	}
	num := uint32(id[0])<<24 | uint32(id[1])<<16 | uint32(id[2])<<8 | uint32(id[3])
	p, ok := parse(payload)
	switch {
	case ok && p.proto == protoTCP && p.syn:
		q.r.syn(q, num, &p)
	case ok && (p.proto == protoICMP || p.proto == protoICMP6):
		q.verdict(num, dropIt, 0) // we answer in its place
		q.r.echo(&p)
	default:
		q.verdict(num, dropIt, 0)
	}
}

const (
	dropIt   = 0
	acceptIt = 1
)

// verdict lets the kernel go on with a packet.
func (q *Queue) verdict(id, verdict, mark uint32) {
	var b [44]byte
	m := b[:36]
	m[4], m[5], m[6] = queueVerdict&0xff, queueVerdict>>8, syscall.NLM_F_REQUEST
	m[18], m[19] = byte(q.Num>>8), byte(q.Num)
	copy(m[20:], []byte{12, 0, 2, 0, 0, 0, 0, byte(verdict), byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}) // NFQA_VERDICT_HDR
	m = m[:32]
	if mark != 0 {
		m = b[:40]
		copy(m[32:], []byte{8, 0, 3, 0, 0, 0, 0, byte(mark)}) // NFQA_MARK
	}
	m[0] = byte(len(m))
	if _, errno := sock.Write(q.fd, m); errno != 0 {
		q.r.note("packet queue: " + errno.Error())
	}
}

// Listen begins to read the queue.
func (r *Relay) Listen(q *Queue) error {
	q.r = r
	r.queue = q
	return r.l.Watch(q.fd, loop.In, q)
}
