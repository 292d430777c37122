package storage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/errs"
)

// oursFlag marks cais's records among the container records; its value is the
// owner.
const oursFlag = "cais"

// containerFiles are the two files of records, and the directory of their lock.
// The second is written without flushing: its records do not outlive a reboot.
func (r *Reader) containerFiles() (lock string, files [2]string) {
	stable := r.dir(r.o.GraphRoot, "containers")
	volatile := stable
	if r.o.Transient {
		volatile = r.dir(r.o.RunRoot, "containers")
	}
	return filepath.Join(volatile, "containers.lock"), [2]string{
		filepath.Join(stable, "containers.json"),
		filepath.Join(volatile, "volatile-containers.json"),
	}
}

// record is a container record with the place of its bytes.
type record struct {
	ContainerRef
	names      []string
	start, end int // in the document
}

func parseContainers(doc []byte, volatile bool) ([]record, error) {
	if len(bytes.TrimSpace(doc)) == 0 {
		return nil, nil
	}
	var recs []record
	s := &scanner{b: doc}
	s.array(func() {
		c := record{ContainerRef: ContainerRef{Volatile: volatile}}
		s.peek()
		c.start = s.i
		s.object(func(key string) {
			switch key {
			case "id":
				c.ID = s.str()
			case "names":
				c.names = s.strings()
			case "image":
				c.ImageID = s.str()
			case "layer":
				c.Layer = s.str()
			case "created":
				c.Created, _ = time.Parse(time.RFC3339Nano, s.str()) // unknown is zero
			case "flags":
				s.object(func(flag string) {
					if flag == oursFlag {
						c.Ours = true
						if s.peek() == '"' {
							c.Owner = s.str()
							return
						}
					}
					c.Volatile = c.Volatile || flag == "Volatile"
					s.skip()
				})
			default:
				s.skip()
			}
		})
		c.end = s.i
		if len(c.names) > 0 {
			c.Name = c.names[0]
		}
		recs = append(recs, c)
	})
	return recs, s.fail
}

// Containers returns all container records, Podman's and Buildah's too.
func (r *Reader) Containers(ctx context.Context) ([]ContainerRef, error) {
	var all []ContainerRef
	lock, files := r.containerFiles()
	err := r.locked(ctx, lock, false, func(*lockFile) error {
		_, recs, err := readRecords(files)
		for _, c := range slices.Concat(recs[0], recs[1]) {
			all = append(all, c.ContainerRef)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the container records: %w", err)
	}
	return all, nil
}

// newRecord is a container record as the library writes it; the metadata is as
// Podman's, so that its lists show the container by name.
func newRecord(c ContainerRef) ([]byte, error) {
	metadata, err := json.Marshal(map[string]any{
		"image-name": c.ImageName, "image-id": c.ImageID, "name": c.Name, "created-at": c.Created.Unix(),
	})
	if err != nil {
		return nil, err
	}
	flags := map[string]any{oursFlag: c.Owner}
	if c.Volatile {
		flags["Volatile"] = true
	}
	var names []string
	if c.Name != "" {
		names = []string{c.Name}
	}
	return json.Marshal(struct {
		ID       string         `json:"id"`
		Names    []string       `json:"names,omitempty"`
		Image    string         `json:"image"`
		Layer    string         `json:"layer"`
		Metadata string         `json:"metadata"`
		Created  time.Time      `json:"created"`
		Flags    map[string]any `json:"flags"`
	}{c.ID, names, c.ImageID, c.Layer, string(metadata), c.Created.UTC(), flags})
}

// AddContainer records that a container uses an image, so that no tool of this
// store removes it. It fails with NotFound if the image is gone, with Conflict
// if another container has the id or the name.
//
// The images' lock is held meanwhile (the library's order is layers, images,
// containers): who removes an image holds it for writing, looks for containers
// and removes, so the image is there and stays, or is gone and this fails.
func (r *Reader) AddContainer(ctx context.Context, c ContainerRef) error {
	fail := func(err error) error {
		return fmt.Errorf("record the container's use of image %s: %w", short(c.ImageID), err)
	}
	if c.Created.IsZero() {
		c.Created = time.Now()
	}
	rec, err := newRecord(c)
	if err != nil {
		return fail(err)
	}
	if c.ImageID == "" { // a root file system of the user's: nothing to protect
		return r.addRecord(ctx, c, rec)
	}
	for _, root := range r.roots() {
		dir := r.dir(root, "images")
		found := false
		err := r.locked(ctx, filepath.Join(dir, "images.lock"), false, func(*lockFile) error {
			doc, err := readFile(filepath.Join(dir, "images.json"))
			if err != nil {
				return err
			}
			// As the library writes it; within strings, quotes are escaped. Parsing
			// all records again would cost more than the rest of this.
			if found = bytes.Contains(doc, []byte(`"id":"`+c.ImageID+`"`)); !found {
				imgs, err := parseImages(doc)
				if err != nil {
					return err
				}
				found = slices.ContainsFunc(imgs, func(img *Image) bool { return img.ID == c.ImageID })
			}
			if !found {
				return nil
			}
			return r.addRecord(ctx, c, rec)
		})
		if err != nil {
			return fail(err)
		}
		if found {
			return nil
		}
	}
	return errs.New(errs.NotFound, "no such image: "+familiar(c.ImageName)+" ("+short(c.ImageID)+", removed meanwhile)")
}

func (r *Reader) addRecord(ctx context.Context, c ContainerRef, rec []byte) error {
	lock, files := r.containerFiles()
	return r.locked(ctx, lock, true, func(l *lockFile) error {
		docs, recs, err := readRecords(files)
		if err != nil {
			return err
		}
		for _, other := range slices.Concat(recs[0], recs[1]) {
			if other.ID == c.ID {
				return errs.New(errs.Conflict, "the image store has a record of container "+short(c.ID)+" already")
			}
			if err := nameTaken(other, c.Name); err != nil {
				return err
			}
		}
		// Not into the volatile file, which is made for this: c/storage before
		// 1.45 (podman 4.3, Debian 12) does not read it and would remove the
		// image. With a transient store such old tools do not work at all.
		which := 0
		if c.Volatile && r.o.Transient {
			which = 1
		}
		doc := insert(docs[which], rec)
		if err := l.touch(); err != nil {
			return err
		}
		return atomicfile.WriteLocked(files[which], doc, 0o600, !c.Volatile || which == 0 && !ordersRenames(files[0]))
	})
}

// insert appends rec to the array doc.
func insert(doc, rec []byte) []byte {
	body := bytes.TrimSpace(doc)
	body = bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimPrefix(body, []byte("[")), []byte("]")))
	if string(body) == "null" {
		body = nil
	}
	out := make([]byte, 0, len(body)+len(rec)+3)
	out = append(out, '[')
	if len(body) > 0 {
		out = append(append(out, body...), ',')
	}
	return append(append(out, rec...), ']')
}

