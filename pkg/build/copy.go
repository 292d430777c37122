package build

import (
	"context"
	"time"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/build/files"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
)

// layer writes the files of a layer into dir.
func (b *build) layer(dir string, lower []string, epoch *time.Time, write func(l *files.Layer) error) error {
	o := files.Options{Single: b.s.o.Layers.Single(), Rootless: b.s.o.Layers.Rootless(), Now: b.begun}
	if epoch != nil {
		o.Now = *epoch
	}
	l, err := files.New(dir, lower, o)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := write(l); err != nil {
		return err
	}
	return l.Finish()
}

// onto writes a layer onto the file system base.
func (b *build) onto(ctx context.Context, n *node, base *fileSystem, m *cache.Making, write func(l *files.Layer, dirs []string) error) error {
	still, err := b.cache.Still(ctx)
	if err != nil {
		return err
	}
	defer still()
	dirs, err := b.dirs(ctx, base)
	if err != nil {
		return err
	}
	return b.layer(m.Dir(), dirs, n.Epoch, func(l *files.Layer) error { return write(l, dirs) })
}

// copy makes the layer of COPY and ADD.
func (b *build) copy(ctx context.Context, n *node, op *graph.Copy, base *fileSystem, m *cache.Making, step *progress.Step) error {
	c := files.Copy{Dest: op.Dest, Parents: op.Parents}
	if op.Chmod != "" {
		mode, err := graph.ParseMode(op.Chmod)
		if err != nil {
			return errs.E("", errs.Invalid, err)
		}
		c.Mode = &mode
	}
	type item struct {
		matches []files.Match
		file    *graph.File
		unpack  bool
	}
	var items []item
	count := 0
	for _, s := range op.Sources {
		if s.From == graph.None {
			items = append(items, item{file: s.File})
			count++
			continue
		}
		sel := selection{from: s.From, query: query(op, s)}
		matches, err := b.find(ctx, sel)
		if err != nil {
			return err
		}
		t, err := b.tree(ctx, s.From)
		if err != nil {
			return err
		}
		it := item{unpack: s.Unpack == graph.UnpackAuto}
		for i := range matches {
			it.matches = append(it.matches, files.Match{Tree: t, Match: &matches[i], KeepOwner: s.KeepOwner})
			count++
		}
		items = append(items, it)
	}
	c.Dir = count > 1
	return b.onto(ctx, n, base, m, func(l *files.Layer, dirs []string) error {
		if op.Chown != "" {
			o, err := owner(op.Chown, dirs, step)
			if err != nil {
				return err
			}
			c.Owner = &o
		}
		for _, it := range items {
			if it.file != nil {
				if err := l.File(c, *it.file); err != nil {
					return err
				}
				continue
			}
			if !it.unpack {
				if err := l.Copy(ctx, c, it.matches...); err != nil {
					return err
				}
				continue
			}
			for _, match := range it.matches {
				done, err := l.Extract(ctx, c, match, func() (string, error) { return m.Scratch("archive") })
				if err == nil && !done {
					err = l.Copy(ctx, c, match)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// mkdir makes the layer of WORKDIR.
func (b *build) mkdir(ctx context.Context, n *node, op *graph.Mkdir, base *fileSystem, m *cache.Making, step *progress.Step) error {
	return b.onto(ctx, n, base, m, func(l *files.Layer, dirs []string) error {
		var o files.Owner
		if op.User != "" {
			var err error
			if o, err = owner(op.User, dirs, step); err != nil {
				return err
			}
		}
		return l.Mkdir(op.Path, o, uint32(op.Mode.Perm()))
	})
}

// owner reads whose files are to be, by the users that dirs have.
func owner(of string, dirs []string, step *progress.Step) (o files.Owner, err error) {
	passwd, group, err := users(dirs)
	if err != nil {
		return o, err
	}
	uid, gid, unknown, err := plan.Owner(of, passwd, group)
	if unknown != "" {
		step.Warn(unknown + " is in neither /etc/passwd nor /etc/group: the files are root's")
	}
	return files.Owner{UID: uid, GID: gid}, err
}
