package relay

import "cais.dev/cais/pkg/network/sock"

// packet is what a container's raw packet says, as far as a relay looks.
type packet struct {
	proto    byte
	src, dst sock.Addr // with ports for TCP and UDP
	body     []byte    // behind the IP header and its extensions
	syn      bool      // TCP: asks for a connection
}

const (
	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58
)

// parse reads a packet that a container wrote as it liked. It is not ok if it is
// cut off, a fragment, or of another protocol.
func parse(b []byte) (p packet, ok bool) {
	if len(b) < 20 {
		return p, false
	}
	switch b[0] >> 4 {
	case 4:
		n, total := int(b[0]&15)*4, int(b[2])<<8|int(b[3])
		if n < 20 || total < n || total > len(b) || (uint16(b[6])<<8|uint16(b[7]))&0x3fff != 0 {
			return p, false
		}
		p.proto, p.src, p.dst, p.body = b[9], sock.At(b[12:16], 0), sock.At(b[16:20], 0), b[n:total]
	case 6:
		if len(b) < 40 {
			return p, false
		}
		total := 40 + int(b[4])<<8 + int(b[5])
		if total > len(b) {
			return p, false
		}
		p.proto, p.src, p.dst, p.body = b[6], sock.At(b[8:24], 0), sock.At(b[24:40], 0), b[40:total]
		for range 8 { // hop-by-hop options, routing, destination options
			if p.proto != 0 && p.proto != 43 && p.proto != 60 {
				break
			}
			if len(p.body) < 8 {
				return p, false
			}
			n := 8 + 8*int(p.body[1])
			if n > len(p.body) {
				return p, false
			}
			p.proto, p.body = p.body[0], p.body[n:]
		}
	default:
		return p, false
	}
	switch p.proto {
	case protoTCP:
		if len(p.body) < 20 {
			return p, false
		}
		p.syn = p.body[13]&0x12 == 2 // SYN without ACK
	case protoUDP:
	case protoICMP, protoICMP6:
		return p, len(p.body) >= 8
	default:
		return p, false
	}
	if len(p.body) < 8 {
		return p, false
	}
	p.src.Port, p.dst.Port = uint16(p.body[0])<<8|uint16(p.body[1]), uint16(p.body[2])<<8|uint16(p.body[3])
	return p, true
}

// sum adds b to a checksum as IP has it.
func sum(s uint32, b []byte) uint32 {
	for len(b) >= 2 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// seal4 writes an IPv4 header in front of what begins at b[20] and returns b.
func seal4(b []byte, proto byte, src, dst *sock.Addr) []byte {
	n := len(b)
	copy(b, []byte{0x45, 0, byte(n >> 8), byte(n), 0, 0, 0, 0, 64, proto, 0, 0})
	copy(b[12:], src.Bytes())
	copy(b[16:], dst.Bytes())
	c := fold(sum(0, b[:20]))
	b[10], b[11] = byte(c>>8), byte(c)
	return b
}

// seal6 is seal4 for IPv6: what follows begins at b[40].
func seal6(b []byte, proto byte, src, dst *sock.Addr) []byte {
	n := len(b) - 40
	copy(b, []byte{0x60, 0, 0, 0, byte(n >> 8), byte(n), proto, 64})
	copy(b[8:], src.Bytes())
	copy(b[24:], dst.Bytes())
	return b
}

// checkICMP fills in the checksum of an ICMP message; for IPv6 it covers the
// addresses, too.
func checkICMP(m []byte, src, dst *sock.Addr) {
	m[2], m[3] = 0, 0
	s := sum(0, m)
	if src.V6 {
		s = sum(sum(s, src.IP[:]), dst.IP[:]) + uint32(len(m)) + protoICMP6
	}
	c := fold(s)
	m[2], m[3] = byte(c>>8), byte(c)
}