// RemoveContainer takes the record away. No record is no error.
func (r *Reader) RemoveContainer(ctx context.Context, id string) error {
	_, err := r.removeContainers(ctx, func(c ContainerRef) bool { return c.ID == id })
	if err != nil {
		return fmt.Errorf("remove the record of container %s: %w", short(id), err)
	}
	return nil
}

// removeContainers removes cais's records that gone says are to go. Others
// have layers and directories that their tools must remove with them.
func (r *Reader) removeContainers(ctx context.Context, gone func(ContainerRef) bool) (removed []string, err error) {
	err = r.editRecords(ctx, func(_ []record, c record) ([]byte, bool, error) {
		if !c.Ours || !gone(c.ContainerRef) {
			return nil, false, nil
		}
		removed = append(removed, c.ID)
		return nil, true, nil
	})
	return removed, err
}

// RenameContainer changes the name in cais's record of a container. No record
// is no error.
func (r *Reader) RenameContainer(ctx context.Context, id, name string) error {
	return r.editRecords(ctx, func(all []record, c record) ([]byte, bool, error) {
		if !c.Ours || c.ID != id || c.Name == name {
			return nil, false, nil
		}
		for _, other := range all {
			if err := nameTaken(other, name); err != nil {
				return nil, false, err
			}
		}
		c.Name = name
		rec, err := newRecord(c.ContainerRef)
		return rec, true, err
	})
}

func nameTaken(by record, name string) error {
	if name == "" || !slices.Contains(by.names, name) {
		return nil
	}
	err := errs.New(errs.Conflict, fmt.Sprintf("the container name %q is already in use by %s", name, short(by.ID)))
	if by.Ours {
		return err
	}
	return errs.WithHint(err, "It belongs to another tool of this image store, such as podman: 'podman ps -a --external' shows it.")
}

// editRecords calls edit for each record: with true, the record is replaced by
// what edit returns, nil removes it.
func (r *Reader) editRecords(ctx context.Context, edit func(all []record, c record) ([]byte, bool, error)) error {
	lock, files := r.containerFiles()
	if _, err := os.Stat(lock); errors.Is(err, fs.ErrNotExist) {
		return nil // no store, no records; and none is made
	}
	return r.locked(ctx, lock, true, func(l *lockFile) error {
		docs, recs, err := readRecords(files)
		if err != nil {
			return err
		}
		all := slices.Concat(recs[0], recs[1])
		for i, file := range files {
			var kept [][]byte
			changed := false
			for _, c := range recs[i] {
				rec, change, err := edit(all, c)
				if err != nil {
					return err
				}
				if !change {
					rec = docs[i][c.start:c.end]
				}
				changed = changed || change
				if rec != nil {
					kept = append(kept, rec)
				}
			}
			if !changed {
				continue
			}
			if err := l.touch(); err != nil {
				return err
			}
			out := slices.Concat([]byte("["), bytes.Join(kept, []byte(",")), []byte("]"))
			if err := atomicfile.WriteLocked(file, out, 0o600, i == 0 && !ordersRenames(file)); err != nil {
				return err
			}
		}
		return nil
	})
}

// readRecords reads both files; the lock must be held.
func readRecords(files [2]string) (docs [2][]byte, recs [2][]record, err error) {
	for i, file := range files {
		if docs[i], err = readFile(file); err != nil {
			return docs, recs, err
		}
		if recs[i], err = parseContainers(docs[i], i == 1); err != nil {
			return docs, recs, fmt.Errorf("%s: %w", file, err)
		}
	}
	return docs, recs, nil
}

// ordersRenames reports whether the file system of path writes a file's data
// before the rename that puts it in place (ext4's auto_da_alloc, btrfs's
// flushoncommit for replaced files) or forgets all at a power cut anyway. There,
// a change that may be lost needs no flush: other tools' records in the same
// file are old or new, never empty.
func ordersRenames(path string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &st); err != nil {
		return false
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return true
	}
	return false
}
