package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/changes"
	"cais.dev/cais/pkg/layer/merged"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/transfer"
	"cais.dev/cais/pkg/sys"
	"cais.dev/cais/pkg/userns"
)

// filesJob is what a process in [CleanupRole] does with a container's files. It
// has the caller's tar as stdin, its own as stdout, and answers on descriptor 3.
type filesJob struct {
	Do string `json:"do"` // get, put, export, diff

	// The tree: of a running container, or one that is mounted for this.
	PID      int            `json:"pid,omitempty"`
	PIDStart uint64         `json:"pidStart,omitempty"`
	Tree     *transfer.Tree `json:"tree,omitempty"`
	Dir      string         `json:"dir,omitempty"` // or a directory, of a volume

	IDs plan.IDs `json:"ids,omitzero"` // the container's, if it has its own

	mounts []plan.Mount // what the user mounted

	Path   string          `json:"path,omitempty"`
	Follow bool            `json:"follow,omitempty"`
	Owners bool            `json:"owners,omitempty"`
	Source transfer.Source `json:"source"`
	IntoIt bool            `json:"intoIt,omitempty"` // Path must be a directory
}

// filesAnswer is what it says before the tar, or instead.
type filesAnswer struct {
	Info *transfer.Info `json:"info,omitempty"`
	Err  string         `json:"err,omitempty"`
	Kind errs.Kind      `json:"kind,omitempty"`
}

