// Package proto stands in for the one of its name, see docs/decisions/0016.
package proto

import "google.golang.org/protobuf/reflect/protoreflect"

// Message is a generated message.
type Message interface{ ProtoReflect() protoreflect.Message }
