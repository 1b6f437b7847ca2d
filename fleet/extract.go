package fleet

import "github.com/millrace-io/millrace/mqtt/session"

// Extractor finds the fields of one route's messages. It is immutable.
type Extractor struct{}

// Compile checks fields' syntax.
func Compile(f Fields) (*Extractor, error) { return &Extractor{}, nil }

// Extract finds what is in a message; key is its record's.
func (e *Extractor) Extract(m *session.Message, key string) Point { return Point{Device: key} }
