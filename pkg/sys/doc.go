// Package sys holds thin wrappers of Linux system calls: descriptors in, the
// arguments in the error. With run/launch it is the only place for unsafe.
package sys