// files has a process of its own, in the user's namespace if there is one, do the
// job: what a container's files are is nothing that this process should open.
func (s *Service) files(ctx context.Context, job *filesJob, in func(io.Writer) error, recv func(filesAnswer, io.Reader) error) (err error) {
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	var ends []*os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			if r, w, err = os.Pipe(); err == nil {
				ends = append(ends, r, w)
			}
		}
		return r, w
	}
	defer func() {
		for _, f := range ends {
			_ = f.Close() // pipes; some are closed already
		}
	}()
	inR, inW := pipe()
	outR, outW := pipe()
	errR, errW := pipe()
	answerR, answerW := pipe()
	if err != nil {
		return err
	}
	for _, f := range []*os.File{inW, outW} {
		sys.GrowPipe(f, 1<<20)
	}
	p, err := userns.Start(ctx, s.store.Run, &userns.Cmd{
		Path: s.o.Exe, Args: s.cleanupArgv(helperFiles, string(text)), Env: s.o.Environ, Dir: "/",
		Files: []*os.File{inR, outW, errW, answerW}, MountNS: true, Pdeathsig: 0,
	})
	if err != nil {
		return fmt.Errorf("enter the user namespace: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(p.PID, syscall.SIGTERM) }) // our own child, not reaped
	defer stop()
	for _, f := range []*os.File{inR, outW, errW, answerW} {
		_ = f.Close() // the child's
	}
	said := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		_, _ = b.ReadFrom(errR) // what it could say is what there is
		said <- strings.TrimSpace(b.String())
	}()
	sent := make(chan error, 1)
	ready := make(chan bool, 1) // the tree is open: what is sent will be read
	go func() {
		var err error
		if <-ready && in != nil {
			err = in(inW)
			if errors.Is(err, syscall.EPIPE) { // it tells why itself
				err = nil
			}
		}
		sent <- errors.Join(err, inW.Close())
	}()
	a, err := readAnswer(answerR)
	ready <- err == nil
	if err == nil {
		err = recv(a, outR)
	}
	if in != nil { // it reads until the tar's end
		if e := <-sent; err == nil {
			err = e
		}
		sent <- nil
	}
	_ = outR.Close() // whatever is left of it nobody wants
	code, werr := p.Wait()
	if e := <-sent; err == nil {
		err = e
	}
	text2 := <-said
	if e := finalAnswer(answerR); e != nil && (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) {
		err = e
	}
	if err == nil {
		err = werr
	}
	if err == nil && code != 0 {
		err = errs.E("a container's files", errs.Internal, errors.New(text2))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// onlyReader hides WriteTo.
type onlyReader struct{ io.Reader }

// readAnswer reads one line, byte by byte: what follows is the next one's.
func readAnswer(f *os.File) (a filesAnswer, err error) {
	var line []byte
	b := make([]byte, 1)
	for {
		n, err := f.Read(b)
		if n == 0 || err != nil {
			return a, io.ErrUnexpectedEOF
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, err
	}
	return a, a.error()
}

func (a filesAnswer) error() error {
	if a.Err == "" {
		return nil
	}
	return errs.New(a.Kind, a.Err)
}

// finalAnswer is the failure that came after the first answer, if any.
func finalAnswer(f *os.File) error {
	_, err := readAnswer(f)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// doFiles is filesJob in the process that does it.
func doFiles(ctx context.Context, text string) error {
	answers := os.NewFile(3, "answers")
	answer := func(a filesAnswer) error {
		line, err := json.Marshal(a)
		if err != nil {
			return err
		}
		_, err = answers.Write(append(line, '\n'))
		return err
	}
	var job filesJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return err
	}
	if err := job.do(ctx, answer); err != nil {
		return answer(filesAnswer{Err: err.Error(), Kind: errs.KindOf(err)})
	}
	return nil
}

func (j *filesJob) do(ctx context.Context, answer func(filesAnswer) error) error {
	switch j.Do {
	case "diff":
		if err := answer(filesAnswer{}); err != nil {
			return err
		}
		return j.diff(ctx)
	case "export":
		root, err := merged.Open(append([]string{j.Tree.Upper}, j.Tree.Lower...), j.Tree.UserXattr)
		if err != nil {
			return err
		}
		defer root.Close()
		if err := answer(filesAnswer{}); err != nil {
			return err
		}
		return transfer.NewRoot(root).Pack(ctx, stream(1), "/", transfer.PackOptions{Owner: j.inside()})
	}
	f, err := j.root()
	if err != nil {
		return err
	}
	defer f.Close()
	root := transfer.NewRoot(f)
	if j.Do == "put" {
		if err := answer(filesAnswer{}); err != nil {
			return err
		}
		return readOnly(j.put(ctx, root))
	}
	info, err := root.Stat(j.Path, j.Follow)
	if err != nil {
		return absent(err)
	}
	if strings.HasSuffix(j.Path, "/") && !info.IsDir() {
		return errs.New(errs.Invalid, "not a directory: "+j.Path)
	}
	if err := answer(filesAnswer{Info: &info}); err != nil {
		return err
	}
	return root.Pack(ctx, stream(1), j.Path, transfer.PackOptions{Name: BaseOf(j.Path), Follow: j.Follow, Owner: j.inside()})
}

// inside turns the owners that files have for us into those that the container
// sees; nil: they are equal.
func (j *filesJob) inside() func(uid, gid uint32) (int, int) {
	inside := j.IDs.Inside()
	if inside == nil {
		return nil
	}
	return func(uid, gid uint32) (int, int) {
		u, g := inside(uid, gid)
		return int(u), int(g)
	}
}

// outside is the way back.
func (j *filesJob) outside() func(uid, gid uint32) (int, int) {
	if !j.IDs.Own() || j.IDs.Plain() {
		return nil
	}
	return func(uid, gid uint32) (int, int) {
		return int(outside(j.IDs.UIDs, uid)), int(outside(j.IDs.GIDs, gid))
	}
}

func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return errs.New(errs.NotFound, missingPath)
	}
	return err
}

func readOnly(err error) error {
	if errors.Is(err, syscall.EROFS) {
		return errs.New(errs.Denied, "the container's files are marked read-only there")
	}
	return err
}

func (j *filesJob) put(ctx context.Context, root transfer.Root) error {
	at := root.Target(j.Path)
	dest, err := root.Stat(at, true)
	if j.IntoIt {
		if err != nil {
			return absent(err)
		}
		if !dest.IsDir() {
			return errs.New(errs.Invalid, fmt.Sprintf("destination %q must be a directory", j.Path))
		}
	}
	dir, name, err := transfer.Place(j.Source, at, dest, err)
	if err != nil {
		return err
	}
	o := transfer.UnpackOptions{Owners: j.Owners, Owner: j.outside()}
	if name != "" && j.Source.Base != "" {
		o.From, o.To = j.Source.Base, name
	}
	if name != "" && j.Source.Base == "" { // the content of a directory, into one that is not there
		if err := root.Mkdir(dir, name); err != nil {
			return absent(err)
		}
		dir = path.Join(dir, name)
	}
	if st, err := root.Stat(dir, true); err != nil || !st.IsDir() {
		return errs.New(errs.NotFound, missingPath)
	}
	return root.Unpack(ctx, stream(0), dir, o)
}

const oPath = 0x200000 // O_PATH, which package syscall lacks

// root opens the container's root.
func (j *filesJob) root() (*os.File, error) {
	if j.Dir != "" {
		return os.Open(j.Dir)
	}
	if j.Tree != nil {
		return j.Tree.Mount()
	}
	f, err := os.OpenFile("/proc/"+strconv.Itoa(j.PID)+"/root", oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil, errs.New(errs.Conflict, endedMeanwhile)
	}
	if err != nil {
		return nil, fmt.Errorf("open the container's root: %w", err)
	}
	// It is the container's only if the process was that at the time of opening.
	if start, err := sys.ProcessStart(j.PID); err != nil || start != j.PIDStart {
		_ = f.Close() // O_PATH
		return nil, errs.New(errs.Conflict, endedMeanwhile)
	}
	return f, nil
}

func (j *filesJob) diff(ctx context.Context) error {
	var b bytes.Buffer
	err := changes.Walk(ctx, j.Tree.Upper, j.Tree.Lower, changes.Options{Expand: true}, func(e *changes.Entry) error {
		kind := map[changes.Kind]byte{changes.Added: 'A', changes.Modified: 'C', changes.Deleted: 'D'}[e.Kind]
		if e.Kind == changes.Same {
			if e.Stat.Mode&syscall.S_IFMT != syscall.S_IFDIR {
				return nil
			}
			kind = 'C'
		}
		b.WriteByte(kind)
		b.WriteString("/" + e.Path + "\x00")
		return nil
	})
	if err == nil {
		_, err = b.WriteTo(stream(1))
	}
	return err
}

// stream is a descriptor that a process in [CleanupRole] was given.
func stream(fd uintptr) *os.File { return os.NewFile(fd, "pipe") }
