// Package protoimpl stands in for the one of its name, see docs/decisions/0016:
// as much of it as generated code names, doing nothing.
package protoimpl

import (
	"unsafe"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// What generated code checks.
const (
	MinVersion = 20
	MaxVersion = 20
)

// The parts of a generated message.
type (
	EnforceVersion uint
	SizeCache      = int32
	UnknownFields  = []byte
	Pointer        = unsafe.Pointer
	MessageInfo    struct{}
	MessageState   struct{}
)

// MessageOf returns nothing.
func (*MessageInfo) MessageOf(any) protoreflect.Message { return nil }

// LoadMessageInfo returns nothing.
func (*MessageState) LoadMessageInfo() *MessageInfo { return nil }

// StoreMessageInfo does nothing.
func (*MessageState) StoreMessageInfo(*MessageInfo) {}

// X has the functions that generated code calls.
var X support

type support struct{}

// MessageStateOf returns an empty state.
func (support) MessageStateOf(Pointer) *MessageState { return new(MessageState) }

// MessageStringOf returns nothing: no message of this module is printed.
func (support) MessageStringOf(any) string { return "" }

// CompressGZIP returns nothing.
func (support) CompressGZIP([]byte) []byte { return nil }

// DescBuilder and TypeBuilder are what a generated init fills.
type (
	DescBuilder struct {
		GoPackagePath                                     string
		RawDescriptor                                     []byte
		NumEnums, NumMessages, NumExtensions, NumServices int32
	}
	TypeBuilder struct {
		File              DescBuilder
		GoTypes           []any
		DependencyIndexes []int32
		MessageInfos      []MessageInfo
	}
)

// Build returns a file that describes nothing.
func (TypeBuilder) Build() (out struct{ File protoreflect.FileDescriptor }) {
	out.File = struct{}{}
	return out
}
