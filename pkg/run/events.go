package run

import (
	"maps"
	"strings"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/events"
)

// attributes are what an event says of a container: its labels, its image and
// its name, and what belongs to the action, name and value in turn.
func attributes(rec *container.Record, name string, more ...string) map[string]string {
	attrs := map[string]string{}
	maps.Copy(attrs, rec.Image.Labels)
	maps.Copy(attrs, rec.Request.Labels)
	attrs["image"] = rec.ImageRef
	attrs["name"] = name
	for i := 0; i+1 < len(more); i += 2 {
		attrs[more[i]] = more[i+1]
	}
	return attrs
}

// event is one of a container.
func event(rec *container.Record, name, action string, more ...string) events.Event {
	return events.Event{Type: events.Container, Action: action, ID: rec.ID, Attributes: attributes(rec, name, more...)}
}

// tell notes what happened to a container. Nothing fails for want of it.
func (s *Service) tell(c *container.Container, action string, more ...string) {
	s.note(event(c.Record, c.Name(), action, more...))
}

func (s *Service) note(list ...events.Event) {
	if err := s.o.Events.Append(list...); err != nil {
		s.log.Debug("an event is lost", "error", err)
	}
}

// head is an event as a monitor has it: a line that lacks its time.
func head(e events.Event) string { return string(events.AppendHead(nil, e)) }

// created are the events of a new container.
func (s *Service) created(rec *container.Record, name string, attach bool) []events.Event {
	list := []events.Event{event(rec, name, "create")}
	if attach {
		list = append(list, event(rec, name, "attach"))
	}
	return list
}

// eventAttrs are the attributes in the monitor's form, without the name, which
// may change.
func eventAttrs(rec *container.Record) string {
	attrs := attributes(rec, "")
	delete(attrs, "name")
	return string(events.AppendAttributes(nil, attrs))
}

// commandLine is an exec's command as its events say it.
func commandLine(argv []string) string { return strings.Join(argv, " ") }
