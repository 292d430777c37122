package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/commit"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/events"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/storage"
)

type commitOptions struct {
	container, name string
	author, message string
	changes         []string
	pause           bool
	format          string
	iidFile         string
	squash          bool   // one layer for all of the container's files
	volumes         bool   // the container's volumes are the image's
	config          string // a file with parts of a config; they replace the container's
}

// NewCommit makes "commit", "container commit".
func NewCommit(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o commitOptions
	var noPause, quiet bool
	cmd := &cobra.Command{
		Use:               "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short:             "Make an image from a container's changes",
		Example:           "  cais commit -c 'CMD [\"/app\"]' web web:changed",
		ValidArgsFunction: complete.Containers(e, 1, nil),
		Args:              ui.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.format != "" && o.format != "oci" && o.format != "docker" {
				return ui.Exit(ui.CodeUsage, fmt.Errorf("unknown format %q: want oci or docker", o.format))
			}
			o.container = args[0]
			if len(args) > 1 {
				names, err := targets(args[1:])
				if err != nil {
					return err
				}
				o.name = names[0]
			}
			o.pause = o.pause && !noPause
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return ended(code, err)
			}
			id, err := commitContainer(cmd.Context(), e, o)
			if err != nil {
				return err
			}
			if o.iidFile != "" {
				if err := atomicfile.Write(o.iidFile, []byte("sha256:"+id), 0o644, false); err != nil {
					return fmt.Errorf("write the image's id: %w", err)
				}
			}
			fmt.Fprintln(s.Out, "sha256:"+id)
			return nil
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&o.author, "author", "a", "", "Author, such as \"Jane Doe <jane@example.com>\"")
	f.StringArrayVarP(&o.changes, "change", "c", nil, "Apply this Dockerfile `instruction` to the image")
	f.StringVarP(&o.message, "message", "m", "", "Commit message")
	f.BoolVarP(&o.pause, "pause", "p", true, "Pause the container meanwhile")
	f.BoolVar(&noPause, "no-pause", false, "Do not pause the container meanwhile")
	f.StringVarP(&o.format, "format", "f", "", "`Format` of the manifest: oci, docker; the base image's if not given")
	f.StringVar(&o.iidFile, "iidfile", "", "Write the image's id to this `file`")
	f.BoolVarP(&quiet, "quiet", "q", false, "Print the id only, which is all that is printed anyway")
	f.BoolVarP(&o.squash, "squash", "s", false, "Make one layer of all the container's files, the base image's too")
	f.BoolVar(&o.volumes, "include-volumes", false, "Declare what the container has volumes at as the image's volumes, too")
	f.StringVar(&o.config, "config", "", "Take what this JSON `file` has, such as {\"Cmd\":[\"sh\"]}, instead of the container's config")
	return cmd
}

// freezer is what commit needs to stop a container for a moment.
type freezer interface {
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
}

func commitContainer(ctx context.Context, e *engine.Engine, o commitOptions) (id string, err error) {
	svc, err := e.Containers()
	if err != nil {
		return "", err
	}
	facts, err := svc.Inspect(ctx, o.container)
	if err != nil {
		return "", err
	}
	c := facts.Container
	shown := docker.NewContainer(facts)
	conf := configOfContainer(shown.Config, c.Record.Request.HostNames)
	if conf, err = o.merge(conf, shown); err != nil {
		return "", err
	}
	platform := c.Record.Platform
	if conf, err = commit.Change(ctx, conf, platform, o.changes); err != nil {
		return "", err
	}
	r, err := e.Reader()
	if err != nil {
		return "", err
	}
	req := commit.Request{
		Config: conf, Platform: platform, Created: time.Now().UTC(), Author: o.author, Message: o.message,
		CreatedBy: strings.Join(append([]string{c.Record.Path}, c.Record.Args...), " "),
		OCI:       o.format == "oci",
	}
	if o.name != "" {
		req.Names = []string{o.name}
	}
	if c.Record.ImageID == "" {
		err := errs.New(errs.Unsupported, "the container was made from a directory, not from an image")
		return "", errs.WithHint(err, "'cais export NAME | cais import - IMAGE' keeps its files.")
	}
	img, err := r.Image(ctx, "sha256:"+c.Record.ImageID)
	if err != nil {
		return "", fmt.Errorf("find the container's image: %w", err)
	}
	req.Base = &commit.Base{TopLayer: img.TopLayer}
	if req.Base.Config, err = r.Config(ctx, img); err != nil {
		return "", err
	}
	if req.Base.Manifest, err = r.Manifest(ctx, img); err != nil {
		return "", err
	}
	if f, ok := any(svc).(freezer); ok && o.pause && c.Running() && shown.State.Status == "running" {
		if err := f.Pause(ctx, c.Record.ID); err == nil {
			defer func() { err = errors.Join(err, f.Unpause(context.WithoutCancel(ctx), c.Record.ID)) }()
		} else {
			e.Log().Warn("the container is not paused while its files are read", "reason", err)
		}
	}
	store, err := e.ContainerStore()
	if err != nil {
		return "", err
	}
	st, err := e.Store(ctx)
	if err != nil {
		return "", err
	}
	if o.squash {
		id, err = squashed(ctx, st, req, func(w io.Writer) error { return svc.Export(ctx, c.Record.ID, w) })
	} else {
		dir := storage.Dir{Path: filepath.Join(store.Dir(c.Record.ID), "upper")}
		if dir.Owner = c.Record.IDs.Inside(); dir.Owner != nil {
			dir.Lower = c.Record.Lower[:len(c.Record.Lower)-1] // without the mount points
		}
		id, err = commit.Directory(ctx, st, req, dir)
	}
	if err = errors.Join(err, st.Close()); err != nil {
		return "", fmt.Errorf("commit container %s: %w", o.container, err)
	}
	attrs := map[string]string{"image": c.Record.ImageRef, "name": c.Name(), "comment": o.message, "imageID": "sha256:" + id, "imageRef": o.name}
	for k, v := range shown.Config.Labels {
		attrs[k] = v
	}
	e.Note(events.Event{Type: events.Container, Action: "commit", ID: c.Record.ID, Attributes: attrs})
	return id, nil
}

