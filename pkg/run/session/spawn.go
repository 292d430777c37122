package session

import (
	"context"
	"errors"
	"os"
	"syscall"

	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys"
	"cais.dev/cais/pkg/userns"
)

// monitorRole is run/role's Monitor: a constant of its own, because whoever
// imports role becomes what it dispatches to.
const monitorRole = "cais-monitor"

// Spawn starts a monitor for o.Job, in the user's namespace when one is needed.
// It returns when the container's child exists and waits at its gate; a
// *StartError says why it does not.
func Spawn(ctx context.Context, o SpawnOptions) (*Session, error) {
	job, err := sys.Memfd("job", wire.Marshal(o.Job))
	if err != nil {
		return nil, err
	}
	defer job.Close()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "monitor's end")
	if err := syscall.SetNonblock(pair[0], true); err != nil {
		_ = syscall.Close(pair[0]) // nothing was said
		return nil, errors.Join(os.NewSyscallError("fcntl", err), theirs.Close())
	}
	s := newSession(pair[0], o.Job.Dir)
	s.tty, s.openStdin, s.stdin = o.Job.TTY, o.Job.OpenStdin, o.Attach.Stdin && o.Job.OpenStdin
	// The request waits in the socket until the monitor looks.
	slots, files := descriptors(job, o.Slots)
	a := o.Attach
	a.Rows, a.Cols = o.Size.Rows, o.Size.Cols
	err = s.send(wire.Marshal(&wire.Create{Slots: slots, Attach: a}), files)
	if err == nil {
		err = startMonitor(ctx, o, theirs)
	}
	if err = errors.Join(err, theirs.Close()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	var c wire.Created
	if err := s.await(ctx, &c); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.pid = c.PID
	return s, nil
}

// startMonitor starts this program in the role. The monitor is nobody's to wait
// for: it outlives this process.
func startMonitor(ctx context.Context, o SpawnOptions, control *os.File) error {
	exe := o.Exe
	if exe == "" {
		exe = "/proc/self/exe"
	}
	// One thread runs Go code in a monitor, and its heap is to stay far below the
	// 4 MB at which Go would first look for garbage.
	env := []string{"GOMAXPROCS=1", "GOGC=10"}
	if how := os.Getenv(wire.InitEnv); how != "" {
		env = append(env, wire.InitEnv+"="+how)
	}
	if userns.Needed() {
		_, err := userns.Start(ctx, o.RunDir, &userns.Cmd{
			Path: exe, Args: []string{monitorRole}, Env: env, Dir: "/",
			Files: []*os.File{nil, nil, nil, control}, Setsid: true,
		})
		return err
	}
	p, err := os.StartProcess(exe, []string{monitorRole}, &os.ProcAttr{
		Dir: "/", Env: env, Files: []*os.File{nil, nil, nil, control}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	return p.Release()
}
