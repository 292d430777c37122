package graph

import (
	"fmt"
	"strconv"
	"strings"
)

// Mode is what --chmod says, read.
type Mode struct {
	octal  uint32
	change []change // symbolic, unless nil
}

// change is one "who op permissions" of a symbolic mode, with a copied class in from.
type change struct {
	who  uint32 // the bits of rwx, set-id and sticky that may change
	op   byte   // '=', '+', '-'
	perm uint32 // bits of all classes
	exec bool   // X
	from byte   // 'u', 'g', 'o', or 0
}

const (
	bitsUser, bitsGroup, bitsOther = 0o4700, 0o2070, 0o1007
	bitsRead, bitsWrite, bitsExec  = 0o444, 0o222, 0o111
)

// ParseMode reads an octal mode up to 7777 or a symbolic one, as chmod(1) takes
// them: "u=rwX,go=rX", "+x", "g=u". There is no umask: "+w" is "a+w".
func ParseMode(s string) (Mode, error) {
	if n, err := strconv.ParseUint(s, 8, 32); err == nil && n <= 0o7777 {
		return Mode{octal: uint32(n)}, nil
	}
	if s == "" || strings.IndexByte("0123456789", s[0]) >= 0 {
		return Mode{}, fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
	}
	m := Mode{}
	for clause := range strings.SplitSeq(s, ",") {
		who := uint32(0)
		rest := strings.TrimLeft(clause, "ugoa")
		for _, c := range clause[:len(clause)-len(rest)] {
			who |= map[rune]uint32{'u': bitsUser, 'g': bitsGroup, 'o': bitsOther, 'a': 0o7777}[c]
		}
		if who == 0 {
			who = 0o7777
		}
		if rest == "" {
			return Mode{}, fmt.Errorf("invalid chmod parameter: '%s': want [ugoa][+-=][rwxXst]", s)
		}
		for rest != "" {
			c := change{who: who, op: rest[0]}
			if !strings.ContainsRune("=+-", rune(c.op)) {
				return Mode{}, fmt.Errorf("invalid chmod parameter: '%s': %q is not one of + - =", s, rest[0])
			}
			rest = rest[1:]
			end := strings.IndexAny(rest, "=+-")
			if end < 0 {
				end = len(rest)
			}
			for _, p := range rest[:end] {
				switch p {
				case 'r':
					c.perm |= bitsRead
				case 'w':
					c.perm |= bitsWrite
				case 'x':
					c.perm |= bitsExec
				case 'X':
					c.exec = true
				case 's':
					c.perm |= 0o6000
				case 't':
					c.perm |= 0o1000
				case 'u', 'g', 'o':
					if end != 1 {
						return Mode{}, fmt.Errorf("invalid chmod parameter: '%s': %q stands alone", s, p)
					}
					c.from = byte(p)
				default:
					return Mode{}, fmt.Errorf("invalid chmod parameter: '%s': unknown permission %q", s, p)
				}
			}
			rest = rest[end:]
			m.change = append(m.change, c)
		}
	}
	return m, nil
}

// Octal returns the bits that are the mode of whatever there was.
func (m Mode) Octal() (bits uint32, ok bool) { return m.octal, m.change == nil }

// Of returns the mode of what had the mode old: permission bits with set-user-id
// 04000, set-group-id 02000 and sticky 01000, as in chmod(2).
func (m Mode) Of(old uint32, dir bool) uint32 {
	if m.change == nil {
		return m.octal
	}
	mode := old & 0o7777
	for _, c := range m.change {
		perm := c.perm
		if c.exec && (dir || mode&bitsExec != 0) {
			perm |= bitsExec
		}
		switch c.from {
		case 'u':
			perm = mode >> 6 & 7 * 0o111
		case 'g':
			perm = mode >> 3 & 7 * 0o111
		case 'o':
			perm = mode & 7 * 0o111
		}
		switch perm &= c.who; c.op {
		case '=':
			keep := ^c.who
			if dir {
				keep |= 0o6000 // chmod(1) leaves a directory's set-id bits to + and -
			}
			mode = mode&keep | perm
		case '+':
			mode |= perm
		case '-':
			mode &^= perm
		}
	}
	return mode
}
