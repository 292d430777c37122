package relay

import (
	"testing"

	"cais.dev/cais/pkg/network/sock"
)

func syn4() []byte {
	b := append(make([]byte, 20), 0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)
	src, dst := sock.At([]byte{172, 17, 0, 2}, 0), sock.At([]byte{1, 1, 1, 1}, 0)
	return seal4(b, protoTCP, &src, &dst)
}

func syn6() []byte {
	b := append(make([]byte, 40), protoTCP, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, 0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)
	src, dst := sock.At(append([]byte{0xfd}, make([]byte, 15)...), 0), sock.At(append([]byte{0xfe}, make([]byte, 15)...), 0)
	return seal6(b, 60, &src, &dst) // a destination option in front
}

func TestParse(t *testing.T) {
	for name, b := range map[string][]byte{"v4": syn4(), "v6": syn6()} {
		p, ok := parse(b)
		if !ok || !p.syn || p.proto != protoTCP || p.src.Port != 40000 || p.dst.Port != 80 {
			t.Errorf("%s: %+v, %v", name, p, ok)
		}
		for n := range b {
			if _, ok := parse(b[:n]); ok {
				t.Errorf("%s: %d bytes of %d are a packet", name, n, len(b))
			}
		}
	}
	fragment := syn4()
	fragment[6] = 0x20
	if _, ok := parse(fragment); ok {
		t.Error("a fragment is a packet")
	}
	answer := syn4()
	answer[33] = 0x12
	if p, ok := parse(answer); !ok || p.syn {
		t.Error("SYN and ACK ask for a connection")
	}
}

func TestChecksums(t *testing.T) {
	b := syn4()
	if fold(sum(0, b[:20])) != 0 {
		t.Error("the header's sum is wrong")
	}
	src, dst := sock.At([]byte{1, 2, 3, 4}, 0), sock.At([]byte{5, 6, 7, 8}, 0)
	m := []byte{8, 0, 0, 0, 1, 2, 0, 1, 'x'}
	checkICMP(m, &src, &dst)
	if fold(sum(0, m)) != 0 {
		t.Errorf("% x", m)
	}
}

func TestSubnet(t *testing.T) {
	n := Subnet{IP: []byte{172, 17, 5, 0}, Bits: 20}
	for ip, want := range map[[4]byte]bool{{172, 17, 15, 1}: true, {172, 17, 16, 1}: false, {172, 18, 5, 1}: false} {
		a := sock.At(ip[:], 9)
		if n.holds(&a) != want {
			t.Errorf("%s: %v", a, !want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(syn4())
	f.Add(syn6())
	f.Add(seal4(append(make([]byte, 20), 8, 0, 0, 0, 0, 1, 0, 1), protoICMP, &sock.Addr{}, &sock.Addr{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parse(b)
		if ok && len(p.body) < 8 {
			t.Errorf("% x: a body of %d bytes", b, len(p.body))
		}
	})
}

func FuzzAttributes(f *testing.F) {
	f.Add([]byte{12, 0, 1, 0, 0, 0, 0, 1, 8, 0, 1, 0}, syn4())
	f.Fuzz(func(_ *testing.T, ctl, _ []byte) {
		originalDst(ctl)
		pktinfoOf(ctl)
	})
}
