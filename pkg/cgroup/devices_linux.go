package cgroup

import (
	"encoding/binary"
	"strings"

	"cais.dev/cais/pkg/sys"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// attachDevices makes v2's counterpart of the devices controller: a program
// that the kernel asks at each open and mknod.
func attachDevices(dir string, rules []specs.LinuxDeviceCgroup) error {
	if allowsAll(rules) {
		return nil
	}
	return sys.AttachDeviceFilter(dir, deviceProgram(rules))
}

func allowsAll(rules []specs.LinuxDeviceCgroup) bool {
	for _, r := range rules {
		if !r.Allow || r.Type != "" && r.Type != "a" || r.Major != nil || r.Minor != nil {
			return false
		}
	}
	return true
}

// eBPF, as far as it is needed. linux/bpf.h.
const (
	bpfLoad    = 0x61 // dst = *(u32 *)(src + off)
	bpfMov     = 0xbf // dst = src
	bpfMovImm  = 0xb7 // dst = imm
	bpfAndImm  = 0x57 // dst &= imm
	bpfShrImm  = 0x77 // dst >>= imm
	bpfJneImm  = 0x55 // if dst != imm goto +off
	bpfJeqImm  = 0x15 // if dst == imm goto +off
	bpfExit    = 0x95
	devBlock   = 1 // BPF_DEVCG_DEV_BLOCK
	devChar    = 2 // BPF_DEVCG_DEV_CHAR
	accMknod   = 1 // BPF_DEVCG_ACC_MKNOD
	accRead    = 2 // BPF_DEVCG_ACC_READ
	accWrite   = 4 // BPF_DEVCG_ACC_WRITE
	accAll     = accMknod | accRead | accWrite
	ebpfLength = 8
)

// deviceProgram returns the program for rules, of which the last that fits
// decides: so they are asked from the last to the first, and nothing fitting
// means no. A rule that allows fits if it covers all of the wanted access, one
// that denies if it covers any.
//
// Registers: r2 the device's type, r3 the access, r4 major, r5 minor.
func deviceProgram(rules []specs.LinuxDeviceCgroup) []byte {
	var p ebpf
	p.add(bpfLoad, 2, 1, 0, 0) // struct bpf_cgroup_dev_ctx: access_type, major, minor
	p.add(bpfMov, 3, 2, 0, 0)
	p.add(bpfAndImm, 2, 0, 0, 0xffff)
	p.add(bpfShrImm, 3, 0, 0, 16)
	p.add(bpfLoad, 4, 1, 4, 0)
	p.add(bpfLoad, 5, 1, 8, 0)
	for i := len(rules) - 1; i >= 0; i-- {
		if always := p.rule(rules[i]); always {
			return p // the verifier refuses code that is never reached
		}
	}
	p.add(bpfMovImm, 0, 0, 0, 0)
	p.add(bpfExit, 0, 0, 0, 0)
	return p
}

// ebpf is a program being written.
type ebpf []byte

func (p *ebpf) add(op, dst, src byte, off int16, imm int32) {
	*p = append(*p, op, src<<4|dst)
	*p = binary.NativeEndian.AppendUint16(*p, uint16(off))
	*p = binary.NativeEndian.AppendUint32(*p, uint32(imm))
}

// rule adds one rule, and says whether it fits always.
func (p *ebpf) rule(r specs.LinuxDeviceCgroup) bool {
	var tests ebpf
	var holes []int // instructions that leave the rule, to be pointed behind it
	leave := func(op, reg byte, imm int32) {
		holes = append(holes, len(tests))
		tests.add(op, reg, 0, 0, imm)
	}
	switch r.Type {
	case "b":
		leave(bpfJneImm, 2, devBlock)
	case "c":
		leave(bpfJneImm, 2, devChar)
	}
	if mask := accessMask(r.Access); mask != accAll {
		tests.add(bpfMov, 1, 3, 0, 0) // r1, the context, is no longer needed
		if r.Allow {
			tests.add(bpfAndImm, 1, 0, 0, accAll&^mask)
			leave(bpfJneImm, 1, 0)
		} else {
			tests.add(bpfAndImm, 1, 0, 0, mask)
			leave(bpfJeqImm, 1, 0)
		}
	}
	if r.Major != nil && *r.Major >= 0 {
		leave(bpfJneImm, 4, int32(*r.Major))
	}
	if r.Minor != nil && *r.Minor >= 0 {
		leave(bpfJneImm, 5, int32(*r.Minor))
	}
	answer := int32(0)
	if r.Allow {
		answer = 1
	}
	tests.add(bpfMovImm, 0, 0, 0, answer)
	tests.add(bpfExit, 0, 0, 0, 0)
	for _, at := range holes {
		binary.NativeEndian.PutUint16(tests[at+2:], uint16((len(tests)-at)/ebpfLength-1))
	}
	*p = append(*p, tests...)
	return len(holes) == 0
}

func accessMask(access string) int32 {
	mask := int32(0)
	for letter, bit := range map[string]int32{"m": accMknod, "r": accRead, "w": accWrite} {
		if strings.Contains(access, letter) {
			mask |= bit
		}
	}
	return mask
}
