package seccomp

import (
	"math"
	"slices"
)

// insn is one instruction of classic BPF, bpf(4).
type insn struct {
	op     uint16
	jt, jf uint8
	k      uint32
}

const (
	opLoad = 0x20 // BPF_LD  | BPF_W | BPF_ABS: A = the word at k of seccomp_data
	opAnd  = 0x54 // BPF_ALU | BPF_AND | BPF_K
	opJump = 0x05 // BPF_JMP | BPF_JA
	opJeq  = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	opJgt  = 0x25 // BPF_JMP | BPF_JGT | BPF_K
	opJge  = 0x35 // BPF_JMP | BPF_JGE | BPF_K
	opRet  = 0x06 // BPF_RET | BPF_K

	maxInsns = 4096 // BPF_MAXINSNS

	// struct seccomp_data
	offNr   = 0
	offArch = 4
	offArgs = 16

	x32Bit = 0x40000000
)

// skipUnless goes on with the next n instructions if A is k, else behind them.
// A conditional jump reaches only 255 instructions far.
func skipUnless(k uint32, n int) []insn {
	if n <= math.MaxUint8 {
		return []insn{{op: opJeq, k: k, jf: uint8(n)}}
	}
	return []insn{{op: opJeq, k: k, jt: 1}, {op: opJump, k: uint32(n)}}
}

// span is a range of call numbers, from its start to the next span's, with one
// answer: code to run, of which a plain return is the shortest.
type span struct {
	start uint32
	code  []insn
}

// tree returns the code that judges calls of architecture a: what the rules
// say, def for those they do not mention, and "no such call" for those that are
// newer than everything the profile's author knew, so that programs fall back
// to older ones.
func (a *arch) tree(p *Profile, rules []*Rule, def uint32) ([]insn, error) {
	leaves, newest, err := a.leaves(p, rules, def)
	if err != nil {
		return nil, err
	}
	fallback := func(nr uint32) []insn {
		switch {
		case a.goarch == "amd64" && nr >= x32Bit, nr > newest && !permissive(def):
			return answer(retErrno | eNOSYS)
		}
		return answer(def)
	}
	var spans []span
	add := func(start uint32, code []insn) {
		if n := len(spans); n > 0 && slices.Equal(spans[n-1].code, code) {
			return
		}
		spans = append(spans, span{start, code})
	}
	next := uint32(0)
	gap := func(end uint32) { // [next, end) is mentioned by no rule
		for _, s := range []uint32{next, newest + 1, x32Bit} {
			if s >= next && s < end {
				add(s, fallback(s))
			}
		}
	}
	known := make([]uint32, 0, len(leaves))
	for nr := range leaves {
		known = append(known, nr)
	}
	slices.Sort(known)
	for _, nr := range known {
		gap(nr)
		add(nr, leaves[nr])
		next = nr + 1
	}
	gap(math.MaxUint32)
	return append([]insn{{op: opLoad, k: offNr}}, search(spans)...), nil
}

func answer(ret uint32) []insn { return []insn{{op: opRet, k: ret}} }

// permissive says whether ret lets the call happen.
func permissive(ret uint32) bool {
	return ret == retAllow || ret == retLog || ret&0xffff0000 == retTrace
}

// search finds A's span by halving.
func search(spans []span) []insn {
	if len(spans) == 1 {
		return spans[0].code
	}
	mid := len(spans) / 2
	left, right := search(spans[:mid]), search(spans[mid:])
	var code []insn
	if len(left) <= math.MaxUint8 {
		code = append(code, insn{op: opJge, k: spans[mid].start, jt: uint8(len(left))})
	} else {
		code = append(code, insn{op: opJge, k: spans[mid].start, jf: 1}, insn{op: opJump, k: uint32(len(left))})
	}
	return append(append(code, left...), right...)
}

