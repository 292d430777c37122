package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/build/files"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/sys"
)

// part is a part of another step's file system that a command mounts.
type part struct {
	files  *fileSystem
	mount  graph.Mount
	number int
}

// mounts prepares RUN's mounts. It may wait for caches that others use.
func (c *command) mounts(ctx context.Context) error {
	agents := 0
	for i, m := range c.op.Mounts {
		var err error
		c.targets = append(c.targets, m.Target)
		switch m.Type {
		case graph.MountBind:
			err = c.bind(ctx, m, i)
		case graph.MountCache:
			err = c.cacheMount(ctx, m)
		case graph.MountTmpfs:
			options := []string{"exec"}
			if m.Size > 0 {
				options = append(options, "size="+strconv.FormatInt(m.Size, 10))
			}
			c.req.Mounts = append(c.req.Mounts, plan.Mount{Type: "tmpfs", Target: m.Target, Options: options, ReadOnly: m.ReadOnly})
		case graph.MountSecret:
			err = c.secret(ctx, m)
		case graph.MountSSH:
			err = c.agent(ctx, m, agents)
			agents++
		case graph.MountFiles:
			mem := lower.Memory{Target: m.Target, ReadOnly: true}
			for _, f := range m.Files {
				mem.Files = append(mem.Files, lower.MemoryFile{Name: f.Name, Data: f.Data, Mode: uint32(f.Mode.Perm())})
			}
			c.options.Memory = append(c.options.Memory, mem)
		default:
			err = errs.New(errs.Unsupported, fmt.Sprintf("a mount of type %q", m.Type))
		}
		if err != nil {
			return err
		}
	}
	for _, s := range c.op.Secrets {
		value, found, err := c.b.req.Sources.Secret(ctx, s.ID)
		if err != nil {
			return err
		}
		if !found {
			if s.Required {
				return missingSecret(s.ID)
			}
			continue
		}
		c.b.req.Progress.Hide(string(value))
		c.env = append(c.env, s.Name+"="+string(value))
	}
	return nil
}

func missingSecret(id string) error {
	return errs.WithHint(errs.New(errs.NotFound, fmt.Sprintf("secret %s: not found", id)), "Give it with --secret id="+id+",src=FILE or --secret id="+id+",env=NAME.")
}

// bind mounts a part of a context, which is copied once for that, or of another step.
func (c *command) bind(ctx context.Context, m graph.Mount, number int) error {
	b := c.b
	var f *fileSystem
	switch {
	case m.From == graph.None:
		f = &fileSystem{base: graph.None}
	default:
		switch b.nodes[m.From].Op.(type) {
		case *graph.Local, *graph.Git, *graph.HTTP:
			r, path, err := b.snapshot(ctx, m)
			if err != nil {
				return err
			}
			f = &fileSystem{chain: []*cache.Result{r}, base: graph.None}
			m.Source = path
		default:
			var err error
			if f, err = b.files(ctx, m.From); err != nil {
				return err
			}
		}
	}
	c.parts = append(c.parts, part{f, m, number})
	return nil
}

// trees makes of the parts what the plan mounts, once directories keep still.
func (c *command) trees(ctx context.Context) error {
	for _, p := range c.parts {
		dirs, err := c.b.dirs(ctx, p.files)
		if err != nil {
			return err
		}
		if len(dirs) == 0 {
			empty, err := c.b.empty()
			if err != nil {
				return err
			}
			dirs = []string{empty}
		}
		o := lower.Overlay{Lower: dirs, UserXattr: c.host.InUserNS}
		if !p.mount.ReadOnly { // what is written goes with the command
			name := "bind" + strconv.Itoa(p.number)
			upper, err1 := c.m.Scratch(name + "-upper")
			work, err2 := c.m.Scratch(name + "-work")
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			st, err := os.Stat(dirs[0])
			if err != nil {
				return err
			}
			if err := os.Chmod(upper, st.Mode()); err != nil {
				return err
			}
			o.Upper, o.Work, o.Volatile = upper, work, true
		}
		c.options.Trees = append(c.options.Trees, lower.Tree{Target: p.mount.Target, Layers: o, Path: p.mount.Source})
	}
	return nil
}

// snapshot copies the part of a context that a command mounts into the cache, where
// it is found by its contents: files belong to 0:0, and what is ignored is not there.
func (b *build) snapshot(ctx context.Context, m graph.Mount) (*cache.Result, string, error) {
	s := selection{m.From, source.Query{Path: m.Source, Literal: true}, false}
	sum, err := b.contentKey(ctx, s)
	if err != nil {
		return nil, "", err
	}
	matches, err := b.find(ctx, s)
	if err != nil {
		return nil, "", err
	}
	if len(matches) == 0 {
		return nil, "", errs.New(errs.NotFound, fmt.Sprintf("%q: not found", m.Source))
	}
	at := "/"
	if !matches[0].IsDir() {
		at = "/" + matches[0].Name
	}
	key := hash("snapshot", []any{sum, b.s.o.Layers.Single()})
	release, err := b.cache.LockKey(ctx, key, nil)
	if err != nil {
		return nil, "", err
	}
	defer release()
	if r, err := b.cache.Get(b.cache.Lookup(key)); r != nil || err != nil {
		if r != nil {
			b.hold(r)
			b.cache.Used(key, r.ID)
		}
		return r, at, err
	}
	mk, err := b.cache.Make(ctx)
	if err != nil {
		return nil, "", err
	}
	t, err := b.tree(ctx, m.From)
	if err == nil {
		err = b.layer(mk.Dir(), nil, nil, func(l *files.Layer) error {
			c := files.Copy{Dest: "/"}
			return l.Copy(ctx, c, files.Match{Tree: t, Match: &matches[0]})
		})
	}
	if err != nil {
		mk.Discard()
		return nil, "", err
	}
	r, err := mk.Finish(cache.Meta{Key: key, Text: "mount / from context", Kind: "source.local", Created: b.begun})
	if err != nil {
		mk.Discard()
		return nil, "", err
	}
	b.hold(r)
	return r, at, b.cache.Put(ctx, key, r.ID, true)
}

