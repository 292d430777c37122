//go:build !caisnext

package wire

// Version is what this program reads; see [Needs].
const Version = 1
