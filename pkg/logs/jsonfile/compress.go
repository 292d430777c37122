package jsonfile

import "syscall"

// Compressing takes a process of its own and may take longer than the next
// rotation. So that process knows no names: it gets descriptors, and the writer, who
// alone renames the log's files, finds out at the end where the file is by then.
//
// Who reads a file holds it locked, shared, and a file that is held is not replaced:
// no reader meets the same lines twice, under two names.

// draft is what a compressed file is called until it is whole.
func (w *Writer) draft() string { return w.o.Path + ".tmp" }

// compress begins with the newest rotated file that is not compressed: an older one
// may be gone before it is done.
func (w *Writer) compress() {
	if w.o.Compress == nil || w.packing >= 0 {
		return
	}
	for i := 1; i < w.o.MaxFile; i++ {
		in, err := retry(func() (int, error) {
			return syscall.Open(Rotated(w.o.Path, i), syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		})
		if err != nil {
			continue // compressed already, or there are not so many
		}
		if syscall.Flock(in, syscall.LOCK_EX|syscall.LOCK_NB) == nil && syscall.Flock(in, syscall.LOCK_UN) == nil && w.start(in) {
			w.packing = in
			return
		}
		_ = syscall.Close(in) // only read
	}
}

// start begins to compress the file in.
func (w *Writer) start(in int) bool {
	out, err := retry(func() (int, error) {
		return syscall.Open(w.draft(), syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o640)
	})
	if err != nil {
		return false
	}
	err = w.o.Compress(in, out)
	_ = syscall.Close(out) // nothing was written here
	if err != nil {
		_ = syscall.Unlink(w.draft()) // made just now
	}
	return err == nil
}

// CompressEnded ends what Options.Compress began: if ok, the compressed file takes
// the other one's place. What goes wrong leaves that as it is, until the next rotation.
func (w *Writer) CompressEnded(ok bool) {
	if w.packing < 0 {
		return
	}
	i := 0
	if ok && syscall.Flock(w.packing, syscall.LOCK_EX|syscall.LOCK_NB) == nil { // given up with the descriptor
		i = w.number(w.packing)
	}
	switch {
	case i == 0: // somebody reads it, or it is gone
		_ = syscall.Unlink(w.draft()) // if that fails, the next one overwrites it
	case syscall.Rename(w.draft(), Compressed(w.o.Path, i)) != nil:
		ok = false
	default: // there first, then gone: a reader looks for the plain name first
		_ = syscall.Unlink(Rotated(w.o.Path, i)) // seen just now
	}
	_ = syscall.Close(w.packing) // only read
	w.packing = -1
	if ok {
		w.compress()
	}
}

// number returns which of the rotated files fd is; 0 if it is none any more.
func (w *Writer) number(fd int) int {
	var st, at syscall.Stat_t
	if syscall.Fstat(fd, &st) != nil {
		return 0
	}
	for i := 1; i < w.o.MaxFile; i++ {
		if syscall.Lstat(Rotated(w.o.Path, i), &at) == nil && at.Ino == st.Ino && at.Dev == st.Dev {
			return i
		}
	}
	return 0
}