// merge adds to a config what the options say, before any --change.
func (o commitOptions) merge(conf oci.Config, shown *docker.Container) (oci.Config, error) {
	if o.volumes {
		conf.Volumes = maps.Clone(conf.Volumes)
		for _, m := range shown.Mounts {
			if m.Type != "volume" {
				continue
			}
			if conf.Volumes == nil {
				conf.Volumes = map[string]struct{}{}
			}
			conf.Volumes[m.Destination] = struct{}{}
		}
	}
	if o.config == "" {
		return conf, nil
	}
	data, err := os.ReadFile(o.config)
	if err != nil {
		return conf, err
	}
	if err := json.Unmarshal(data, &conf); err != nil {
		return conf, errs.E("read the config in "+o.config, errs.Invalid, err)
	}
	return conf, nil
}

// squashed makes an image of one layer from the tar that export writes.
func squashed(ctx context.Context, st commit.Store, req commit.Request, export func(io.Writer) error) (string, error) {
	req.Base = nil
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := export(w)
		w.CloseWithError(err)
		done <- err
	}()
	id, err := commit.Tar(ctx, st, req, r, true)
	r.CloseWithError(err) // so that export ends
	if failed := <-done; err == nil {
		err = failed
	}
	return id, err
}

// configOfContainer is what an image of the container starts with. The variables of host,
// which the caller's environment had, are not for whoever gets the image.
func configOfContainer(c *docker.ContainerConfig, host []string) oci.Config {
	env := slices.DeleteFunc(slices.Clone(c.Env), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return slices.Contains(host, key) || strings.HasPrefix(kv, "HOSTNAME=") || strings.HasPrefix(kv, "HOME=") || kv == "TERM=xterm" && c.Tty
	})
	return oci.Config{
		User: c.User, ExposedPorts: c.ExposedPorts, Env: env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Volumes: c.Volumes,
		WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal, Healthcheck: c.Healthcheck, OnBuild: c.OnBuild,
		Shell: c.Shell, ArgsEscaped: c.ArgsEscaped,
	}
}

// imageEvent is one of an image. name is what Docker has as its id, too, for what
// is done by name.
func imageEvent(action, id, name string, labels map[string]string) events.Event {
	attrs := map[string]string{}
	maps.Copy(attrs, labels)
	attrs["name"] = name
	return events.Event{Type: events.Image, Action: action, ID: id, Attributes: attrs}
}

// labels are those of img for its events, which are told also if they cannot be read.
func labels(ctx context.Context, r *storage.Reader, img *storage.Image) map[string]string {
	c, _ := configOf(ctx, r, img)
	return c.Config.Labels
}

// labelsOf are the labels of the image with this id.
func labelsOf(ctx context.Context, e *engine.Engine, id string) map[string]string {
	r, err := e.Reader()
	if err != nil {
		return nil
	}
	img, err := r.Image(ctx, "sha256:"+id)
	if err != nil {
		return nil
	}
	return labels(ctx, r, img)
}

type importOptions struct {
	source, name string
	changes      []string
	message      string
	platform     string
	os, arch     string
	variant      string
	unlimited    bool
}

