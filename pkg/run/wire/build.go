package wire

// Builder writes a plan. The zero value is ready. Its mistakes are kept until
// Plan, so that a plan reads as the list that it is.
type Builder struct {
	p       Plan
	strings map[string]uint32
	reg     uint8
	bad     bool
}

// Plan checks what was written and returns it. The caller may still set the
// fields that are not steps.
func (b *Builder) Plan() (*Plan, error) {
	if b.bad {
		return nil, ErrPlan
	}
	return &b.p, b.p.Check()
}

// Len returns the number of steps so far.
func (b *Builder) Len() int { return len(b.p.Steps) }

// NewReg returns a register that nobody else uses.
func (b *Builder) NewReg() Arg {
	if b.reg == 255 {
		b.bad = true
		return Arg{ArgReg, 255}
	}
	b.reg++
	return Arg{ArgReg, uint64(b.reg)}
}

// Mark returns the state of the register allocator, for Free.
func (b *Builder) Mark() uint8 { return b.reg }

// Free gives back the registers made since Mark returned m.
func (b *Builder) Free(m uint8) { b.reg = m }

// Text puts s, ended by NUL, into Data, once however often it is asked for. A
// text with a NUL inside would be cut short by the kernel and spoils the plan.
func (b *Builder) Text(s string) Arg {
	if at, ok := b.strings[s]; ok {
		return Arg{ArgData, uint64(at)}
	}
	for i := range len(s) {
		if s[i] == 0 {
			b.bad = true
		}
	}
	at := uint32(len(b.p.Data))
	b.p.Data = append(append(b.p.Data, s...), 0)
	if b.strings == nil {
		b.strings = make(map[string]uint32, 256)
	}
	b.strings[s] = at
	return Arg{ArgData, uint64(at)}
}

// Bytes puts a structure into Data, aligned to eight bytes.
func (b *Builder) Bytes(v []byte) Arg {
	for len(b.p.Data)%8 != 0 {
		b.p.Data = append(b.p.Data, 0)
	}
	at := len(b.p.Data)
	b.p.Data = append(b.p.Data, v...)
	if len(v) == 0 { // an address needs a byte
		b.p.Data = append(b.p.Data, 0)
	}
	return Arg{ArgData, uint64(at)}
}

// Words puts 64-bit numbers into Data. One that is an ArgData becomes the address.
func (b *Builder) Words(words ...Arg) Arg {
	v := make([]byte, 0, 8*len(words))
	for _, w := range words {
		n := w.Value
		if w.Kind != ArgImm {
			n = 0
		}
		v = put64(v, n)
	}
	at := b.Bytes(v)
	for i, w := range words {
		if w.Kind == ArgData {
			b.p.Relocs = append(b.p.Relocs, Reloc{At: uint32(at.Value) + 8*uint32(i), To: uint32(w.Value)})
		}
	}
	return at
}

// Texts puts a list in the form of argv into Data.
func (b *Builder) Texts(list []string) Arg {
	words := make([]Arg, 0, len(list)+1)
	for _, s := range list {
		words = append(words, b.Text(s))
	}
	return b.Words(append(words, Arg{})...)
}

// Plus returns the address of the byte n behind a.
func (a Arg) Plus(n int) Arg { return Arg{a.Kind, a.Value + uint64(n)} }

// Num returns n as an argument.
func Num(n int64) Arg { return Arg{ArgImm, uint64(n)} }

// InSlot returns the descriptor of slot s as an argument.
func InSlot(s int) Arg { return Arg{ArgSlot, uint64(s)} }

// Call adds a system call. An argument is an Arg, an integer, or a string, which
// stands for its address.
func (b *Builder) Call(what string, nr uintptr, args ...any) *Step {
	return b.Do(OpCall, what, nr, args...)
}

// Do adds a step of another kind than OpCall; nr is 0 for these.
func (b *Builder) Do(op Op, what string, nr uintptr, args ...any) *Step {
	s := Step{Op: op, Nr: uint16(nr), What: uint32(b.Text(what).Value)}
	if len(args) > len(s.Args) || nr > 1<<15 {
		b.bad = true
		args = args[:0]
	}
	for i, a := range args {
		switch a := a.(type) {
		case Arg:
			s.Args[i] = a
		case string:
			s.Args[i] = b.Text(a)
		case int:
			s.Args[i] = Num(int64(a))
		case uint32:
			s.Args[i] = Num(int64(a))
		case uint64:
			s.Args[i] = Num(int64(a))
		case int64:
			s.Args[i] = Num(a)
		case uintptr:
			s.Args[i] = Num(int64(a))
		default:
			b.bad = true
		}
	}
	if b.p.Steps == nil { // a container's plan has some 400
		b.p.Steps = make([]Step, 0, 512)
	}
	b.p.Steps = append(b.p.Steps, s)
	return &b.p.Steps[len(b.p.Steps)-1]
}

// Jump adds a conditional jump and returns its place, for Land.
func (b *Builder) Jump(op Op, x, y any) int {
	b.Do(op, "", 0, x, y)
	return b.Len() - 1
}

// Land makes the jump, or the expected error, of the step at place go on at the
// next step to be added.
func (b *Builder) Land(place int) {
	b.p.Steps[place].Skip = int16(b.Len() - place - 1)
}

// Last returns the place of the step added last.
func (b *Builder) Last() int { return b.Len() - 1 }

// To saves the step's result in register r.
func (s *Step) To(r Arg) *Step {
	s.Save = uint8(r.Value)
	return s
}

// Ignore makes every error of the step an expected one.
func (s *Step) Ignore() *Step {
	s.AnyError = true
	return s
}

// Expect makes these errors, at most four, expected ones.
func (s *Step) Expect(errnos ...uint16) *Step {
	copy(s.Errnos[:], errnos)
	return s
}

// Retry makes the step repeat itself on this error.
func (s *Step) Retry(errno uint16) *Step {
	s.Errnos[0], s.Skip = errno, -1
	return s
}

// WaitForMap adds the steps that ask the launcher for the id map and wait for it.
// The numbers of the calls come from the caller, as this package knows no kernel.
func (b *Builder) WaitForMap(write, read uintptr) {
	b.ask("wait for the id map", MsgMap, write, read)
}

// Gate adds the steps that wait for Proc.Release.
func (b *Builder) Gate(write, read uintptr) { b.ask("wait for the start", MsgGate, write, read) }

func (b *Builder) ask(what string, msg byte, write, read uintptr) {
	const ecanceled = 125
	at, n := b.Bytes([]byte{msg, 0, 0, 0, 0, 0, 0, 0}), b.NewReg()
	b.Call(what, write, InSlot(SlotSync), at, 1)
	b.Call(what, read, InSlot(SlotSync), at, 1).To(n)
	answered := b.Jump(OpJumpEq, n, 1)
	b.Do(OpFail, what+": nobody answers", 0, ecanceled)
	b.Land(answered)
}
