package schema

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// protoSchema is a linked .proto file.
type protoSchema struct {
	file protoreflect.FileDescriptor
}

// protoRoot is the name of a file that has none.
const protoRoot = "millrace-root.proto"

func (s *Schema) parseProto() (err error) {
	defer func() { // a compiler is a large thing to trust with a stranger's text
		if p := recover(); p != nil {
			err = errors.New("the schema cannot be compiled")
		}
	}()
	files := protoFiles{}
	for _, i := range s.imports {
		if _, err := files.add(i.Name, i.Text); err != nil {
			return fmt.Errorf("reference %q: %w", clip(i.Name), err)
		}
	}
	f, err := files.add(protoRoot, s.Text)
	if err != nil {
		return err
	}
	if f.Messages().Len() == 0 && f.Enums().Len() == 0 {
		return errors.New("the file has neither a message nor an enum")
	}
	s.proto = &protoSchema{f}
	s.normal = s.Text
	plain, err := s.proto.marshal("")
	s.identity = string(plain)
	return err
}

// protoFiles are linked files, by the names that others import them by.
type protoFiles map[string]protoreflect.FileDescriptor

// add compiles a file whose imports are there already. Its text is the language's, or a FileDescriptorProto in base64, as some
// serializers write it.
func (fs protoFiles) add(name, text string) (protoreflect.FileDescriptor, error) {
	f, err := fs.descriptor(name, text)
	if f == nil && err == nil {
		f, err = fs.compile(name, text)
	}
	if err != nil {
		return nil, err
	}
	fs[name] = f
	return f, nil
}

func (fs protoFiles) compile(name, text string) (protoreflect.FileDescriptor, error) {
	c := protocompile.Compiler{MaxParallelism: 1, Resolver: protocompile.WithStandardImports(protocompile.ResolverFunc(func(path string) (protocompile.SearchResult, error) {
		if f := fs[path]; f != nil {
			return protocompile.SearchResult{Desc: f}, nil
		}
		if path == name {
			return protocompile.SearchResult{Source: strings.NewReader(text)}, nil
		}
		return protocompile.SearchResult{}, fmt.Errorf("%q is not among the schema's references, and nothing is fetched", clip(path))
	}))}
	files, err := c.Compile(context.Background(), name)
	if err != nil {
		return nil, errors.New(clipLong(err.Error()))
	}
	return files[0], nil
}

// descriptor reads a file that is in base64; nil: it is not.
func (fs protoFiles) descriptor(name, text string) (protoreflect.FileDescriptor, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, nil //nolint:nilerr // it is text
	}
	var d descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("it is base64, but no FileDescriptorProto: %w", err)
	}
	if deep(d.GetMessageType(), 32) {
		return nil, errors.New("messages are nested deeper than 32 levels")
	}
	d.Name, d.SourceCodeInfo = &name, nil
	f, err := protodesc.NewFile(&d, fs)
	if err != nil {
		return nil, errors.New(clipLong(err.Error()))
	}
	return f, nil
}

func deep(ms []*descriptorpb.DescriptorProto, left int) bool {
	for _, m := range ms {
		if left == 0 || deep(m.GetNestedType(), left-1) {
			return true
		}
	}
	return false
}

// FindFileByPath implements protodesc.Resolver.
func (fs protoFiles) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if f := fs[path]; f != nil {
		return f, nil
	}
	if strings.HasPrefix(path, "google/protobuf/") {
		return protoregistry.GlobalFiles.FindFileByPath(path)
	}
	return nil, protoregistry.NotFound
}

// FindDescriptorByName implements protodesc.Resolver.
func (fs protoFiles) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	for _, f := range fs {
		if d := findIn(f, name); d != nil {
			return d, nil
		}
	}
	if strings.HasPrefix(string(name), "google.protobuf.") {
		return protoregistry.GlobalFiles.FindDescriptorByName(name)
	}
	return nil, protoregistry.NotFound
}

// findIn looks a message or an enum up in a file.
func findIn(f protoreflect.FileDescriptor, name protoreflect.FullName) protoreflect.Descriptor {
	rest := string(name)
	if pkg := string(f.Package()); pkg != "" {
		var in bool
		if rest, in = strings.CutPrefix(rest, pkg+"."); !in {
			return nil
		}
	}
	var at interface {
		Messages() protoreflect.MessageDescriptors
		Enums() protoreflect.EnumDescriptors
	} = f
	for {
		first, after, more := strings.Cut(rest, ".")
		m := at.Messages().ByName(protoreflect.Name(first))
		switch {
		case !more && m != nil:
			return m
		case !more:
			if e := at.Enums().ByName(protoreflect.Name(first)); e != nil {
				return e
			}
			return nil
		case m == nil:
			return nil
		}
		at, rest = m, after
	}
}

// marshal writes the file as a FileDescriptorProto of that name, without what says nothing.
func (p *protoSchema) marshal(name string) ([]byte, error) {
	d := protodesc.ToFileDescriptorProto(p.file)
	d.Name, d.SourceCodeInfo = nil, nil
	if name != "" {
		d.Name = &name
	}
	for _, m := range d.GetMessageType() {
		plainNames(m)
	}
	for _, f := range d.GetExtension() {
		f.JsonName = nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode descriptor: %w", err)
	}
	return b, nil
}

// plainNames takes off the JSON names that fields have anyway.
func plainNames(m *descriptorpb.DescriptorProto) {
	for _, f := range m.GetField() {
		if f.GetJsonName() == jsonName(f.GetName()) {
			f.JsonName = nil
		}
	}
	for _, f := range m.GetExtension() {
		f.JsonName = nil
	}
	for _, n := range m.GetNestedType() {
		plainNames(n)
	}
}

// jsonName is the name that JSON has for a field that says none: in camel case.
func jsonName(name string) string {
	var b strings.Builder
	up := false
	for _, c := range name {
		switch {
		case c == '_':
			up = true
			continue
		case up && c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		up = false
		b.WriteRune(c)
	}
	return b.String()
}

// Serialised is a Protobuf schema as a FileDescriptorProto in base64, as some clients ask for it.
func (s *Schema) Serialised() (string, error) {
	if s.proto == nil {
		return s.Text, nil
	}
	b, err := s.proto.marshal("default")
	return base64.StdEncoding.EncodeToString(b), err
}
