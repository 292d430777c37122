package flags

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"
)

// Refuse defines flags that another engine has for this command, a line each: name,
// type and what to do instead. They fail by name when used.
func Refuse(fs *pflag.FlagSet, list string) {
	for line := range strings.Lines(strings.TrimSpace(list)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		define(fs, f[0], "", f[1], "Not supported yet: "+f[2], func(s string) error {
			if f[1] == "bool" && s == "false" {
				return nil
			}
			return errors.New("not supported yet: " + f[2])
		})
		fs.Lookup(f[0]).Hidden = true
		if f[1] == "bool" {
			fs.Lookup(f[0]).NoOptDefVal = "true"
		}
	}
}
