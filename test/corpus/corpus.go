// Package corpus has Dockerfiles of ours, in which every row of what build
// promises is: see README.md. Tests read them through Load.
package corpus

import (
	"embed"
	"fmt"
	"net"
	"strconv"
	"strings"

	"golang.org/x/tools/txtar"

	"cais.dev/cais/pkg/build/dockerfile"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/ignore"
	"cais.dev/cais/pkg/oci"
)

//go:embed *.txtar
var files embed.FS

//go:embed expected
var expected embed.FS

// Case is one Dockerfile with what belongs to it.
type Case struct {
	Name  string   // "copy-link"
	Note  string   // one line
	Flags []string // of build, "--build-arg", "A=b", "--target", "x", …

	// PlanOnly says that it is not to be built: it names images or servers that
	// are not there, or is a mistake.
	PlanOnly bool

	Dockerfile []byte
	Files      map[string][]byte // "context/a.txt", "other/x", "secret.txt"
	Tars       []string          // names in Files that are to be archives, with a file x/f in each
}

// Load returns the cases by name.
func Load() ([]Case, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var list []Case
	for _, e := range entries {
		data, err := files.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		c, err := parse(strings.TrimSuffix(e.Name(), ".txtar"), data)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

func parse(name string, data []byte) (Case, error) {
	ar := txtar.Parse(data)
	c := Case{Name: name, Files: map[string][]byte{}}
	for line := range strings.SplitSeq(string(ar.Comment), "\n") {
		switch {
		case line == "only: plan":
			c.PlanOnly = true
		case strings.HasPrefix(line, "tar: "):
			c.Tars = strings.Fields(line[len("tar: "):])
		case strings.HasPrefix(line, "--"):
			flag, value, ok := strings.Cut(line, " ")
			c.Flags = append(c.Flags, flag)
			if ok {
				c.Flags = append(c.Flags, value)
			}
		case line != "":
			c.Note = line
		}
	}
	for _, f := range ar.Files {
		if f.Name == "Dockerfile" {
			c.Dockerfile = f.Data
			continue
		}
		c.Files[f.Name] = f.Data
	}
	if c.Dockerfile == nil {
		return c, fmt.Errorf("%s: no Dockerfile", name)
	}
	return c, nil
}

// Images are the base images that cases name. busybox is the real one's config; full
// has everything that a config can say; foreign says another platform than it is asked for.
func Images() map[string]oci.Image {
	layer := oci.RootFS{Type: "layers", DiffIDs: []string{"sha256:" + strings.Repeat("a", 64)}}
	return map[string]oci.Image{
		"busybox": {RootFS: layer, Config: oci.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"sh"}}, History: []oci.History{{CreatedBy: "ADD box / # buildkit"}}},
		"alpine":  {RootFS: layer},
		"nothing": {},
		"foreign": {Platform: oci.Platform{OS: "linux", Architecture: "s390x"}, RootFS: layer},
		"onbuild": {RootFS: layer, Config: oci.Config{
			Env: []string{"X=1", "Y=2"}, User: "app", WorkingDir: "/srv",
			OnBuild: []string{"COPY --from=tools /t /t", "RUN echo $X > /x", "ONBUILD_IS_NOT_HERE=1"}[:2],
		}, History: []oci.History{{CreatedBy: "x"}, {CreatedBy: "y", EmptyLayer: true}}},
		"full": {RootFS: layer, Author: "me", Config: oci.Config{
			User: "5:6", ExposedPorts: map[string]struct{}{"80/tcp": {}}, Env: []string{"A=1", "PATH=/bin", "B=2"},
			Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Volumes: map[string]struct{}{"/v": {}}, WorkingDir: "/w",
			Labels: map[string]string{"l": "1"}, StopSignal: "SIGINT", Shell: []string{"/bin/ash", "-c"}, ArgsEscaped: true,
			Healthcheck: &oci.Healthcheck{Test: []string{"CMD", "x"}, Retries: 3},
		}},
	}
}

// Digest is that of every image's manifest.
const Digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// Options returns c's flags as the converter takes them. Values of variables come
// from env.
func (c Case) Options(env func(string) string) (dockerfile.Options, error) {
	o := dockerfile.Options{
		Name: "Dockerfile", Build: oci.Platform{OS: "linux", Architecture: "amd64"},
		BuildArgs: map[string]string{}, Labels: map[string]string{}, Contexts: map[string]string{},
	}
	text, ok := c.Files["Dockerfile.dockerignore"]
	if !ok {
		text = c.Files["context/.dockerignore"]
	}
	if m, err := ignore.New(ignore.Parse(text)); err == nil && !m.Inverted() {
		o.Ignored = m.Ignored
	}
	for i := 0; i < len(c.Flags); i++ {
		flag := c.Flags[i]
		if flag == "--no-cache" {
			o.NoCache = true
			continue
		}
		i++
		v := c.Flags[i]
		k, val, _ := strings.Cut(v, "=")
		switch flag {
		case "--build-arg":
			o.BuildArgs[k] = strings.ReplaceAll(val, "$HOME", env("HOME"))
		case "--label":
			o.Labels[k] = val
		case "--target":
			o.Target = v
		case "--build-context":
			o.Contexts[k] = val
		case "--no-cache-filter":
			o.NoCacheStages = strings.Split(v, ",")
		case "--platform":
			for p := range strings.SplitSeq(v, ",") {
				pl, err := oci.ParsePlatform(p, o.Build)
				if err != nil {
					return o, err
				}
				o.Platforms = append(o.Platforms, pl)
			}
		case "--network":
			o.Network = graph.Network(v)
		case "--shm-size":
			o.ShmSize = 10 << 20
		case "--add-host":
			name, ip, _ := strings.Cut(v, ":")
			o.Hosts = append(o.Hosts, graph.Host{Name: name, IP: net.ParseIP(ip).String()})
		case "--ulimit":
			soft, hard, _ := strings.Cut(val, ":")
			s, err := strconv.ParseInt(soft, 10, 64)
			if err != nil {
				return o, err
			}
			h, err := strconv.ParseInt(hard, 10, 64)
			if err != nil {
				return o, err
			}
			o.Ulimits = append(o.Ulimits, graph.Ulimit{Name: k, Soft: s, Hard: h})
		case "--secret", "--ssh", "--allow": // no part of the plan
		default:
			return o, fmt.Errorf("%s: flag %s is not known here", c.Name, flag)
		}
	}
	return o, nil
}