// NewImport makes "import", "image import".
func NewImport(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o importOptions
	var quiet bool
	cmd := &cobra.Command{
		Use:     "import [OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]",
		Short:   "Make an image from a tar of files, as export writes it",
		Example: "  cais export web | cais import - web:flat\n  cais import -c 'CMD [\"/bin/sh\"]' rootfs.tar.xz base:1",
		Args:    ui.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.source = args[0]
			if len(args) > 1 {
				names, err := targets(args[1:])
				if err != nil {
					return err
				}
				o.name = names[0]
			}
			po := pullOptions{platform: o.platform, os: o.os, arch: o.arch, variant: o.variant}
			platform, err := po.wanted()
			if err != nil {
				return err
			}
			p := oci.HostPlatform()
			if platform != nil {
				p = *platform
			}
			conf, err := commit.Change(cmd.Context(), oci.Config{}, p, o.changes)
			if err != nil {
				return err
			}
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return ended(code, err)
			}
			id, err := importTar(cmd.Context(), e, s, o, conf, p)
			if err != nil {
				return err
			}
			fmt.Fprintln(s.Out, "sha256:"+id)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.changes, "change", "c", nil, "Apply this Dockerfile `instruction` to the image")
	f.StringVarP(&o.message, "message", "m", "", "Commit message")
	f.StringVar(&o.platform, "platform", "", "What the files are for: `OS[/ARCH[/VARIANT]]`")
	f.StringVar(&o.arch, "arch", "", "The files' `architecture`")
	f.StringVar(&o.os, "os", "", "The files' operating `system`")
	f.StringVar(&o.variant, "variant", "", "The `variant` of the files' architecture")
	f.BoolVarP(&quiet, "quiet", "q", false, "Print the id only, which is all that is printed anyway")
	f.BoolVar(&o.unlimited, "unlimited", false, "Take a tar that unpacks to an absurd size, too")
	return cmd
}

func importTar(ctx context.Context, e *engine.Engine, s ui.Streams, o importOptions, conf oci.Config, p oci.Platform) (id string, err error) {
	in, from, err := openSource(ctx, s, o.source)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	req := commit.Request{
		Config: conf, Platform: p, Created: time.Now().UTC(),
		Message: cmp.Or(o.message, "Imported from "+from),
	}
	if o.name != "" {
		req.Names = []string{o.name}
	}
	st, err := e.Store(ctx)
	if err != nil {
		return "", err
	}
	id, err = commit.Tar(ctx, st, req, in, o.unlimited)
	if err = errors.Join(err, st.Close()); err != nil {
		return "", fmt.Errorf("import %s: %w", o.source, err)
	}
	e.Note(imageEvent("import", cmp.Or(o.name, "sha256:"+id), cmp.Or(o.name, "sha256:"+id), conf.Labels))
	return id, nil
}

// openSource opens what import reads. from is how Docker names it.
func openSource(ctx context.Context, s ui.Streams, source string) (in io.ReadCloser, from string, err error) {
	switch {
	case source == "-":
		return io.NopCloser(s.In), "-", nil
	case strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://"):
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
		if err != nil {
			return nil, "", errs.E("", errs.Invalid, err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, "", errs.E("", errs.Unavailable, err)
		}
		if resp.StatusCode != http.StatusOK {
			return nil, "", errors.Join(errs.E("import "+source, errs.NotFound, fmt.Errorf("the server answers %s", resp.Status)), resp.Body.Close())
		}
		fmt.Fprintln(s.Err, "Downloading from", source)
		return resp.Body, source, nil
	}
	f, err := os.Open(source)
	if err != nil {
		return nil, "", err
	}
	return f, "-", nil // Docker's client sends it as a stream
}

// NewUntag makes "untag", "image untag".
func NewUntag(e *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:               "untag IMAGE [NAME...]",
		Short:             "Take names away from an image, all of them if none is given",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Images(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := targets(args[1:])
			if err != nil {
				return err
			}
			return changing(cmd.Context(), e, func(st *storage.Store) error {
				img, err := findImage(cmd.Context(), st.Reader(), args[0])
				if err != nil {
					return err
				}
				if len(names) == 0 {
					names = img.Names
				}
				for _, n := range names {
					if !slices.Contains(img.Names, n) {
						return errs.New(errs.NotFound, fmt.Sprintf("%s: tag not known", familiar(n)))
					}
				}
				if err := st.Untag(cmd.Context(), names...); err != nil {
					return err
				}
				has := labels(cmd.Context(), st.Reader(), img)
				for _, n := range names {
					e.Note(imageEvent("untag", "sha256:"+img.ID, familiar(n), has))
				}
				return nil
			})
		},
	}
}
