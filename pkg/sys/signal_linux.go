package sys

import (
	"errors"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The real-time signals as programs see them: glibc and musl keep the first
// ones for themselves.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal reads a signal as people write it: "TERM", "SIGTERM", "15",
// "RTMIN+3".
func ParseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > sigRTMax {
			return 0, badSignal(s)
		}
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	switch name { // other names of signals that have one
	case "CLD":
		return syscall.SIGCHLD, nil
	case "POLL":
		return syscall.SIGIO, nil
	case "IOT":
		return syscall.SIGABRT, nil
	}
	base, rest := 0, ""
	if r, ok := strings.CutPrefix(name, "RTMIN"); ok {
		base, rest = sigRTMin, r
	} else if r, ok := strings.CutPrefix(name, "RTMAX"); ok {
		base, rest = sigRTMax, r
	}
	n, err := 0, error(nil)
	if rest != "" {
		n, err = strconv.Atoi(rest)
	}
	if base == 0 || err != nil || base+n < sigRTMin || base+n > sigRTMax {
		return 0, badSignal(s)
	}
	return syscall.Signal(base + n), nil
}

func badSignal(s string) error { return errors.New("invalid signal: " + s) }
