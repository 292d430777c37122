package wire

import "errors"

// InitEnv is the variable that chooses how a plan is carried out: "exec" is by
// the fallback init. A monitor gets it from whoever starts it.
const InitEnv = "CAIS_INIT"

// A Plan is what a container's child does between clone and execve: a flat list
// of prepared steps, nearly all of them one system call each. Everything was
// decided by the one who wrote the plan; the child only carries it out, with no
// memory but Data and a few registers, so that it needs no Go runtime.
//
// A plan is relocatable: strings and structures live in Data, and steps name
// them by offset. Descriptors that only the launcher knows are slots.
type Plan struct {
	CloneFlags uint64 // of the first clone, without the signal
	Steps      []Step
	Data       []byte  // strings, structures and room for results
	Relocs     []Reloc // pointers inside Data, as in argv and iovec

	// Prefix counts the leading steps that must run before any execve: joining
	// namespaces, the wait for the id map, the fork into a pid namespace. The
	// fallback init starts behind them.
	Prefix int

	// UIDs and GIDs are what the launcher writes when the child waits for its
	// map (MsgMap). Both are empty in a plan that makes no user namespace.
	UIDs, GIDs    []IDMap
	DenySetgroups bool // write "deny" to setgroups, without which an ordinary user may not write GIDs
	MapHelpers    bool // the launcher may not write the map itself: use newuidmap and newgidmap

	// CgroupFiles are cgroup.procs files into which the launcher writes the
	// child's pid at MsgMap, because a child in a new user namespace may not.
	CgroupFiles []string

	// RestoreNofile gives the child the soft limit of open files that this
	// process inherited; a Go program raises its own when it starts.
	RestoreNofile bool
}

// IDMap maps Count ids from Inside to Outside.
type IDMap struct{ Inside, Outside, Count uint32 }

// Reloc says that the eight bytes at At hold the address of the byte To.
type Reloc struct{ At, To uint32 }

// The slots: descriptors that the launcher fills in.
const (
	SlotStdin         = iota // a missing one of these three is /dev/null
	SlotStdout               //
	SlotStderr               //
	SlotInit                 // pidfd of the container's first process, for exec
	SlotConsole              // socket that receives the master of the terminal; by default the launcher's own
	SlotSeccompNotify        // socket that receives a seccomp listener
	SlotSync                 // the child's end of the launcher's socket; always the launcher's own
	SlotUser0                // the first that a plan's author may use as he likes
	NumSlots          = SlotUser0 + 25
)

// What the child says on SlotSync, one byte each, and what answers it.
const (
	MsgMap     = 'm' // waits for its id map; answered by any byte
	MsgGate    = 'g' // waits for the start; answered by any byte
	MsgConsole = 'c' // the terminal's master is beside this byte
)

// Op is what a step does. Values are on the wire: add, never renumber.
type Op uint8

// The operations. A, B and C are the step's first arguments; offsets into Data
// are checked when a plan is read.
const (
	OpCall   Op = iota // system call Nr with all six arguments
	OpSet              // Save = A
	OpLoad             // Save = the number of B bytes (1, 2, 4, 8) at Data[A]
	OpStore            // the C low bytes of B go to Data[A]
	OpAnd              // Save = A & B
	OpJumpEq           // skip Skip steps if A == B
	OpJumpNe           // skip Skip steps if A != B
	OpFail             // the step failed with errno A
	OpFork             // clone(A) as a sibling; this process leaves, its child goes on behind this step
	OpExit             // leave with status A
	numOps
)

// Step is one operation. Execution goes on at the next step unless a jump, or
// an error that the step expects, skips some; a negative Skip goes back.
type Step struct {
	Op   Op
	Save uint8 // register for the result, or for -errno if the error was expected; 0: none
	// Final marks the execve that hands over to the container's program. Its
	// error is the user's (no such file, not executable), not the set-up's.
	Final bool
	// Any error (AnyError), or one of Errnos, is expected: go on behind Skip steps.
	AnyError bool
	Errnos   [4]uint16
	Skip     int16
	Nr       uint16 // system call number
	What     uint32 // offset in Data of a text, ended by NUL, that says what the step does
	Args     [6]Arg
}

