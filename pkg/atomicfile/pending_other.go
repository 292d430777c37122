//go:build !linux

package atomicfile

import (
	"errors"
	"os"
)

const tmpfile = 0 // there are no files without a name

func link(*os.File, string) error { return errors.ErrUnsupported }
