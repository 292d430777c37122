package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// TerminalOptions say how the terminal's view looks.
type TerminalOptions struct {
	// Size returns the terminal's columns and rows.
	Size func() (columns, rows int)
	// Color marks what is done, what failed and what was stopped.
	Color bool
	// LogLines is how many of its last lines a running step shows; 0: six.
	LogLines int
	// Title is shown at the end of the first line.
	Title string
}

// Terminal returns the view for people: a line for each step, redrawn in place,
// with the last lines that the running ones wrote; steps from the cache that
// follow each other take one line.
func Terminal(w io.Writer, o TerminalOptions) View {
	if o.LogLines <= 0 {
		o.LogLines = 6
	}
	return &terminal{w: w, o: o, by: map[int]*liveStep{}, now: time.Now}
}

type terminal struct {
	w     io.Writer
	o     TerminalOptions
	now   func() time.Time
	begun time.Time
	steps []*liveStep
	by    map[int]*liveStep
	drawn int // lines on the screen that the next drawing replaces
	last  time.Time
}

type liveStep struct {
	name       string
	start, end time.Time
	done       bool
	cached     bool
	err        error
	items      []Item
	tail       tail
	warnings   []string
}

// Event takes note of e and draws, ten times a second at most.
func (t *terminal) Event(e Event) {
	s := t.by[e.Step]
	if s == nil {
		s = &liveStep{name: plainText(strings.ReplaceAll(e.Name, "\n", " ")), start: e.Time}
		t.by[e.Step] = s
		t.steps = append(t.steps, s)
		if t.begun.IsZero() {
			t.begun = e.Time
		}
	}
	switch e.Kind {
	case Output:
		for _, l := range lines(e.Data) {
			s.tail.add(plainText(l))
		}
	case Change:
		i := slices.IndexFunc(s.items, func(i Item) bool { return i.Name == e.Item.Name })
		if i < 0 {
			s.items = append(s.items, e.Item)
		} else {
			s.items[i] = e.Item
		}
	case Warn:
		s.warnings = append(s.warnings, plainText(string(e.Data)))
	case Finish:
		s.done, s.end, s.cached, s.err = true, e.Time, e.Cached, e.Err
	}
	if e.Time.Sub(t.last) >= 100*time.Millisecond {
		t.draw(e.Time, false)
	}
}

// Every is how often Tick is to be called.
func (t *terminal) Every() time.Duration { return 100 * time.Millisecond }

// Tick draws the time that passes.
func (t *terminal) Tick(now time.Time) {
	if len(t.steps) > 0 && now.Sub(t.last) >= 90*time.Millisecond {
		t.draw(now, false)
	}
}

// Close leaves the whole picture, and what the failed steps wrote last.
func (t *terminal) Close() {
	if len(t.steps) == 0 {
		return
	}
	t.draw(t.now(), true)
	for _, s := range t.steps {
		if s.err != nil && !canceled(s.err) {
			io.WriteString(t.w, failure(s.name, &s.tail))
		}
	}
}

func (t *terminal) draw(now time.Time, final bool) {
	t.last = now
	columns, rows := 80, 24
	if t.o.Size != nil {
		columns, rows = t.o.Size()
	}
	columns = max(columns-1, 20) // a full last column would wrap on some terminals
	all := t.picture(now, columns, final)
	if most := max(rows-2, 3); !final && len(all) > most { // the first line, and the last ones
		all = slices.Concat(all[:1], all[len(all)-most+1:])
	}
	var b strings.Builder
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", t.drawn)
	}
	for _, l := range all {
		b.WriteString(l)
		b.WriteString("\x1b[K\n")
	}
	if t.drawn > len(all) {
		b.WriteString("\x1b[J")
	}
	t.drawn = len(all)
	io.WriteString(t.w, b.String())
}

