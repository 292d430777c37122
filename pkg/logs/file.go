package logs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/klauspost/compress/gzip"

	"cais.dev/cais/pkg/logs/jsonfile"
)

// file is one of a log's files.
type file struct {
	*os.File
	packed bool         // compressed: read from its beginning to its end
	z      *gzip.Reader // nil: not begun
	at     int64        // of z
}

// openPlain opens a file that is not compressed and keeps it from being replaced by
// its compressed form while it is open.
func openPlain(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	for errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH), syscall.EINTR) { // where there are no locks, nothing is compressed
	}
	var st syscall.Stat_t
	if syscall.Fstat(int(f.Fd()), &st) == nil && st.Nlink == 0 { // replaced meanwhile
		_ = f.Close() // only opened
		return nil, &os.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return &file{File: f}, nil
}

// openNumber opens the log at path after i rotations, in either form.
func openNumber(path string, i int) (*file, error) {
	f, err := openPlain(jsonfile.Rotated(path, i))
	if i == 0 || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	packed, err := os.OpenFile(jsonfile.Compressed(path, i), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	return &file{File: packed, packed: true}, err
}

// maxFiles is how many rotated files are looked for.
const maxFiles = 1000

// open opens the files, newest first. A rotation meanwhile makes a file appear
// twice, never vanish, since the newest is opened first: it renames from the oldest
// on, and leaves one number free at a time. A second one is missed if the rotation
// passes between the looks for its two forms.
func open(path string) ([]*file, error) {
	var files []*file
	missing := 0
	for i := 0; i < maxFiles && missing < 3; i++ {
		f, err := openNumber(path, i)
		if errors.Is(err, fs.ErrNotExist) {
			missing++
			continue
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		missing = 0
		if len(files) > 0 && same(f, files[len(files)-1]) {
			_ = f.Close() // only opened
			continue
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*file) {
	for _, f := range files {
		_ = f.Close() // only read
	}
}

func same(a, b *file) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// readAt reads what is at offset at. A compressed file is read again from its
// beginning only to go back.
func (f *file) readAt(p []byte, at int64) (int, error) {
	if !f.packed {
		return f.ReadAt(p, at)
	}
	if err := f.seek(at); err != nil {
		return 0, f.failed(err)
	}
	n, err := f.z.Read(p)
	f.at += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = f.failed(err)
	}
	return n, err
}

func (f *file) seek(at int64) error {
	if f.z != nil && f.at == at {
		return nil
	}
	z, err := gzip.NewReader(io.NewSectionReader(f.File, 0, 1<<62))
	if err != nil {
		return err
	}
	f.z, f.at = z, at
	_, err = io.CopyN(io.Discard, z, at)
	return err
}

func (f *file) failed(err error) error { return fmt.Errorf("read %s: %w", f.Name(), err) }

// back is [back] for a compressed file, which can only be read forwards.
func (f *file) back(n int) (offset int64, found int, err error) {
	buf := make([]byte, 64<<10)
	begins := []int64{0} // of the last lines, and where the last of them ends
	for at := int64(0); ; {
		k, err := f.readAt(buf, at)
		for i, b := range buf[:k] {
			if b == '\n' {
				begins = append(begins, at+int64(i)+1)
				begins = begins[max(0, len(begins)-n-1):]
			}
		}
		at += int64(k)
		switch {
		case errors.Is(err, io.EOF):
			return begins[0], len(begins) - 1, nil
		case err != nil:
			return 0, 0, err
		}
	}
}

// Compress writes what in holds to out, which gets its time too, by which readers
// that look for a time leave files out. It is durable when Compress returns, since
// in is removed then.
func Compress(in, out *os.File) error {
	z := gzip.NewWriter(out)
	_, err := io.Copy(z, in)
	if err = errors.Join(err, z.Close()); err != nil {
		return err
	}
	st, err := in.Stat()
	if err != nil {
		return err
	}
	return errors.Join(os.Chtimes(fmt.Sprintf("/proc/self/fd/%d", out.Fd()), st.ModTime(), st.ModTime()), out.Sync())
}
