//go:build caisnext

package container

// Version is that of a later cais, for the test of an upgrade.
const Version = 2
