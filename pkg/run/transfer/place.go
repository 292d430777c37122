package transfer

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// Source is what is copied.
type Source struct {
	Base string // the name of the tar's first entry; "": the tar has a directory's content only
	Dir  bool
}

// Place decides as `docker cp` does where a source goes: the directory to unpack
// into, and the name that its first entry gets (""; it keeps its own). dest is
// what is at the destination, following links, or an error.
func Place(src Source, to string, dest Info, destErr error) (dir, name string, err error) {
	clean := path.Clean(to)
	slash := strings.HasSuffix(to, "/") || strings.HasSuffix(to, "/.") || to == "."
	if destErr != nil && !errors.Is(destErr, fs.ErrNotExist) {
		return "", "", destErr
	}
	switch {
	case destErr == nil && dest.IsDir():
		return to, "", nil
	case destErr == nil && src.Dir:
		return "", "", errs.New(errs.Invalid, "cannot copy directory: "+to+" is a file")
	case destErr == nil && slash:
		return "", "", errs.New(errs.Invalid, to+" is not a directory")
	case destErr != nil && slash && !src.Dir:
		return "", "", errs.New(errs.Invalid, "no such directory: "+to)
	}
	return path.Dir(clean), path.Base(clean), nil
}
