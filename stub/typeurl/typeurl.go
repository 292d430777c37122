// Package typeurl stands in for the module of its name, see docs/decisions/0016:
// BuildKit's parser registers a type for its RPC, which nobody here speaks.
package typeurl

// Register does nothing.
func Register(any, ...string) {}
