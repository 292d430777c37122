package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Plain returns the view for log files: BuildKit's lines, which those who read
// the logs of builds know.
//
//	#5 [2/4] RUN make
//	#5 0.213 cc -o main main.c
//	#5 DONE 1.4s
//
// A step's number is that of its first line. A step that others interrupt ends
// with "#5 ..." and begins again with its name.
func Plain(w io.Writer) View { return &plain{w: w, steps: map[int]*plainStep{}} }

type plain struct {
	w       io.Writer
	steps   map[int]*plainStep
	order   []*plainStep // those that have not ended, as they began
	numbers int
	current *plainStep
	begun   bool // something was written
	failed  []*plainStep
}

type plainStep struct {
	number int
	name   string
	start  time.Time
	items  map[string]bool // finished
	tail   tail
	queue  []Event // while another step is shown
}

// patience is how long a step's lines wait for another one to end, so that two
// that run side by side do not cut each other to pieces.
const patience = 3 * time.Second

// Event shows e, at once or when its step's turn comes.
func (p *plain) Event(e Event) {
	s := p.steps[e.Step]
	if s == nil {
		s = &plainStep{name: e.Name, start: e.Time, items: map[string]bool{}}
		p.steps[e.Step] = s
		p.order = append(p.order, s)
	}
	switch {
	case p.current == nil || p.current == s:
		p.show(s, e)
	case e.Kind != Start:
		s.queue = append(s.queue, e)
	}
	p.Tick(e.Time)
}

// Every is how often Tick is to be called.
func (p *plain) Every() time.Duration { return time.Second }

// Tick gives the turn to whoever has waited too long, or to the next one if
// nobody has it.
func (p *plain) Tick(now time.Time) {
	for {
		var next *plainStep
		for _, s := range p.order {
			if s != p.current && len(s.queue) > 0 && (next == nil || s.queue[0].Time.Before(next.queue[0].Time)) {
				next = s
			}
		}
		if next == nil || p.current != nil && now.Sub(next.queue[0].Time) < patience {
			return
		}
		queue := next.queue
		next.queue = nil
		for _, e := range queue {
			p.show(next, e)
		}
	}
}

func (p *plain) show(s *plainStep, e Event) {
	switch e.Kind {
	case Start:
		p.turn(s)
	case Output:
		p.turn(s)
		for _, l := range lines(e.Data) {
			l = fmt.Sprintf("%.3f %s", e.Time.Sub(s.start).Seconds(), plainText(l))
			s.tail.add(l)
			fmt.Fprintf(p.w, "#%d %s\n", s.number, l)
		}
	case Change:
		p.change(s, e)
	case Warn:
		p.turn(s)
		fmt.Fprintf(p.w, "#%d WARN: %s\n", s.number, plainText(string(e.Data)))
	case Finish:
		p.turn(s)
		p.finish(s, e)
		delete(p.steps, e.Step)
		p.order = slices.DeleteFunc(p.order, func(o *plainStep) bool { return o == s })
	}
}

// change shows an item once when it begins to move and once when it is done.
func (p *plain) change(s *plainStep, e Event) {
	done, seen := s.items[e.Item.Name]
	if done || seen && !e.Item.Finished {
		return
	}
	s.items[e.Item.Name] = e.Item.Finished
	p.turn(s)
	text := plainText(e.Item.Name)
	if e.Item.Total > 0 && e.Item.Done != e.Item.Total {
		text += " " + size(e.Item.Done) + " / " + size(e.Item.Total)
	} else if e.Item.Done > 0 {
		text += " " + size(e.Item.Done)
		if e.Item.Total > 0 {
			text += " / " + size(e.Item.Total)
		}
	}
	if e.Item.Finished {
		if d := e.Time.Sub(e.Item.Started).Seconds(); d >= 0.05 {
			text += fmt.Sprintf(" %.1fs", d)
		}
		text += " done"
	}
	fmt.Fprintf(p.w, "#%d %s\n", s.number, text)
}

func (p *plain) finish(s *plainStep, e Event) {
	switch {
	case canceled(e.Err):
		fmt.Fprintf(p.w, "#%d CANCELED\n", s.number)
	case e.Err != nil:
		fmt.Fprintf(p.w, "#%d ERROR: %s\n", s.number, plainText(firstLine(e.Err.Error())))
		p.failed = append(p.failed, s)
	case e.Cached:
		fmt.Fprintf(p.w, "#%d CACHED\n", s.number)
	default:
		fmt.Fprintf(p.w, "#%d DONE %.1fs\n", s.number, e.Time.Sub(s.start).Seconds())
	}
	p.current = nil
}

// turn makes s the step whose lines come next.
func (p *plain) turn(s *plainStep) {
	if p.current == s {
		return
	}
	if c := p.current; c != nil {
		fmt.Fprintf(p.w, "#%d ...\n", c.number)
	}
	if p.begun {
		fmt.Fprintln(p.w)
	}
	if s.number == 0 {
		p.numbers++
		s.number = p.numbers
	}
	p.begun, p.current = true, s
	fmt.Fprintf(p.w, "#%d %s\n", s.number, plainText(strings.ReplaceAll(s.name, "\n", " ")))
}

// Close shows what still waits, and once more what the failed steps wrote.
func (p *plain) Close() {
	p.current = nil
	p.Tick(time.Time{})
	for _, s := range p.failed {
		io.WriteString(p.w, failure(s.name, &s.tail))
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
