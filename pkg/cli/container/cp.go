package container

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/run/transfer"
	"cais.dev/cais/pkg/units"
)

// copier is what cp needs of a service.
type copier interface {
	Get(ctx context.Context, ref string, o run.GetOptions, recv func(transfer.Info, io.Reader) error) error
	Put(ctx context.Context, ref string, o run.PutOptions, tar io.Reader) error
	PutFrom(ctx context.Context, ref string, o run.PutOptions, write func(io.Writer) error) error
}

type cpOptions struct {
	archive, follow, quiet bool
}

// NewCp makes "cp", "container cp".
func NewCp(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o cpOptions
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tcp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files into and out of containers",
		Long: "A path in a container begins with its name and a colon; \"-\" is a tar on stdin or stdout.\n" +
			"The container need not run. A directory that does not exist is made from a directory;\n" +
			"SRC/. means what is in it.",
		Args:              ui.ExactArgs(2),
		ValidArgsFunction: complete.Containers(e, 2, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			return cp(cmd.Context(), s, svc, args[0], args[1], o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.archive, "archive", "a", false, "Keep the files' owners")
	f.BoolVarP(&o.follow, "follow-link", "L", false, "Copy what SRC_PATH, a symbolic link, leads to")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Do not say what was copied")
	f.Bool("pause", true, "Accepted: what changes meanwhile is copied as it is found")
	_ = f.MarkHidden("pause")
	f.BoolVar(&overwrite, "overwrite", false, "Accepted: a directory never takes the place of a file, nor the other way round")
	_ = f.MarkHidden("overwrite")
	return cmd
}

// place is one side of a copy; container is empty for this machine.
type place struct{ container, path string }

func (p place) String() string {
	if p.container == "" {
		return p.path
	}
	return p.container + ":" + p.path
}

// parsePlace: a path with a colon in it needs ./ or to be absolute.
func parsePlace(arg string) place {
	name, path, ok := strings.Cut(arg, ":")
	if filepath.IsAbs(arg) || !ok || strings.HasPrefix(name, ".") {
		return place{path: arg}
	}
	return place{name, path}
}

func cp(ctx context.Context, s ui.Streams, svc copier, from, to string, o cpOptions) error {
	src, dst := parsePlace(from), parsePlace(to)
	var n counter
	var err error
	switch {
	case src.container != "" && src.path == "" || dst.container != "" && dst.path == "":
		return errors.New("an empty path is not a path in a container")
	case src.container == "" && dst.container == "":
		return errors.New("must specify at least one container source")
	case dst.container == "":
		err = cpOut(ctx, s, svc, src, dst.path, o, &n)
	case src.container == "":
		err = cpIn(ctx, s, svc, src.path, dst, o, &n)
	default:
		err = svc.Get(ctx, src.container, run.GetOptions{Path: src.path, Follow: o.follow}, func(i transfer.Info, tar io.Reader) error {
			base := run.BaseOf(src.path)
			n.r = tar
			return svc.Put(ctx, dst.container, run.PutOptions{Path: dst.path, Source: transfer.Source{Base: base, Dir: i.IsDir()}, Owners: o.archive}, &n)
		})
	}
	if err == nil && !o.quiet && to != "-" && s.ErrTerminal() {
		fmt.Fprintf(s.Err, "Successfully copied %s to %s\n", units.Size(n.n), dst)
	}
	return err
}

// counter counts what is read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// machine is this machine's tree as a root for copies.
func machine() (transfer.Root, func(), error) {
	f, err := os.Open("/")
	if err != nil {
		return transfer.Root{}, nil, err
	}
	return transfer.NewRoot(f), func() { _ = f.Close() }, nil // only read
}

// absolute keeps a slash or a dot at the path's end, which means something.
func absolute(p string) (string, error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", err
	}
	switch {
	case strings.HasSuffix(p, "/.") || p == ".":
		return strings.TrimSuffix(abs, "/") + "/.", nil
	case strings.HasSuffix(p, "/"):
		return strings.TrimSuffix(abs, "/") + "/", nil
	}
	return abs, nil
}

// cpOut copies from a container to this machine.
func cpOut(ctx context.Context, s ui.Streams, svc copier, src place, to string, o cpOptions, n *counter) error {
	if to == "-" && s.OutTerminal() {
		return errors.New("cowardly refusing to write a tar to a terminal: redirect it")
	}
	return svc.Get(ctx, src.container, run.GetOptions{Path: src.path, Follow: o.follow}, func(i transfer.Info, tar io.Reader) error {
		if to == "-" {
			n.r = tar
			_, err := io.Copy(s.Out, n)
			return err
		}
		root, closeRoot, err := machine()
		if err != nil {
			return err
		}
		defer closeRoot()
		abs, err := absolute(to)
		if err != nil {
			return err
		}
		abs = root.Target(abs)
		base := run.BaseOf(src.path)
		dest, destErr := root.Stat(abs, true)
		dir, name, err := transfer.Place(transfer.Source{Base: base, Dir: i.IsDir()}, abs, dest, destErr)
		if err != nil {
			return err
		}
		if st, err := root.Stat(dir, true); err != nil || !st.IsDir() {
			return fmt.Errorf("invalid output path: directory %q does not exist", dir)
		}
		uo := transfer.UnpackOptions{Owners: o.archive && os.Geteuid() == 0, Count: &n.n}
		switch {
		case name != "" && base == "":
			if err := root.Mkdir(dir, name); err != nil {
				return err
			}
			dir = filepath.Join(dir, name)
		case name != "":
			uo.From, uo.To = base, name
		}
		return root.Unpack(ctx, tar, dir, uo)
	})
}

// cpIn copies from this machine to a container.
func cpIn(ctx context.Context, s ui.Streams, svc copier, from string, dst place, o cpOptions, n *counter) error {
	if from == "-" {
		tar, err := uncompressed(s.In)
		if err != nil {
			return err
		}
		n.r = tar
		return svc.Put(ctx, dst.container, run.PutOptions{Path: dst.path, Owners: o.archive, IntoIt: true}, n)
	}
	abs, err := absolute(from)
	if err != nil {
		return err
	}
	root, closeRoot, err := machine()
	if err != nil {
		return err
	}
	defer closeRoot()
	info, err := root.Stat(abs, o.follow)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lstat %s: no such file or directory", strings.TrimSuffix(abs, "/."))
	}
	if err != nil {
		return err
	}
	if strings.HasSuffix(abs, "/") && !info.IsDir() {
		return errors.New("not a directory: " + from)
	}
	base := run.BaseOf(abs)
	po := run.PutOptions{Path: dst.path, Source: transfer.Source{Base: base, Dir: info.IsDir()}, Owners: o.archive}
	return svc.PutFrom(ctx, dst.container, po, func(w io.Writer) error {
		return root.Pack(ctx, w, abs, transfer.PackOptions{Name: base, Follow: o.follow, Count: &n.n})
	})
}

// uncompressed is a tar that may be compressed.
func uncompressed(in io.Reader) (io.Reader, error) {
	if in == nil {
		in = bytes.NewReader(nil)
	}
	b := bufio.NewReaderSize(in, 256<<10)
	head, _ := b.Peek(6) // a tar that is shorter is none, which its reader says
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(b), nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z'}), bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return nil, errors.New("the tar on stdin is compressed by xz or zstd: decompress it first")
	}
	return b, nil
}
