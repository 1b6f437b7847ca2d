package schema

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ProtoValidator makes a validator for one message of a file: that of the name, with or without the package, or the first one. It is stricter than
// Protobuf itself, to which a field of another wire type is an unknown field: such a payload is not of the schema.
func (s *Schema) ProtoValidator(message string) (*ProtoValidator, error) {
	if s.proto == nil {
		return nil, fmt.Errorf("the schema is %s: only Protobuf has messages to choose from", s.Type)
	}
	f := s.proto.file
	v := &ProtoValidator{file: f, types: map[protoreflect.FullName]*protoType{}}
	for i := range f.Messages().Len() {
		v.add(f.Messages().Get(i))
	}
	var root protoreflect.Descriptor
	switch {
	case message != "":
		if root = findIn(f, protoreflect.FullName(message)); root == nil {
			root = findIn(f, f.Package().Append(protoreflect.Name(message)))
		}
	case f.Messages().Len() > 0:
		root = f.Messages().Get(0)
	}
	if root != nil {
		v.root = v.types[root.FullName()]
	}
	if v.root == nil {
		return nil, fmt.Errorf("the schema has no message %q", clip(message))
	}
	return v, nil
}

// ProtoValidator walks messages on the wire without making values of them.
type ProtoValidator struct {
	file  protoreflect.FileDescriptor
	types map[protoreflect.FullName]*protoType
	root  *protoType
}

// protoType is one message, as the walk needs it.
type protoType struct {
	name     string
	fields   map[protowire.Number]*protoField
	required []*protoField
}

type protoField struct {
	name     string
	wire     protowire.Type
	packable bool // and a list, so that many may be in one
	text     bool // UTF-8
	required int  // its number among those that must be there, from 1 on; 0: it need not
	message  *protoType
}

func (v *ProtoValidator) add(m protoreflect.MessageDescriptor) *protoType {
	if t := v.types[m.FullName()]; t != nil {
		return t
	}
	t := &protoType{name: clip(string(m.FullName())), fields: map[protowire.Number]*protoField{}}
	v.types[m.FullName()] = t
	for i := range m.Fields().Len() {
		d := m.Fields().Get(i)
		f := &protoField{name: clip(string(d.Name())), wire: wireType(d.Kind())}
		f.packable = d.IsList() && f.wire != protowire.BytesType && f.wire != protowire.StartGroupType
		f.text = d.Kind() == protoreflect.StringKind && m.ParentFile().Syntax() != protoreflect.Proto2
		if d.Message() != nil {
			f.message = v.add(d.Message())
		}
		if d.Cardinality() == protoreflect.Required {
			t.required = append(t.required, f)
			f.required = len(t.required)
		}
		t.fields[d.Number()] = f
	}
	for i := range m.Messages().Len() {
		v.add(m.Messages().Get(i))
	}
	return t
}

func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.VarintType
}

// Validate implements Validator.
func (v *ProtoValidator) Validate(payload []byte) error { return v.root.validate(payload, 0) }

// ValidateIndexed validates a message that has before it which message of the file it is, as Confluent's wire format says it: a count and
// so many indexes, the outermost message's first; nothing but a zero is the first message.
func (v *ProtoValidator) ValidateIndexed(payload []byte) error {
	walk := avroWalk{b: payload} // the numbers are Avro's, too
	n, err := walk.long()
	if err != nil || n < 0 || n > maxDepth {
		return errors.New("no message indexes are before the message")
	}
	list := v.file.Messages()
	index := int64(0)
	var m protoreflect.MessageDescriptor
	for range max(n, 1) {
		if n > 0 {
			if index, err = walk.long(); err != nil {
				return err
			}
		}
		if index < 0 || index >= int64(list.Len()) {
			return fmt.Errorf("the schema has no message of index %d", index)
		}
		m = list.Get(int(index))
		list = m.Messages()
	}
	return v.types[m.FullName()].validate(walk.b, 0)
}

func (t *protoType) validate(b []byte, depth int) error {
	if depth > maxDepth {
		return errDeep
	}
	var there []bool // of the required fields
	if len(t.required) > 0 {
		there = make([]bool, len(t.required))
	}
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%s: %w", t.name, protowire.ParseError(n))
		}
		if number > protowire.MaxValidNumber {
			return fmt.Errorf("%s: %d is no field's number", t.name, number)
		}
		b = b[n:]
		f := t.fields[number]
		if n = protowire.ConsumeFieldValue(number, wire, b); n < 0 {
			return fmt.Errorf("%s: field %d: %w", t.name, number, protowire.ParseError(n))
		}
		if f != nil {
			if err := f.validate(number, wire, b[:n], depth); err != nil {
				return fmt.Errorf("%s: field %s: %w", t.name, f.name, err)
			}
			if f.required > 0 {
				there[f.required-1] = true
			}
		}
		b = b[n:]
	}
	for i, f := range t.required {
		if !there[i] {
			return fmt.Errorf("%s: the required field %s is missing", t.name, f.name)
		}
	}
	return nil
}

func (f *protoField) validate(number protowire.Number, wire protowire.Type, value []byte, depth int) error {
	if wire != f.wire {
		if f.packable && wire == protowire.BytesType {
			return f.packed(value)
		}
		return fmt.Errorf("its wire type is %d, not %d", wire, f.wire)
	}
	switch {
	case wire == protowire.StartGroupType:
		inner, n := protowire.ConsumeGroup(number, value)
		if n < 0 {
			return protowire.ParseError(n)
		}
		return f.message.validate(inner, depth+1)
	case wire != protowire.BytesType:
		return nil
	}
	inner, n := protowire.ConsumeBytes(value)
	switch {
	case n < 0:
		return protowire.ParseError(n)
	case f.message != nil:
		return f.message.validate(inner, depth+1)
	case f.text && !utf8.Valid(inner):
		return errors.New("a string is not UTF-8")
	}
	return nil
}

// packed walks numbers that are in one value.
func (f *protoField) packed(value []byte) error {
	b, n := protowire.ConsumeBytes(value)
	if n < 0 {
		return protowire.ParseError(n)
	}
	for len(b) > 0 {
		switch f.wire {
		case protowire.Fixed32Type:
			_, n = protowire.ConsumeFixed32(b)
		case protowire.Fixed64Type:
			_, n = protowire.ConsumeFixed64(b)
		default:
			_, n = protowire.ConsumeVarint(b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil
}