// Arg is an argument of a step.
type Arg struct {
	Kind  ArgKind
	Value uint64
}

// ArgKind says what an Arg's value means.
type ArgKind uint8

// The kinds of arguments.
const (
	ArgImm  ArgKind = iota // the number itself
	ArgData                // the address of Data[Value]
	ArgReg                 // the content of register Value
	ArgSlot                // the descriptor in slot Value; -1 when it has none
)

const (
	planMagic   = "cpln"
	planVersion = 1
	stepSize    = 76
	maxSteps    = 1 << 14
	maxData     = 4 << 20
	maxList     = 1 << 12
)

// ErrPlan says that bytes are not a plan that this program understands.
var ErrPlan = errors.New("malformed or foreign plan")

// Text returns the text at offset at of Data, up to its NUL.
func (p *Plan) Text(at uint32) string {
	if int64(at) >= int64(len(p.Data)) {
		return ""
	}
	end := int(at)
	for end < len(p.Data) && p.Data[end] != 0 {
		end++
	}
	return string(p.Data[at:end])
}

// Marshal returns the plan in its binary form.
func (p *Plan) Marshal() []byte {
	b := make([]byte, 0, 64+len(p.Steps)*stepSize+len(p.Data)+8*len(p.Relocs))
	b = append(b, planMagic...)
	b = put32(b, planVersion)
	b = put64(b, p.CloneFlags)
	b = put32(b, uint32(p.Prefix))
	b = append(b, bit(p.DenySetgroups)|bit(p.MapHelpers)<<1|bit(p.RestoreNofile)<<2)
	for _, maps := range [][]IDMap{p.UIDs, p.GIDs} {
		b = put32(b, uint32(len(maps)))
		for _, m := range maps {
			b = put32(b, m.Inside)
			b = put32(b, m.Outside)
			b = put32(b, m.Count)
		}
	}
	b = put32(b, uint32(len(p.CgroupFiles)))
	for _, f := range p.CgroupFiles {
		b = put32(b, uint32(len(f)))
		b = append(b, f...)
	}
	b = put32(b, uint32(len(p.Relocs)))
	for _, r := range p.Relocs {
		b = put32(b, r.At)
		b = put32(b, r.To)
	}
	b = put32(b, uint32(len(p.Steps)))
	for i := range p.Steps {
		b = p.Steps[i].append(b)
	}
	b = put32(b, uint32(len(p.Data)))
	return append(b, p.Data...)
}

