package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

// SSH is one --ssh: agents' sockets or files with keys. No paths stand for the
// agent of the caller's SSH_AUTH_SOCK.
type SSH struct {
	ID    string
	Paths []string
}

// Agents are the ssh agents that a build may use, by the ids of --ssh. A client
// can list their keys and have them sign, and nothing else.
type Agents struct {
	list map[string]*agent
}

type agent struct {
	socket string // forward to it; empty: keys are ours
	keys   []*signer
}

// NewAgents reads the keys. lookup is os.LookupEnv.
func NewAgents(list []SSH, lookup func(string) (string, bool)) (*Agents, error) {
	a := &Agents{list: map[string]*agent{}}
	for _, x := range list {
		if x.ID == "" {
			x.ID = "default"
		}
		if len(x.Paths) == 0 {
			sock, _ := lookup("SSH_AUTH_SOCK")
			if sock == "" {
				return nil, errs.WithHint(errs.New(errs.Invalid, "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"),
					"Start ssh-agent, or name a key: --ssh "+x.ID+"=FILE.")
			}
			x.Paths = []string{sock}
		}
		one := &agent{}
		for _, p := range x.Paths {
			fi, err := os.Stat(p)
			if err != nil {
				return nil, errs.E("ssh agent "+x.ID, errs.NotFound, err)
			}
			if fi.Mode()&os.ModeSocket != 0 {
				if len(x.Paths) > 1 {
					return nil, errs.New(errs.Invalid, "ssh agent "+x.ID+": a socket stands alone, or there are only keys")
				}
				if one.socket, err = filepath.Abs(p); err != nil {
					return nil, err
				}
				continue
			}
			if fi.Size() > 100<<10 {
				return nil, errs.New(errs.Invalid, fmt.Sprintf("ssh agent %s: %s is too large for a key", x.ID, p))
			}
			data, err := os.ReadFile(p)
			if err != nil {
				return nil, errs.E("ssh agent "+x.ID, errs.KindOf(err), err)
			}
			k, err := parseKey(data)
			if err != nil {
				return nil, errs.E("ssh agent "+x.ID+": "+p, errs.Invalid, err)
			}
			one.keys = append(one.keys, k)
		}
		a.list[x.ID] = one
	}
	return a, nil
}

// Has reports whether there is an agent of this id; "" is "default".
func (a *Agents) Has(id string) bool {
	if a == nil {
		return false
	}
	if id == "" {
		id = "default"
	}
	return a.list[id] != nil
}

// dir is where a socket for the default agent may be; ok is false if there is no
// such agent.
func (a *Agents) dir(s *Sources) (dir string, ok bool, err error) {
	if !a.Has("default") {
		return "", false, nil
	}
	dir, err = s.Scratch()
	return dir, err == nil, err
}

// Dial returns how to connect to the agent of this id; ok is false if there is
// none.
func (a *Agents) Dial(id string) (dial func(context.Context) (io.ReadWriteCloser, error), ok bool) {
	if !a.Has(id) {
		return nil, false
	}
	if id == "" {
		id = "default"
	}
	one := a.list[id]
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer ours.Close()
			_ = one.serve(ctx, ours) // the client sees that it ended
		}()
		return theirs, nil
	}, true
}

// Listen makes a socket in dir that answers for the agent of this id; the caller
// ends it. The socket is for this user alone: its mode and owner are the
// caller's to change.
func (a *Agents) Listen(ctx context.Context, id, dir string) (socket string, end func(), err error) {
	if id == "" {
		id = "default"
	}
	if !a.Has(id) {
		return "", nil, errs.WithHint(errs.New(errs.NotFound, fmt.Sprintf("unset ssh forward key %s", id)), "Give an agent by --ssh "+id+".")
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	defer d.Close()
	socket = filepath.Join(dir, "agent.sock")
	// A socket's address has 107 bytes, a path may have more.
	l, err := net.Listen("unix", sys.FDPath(int(d.Fd()))+"/agent.sock")
	if err != nil {
		return "", nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // by that address it would not be found any longer
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { c.Close() })
			wg.Go(func() {
				defer stop()
				defer c.Close()
				_ = a.list[id].serve(ctx, c) // the client sees that it ended
			})
		}
	})
	return socket, func() {
		cancel()
		l.Close()
		wg.Wait()
		os.Remove(socket)
	}, nil
}

// The messages of draft-miller-ssh-agent that count here.
const (
	agentFailure   = 5
	agentList      = 11
	agentIdentites = 12
	agentSign      = 13
	agentSignature = 14
	agentExtension = 27
	maxMessage     = 256 << 10
)

// serve answers one client.
func (a *agent) serve(ctx context.Context, c net.Conn) error {
	var up net.Conn
	if a.socket != "" {
		var err error
		var d net.Dialer
		if up, err = d.DialContext(ctx, "unix", a.socket); err != nil {
			return err
		}
		defer up.Close()
		stop := context.AfterFunc(ctx, func() { up.Close() })
		defer stop()
	}
	for {
		msg, err := readMessage(c)
		if err != nil {
			return err
		}
		answer := []byte{agentFailure}
		switch {
		case up != nil && passes(msg):
			if err := writeMessage(up, msg); err != nil {
				return err
			}
			if answer, err = readMessage(up); err != nil {
				return err
			}
		case up == nil:
			answer = a.answer(msg)
		}
		if err := writeMessage(c, answer); err != nil {
			return err
		}
	}
}

// passes says what goes on to an agent: to list keys, to sign, and to tell it which
// connection a signature is for. What other extensions do is the agent's secret.
func passes(msg []byte) bool {
	const bind = "session-bind@openssh.com" // PROTOCOL.agent of OpenSSH
	if len(msg) == 0 {
		return false
	}
	switch msg[0] {
	case agentList, agentSign:
		return true
	case agentExtension:
		return len(msg) >= 5+len(bind) && binary.BigEndian.Uint32(msg[1:]) == uint32(len(bind)) && string(msg[5:5+len(bind)]) == bind
	}
	return false
}

func readMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return nil, errors.New("message too long")
	}
	msg := make([]byte, n)
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func writeMessage(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...))
	return err
}

// answer is for keys that are ours.
func (a *agent) answer(msg []byte) []byte {
	fail := []byte{agentFailure}
	if len(msg) == 0 {
		return fail
	}
	switch msg[0] {
	case agentList:
		out := binary.BigEndian.AppendUint32([]byte{agentIdentites}, uint32(len(a.keys)))
		for _, k := range a.keys {
			out = wireString(wireString(out, k.blob), []byte(k.comment))
		}
		return out
	case agentSign:
		r := wireReader{msg[1:], nil}
		blob, data, flags := r.string(), r.string(), r.uint32()
		if r.err != nil {
			return fail
		}
		for _, k := range a.keys {
			if string(k.blob) == string(blob) {
				sig, err := k.sign(data, flags)
				if err != nil {
					return fail
				}
				return wireString([]byte{agentSignature}, sig)
			}
		}
	}
	return fail
}

// wireString appends s as ssh writes strings (RFC 4251, section 5).
func wireString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// wireReader reads ssh's data types; the first mistake sticks.
type wireReader struct {
	b   []byte
	err error
}

func (r *wireReader) take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.b)) {
		r.err = io.ErrUnexpectedEOF
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *wireReader) uint32() uint32 {
	b := r.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r *wireReader) string() []byte { return r.take(uint64(r.uint32())) }
