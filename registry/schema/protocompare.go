package schema

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// protoComparison looks at what stands on the wire: numbers, kinds and labels of fields. Names of fields do not, names of messages are
// compared within their packages.
type protoComparison struct {
	*differences
	reader, writer protoreflect.FileDescriptor
	seen           map[[2]protoreflect.FullName]bool // imported messages
}

func compareProto(d *differences, reader, writer *protoSchema) {
	c := protoComparison{d, reader.file, writer.file, map[[2]protoreflect.FullName]bool{}}
	c.all(reader.file.Messages(), writer.file.Messages(), "#")
}

// all compares the messages of a file, or within a message.
func (c *protoComparison) all(r, w protoreflect.MessageDescriptors, path string) {
	for i := range w.Len() {
		m := w.Get(i)
		if m.IsMapEntry() {
			continue
		}
		at := path + "/" + string(m.Name())
		if now := r.ByName(m.Name()); now == nil || now.IsMapEntry() {
			c.add("MESSAGE_REMOVED", at, "the message %s was removed", clip(string(m.Name())))
		} else {
			c.message(now, m, at)
		}
	}
}

func (c *protoComparison) message(r, w protoreflect.MessageDescriptor, path string) {
	defer c.leave()
	if !c.enter() {
		return
	}
	for i := range w.Fields().Len() {
		f := w.Fields().Get(i)
		at := path + "/" + string(f.Name())
		if now := r.Fields().ByNumber(f.Number()); now != nil {
			c.field(now, f, at)
		} else {
			c.removed(r, f, at)
		}
	}
	for i := range r.Fields().Len() {
		f := r.Fields().Get(i)
		if f.Cardinality() != protoreflect.Required {
			continue
		}
		if was := w.Fields().ByNumber(f.Number()); was == nil || was.Cardinality() != protoreflect.Required {
			c.add("REQUIRED_FIELD_ADDED", path+"/"+string(f.Name()), "the field %d is required now", f.Number())
		}
	}
	for i := range r.Oneofs().Len() {
		if o := r.Oneofs().Get(i); !o.IsSynthetic() {
			c.oneof(o, w, path+"/"+string(o.Name()))
		}
	}
	c.all(r.Messages(), w.Messages(), path)
}

func (c *protoComparison) removed(r protoreflect.MessageDescriptor, f protoreflect.FieldDescriptor, path string) {
	o := realOneof(f)
	switch {
	case f.Cardinality() == protoreflect.Required:
		c.add("REQUIRED_FIELD_REMOVED", path, "the field %d was removed, and is required", f.Number())
	case o != nil && r.Oneofs().ByName(o.Name()) != nil:
		c.add("ONEOF_FIELD_REMOVED", path, "the field %d was removed from its oneof", f.Number())
	}
}

// realOneof is the oneof of a field, unless it stands for `optional`.
func realOneof(f protoreflect.FieldDescriptor) protoreflect.OneofDescriptor {
	if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
		return o
	}
	return nil
}

// oneof looks at the fields that have come into one: of several that could all be set, only the last would be left.
func (c *protoComparison) oneof(o protoreflect.OneofDescriptor, w protoreflect.MessageDescriptor, path string) {
	was := w.Oneofs().ByName(o.Name())
	existed := was != nil && !was.IsSynthetic()
	moved, from := 0, map[protoreflect.Name]bool{}
	for i := range o.Fields().Len() {
		f := w.Fields().ByNumber(o.Fields().Get(i).Number())
		if f == nil {
			continue
		}
		before := realOneof(f)
		switch {
		case before == nil:
			moved++
		case existed && before.Name() != o.Name():
			moved++
		default:
			from[before.Name()] = true
		}
	}
	switch {
	case moved > 0 && existed:
		c.add("FIELD_MOVED_TO_EXISTING_ONEOF", path, "a field was moved into the oneof %s, which was there", clip(string(o.Name())))
	case moved > 1 || moved+len(from) > 1:
		c.add("MULTIPLE_FIELDS_MOVED_TO_ONEOF", path, "several fields were moved into the oneof %s", clip(string(o.Name())))
	}
}

// wireGroup are the kinds that are the same on the wire.
func wireGroup(k protoreflect.Kind) string {
	switch k {
	case protoreflect.BoolKind, protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.EnumKind:
		return "varint"
	case protoreflect.Sint32Kind, protoreflect.Sint64Kind:
		return "zigzag"
	case protoreflect.StringKind, protoreflect.BytesKind:
		return "bytes"
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind:
		return "fixed32"
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind:
		return "fixed64"
	}
	return k.String()
}

func (c *protoComparison) field(r, w protoreflect.FieldDescriptor, path string) {
	defer c.leave()
	if !c.enter() {
		return
	}
	switch {
	case r.IsMap() != w.IsMap():
		c.add("FIELD_KIND_CHANGED", path, "the kind of the field %d changed", w.Number())
		return
	case r.IsMap():
		c.field(r.MapKey(), w.MapKey(), path+"/key")
		c.field(r.MapValue(), w.MapValue(), path+"/value")
		return
	case r.IsList() != w.IsList() && w.Message() == nil && wireGroup(w.Kind()) != "bytes":
		c.add("FIELD_NUMERIC_LABEL_CHANGED", path, "the field %d is a number, and became repeated, or is so no more", w.Number())
	}
	if wireGroup(r.Kind()) != wireGroup(w.Kind()) {
		kind := "FIELD_SCALAR_KIND_CHANGED"
		if r.Message() != nil || w.Message() != nil {
			kind = "FIELD_KIND_CHANGED"
		}
		c.add(kind, path, "the kind of the field %d changed from %v to %v", w.Number(), w.Kind(), r.Kind())
		return
	}
	switch {
	case r.Message() != nil:
		c.named(r.Message(), w.Message(), path, w.Number())
	case r.Enum() != nil && w.Enum() != nil:
		c.named(r.Enum(), w.Enum(), path, w.Number())
	}
}

// named compares the types of fields by name. Messages of the files themselves are compared where they stand, imported ones here.
func (c *protoComparison) named(r, w protoreflect.Descriptor, path string, number protoreflect.FieldNumber) {
	if inFile(r, c.reader) != inFile(w, c.writer) {
		c.add("FIELD_NAMED_TYPE_CHANGED", path, "the type of the field %d changed from %s to %s", number, clip(string(w.FullName())), clip(string(r.FullName())))
		return
	}
	rm, isMessage := r.(protoreflect.MessageDescriptor)
	wm, wasMessage := w.(protoreflect.MessageDescriptor)
	pair := [2]protoreflect.FullName{r.FullName(), w.FullName()}
	if isMessage && wasMessage && r.ParentFile().Path() != c.reader.Path() && !c.seen[pair] {
		c.seen[pair] = true
		c.message(rm, wm, path)
	}
}

// inFile is a name within its file's package, if that is the file; the whole name otherwise.
func inFile(d protoreflect.Descriptor, f protoreflect.FileDescriptor) string {
	name := string(d.FullName())
	if p := f.Package(); p != "" && d.ParentFile().Path() == f.Path() {
		return strings.TrimPrefix(name, string(p)+".")
	}
	return name
}