// cacheMount mounts a directory that stays from build to build.
func (c *command) cacheMount(ctx context.Context, m graph.Mount) error {
	b := c.b
	from, err := b.key(ctx, m.From)
	if err != nil {
		return err
	}
	if m.From == graph.None {
		from = ""
	}
	id := hash("cache", []any{m.ID, from, m.Source, m.UID, m.GID, m.Mode})
	d, err := b.cache.Mount(ctx, id, cache.Sharing(m.Sharing), m.ID, func(dir string) error { return b.fillMount(ctx, dir, m) })
	if err != nil {
		return err
	}
	c.later(d.Release)
	c.req.Mounts = append(c.req.Mounts, plan.Mount{Type: "bind", Source: d.Path, Target: m.Target, ReadOnly: m.ReadOnly})
	return nil
}

// fillMount makes what a new cache begins with.
func (b *build) fillMount(ctx context.Context, dir string, m graph.Mount) error {
	owner := files.Owner{UID: value(m.UID, 0), GID: value(m.GID, 0)}
	if m.From != graph.None {
		t, err := b.tree(ctx, m.From)
		if err != nil {
			return err
		}
		matches, err := t.Find(ctx, source.Query{Path: m.Source, Literal: true})
		if err != nil {
			return err
		}
		err = b.layer(dir, nil, nil, func(l *files.Layer) error {
			return l.Copy(ctx, files.Copy{Dest: "/"}, files.Match{Tree: t, Match: &matches[0], KeepOwner: true})
		})
		if err != nil {
			return err
		}
	}
	if owner != (files.Owner{}) && !b.s.o.Layers.Single() {
		if err := os.Chown(dir, int(owner.UID), int(owner.GID)); err != nil {
			return err
		}
	}
	mode := value(m.Mode, 0o755)
	return chmod(dir, mode)
}

func chmod(p string, mode uint32) error {
	m := os.FileMode(mode & 0o777)
	for bit, f := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if mode&bit != 0 {
			m |= f
		}
	}
	return os.Chmod(p, m)
}

func value(p *uint32, other uint32) uint32 {
	if p == nil {
		return other
	}
	return *p
}

// secret mounts a secret as a file in memory.
func (c *command) secret(ctx context.Context, m graph.Mount) error {
	data, found, err := c.b.req.Sources.Secret(ctx, m.ID)
	if err != nil {
		return err
	}
	if !found {
		if m.Required {
			return missingSecret(m.ID)
		}
		return nil
	}
	c.options.Memory = append(c.options.Memory, lower.Memory{Target: m.Target, ReadOnly: true, Files: []lower.MemoryFile{{
		Data: data, Mode: value(m.Mode, 0o400), UID: value(m.UID, 0), GID: value(m.GID, 0),
	}}})
	return nil
}

// agent mounts a socket behind which an ssh agent is.
func (c *command) agent(ctx context.Context, m graph.Mount, number int) error {
	dial, found, err := c.b.req.Sources.Agent(ctx, m.ID)
	if err != nil {
		return err
	}
	if !found {
		if m.Required {
			return errs.WithHint(errs.New(errs.NotFound, fmt.Sprintf("no SSH key %q forwarded from the client", m.ID)), "Give it with --ssh "+m.ID+".")
		}
		return nil
	}
	dir, err := c.m.Scratch("ssh" + strconv.Itoa(number))
	if err != nil {
		return err
	}
	at := filepath.Join(dir, "agent")
	// By way of a descriptor: the path of a socket is limited to 107 bytes.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sys.FDPath(int(d.Fd())) + "/agent", Net: "unix"})
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	l.SetUnlinkOnClose(false) // it goes with its directory
	c.later(func() { _ = l.Close() })
	if uid, gid := value(m.UID, 0), value(m.GID, 0); (uid != 0 || gid != 0) && !c.host.SingleID {
		if err := os.Chown(at, int(uid), int(gid)); err != nil {
			return err
		}
	}
	if err := os.Chmod(at, os.FileMode(value(m.Mode, 0o600)&0o777)); err != nil {
		return err
	}
	go serveAgent(ctx, l, dial)
	c.req.Mounts = append(c.req.Mounts, plan.Mount{Type: "bind", Source: at, Target: m.Target})
	if number == 0 {
		c.env = append(c.env, "SSH_AUTH_SOCK="+m.Target)
	}
	return nil
}

// serveAgent passes each connection on until l is closed.
func serveAgent(ctx context.Context, l *net.UnixListener, dial func(ctx context.Context) (io.ReadWriteCloser, error)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			agent, err := dial(ctx)
			if err != nil {
				return // the command sees the end of file
			}
			var once sync.Once
			end := func() { once.Do(func() { _ = agent.Close(); _ = conn.Close() }) }
			go func() {
				defer end()
				_, _ = io.Copy(agent, conn)
			}()
			_, _ = io.Copy(conn, agent)
			end()
		}()
	}
}
