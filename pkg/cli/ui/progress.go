package ui

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/sys"
	"cais.dev/cais/pkg/units"
)

// Progress draws how far several things are: on a terminal a line for each that
// is redrawn in place, elsewhere a plain line for each change of status, as
// Docker does.
type Progress struct {
	w     io.Writer
	term  *os.File // nil: plain lines
	now   func() time.Time
	width int // of the terminal; 0: ask it

	mu    sync.Mutex
	lines []*progressLine
	by    map[string]*progressLine
	drawn int       // lines on the screen that the next drawing replaces
	last  time.Time // of the last drawing
}

type progressLine struct {
	id, status  string
	done, total int64
}

// NewProgress returns one that writes to s.Err: what scripts read goes to Out.
func NewProgress(s Streams) *Progress {
	p := &Progress{w: s.Err, now: time.Now, by: map[string]*progressLine{}}
	if f := s.ErrFile(); s.ErrTerminal() && os.Getenv("TERM") != "dumb" {
		p.term = f
	}
	return p
}

// Message prints a line of its own above what is redrawn.
func (p *Progress) Message(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle()
	fmt.Fprintln(p.w, text)
}

// Status sets a thing's status: "Pulling fs layer", "Pull complete".
func (p *Progress) Status(id, status string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.line(id)
	if l.status == status && l.total == 0 {
		return
	}
	l.status, l.done, l.total = status, 0, 0
	if p.term == nil {
		fmt.Fprintf(p.w, "%s: %s\n", id, status)
		return
	}
	p.draw(false)
}

// Bytes sets a thing's status with a bar. It is not for plain lines.
func (p *Progress) Bytes(id, status string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.term == nil {
		return
	}
	l := p.line(id)
	l.status, l.done, l.total = status, done, total
	p.draw(false)
}

// Pull draws what happens in a pull, in Docker's words.
func (p *Progress) Pull(e pull.Event) {
	switch e.Kind {
	case pull.Pulling:
		p.Message(pullingFrom(e.Ref))
	case pull.Preparing:
		p.Status(e.Layer, "Pulling fs layer")
	case pull.Exists:
		p.Status(e.Layer, "Already exists")
	case pull.Waiting:
		p.Status(e.Layer, "Waiting")
	case pull.Downloading:
		p.Bytes(e.Layer, "Downloading", e.Done, e.Total)
	case pull.Retrying:
		p.Status(e.Layer, "Retrying: "+e.Text)
	case pull.Extracting:
		p.Status(e.Layer, "Download complete")
	case pull.Complete:
		p.Status(e.Layer, "Pull complete")
	}
}

// Push draws what happens in a push, in Docker's words.
func (p *Progress) Push(e push.Event) {
	switch e.Kind {
	case push.Preparing:
		p.Status(e.Layer, "Preparing")
	case push.Waiting:
		p.Status(e.Layer, "Waiting")
	case push.Pushing:
		p.Bytes(e.Layer, "Pushing", e.Done, e.Total)
	case push.Exists:
		p.Status(e.Layer, "Layer already exists")
	case push.Mounted:
		p.Status(e.Layer, "Mounted from "+e.Text)
	case push.Pushed:
		p.Status(e.Layer, "Pushed")
	case push.Skipped:
		p.Status(e.Layer, "Skipped foreign layer")
	}
}

func pullingFrom(r oci.Reference) string {
	what := r.Tag
	if r.Digest != "" {
		what = r.Digest
	}
	return what + ": Pulling from " + r.Path
}

// Close draws the end.
func (p *Progress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle()
}

func (p *Progress) line(id string) *progressLine {
	l, ok := p.by[id]
	if !ok {
		l = &progressLine{id: id}
		p.by[id] = l
		p.lines = append(p.lines, l)
	}
	return l
}

// settle leaves what is drawn where it is and begins below.
func (p *Progress) settle() {
	if p.term != nil && len(p.lines) > 0 {
		p.draw(true)
	}
	p.lines, p.by, p.drawn = nil, map[string]*progressLine{}, 0
}

// draw writes all lines over the ones before, at most ten times a second. A
// screen with fewer rows than lines shows the last ones; all stay at the end.
func (p *Progress) draw(final bool) {
	now := p.now()
	if !final && now.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last = now
	width, height := p.size()
	lines := p.lines
	if n := height - 1; !final && len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn) // up
	}
	for _, l := range lines {
		b.WriteString("\r\x1b[2K") // this line, empty
		b.WriteString(Ellipsis(l.text(width), width))
		b.WriteByte('\n')
	}
	if extra := p.drawn - len(lines); extra > 0 {
		b.WriteString("\x1b[J") // what was below
	}
	p.drawn = len(lines)
	io.WriteString(p.w, b.String())
}

func (p *Progress) size() (width, height int) {
	if p.width > 0 {
		return p.width, 24
	}
	rows, cols, err := sys.WindowSize(int(p.term.Fd()))
	if err != nil || cols == 0 || rows < 3 {
		return 80, 24
	}
	return int(cols) - 1, int(rows) // a full last column would wrap on some terminals
}

const barWidth = 50 // Docker's

// text is "id: Downloading [=====>     ]  1.2MB/3.4MB".
func (l *progressLine) text(width int) string {
	s := l.id + ": " + l.status
	if l.total <= 0 {
		if l.done > 0 {
			s += " " + units.Size(l.done)
		}
		return s
	}
	numbers := fmt.Sprintf("%8s/%s", units.Size(l.done), units.Size(l.total))
	bar := min(barWidth, width-len(s)-len(numbers)-4)
	if bar < 10 {
		return s + " " + numbers
	}
	full := int(min(l.done, l.total) * int64(bar) / l.total)
	head := ">"
	if full == bar {
		head = ""
	}
	return fmt.Sprintf("%s [%s%s%s] %s", s, strings.Repeat("=", full), head, strings.Repeat(" ", max(0, bar-full-len(head))), numbers)
}