// leaves returns the code for each call that a rule mentions, and the number of
// the newest call that the profile mentions at all.
//
// Among the rules for one call, those that look at arguments come first, in the
// profile's order; of several that do not, the strictest counts.
func (a *arch) leaves(p *Profile, rules []*Rule, def uint32) (map[uint32][]insn, uint32, error) {
	newest, mentioned := uint32(0), false
	for _, r := range p.Syscalls {
		for _, name := range r.Names {
			if nr, ok := a.number(name); ok && nr < privateCalls {
				newest, mentioned = max(newest, nr), true
			}
		}
	}
	if !mentioned {
		newest = math.MaxUint32 - 1 // nothing to be newer than
	}
	type judged struct {
		tests []insn
		ret   uint32
		plain bool // some rule answers without looking at arguments
	}
	calls := map[uint32]*judged{}
	for _, r := range rules {
		ret, err := action(r.Action, r.ErrnoRet, r.Errno)
		if err != nil {
			return nil, 0, err
		}
		tests := a.tests(r.Args, ret)
		for _, name := range r.Names {
			nr, ok := a.number(name)
			if !ok {
				continue // another architecture's, or newer than our table
			}
			c := calls[nr]
			if c == nil {
				c = &judged{ret: def}
				calls[nr] = c
			}
			switch {
			case len(r.Args) > 0:
				c.tests = append(c.tests, tests...)
			case !c.plain || severity(ret) < severity(c.ret):
				c.ret, c.plain = ret, true
			}
		}
	}
	leaves := make(map[uint32][]insn, len(calls))
	for nr, c := range calls {
		leaves[nr] = append(c.tests, insn{op: opRet, k: c.ret})
	}
	return leaves, newest, nil
}

// privateCalls is where arm's own calls begin, far above all others: they say
// nothing about how new a profile is.
const privateCalls = 0xf0000

// tests returns code that answers ret if the arguments compare, and else goes
// on behind it. Comparisons of different arguments must all hold; of several of
// the same argument, one is enough, as runc reads the OCI spec.
func (a *arch) tests(args []Arg, ret uint32) []insn {
	if len(args) == 0 {
		return nil
	}
	seen := map[uint]bool{}
	for _, arg := range args {
		if seen[arg.Index] {
			var code []insn
			for _, one := range args {
				code = append(code, a.tests([]Arg{one}, ret)...)
			}
			return code
		}
		seen[arg.Index] = true
	}
	code := answer(ret)
	for _, arg := range slices.Backward(args) {
		code = append(a.compare(arg, len(code)), code...)
	}
	return code
}

// compareOp returns how an operator is built of the two tests there are: the
// jump to make, and whether its outcome is turned round.
func compareOp(op string) (jump uint16, ok bool) {
	switch op {
	case "SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ":
		return opJeq, true
	case "SCMP_CMP_GT", "SCMP_CMP_LE":
		return opJgt, true
	case "SCMP_CMP_GE", "SCMP_CMP_LT":
		return opJge, true
	}
	return 0, false
}

// compare goes on with the next n instructions if the argument compares, else
// behind them. n is small: at most six comparisons of eight instructions.
//
// An argument is 64 bits wide and BPF's words are 32: the upper halves decide
// unless they are equal. Programs of 32 bits have no upper half.
func (a *arch) compare(arg Arg, n int) []insn {
	low, high := uint32(offArgs+8*arg.Index), uint32(offArgs+8*arg.Index+4)
	if arg.Op == "SCMP_CMP_MASKED_EQ" {
		return a.maskedEqual(arg, low, high, n)
	}
	jump, _ := compareOp(arg.Op)
	inverted := arg.Op == "SCMP_CMP_NE" || arg.Op == "SCMP_CMP_LE" || arg.Op == "SCMP_CMP_LT"
	yes, no := uint8(0), uint8(n) // where to go from the last instruction
	if inverted {
		yes, no = no, yes
	}
	code := []insn{{op: opLoad, k: low}, {op: jump, k: uint32(arg.Value), jt: yes, jf: no}}
	if a.bits32 {
		return code
	}
	// From the upper half's tests, the two instructions for the lower follow.
	hi := uint32(arg.Value >> 32)
	if jump == opJeq {
		return append([]insn{{op: opLoad, k: high}, {op: opJeq, k: hi, jf: no + 2}}, code...)
	}
	return append([]insn{
		{op: opLoad, k: high},
		{op: opJgt, k: hi, jt: yes + 3},
		{op: opJeq, k: hi, jf: no + 2},
	}, code...)
}

// maskedEqual: argument & Value == ValueTwo.
func (a *arch) maskedEqual(arg Arg, low, high uint32, n int) []insn {
	no := uint8(n)
	code := []insn{
		{op: opLoad, k: low}, {op: opAnd, k: uint32(arg.Value)}, {op: opJeq, k: uint32(arg.ValueTwo), jf: no},
	}
	if a.bits32 {
		return code
	}
	return append([]insn{
		{op: opLoad, k: high}, {op: opAnd, k: uint32(arg.Value >> 32)}, {op: opJeq, k: uint32(arg.ValueTwo >> 32), jf: no + 3},
	}, code...)
}
