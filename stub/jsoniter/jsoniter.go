// Package jsoniter stands in for the module of its name, see docs/decisions/0016:
// what the storage library asks of it is what encoding/json does, which the
// program has anyway.
package jsoniter

import (
	"encoding/json"
	"io"
)

// API is the part of the real one that the storage library's linked packages use.
type API struct{}

// ConfigCompatibleWithStandardLibrary does what its name says.
var ConfigCompatibleWithStandardLibrary API

// Marshal is json.Marshal.
func (API) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

// Unmarshal is json.Unmarshal.
func (API) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// NewEncoder is json.NewEncoder.
func (API) NewEncoder(w io.Writer) *json.Encoder { return json.NewEncoder(w) }

// NewDecoder is json.NewDecoder.
func (API) NewDecoder(r io.Reader) *json.Decoder { return json.NewDecoder(r) }
