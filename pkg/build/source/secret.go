package source

import (
	"context"
	"fmt"
	"os"

	"cais.dev/cais/pkg/errs"
)

// Secret is where a secret comes from: one of File and Env is set.
type Secret struct {
	ID   string
	File string
	Env  string // a variable of the caller's environment
}

// maxSecret is BuildKit's limit, in bytes.
const maxSecret = 500 << 10

// Secrets hands out what --secret named. Values are read when they are needed
// and kept nowhere.
type Secrets struct {
	list   map[string]Secret
	lookup func(string) (string, bool)
}

// NewSecrets checks that the files are there. lookup is os.LookupEnv.
func NewSecrets(list []Secret, lookup func(string) (string, bool)) (*Secrets, error) {
	s := &Secrets{list: map[string]Secret{}, lookup: lookup}
	for _, x := range list {
		if x.File != "" {
			fi, err := os.Stat(x.File)
			if err != nil {
				return nil, errs.E("secret "+x.ID, errs.NotFound, err)
			}
			if fi.IsDir() {
				return nil, errs.New(errs.Invalid, fmt.Sprintf("secret %s: %s is a directory", x.ID, x.File))
			}
			if fi.Size() > maxSecret {
				return nil, errs.New(errs.Invalid, fmt.Sprintf("secret %s too big. max size 500KB", x.ID))
			}
		}
		s.list[x.ID] = x
	}
	return s, nil
}

// Get returns a secret's value; ok is false if there is none of that name.
func (s *Secrets) Get(_ context.Context, id string) (value []byte, ok bool, err error) {
	if s == nil {
		return nil, false, nil
	}
	x, ok := s.list[id]
	if !ok {
		return nil, false, nil
	}
	if x.Env != "" {
		if v, ok := s.lookup(x.Env); ok {
			return []byte(v), true, nil
		}
		return nil, false, nil
	}
	data, err := os.ReadFile(x.File)
	if err != nil {
		return nil, false, errs.E("secret "+id, errs.KindOf(err), err)
	}
	if len(data) > maxSecret {
		return nil, false, errs.New(errs.Invalid, fmt.Sprintf("secret %s too big. max size 500KB", id))
	}
	return data, true, nil
}
