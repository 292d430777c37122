package flags

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/units"
	"github.com/spf13/pflag"
)

// value is a flag whose text is checked as it is read, so that the error names
// the flag.
type value struct {
	kind string // what help shows: "bytes"
	set  func(string) error
	text string // the last one given
}

func (v *value) String() string { return v.text }
func (v *value) Type() string   { return v.kind }
func (v *value) Set(s string) error {
	if err := v.set(s); err != nil {
		return err
	}
	v.text = s
	return nil
}

// define adds a flag of kind that set reads. short may be "".
func define(fs *pflag.FlagSet, name, short, kind, usage string, set func(string) error) {
	fs.VarP(&value{kind: kind, set: set}, name, short, usage)
}

// list adds a flag that may be repeated; each occurrence is one entry, commas
// and all.
func list(fs *pflag.FlagSet, p *[]string, name, short, usage string) {
	define(fs, name, short, "list", usage, func(s string) error {
		*p = append(*p, s)
		return nil
	})
}

// bytes adds a flag for a size; -1 passes where unlimited means something.
func bytes(fs *pflag.FlagSet, p *int64, name, short, usage string, unlimited bool) {
	define(fs, name, short, "bytes", usage, func(s string) error {
		if s == "-1" && unlimited {
			*p = -1
			return nil
		}
		n, err := units.ParseSize(s)
		*p = n
		return err
	})
}

func optInt(fs *pflag.FlagSet, p **int64, name, usage string) {
	define(fs, name, "", "int", usage, func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return errors.New("invalid syntax")
		}
		*p = &n
		return nil
	})
}

// nanoCPUs reads a decimal number of processors.
func nanoCPUs(s string) (int64, error) {
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return 0, fmt.Errorf("failed to parse %q as a rational number", s)
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() || !r.Num().IsInt64() {
		return 0, errors.New("value is too precise")
	}
	if r.Sign() < 0 {
		return 0, errors.New("must not be negative")
	}
	return r.Num().Int64(), nil
}

// pathValue splits PATH:VALUE of the blkio flags.
func pathValue(s string) (path, val string, err error) {
	path, val, ok := strings.Cut(s, ":")
	if !ok {
		return "", "", fmt.Errorf("bad format: %s", s)
	}
	if !strings.HasPrefix(path, "/dev/") {
		return "", "", fmt.Errorf("bad format for device path: %s", s)
	}
	return path, val, nil
}

// invalid is a mistake in a flag's value, found after all flags were read.
func invalid(format string, a ...any) error {
	return errs.New(errs.Invalid, fmt.Sprintf(format, a...))
}

// boolWord reads what strconv reads; "" is true, as in "readonly".
func boolWord(s string) (bool, error) {
	if s == "" {
		return true, nil
	}
	return strconv.ParseBool(s)
}