// picture is the lines, each no wider than columns.
func (t *terminal) picture(now time.Time, columns int, final bool) []string {
	done := 0
	for _, s := range t.steps {
		if s.done {
			done++
		}
	}
	state := ""
	if final {
		state = " FINISHED"
		for _, s := range t.steps {
			if s.err != nil {
				state = " FAILED"
			}
		}
	}
	head := fmt.Sprintf("[+] Building %.1fs (%d/%d)%s", now.Sub(t.begun).Seconds(), done, len(t.steps), state)
	out := []string{cut(alignRight(head, t.o.Title, columns), columns)}
	for i := 0; i < len(t.steps); i++ {
		s := t.steps[i]
		n := 1
		for s.isFolded() && i+n < len(t.steps) && t.steps[i+n].isFolded() {
			n++
		}
		if n > 1 {
			last := t.steps[i+n-1]
			text := fmt.Sprintf(" => CACHED %d steps: %s … %s", n, s.name, last.name)
			if utf8.RuneCountInString(text)+6 > columns {
				text = fmt.Sprintf(" => CACHED %d steps, the last: %s", n, last.name)
			}
			out = append(out, t.paint(alignRight(text, "0.0s", columns), blue))
			i += n - 1
			continue
		}
		out = append(out, t.step(s, now, columns, final)...)
	}
	return out
}

func (s *liveStep) isFolded() bool { return s.done && s.cached && len(s.warnings) == 0 }

func (t *terminal) step(s *liveStep, now time.Time, columns int, final bool) []string {
	end, text, color := now, " => "+s.name, ""
	switch {
	case !s.done:
	case canceled(s.err):
		end, text, color = s.end, " => CANCELED "+s.name, yellow
	case s.err != nil:
		end, text, color = s.end, " => ERROR "+s.name, red
	case s.cached:
		end, text, color = s.end, " => CACHED "+s.name, blue
	default:
		end, color = s.end, blue
	}
	out := []string{t.paint(alignRight(text, seconds(end.Sub(s.start)), columns), color)}
	for _, w := range s.warnings {
		out = append(out, t.paint(cut(" => => WARN: "+w, columns), yellow))
	}
	if s.done && !final {
		return out
	}
	shown := s.items
	if s.done { // what stays on the screen, such as the image's id
		shown = slices.DeleteFunc(slices.Clone(shown), func(i Item) bool { return !i.Finished })
	} else if len(shown) > 8 { // those that move
		shown = slices.DeleteFunc(slices.Clone(shown), func(i Item) bool { return i.Finished })
		shown = shown[:min(len(shown), 8)]
	}
	for _, i := range shown {
		line, took := " => => "+plainText(i.Name), now
		if i.Total > 0 {
			line += " " + size(i.Done) + " / " + size(i.Total)
		} else if i.Done > 0 {
			line += " " + size(i.Done)
		}
		if i.Finished {
			out = append(out, t.paint(cut(line+" done", columns), blue))
			continue
		}
		out = append(out, alignRight(line, seconds(took.Sub(i.Started)), columns))
	}
	if s.done {
		return out
	}
	last := s.tail.lines
	if len(last) > t.o.LogLines {
		last = last[len(last)-t.o.LogLines:]
	}
	for _, l := range last {
		out = append(out, cut(" => => # "+strings.ReplaceAll(l, "\t", "        "), columns))
	}
	return out
}

// The colours of BuildKit's view.
const (
	blue   = "\x1b[34m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
)

func (t *terminal) paint(s, color string) string {
	if !t.o.Color || color == "" {
		return s
	}
	return color + s + "\x1b[0m"
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }

// alignRight is left, then right at the right edge.
func alignRight(left, right string, columns int) string {
	room := columns - utf8.RuneCountInString(right) - 1
	left = cut(left, room)
	return left + strings.Repeat(" ", max(0, room-utf8.RuneCountInString(left))+1) + right
}

// cut shortens s to columns characters.
func cut(s string, columns int) string {
	if utf8.RuneCountInString(s) <= columns {
		return s
	}
	r := []rune(s)
	return string(r[:max(columns-1, 0)]) + "…"
}
