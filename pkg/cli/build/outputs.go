package build

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/build/export"
	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/push"
)

// output makes one output.
func (x *exporter) output(ctx context.Context, o export.Spec, res *build.Result) (err error) {
	switch o.Type {
	case "local":
		return x.local(ctx, o, res)
	case "tar":
		return x.tar(ctx, o, res)
	case "oci", "docker":
		return x.archive(ctx, o)
	}
	if o.Flag("push", false) {
		return x.push(ctx, o)
	}
	return nil
}

// files are a result's files.
func (x *exporter) files(ctx context.Context, b build.Built) (export.Files, error) {
	so, err := x.j.e.StorageOptions()
	if err != nil {
		return export.Files{}, err
	}
	f := export.Files{Dirs: b.Dirs, UserXattr: so.Rootless, Time: x.epoch()}
	if f.Dirs == nil && b.TopLayer != "" {
		r, err := x.j.e.Reader()
		if err != nil {
			return f, err
		}
		if f.Dirs, err = r.LayerDirs(ctx, b.TopLayer); err != nil {
			return f, err
		}
	}
	return f, nil
}

// epoch is SOURCE_DATE_EPOCH, if it is a number.
func (x *exporter) epoch() time.Time {
	n, err := strconv.ParseInt(x.j.args["SOURCE_DATE_EPOCH"], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

func (x *exporter) local(ctx context.Context, o export.Spec, res *build.Result) (err error) {
	step := x.j.log.Step("exporting to client directory")
	defer func() { step.Done(err) }()
	split := o.Flag("platform-split", x.j.several())
	for _, b := range res.Images {
		dest := o.Dest
		if split {
			dest = filepath.Join(dest, platformDir(b.Platform))
		}
		f, err := x.files(ctx, b)
		if err != nil {
			return err
		}
		skipped, err := f.Directory(ctx, dest, o.Attrs["mode"] == "delete")
		if err != nil {
			return err
		}
		for _, s := range skipped {
			step.Warn("a device is left out, which only root may make: " + s)
		}
	}
	step.ItemDone("copying files", 0)
	return nil
}

func (x *exporter) tar(ctx context.Context, o export.Spec, res *build.Result) (err error) {
	step := x.j.log.Step("exporting to client tarball")
	defer func() { step.Done(err) }()
	split := o.Flag("platform-split", x.j.several())
	if !split && len(res.Images) > 1 {
		return errs.WithHint(invalid("a tar of several platforms' files needs a directory for each"), "Leave out platform-split=false.")
	}
	if !split {
		f, err := x.files(ctx, res.Images[0])
		if err != nil {
			return err
		}
		return x.write(o.Dest, func(w io.Writer) error { return f.Tar(ctx, w) })
	}
	parts := map[string]export.Files{}
	for _, b := range res.Images {
		if parts[platformDir(b.Platform)], err = x.files(ctx, b); err != nil {
			return err
		}
	}
	return x.write(o.Dest, func(w io.Writer) error { return export.TarOf(ctx, w, parts) })
}

// platformDir is the directory of a platform's files, beside others'.
func platformDir(p oci.Platform) string { return strings.ReplaceAll(p.String(), "/", "_") }

// write writes a file that is there whole or not at all, or to stdout.
func (x *exporter) write(dest string, do func(io.Writer) error) error {
	if dest == "-" {
		return do(x.j.s.Out)
	}
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
		return err
	}
	if fi, err := os.Stat(dest); err == nil && !fi.Mode().IsRegular() { // a pipe, a device
		f, err := os.OpenFile(dest, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(do(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(dest), ".cais-build-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(do(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), dest)
}

// compression is what the keys of an output or a cache say of it.
func compression(attrs map[string]string) push.Compression {
	c := push.Compression{Force: export.Spec{Attrs: attrs}.Flag("force-compression", false), Plain: attrs["compression"] == "uncompressed"}
	switch attrs["compression"] {
	case "gzip":
		c.Kind = compress.Gzip
	case "zstd":
		c.Kind = compress.Zstd
	}
	c.Level, _ = strconv.Atoi(attrs["compression-level"])
	return c
}

// refs are the names in an archive or in registries.
func (x *exporter) refs(o export.Spec) ([]oci.Reference, error) {
	var refs []oci.Reference
	for _, n := range x.namesOf(o) {
		r, err := oci.Parse(n)
		if err != nil {
			return nil, err
		}
		refs = append(refs, r.WithDefaultTag())
	}
	return refs, nil
}

// archive writes an OCI layout or what docker save writes.
func (x *exporter) archive(ctx context.Context, o export.Spec) (err error) {
	what := "oci"
	if o.Type == "docker" {
		what = "docker"
	}
	step := x.j.log.Step("exporting to " + what + " image format")
	defer func() { step.Done(err) }()
	refs, err := x.refs(o)
	if err != nil {
		return err
	}
	spool, err := x.j.e.Spool()
	if err != nil {
		return err
	}
	opts := push.ArchiveOptions{
		Layout: push.Layout{OCI: true, Docker: o.Type == "docker"}, Spool: spool, Annotations: x.onDescriptor(),
		Compress: o.Attrs["compression"] != "uncompressed" && (o.Type == "oci" || o.Attrs["compression"] != ""), Compression: compression(o.Attrs),
	}
	if o.Type == "oci" && o.Flag("oci-mediatypes", true) {
		opts.Format = push.OCI
	}
	saved := []push.Saved{{Names: refs, Root: x.root, Source: x}}
	var docs []oci.Document
	if !o.Flag("tar", true) {
		if err := os.MkdirAll(o.Dest, 0o755); err != nil {
			return err
		}
		docs, err = push.Archive(ctx, push.NewDirectory(o.Dest), saved, opts)
	} else {
		err = x.write(o.Dest, func(w io.Writer) error {
			docs, err = push.Archive(ctx, push.NewTar(w), saved, opts)
			return err
		})
	}
	if err != nil {
		return err
	}
	if len(docs) > 0 && x.sent == "" {
		x.sent = docs[0].Digest
		x.root = docs[0]
	}
	step.ItemDone("exporting manifest "+x.root.Digest, 0)
	return nil
}

// registryOf says how to reach a registry whose keys flag reads.
func (j *job) registryOf(flag func(string, bool) bool) engine.PullerOptions {
	reg := j.registry
	if flag("registry.insecure", false) {
		no := false
		reg.TLSVerify = &no
	}
	return reg
}

// push sends the image to its registries.
func (x *exporter) push(ctx context.Context, o export.Spec) (err error) {
	refs, err := x.refs(o)
	if err != nil {
		return err
	}
	p, end, err := x.j.e.Pusher(x.j.registryOf(o.Flag))
	if err != nil {
		return err
	}
	defer end()
	for _, ref := range refs {
		if o.Flag("push-by-digest", false) {
			ref.Tag = ""
		}
		if err := x.pushTo(ctx, p, o, ref); err != nil {
			return err
		}
	}
	return nil
}

func (x *exporter) pushTo(ctx context.Context, p *push.Pusher, o export.Spec, ref oci.Reference) (err error) {
	step := x.j.log.Step("pushing " + ref.String())
	defer func() { step.Done(err) }()
	req := push.Request{Ref: ref, Root: x.root, Source: x, Compression: compression(o.Attrs), Events: func(ev push.Event) {
		switch ev.Kind {
		case push.Pushing:
			step.Item(ev.Layer, ev.Done, ev.Total)
		case push.Pushed, push.Exists:
			step.ItemDone(ev.Layer, ev.Total)
		}
	}}
	if o.Flag("oci-mediatypes", false) {
		req.Format = push.OCI
	}
	res, err := p.Push(ctx, req)
	if err != nil {
		return err
	}
	x.sent = res.Root.Digest
	x.root.Digest, x.root.MediaType = res.Root.Digest, res.Root.MediaType
	if len(res.Root.Data) > 0 {
		x.root.Data = res.Root.Data
	}
	step.ItemDone("pushing manifest for "+ref.String()+"@"+res.Root.Digest, 0)
	if x.j.several() {
		return nil
	}
	r, err := x.j.e.Reader()
	if err != nil {
		return err
	}
	img, err := r.Image(ctx, "sha256:"+x.images[0].id)
	if err != nil {
		return err
	}
	return x.j.e.Pushed(ctx, img, ref, res)
}
