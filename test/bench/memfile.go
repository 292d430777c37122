package main

import (
	"os"

	"golang.org/x/sys/unix"
)

func memFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("out", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "out"), nil
}
