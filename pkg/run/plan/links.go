package plan

import (
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/oci"
)

// Link is a --link on the default network: what a container is told of another
// one, beside the line in its /etc/hosts.
type Link struct {
	Owner, Alias string // the name of who is told, and what it calls the other
	IP           string
	Request      Request // of the other
	Image        oci.Config
}

// WithLinks returns env with Docker's variables of links: what the container's
// own environment sets stays.
func WithLinks(env []string, links []Link) []string {
	e := envList(slices.Clone(env))
	for _, l := range links {
		for _, kv := range l.variables() {
			if key, _, _ := strings.Cut(kv, "="); !e.has(key) {
				e.set(kv)
			}
		}
	}
	return e
}

func (l Link) variables() []string {
	prefix := strings.ReplaceAll(strings.ToUpper(l.Alias), "-", "_")
	ports := Exposed(l.Request, l.Image.ExposedPorts)
	var env []string
	if len(ports) > 0 {
		env = append(env, prefix+"_PORT="+l.url(ports[0]))
	}
	for len(ports) > 0 {
		n := inARow(ports)
		if n > 2 { // fewer are no range
			env = append(env, l.span(prefix, ports[0], ports[n-1])...)
		}
		for _, p := range ports[:n] {
			number, proto, _ := strings.Cut(p, "/")
			name := prefix + "_PORT_" + number + "_" + strings.ToUpper(proto)
			env = append(env, name+"="+l.url(p), name+"_ADDR="+l.IP, name+"_PORT="+number, name+"_PROTO="+proto)
		}
		ports = ports[n:]
	}
	env = append(env, prefix+"_NAME=/"+l.Owner+"/"+l.Alias)
	var own envList
	for _, kv := range slices.Concat(l.Image.Env, l.Request.Env) {
		own.set(kv)
	}
	for _, kv := range own {
		if key, _, _ := strings.Cut(kv, "="); key != "HOME" && key != "PATH" {
			env = append(env, prefix+"_ENV_"+kv)
		}
	}
	return env
}

// url is a port as these variables have it.
func (l Link) url(port string) string {
	number, proto, _ := strings.Cut(port, "/")
	return proto + "://" + l.IP + ":" + number
}

// span are the variables of ports in a row.
func (l Link) span(prefix, first, last string) []string {
	number, proto, _ := strings.Cut(first, "/")
	end, endProto, _ := strings.Cut(last, "/")
	name := prefix + "_PORT_" + number + "_"
	from, to := name+strings.ToUpper(proto), name+strings.ToUpper(endProto)
	return []string{
		from + "_START=" + l.url(first), from + "_ADDR=" + l.IP, from + "_PROTO=" + proto, from + "_PORT_START=" + number,
		to + "_END=" + l.url(last), to + "_PORT_END=" + end,
	}
}

// inARow is how many of the ports, at least one, follow each other.
func inARow(ports []string) int {
	number := func(i int) int {
		text, _, _ := strings.Cut(ports[i], "/")
		n, _ := strconv.Atoi(text)
		return n
	}
	n := 1
	for n < len(ports) && number(n) <= number(n-1)+1 {
		n++
	}
	return n
}
