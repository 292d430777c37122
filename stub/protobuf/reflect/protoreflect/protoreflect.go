// Package protoreflect stands in for the one of its name, see docs/decisions/0016.
package protoreflect

// Message is what reflects on a message: nothing.
type Message interface{}

// FileDescriptor describes a .proto file: not at all.
type FileDescriptor interface{}
