package dns

// The numbers of RFC 1035, 3596 and 6891 that are needed here.
const (
	typeA     = 1
	typeCNAME = 5
	typePTR   = 12
	typeAAAA  = 28
	typeOPT   = 41
	typeANY   = 255
	classIN   = 1
	classANY  = 255

	codeOK       = 0
	codeFormat   = 1
	codeFailure  = 2
	codeNoName   = 3
	codeRefused  = 5
	headerLen    = 12
	maxName      = 253 // as text
	flagResponse = 0x80
	flagAA       = 0x04
	flagTC       = 0x02
	flagRD       = 0x01
	flagRA       = 0x80

	// ttl is how long an answer of ours may be kept: an address changes when a
	// container is started again.
	ttl = 5
)

// query is a question that was understood.
type query struct {
	id    uint16
	flags byte   // the third byte of the header
	name  string // in lower case, without the last dot
	typ   uint16
	class uint16
	end   int // of the question
	size  int // of the largest answer that a datagram may have
}

// parse reads a query. ok is false for what is none: a response, another
// operation, more than one question, a name that is cut off or has a pointer.
func parse(p []byte) (q query, ok bool) {
	if len(p) < headerLen || p[2]&(flagResponse|0x78) != 0 || p[4] != 0 || p[5] != 1 {
		return q, false
	}
	q.id, q.flags = u16(p), p[2]
	at, name, ok := readName(p, headerLen)
	if !ok || at+4 > len(p) {
		return q, false
	}
	q.name, q.typ, q.class = name, u16(p[at:]), u16(p[at+2:])
	q.end, q.size = at+4, 512
	q.edns(p)
	return q, true
}

// edns looks for the size that the asker can take, in an additional record right
// behind the question, which is where resolvers put it.
func (q *query) edns(p []byte) {
	if u16(p[6:]) != 0 || u16(p[8:]) != 0 || u16(p[10:]) == 0 {
		return
	}
	r := p[q.end:]
	if len(r) >= 11 && r[0] == 0 && u16(r[1:]) == typeOPT {
		q.size = max(512, min(int(u16(r[3:])), 4096))
	}
}

func u16(p []byte) uint16 { return uint16(p[0])<<8 | uint16(p[1]) }

// readName reads a name without pointers: a question has none. It returns where it
// ends, and the name in lower case. A dot within a label would make two names
// look alike, so such a name is not ours to answer; it is returned with a byte
// that no name of ours has.
func readName(p []byte, at int) (end int, name string, ok bool) {
	var b [maxName + 2]byte
	n := 0
	for {
		if at >= len(p) {
			return 0, "", false
		}
		size := int(p[at])
		at++
		if size == 0 {
			return at, string(b[:max(n-1, 0)]), true
		}
		if size > 63 || at+size > len(p) || n+size+1 > maxName+1 {
			return 0, "", false
		}
		for _, c := range p[at : at+size] {
			switch {
			case c >= 'A' && c <= 'Z':
				c += 'a' - 'A'
			case c == '.':
				c = 0
			}
			b[n] = c
			n++
		}
		b[n] = '.'
		n++
		at += size
	}
}

// answer makes a response to q, whose question is in p[:q.end], with the records
// that add appends.
func (q *query) answer(p []byte, code byte, records [][]byte) []byte {
	out := make([]byte, 0, q.end+16*len(records))
	out = append(out, p[:q.end]...)
	out[2] = flagResponse | flagAA | q.flags&flagRD
	out[3] = flagRA | code
	out[4], out[5] = 0, 1
	if q.end == headerLen { // a question that was not understood
		out[5] = 0
	}
	clear(out[6:headerLen])
	n := 0
	for _, r := range records {
		out = append(out, r...)
		n++
	}
	out[6], out[7] = byte(n>>8), byte(n)
	return out
}

// record is a resource record about the name of the question.
func record(typ uint16, data []byte) []byte {
	r := []byte{0xc0, headerLen, byte(typ >> 8), byte(typ), 0, classIN, 0, 0, 0, ttl, byte(len(data) >> 8), byte(len(data))}
	return append(r, data...)
}

// encodeName is a name as a record has it; nil if it is none.
func encodeName(name string) []byte {
	var b []byte
	for len(name) > 0 {
		label := name
		for i := range len(name) {
			if name[i] == '.' {
				label = name[:i]
				break
			}
		}
		if label == "" || len(label) > 63 {
			return nil
		}
		b = append(append(b, byte(len(label))), label...)
		name = name[min(len(label)+1, len(name)):]
	}
	if len(b) == 0 || len(b) > maxName+1 {
		return nil
	}
	return append(b, 0)
}

// cut is a response that fits into a datagram: without records, and saying so.
func cut(p []byte, q *query) []byte {
	if len(p) <= q.size {
		return p
	}
	out := append([]byte(nil), p[:q.end]...)
	out[2] |= flagTC
	clear(out[6:headerLen])
	return out
}

// reverse is the address that a name below in-addr.arpa or ip6.arpa stands for;
// nil if it is none.
func reverse(name string) []byte {
	if rest, ok := cutSuffix(name, ".in-addr.arpa"); ok {
		var ip [4]byte
		for i := range 4 {
			label, more, last := rest, "", true
			for k := range len(rest) {
				if rest[k] == '.' {
					label, more, last = rest[:k], rest[k+1:], false
					break
				}
			}
			v := 0
			if label == "" || len(label) > 3 {
				return nil
			}
			for k := range len(label) {
				if label[k] < '0' || label[k] > '9' {
					return nil
				}
				v = 10*v + int(label[k]-'0')
			}
			if v > 255 || last != (i == 3) {
				return nil
			}
			ip[3-i] = byte(v)
			rest = more
		}
		return ip[:]
	}
	rest, ok := cutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return nil
	}
	var ip [16]byte
	for i := range 32 {
		c := rest[2*i]
		var v byte
		switch {
		case c >= '0' && c <= '9':
			v = c - '0'
		case c >= 'a' && c <= 'f':
			v = c - 'a' + 10
		default:
			return nil
		}
		if i < 31 && rest[2*i+1] != '.' {
			return nil
		}
		ip[15-i/2] |= v << (4 * (i % 2))
	}
	return ip[:]
}

func cutSuffix(s, suffix string) (string, bool) {
	if n := len(s) - len(suffix); n > 0 && s[n:] == suffix {
		return s[:n], true
	}
	return s, false
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
