package container

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/units"
)

// filters are the values of each --filter key.
type filters struct {
	values        map[string][]string
	names         []*regexp.Regexp
	before, since time.Time
	until         time.Time
	images        *imageIndex
}

// filterKeys are Docker's, then Podman's. Those that name what is not here yet
// match nothing, as they would if it was not used.
var filterKeys = []string{
	"id", "name", "label", "exited", "status", "ancestor", "before", "since", "volume", "network", "publish", "expose",
	"health", "is-task", "isolation",
	"label!", "restart-policy", "until", "command", "after",
}

func parseFilters(args []string) (*filters, error) {
	values, err := flags.Filters("-f, --filter", args, filterKeys...)
	if err != nil {
		return nil, err
	}
	if after, ok := values["after"]; ok {
		values["since"] = append(values["since"], after...)
		delete(values, "after")
	}
	f := &filters{values: values}
	return f, f.check()
}

// check refuses values that no container could have.
func (f *filters) check() error {
	for _, v := range f.values["status"] {
		switch container.Status(v) {
		case container.Created, container.Running, container.Paused, container.Restarting, container.Removing, container.Exited, container.Dead:
		default:
			return fmt.Errorf("invalid filter 'status=%s'", v)
		}
	}
	for _, v := range f.values["exited"] {
		if _, err := strconv.Atoi(v); err != nil {
			return fmt.Errorf("invalid filter 'exited=%s'", v)
		}
	}
	for _, v := range f.values["health"] {
		if !slices.Contains([]string{"starting", "healthy", "unhealthy", "none"}, v) {
			return fmt.Errorf("invalid filter 'health=%s'", v)
		}
	}
	for _, key := range []string{"publish", "expose"} {
		for _, v := range f.values[key] {
			if _, _, _, err := portFilter(key, v); err != nil {
				return err
			}
		}
	}
	for _, v := range f.values["name"] {
		re, err := regexp.Compile(strings.TrimPrefix(v, "/"))
		if err != nil {
			re = regexp.MustCompile(regexp.QuoteMeta(v))
		}
		f.names = append(f.names, re)
	}
	for _, v := range f.values["until"] {
		t, err := units.ParseTime(v, time.Now(), time.Local)
		if err != nil {
			return err
		}
		f.until = t
	}
	return nil
}

// resolve finds the containers that before and since name.
func (f *filters) resolve(all []*container.Container) error {
	for key, at := range map[string]*time.Time{"before": &f.before, "since": &f.since} {
		for _, ref := range f.values[key] {
			i := slices.IndexFunc(all, func(c *container.Container) bool {
				return c.ID == ref || c.Name() == strings.TrimPrefix(ref, "/") || strings.HasPrefix(c.ID, ref)
			})
			if i < 0 {
				return fmt.Errorf("no such container: %s", ref)
			}
			*at = all[i].Record.Created
		}
	}
	return nil
}

// impliesAll reports whether stopped containers are meant too.
func (f *filters) impliesAll() bool {
	return len(f.values["status"]) > 0
}

// match reports whether c passes every key. Of several values of one key one
// must match, but of labels all.
func (f *filters) match(ctx context.Context, c *container.Container) bool {
	for key, values := range f.values {
		ok := false
		switch key {
		case "label":
			ok = !slices.ContainsFunc(values, func(v string) bool { return !hasLabel(c, v) })
		case "label!":
			ok = !slices.ContainsFunc(values, func(v string) bool { return hasLabel(c, v) })
		case "name":
			for _, re := range f.names {
				ok = ok || re.MatchString(c.Name()) || re.MatchString("/"+c.Name())
			}
		case "before":
			ok = c.Record.Created.Before(f.before)
		case "since":
			ok = c.Record.Created.After(f.since)
		case "until":
			ok = c.Record.Created.Before(f.until)
		case "ancestor":
			ok = slices.ContainsFunc(values, func(v string) bool { return f.images.ancestor(ctx, c.Record, v) })
		default:
			ok = slices.ContainsFunc(values, func(v string) bool { return matchOne(c, key, v) })
		}
		if !ok {
			return false
		}
	}
	return true
}

func hasLabel(c *container.Container, want string) bool {
	k, v, valued := strings.Cut(want, "=")
	have, ok := c.Record.Labels()[k]
	return ok && (!valued || have == v)
}

func matchOne(c *container.Container, key, v string) bool {
	rec := c.Record
	switch key {
	case "id":
		return v != "" && strings.HasPrefix(c.ID, v)
	case "status":
		return string(c.Status()) == v
	case "exited":
		e := c.LastExit()
		return e != nil && !c.Alive && strconv.Itoa(e.Code) == v
	case "volume":
		return slices.ContainsFunc(docker.MountPoints(rec, func(string) string { return "" }), func(m docker.MountPoint) bool {
			return m.Name == v || m.Destination == v || m.Source == v
		})
	case "network":
		return inNetwork(c, v)
	case "expose", "publish":
		return hasPort(c, key, v)
	case "health":
		return healthStatus(c) == v
	case "is-task":
		return v == "false"
	case "isolation":
		return v == "default"
	case "restart-policy":
		return c.Settings.Restart.Name == v
	case "command":
		return strings.Contains(docker.Command(rec), v)
	}
	return false
}

// isImage reports whether v means the image that the container was made from.
func isImage(rec *container.Record, v string) bool {
	if id := strings.TrimPrefix(v, "sha256:"); len(id) >= 4 && strings.HasPrefix(rec.ImageID, id) {
		return true
	}
	want, err := oci.Parse(v)
	if err != nil {
		return false
	}
	have, err := oci.Parse(rec.ImageRef)
	return err == nil && have.WithDefaultTag().String() == want.WithDefaultTag().String()
}

// inNetwork reports whether the container is in the network that v means: by its
// name, its id or the beginning of that.
func inNetwork(c *container.Container, v string) bool {
	if slices.Contains(networkNames(c), v) {
		return true
	}
	return v != "" && slices.ContainsFunc(c.Networks(), func(a plan.Attachment) bool { return strings.HasPrefix(a.ID, v) })
}
