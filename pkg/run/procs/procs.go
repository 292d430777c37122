// Package procs shows processes as ps(1) does, for `top`: the machine's own ps need
// not be there, and nothing of the container is executed.
package procs

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
)

// Table is what ps prints: titles, and a row for each process.
type Table struct {
	Titles []string
	Rows   [][]string
}

// column is one of the output's columns.
type column struct {
	title string
	value func(*Process) string
}

// Show prints the processes pids, those that still exist, in the form that ps
// gives to these options; without options as "ps -ef". Words without a dash that
// are Podman's descriptors are columns, too. It fails with Invalid for options
// that it does not know.
func Show(pids []int, options []string, now time.Time) (*Table, error) {
	columns, err := parse(options)
	if err != nil {
		return nil, err
	}
	host := newHost(now)
	t := &Table{}
	for _, c := range columns {
		t.Titles = append(t.Titles, c.title)
	}
	for _, pid := range pids {
		p, err := read(pid)
		if err != nil {
			continue // it has ended
		}
		p.host = host
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = c.value(p)
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

// The formats that ps has names for.
const (
	fullFormat  = "uid=UID,pid,ppid,c,stime,tty,time,cmd"
	plainFormat = "pid,tty,time,ucmd"
	longFormat  = "f,s,uidn,pid,ppid,c,pri,ni,addr,sz,wchan,tty,time,ucmd"
	bsdFormat   = "pid,tty,stat,bsdtime,command"
	userFormat  = "user,pid,%cpu,%mem,vsz,rss,tty,stat,start,bsdtime,command"
)

// parse reads ps's options.
func parse(options []string) ([]column, error) {
	if len(options) == 0 {
		return list(fullFormat)
	}
	if podman, ok := descriptors(options); ok {
		return podman, nil
	}
	format, own := "", ""
	isLong, isFull, isUser, isBSD := false, false, false, false
	for i := 0; i < len(options); i++ {
		o := options[i]
		letters, dashed := strings.CutPrefix(o, "-")
		if strings.HasPrefix(letters, "-") {
			name, value, ok := strings.Cut(letters[1:], "=")
			if name != "format" || !ok {
				return nil, unknown(o)
			}
			own = join(own, value)
			continue
		}
		for j, c := range letters {
			switch {
			case c == 'o' || c == 'O' && dashed:
				value := letters[j+1:]
				if value == "" {
					if i++; i >= len(options) {
						return nil, errs.New(errs.Invalid, "ps: option "+o+" needs a list of columns")
					}
					value = options[i]
				}
				own = join(own, strings.ReplaceAll(value, " ", ","))
			case c == 'f':
				isFull = true
			case c == 'l':
				isLong = true
			case c == 'u' && !dashed, c == 'u' && letters == "aux":
				isUser = true
			case strings.ContainsRune("eAaxdwHTNr", c):
				isBSD = isBSD || !dashed
			default:
				return nil, unknown(o)
			}
			if c == 'o' || c == 'O' && dashed {
				break
			}
		}
	}
	switch {
	case own != "":
		format = own
	case isUser:
		format = userFormat
	case isFull && !isBSD:
		format = fullFormat
	case isLong:
		format = longFormat
	case isBSD:
		format = bsdFormat
	default:
		format = plainFormat
	}
	columns, err := list(format)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(columns, func(c column) bool { return c.title == "PID" }) {
		return nil, errs.New(errs.Invalid, "couldn't find PID field in ps output")
	}
	return columns, nil
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "," + b
}

func unknown(o string) error {
	return errs.WithHint(errs.New(errs.Invalid, fmt.Sprintf("ps: the option %q is not supported", o)),
		"Use -ef, aux, -l or -o with a list of columns: pid,ppid,user,comm,args,etime,time,%cpu,%mem,rss,vsz,stat,tty.")
}

// list reads a list of columns, "pid,comm=NAME".
func list(format string) ([]column, error) {
	var columns []column
	words := strings.Split(format, ",")
	for i, w := range words {
		name, title, titled := strings.Cut(strings.TrimSpace(w), "=")
		c, ok := byName(strings.ToLower(name))
		if !ok {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("ps: unknown column %q", name))
		}
		if titled {
			c.title = title
			if i == len(words)-1 { // ps takes the rest for it, commas and all
				c.title = title
			}
		}
		columns = append(columns, c)
	}
	return columns, nil
}

// descriptors reads Podman's words; false if there is one that is none.
func descriptors(options []string) ([]column, bool) {
	var columns []column
	for _, o := range options {
		for w := range strings.SplitSeq(o, ",") {
			c, ok := podmans(w)
			if !ok {
				return nil, false
			}
			columns = append(columns, c)
		}
	}
	return columns, true
}
