//go:build !caisnext

package container

// Version is written into every file of this package. A file with a higher one
// belongs to a newer cais and is refused.
const Version = 1