func (s *Step) append(b []byte) []byte {
	b = append(b, byte(s.Op), s.Save, bit(s.Final)|bit(s.AnyError)<<1, 0)
	for _, e := range s.Errnos {
		b = put16(b, e)
	}
	b = put16(b, uint16(s.Skip))
	b = put16(b, s.Nr)
	b = put32(b, s.What)
	for _, a := range s.Args {
		b = append(b, byte(a.Kind))
	}
	b = append(b, 0, 0)
	for _, a := range s.Args {
		b = put64(b, a.Value)
	}
	return b
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// UnmarshalPlan reads what Marshal wrote and checks all that the interpreter
// relies on: no step leaves the list or Data. It copies nothing but the lists:
// the plan's Data is a part of b.
func UnmarshalPlan(b []byte) (*Plan, error) {
	r := planReader{b: b}
	if string(r.bytes(4)) != planMagic || r.u32() != planVersion {
		return nil, ErrPlan
	}
	p := &Plan{CloneFlags: r.u64(), Prefix: int(r.u32())}
	flags := r.bytes(1)
	if r.bad {
		return nil, ErrPlan
	}
	p.DenySetgroups, p.MapHelpers, p.RestoreNofile = flags[0]&1 != 0, flags[0]&2 != 0, flags[0]&4 != 0
	p.UIDs, p.GIDs = r.maps(), r.maps()
	for range r.count(maxList, 4) {
		p.CgroupFiles = append(p.CgroupFiles, string(r.bytes(int(r.u32()))))
	}
	if n := r.count(maxData/8, 8); n > 0 {
		p.Relocs = make([]Reloc, n)
		for i := range p.Relocs {
			p.Relocs[i] = Reloc{r.u32(), r.u32()}
		}
	}
	if n := r.count(maxSteps, stepSize); n > 0 {
		p.Steps = make([]Step, n)
		for i := range p.Steps {
			p.Steps[i] = r.step()
		}
	}
	p.Data = r.bytes(r.count(maxData, 1))
	if r.bad || len(r.b) != 0 {
		return nil, ErrPlan
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	return p, nil
}

// Check verifies what the interpreter relies on.
func (p *Plan) Check() error {
	if len(p.Steps) == 0 || len(p.Steps) > maxSteps || len(p.Data) > maxData || p.Prefix < 0 || p.Prefix > len(p.Steps) {
		return ErrPlan
	}
	size := uint64(len(p.Data))
	for _, r := range p.Relocs {
		if uint64(r.At)+8 > size || uint64(r.To) >= size || r.At%8 != 0 {
			return ErrPlan
		}
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		// The step behind the last one is the end, which is a failure of its own.
		if to := i + 1 + int(s.Skip); to < 0 || to > len(p.Steps) || s.Op >= numOps {
			return ErrPlan
		}
		for _, a := range s.Args {
			if !a.ok(size) {
				return ErrPlan
			}
		}
		a, width := s.Args[0], s.Args[1]
		if s.Op == OpStore {
			width = s.Args[2]
		}
		if s.Op == OpLoad || s.Op == OpStore {
			switch width.Value {
			case 1, 2, 4, 8:
			default:
				return ErrPlan
			}
			if a.Kind != ArgData || width.Kind != ArgImm || a.Value+width.Value > size {
				return ErrPlan
			}
		}
	}
	return nil
}

func (a Arg) ok(size uint64) bool {
	switch a.Kind {
	case ArgImm:
		return true
	case ArgData:
		return a.Value < size
	case ArgReg:
		return a.Value > 0 && a.Value < 256
	case ArgSlot:
		return a.Value < NumSlots
	}
	return false
}

// planReader takes fields from the front of b. Once one is missing, bad is set
// and the rest are zero.
type planReader struct {
	b   []byte
	bad bool
}

func (r *planReader) bytes(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, n = true, 0
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *planReader) u32() uint32 {
	v := r.bytes(4)
	if len(v) < 4 {
		return 0
	}
	return get32(v)
}

func (r *planReader) u64() uint64 {
	lo := r.u32()
	return uint64(lo) | uint64(r.u32())<<32
}

// count reads a number of things of at least size bytes each, so that a lie
// about it cannot make us allocate more than was sent.
func (r *planReader) count(limit, size int) int {
	n := int(r.u32())
	if n > limit || n*size > len(r.b) {
		r.bad = true
		return 0
	}
	return n
}

func (r *planReader) maps() []IDMap {
	var maps []IDMap
	for range r.count(maxList, 12) {
		maps = append(maps, IDMap{r.u32(), r.u32(), r.u32()})
	}
	return maps
}

func (r *planReader) step() Step {
	v := r.bytes(stepSize)
	if len(v) < stepSize {
		return Step{}
	}
	s := Step{Op: Op(v[0]), Save: v[1], Final: v[2]&1 != 0, AnyError: v[2]&2 != 0,
		Skip: int16(get16(v[12:])), Nr: get16(v[14:]), What: get32(v[16:])}
	for i := range s.Errnos {
		s.Errnos[i] = get16(v[4+2*i:])
	}
	for i := range s.Args {
		s.Args[i] = Arg{ArgKind(v[20+i]), get64(v[28+8*i:])}
	}
	return s
}

// Little-endian numbers by hand: encoding/binary brings reflect, which a monitor
// cannot afford.

func put16(b []byte, v uint16) []byte { return append(b, byte(v), byte(v>>8)) }

func put32(b []byte, v uint32) []byte {
	return append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
}

func put64(b []byte, v uint64) []byte { return put32(put32(b, uint32(v)), uint32(v>>32)) }

func get16(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 }

func get32(b []byte) uint32 { return uint32(get16(b)) | uint32(get16(b[2:]))<<16 }

func get64(b []byte) uint64 { return uint64(get32(b)) | uint64(get32(b[4:]))<<32 }
