//go:build caisnext

package wire

// Version is that of a later cais, for the test of an upgrade.
const Version = 2
