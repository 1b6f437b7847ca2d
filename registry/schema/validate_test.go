package schema

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
)

// payload is one for a table: in hex if it begins with 0x.
func payload(t testing.TB, s string) []byte {
	h, is := strings.CutPrefix(s, "0x")
	if !is {
		return []byte(s)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(h, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func checkPayloads(t *testing.T, typ Type, text string, good, bad []string) {
	t.Helper()
	v, err := parsed(t, typ, text).Validator()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range good {
		if err := v.Validate(payload(t, p)); err != nil {
			t.Errorf("%s does not take %q: %v", text, p, err)
		}
	}
	for _, p := range bad {
		if err := v.Validate(payload(t, p)); err == nil {
			t.Errorf("%s takes %q", text, p)
		}
	}
}

func TestAvroPayloads(t *testing.T) {
	checkPayloads(t, Avro, `"null"`, []string{""}, []string{"0x00"})
	checkPayloads(t, Avro, `"boolean"`, []string{"0x00", "0x01"}, []string{"", "0x02", "0x0000"})
	checkPayloads(t, Avro, `"int"`, []string{"0x00", "0x01", "0xfeffffff0f", "0xffffffff0f"}, []string{"", "0x80", "0x8080808010", "0x80808080808080808080"})
	checkPayloads(t, Avro, `"long"`, []string{"0x00", "0xffffffffffffffffff01"}, []string{"0xffffffffffffffffff02", "0xffffffffffffffffffff01"})
	checkPayloads(t, Avro, `"float"`, []string{"0x00000000"}, []string{"0x000000"})
	checkPayloads(t, Avro, `"double"`, []string{"0x0000000000000000"}, []string{"0x00000000"})
	checkPayloads(t, Avro, `"string"`, []string{"0x00", "0x0461 62"}, []string{"0x04 61", "0x02 ff", "0x01", "0xfeffffff0f 61"})
	checkPayloads(t, Avro, `"bytes"`, []string{"0x02 ff"}, []string{"0x04 61"})
	checkPayloads(t, Avro, `{"type":"fixed","name":"f","size":2}`, []string{"ab"}, []string{"a", "abc"})
	checkPayloads(t, Avro, `{"type":"enum","name":"e","symbols":["A","B"]}`, []string{"0x00", "0x02"}, []string{"0x04", "0x01"})
	checkPayloads(t, Avro, `["null","string"]`, []string{"0x00", "0x02 02 61"}, []string{"0x04", "0x01", "0x02"})
	checkPayloads(t, Avro, `{"type":"array","items":"int"}`, []string{"0x00", "0x04 02 04 00", "0x03 04 02 04 00", "0x02 02 02 04 00"},
		[]string{"", "0x04 02", "0x04 02 04", "0x03 06 02 04 00", "0x03 01 02 04 00"})
	checkPayloads(t, Avro, `{"type":"array","items":"null"}`, []string{"0x08 00"}, []string{"0xfeffffffffffffffff01 00", "0xffffffffffffffffff01 00 00"})
	checkPayloads(t, Avro, `{"type":"map","values":"int"}`, []string{"0x02 02 61 02 00"}, []string{"0x02 02 ff 02 00"})
	checkPayloads(t, Avro, `{"type":"record","name":"r","fields":[{"name":"a","type":"int"},{"name":"b","type":"string"}]}`, []string{"0x02 02 61"}, []string{"0x02", "0x02 02 61 00"})
	list := `{"type":"record","name":"n","fields":[{"name":"next","type":["null","n"]}]}`
	checkPayloads(t, Avro, list, []string{"0x00", "0x02 02 00"}, []string{"0x02 02", "0x" + strings.Repeat("02", 1000) + "00"})
	checkPayloads(t, Avro, `{"type":"record","name":"n","fields":[{"name":"next","type":"n"}]}`, nil, []string{"", "0x00"}) // nothing can be of it
}

func TestJSONPayloads(t *testing.T) {
	object := `{"type":"object","properties":{"a":{"type":"integer","minimum":1}},"required":["a"],"additionalProperties":false}`
	checkPayloads(t, JSON, object, []string{`{"a":1}`, ` { "a" : 1.0 } `}, []string{``, `{`, `{"a":0}`, `{"a":"1"}`, `{}`, `{"a":1,"b":1}`, `{"a":1}{}`, `[]`, "{\"a\":1}\x00", "\"\xff\""})
	checkPayloads(t, JSON, `true`, []string{`1`, `null`, `1e400`, strings.Repeat("[", 100) + strings.Repeat("]", 100)},
		[]string{`1e401`, `1e1000000000`, `-1E-99999`, strings.Repeat("1", 401), strings.Repeat("[", 101) + strings.Repeat("]", 101), `{"a":1e999999}`, "[" + strings.Repeat("0,", 200_000) + "0]"})
	checkPayloads(t, JSON, `{"type":"string","pattern":"^(a+)+$","maxLength":50000}`, []string{`"aaa"`}, []string{`"` + strings.Repeat("a", 40_000) + `b"`})
	checkPayloads(t, JSON, `{"$schema":"https://json-schema.org/draft/2020-12/schema","prefixItems":[{"type":"string"}],"items":{"type":"integer"}}`, []string{`["a",1,2]`}, []string{`["a","b"]`})
	checkPayloads(t, JSON, `{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"}],"additionalItems":{"type":"integer"}}`, []string{`["a",1,2]`}, []string{`["a","b"]`})
	checkPayloads(t, JSON, `{"$ref":"#/definitions/n","definitions":{"n":{"properties":{"next":{"$ref":"#/definitions/n"}},"additionalProperties":false}}}`, []string{`{"next":{"next":{}}}`}, []string{`{"next":{"prev":{}}}`})
}

func TestProtobufPayloads(t *testing.T) {
	text := `syntax = "proto3"; package p; message M { int32 a = 1; string b = 2; M c = 3; repeated int32 d = 4; map<string, int32> e = 5; oneof o { double f = 6; } enum E {A = 0;} E g = 7; } message N { int32 a = 1; message O { string a = 1; } }`
	checkPayloads(t, Protobuf, text, []string{"", "0x0801", "0x1201 61", "0x1a00", "0x1a020801", "0x2001", "0x2202 0102", "0x2a050a0161 1001", "0x3809", "0x9a0600", "0x310000000000000000"},
		[]string{"0x08", "0x0a0161", "0x1201ff", "0x1a0208", "0x220180", "0x00", "0x310000", "0xff", "0x" + strings.Repeat("1a80", 3), "plain text"})
	deepest := []byte{}
	for range 200 {
		deepest = append(append([]byte{0x1a}, protoLength(len(deepest))...), deepest...)
	}
	checkPayloads(t, Protobuf, text, nil, []string{"0x" + hex.EncodeToString(deepest)})
	checkPayloads(t, Protobuf, `syntax = "proto2"; message M { required int32 a = 1; optional group G = 2 { optional string s = 1; } }`,
		[]string{"0x0801", "0x0801 13 14", "0x0801 130a016114"}, []string{"", "0x13 14", "0x0801 13", "0x0801 130814"})

	s := parsed(t, Protobuf, text)
	for name, good := range map[string]bool{"": true, "M": true, "p.N": true, "N.O": true, "p.N.O": true, "X": false, "E": false} {
		if _, err := s.ProtoValidator(name); err == nil != good {
			t.Errorf("message %q: %v", name, err)
		}
	}
	v, err := s.ProtoValidator("")
	if err != nil {
		t.Fatal(err)
	}
	for p, good := range map[string]bool{"0x00 0801": true, "0x02 00 0801": true, "0x02 02 0801": true, "0x04 02 00 0a0161": true, "0x04 02 00 0801": false, "0x02 04 0801": false,
		"": false, "0x01": false, "0x04 02": false, "0xfeffffffffffffffff01": false} {
		if err := v.ValidateIndexed(payload(t, p)); err == nil != good {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func protoLength(n int) []byte {
	if n < 0x80 {
		return []byte{byte(n)}
	}
	return []byte{byte(n) | 0x80, byte(n >> 7)}
}

func TestSchemasThatAreNone(t *testing.T) {
	for typ, texts := range map[Type][]string{
		Avro: {``, `{`, `1`, `"x"`, `{}`, `{"type":"record","name":"r"}`, `{"type":"record","name":"1","fields":[]}`, `{"type":"record","name":"r","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}`,
			`["int","int"]`, `["int",["string"]]`, `{"type":"enum","name":"e","symbols":["A","A"]}`, `{"type":"enum","name":"e","symbols":["A"],"default":"B"}`, `{"type":"fixed","name":"f","size":-1}`,
			`{"type":"record","name":"r","fields":[{"name":"a","type":"int","default":"x"}]}`, `{"type":"array"}`, `{"type":"record","name":"int","fields":[]}`, strings.Repeat("[", 101), `"int" 1`,
			`{"type":"record","name":"r","fields":[{"name":"a","type":{"type":"record","name":"r","fields":[]}}]}`},
		JSON:     {``, `{`, `1`, `[]`, `{"type":"strin"}`, `{"$ref":"#/definitions/x"}`, `{"$ref":"http://127.0.0.1/x"}`, `{"$schema":"http://127.0.0.1/meta"}`, `{"minimum":"1"}`, `{"maximum":1e9999999}`, `{"pattern":"` + strings.Repeat("a", 5000) + `"}`},
		Protobuf: {``, `x`, `syntax = "proto3";`, `syntax = "proto3"; message M { int32 a = 0; }`, `syntax = "proto3"; message M { X a = 1; }`, `syntax = "proto3"; import "/etc/passwd"; message M {}`, `AAAA`, `CgA=`, `syntax = "proto3"; message M { int32 a = 1; int32 b = 1; }`},
	} {
		for _, text := range texts {
			if _, err := Parse(typ, text, nil); err == nil {
				t.Errorf("%s takes %.100q", typ, text)
			} else if len(err.Error()) > 1000 {
				t.Errorf("%s says %d bytes about %.100q", typ, len(err.Error()), text)
			}
		}
	}
	if _, err := Parse(Avro, `"`+strings.Repeat("a", MaxText)+`"`, nil); err == nil {
		t.Error("a schema of more than a megabyte is taken")
	}
	// A registry keeps JavaScript's patterns; what is not possible here is checked with nowhere.
	s := parsed(t, JSON, `{"type":"string","pattern":"^(?!a)"}`)
	if _, err := s.Validator(); err == nil {
		t.Error("a pattern that is not known is checked with")
	}
}

// Whatever a payload is, a walk ends without a panic; what the walk of Protobuf takes, Protobuf itself takes.
func FuzzPayload(f *testing.F) {
	avro := parsedFor(f, Avro, `{"type":"record","name":"n","fields":[{"name":"u","type":["null","n","long",{"type":"array","items":"null"},{"type":"map","values":"n"}]},{"name":"s","type":"string"},{"name":"e","type":{"type":"enum","name":"e","symbols":["A"]}}]}`)
	json := parsedFor(f, JSON, `{"type":["object","array","number","string"],"properties":{"n":{"$ref":"#"}},"items":{"$ref":"#"},"uniqueItems":true,"multipleOf":0.1,"pattern":"^[a-z]*$"}`)
	pb := parsedFor(f, Protobuf, `syntax = "proto3"; message M { int32 a = 1; string b = 2; M c = 3; repeated sint64 d = 4; map<string, M> e = 5; fixed32 g = 7; }`)
	var vs []Validator
	for _, s := range []*Schema{avro, json, pb} {
		v, err := s.Validator()
		if err != nil {
			f.Fatal(err)
		}
		vs = append(vs, v)
	}
	for _, seed := range []string{"", "0x00", "0x02000000", `{"n":{"n":1e3}}`, `[[],"a",1]`, "0x0801120161", "0x1a02080122020102", "0x80ffd7d73030", "0x2a070a016112020801"} {
		f.Add(payload(f, seed))
	}
	descriptor := pb.proto.file.Messages().Get(0)
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, v := range vs[:2] {
			_ = v.Validate(p)
		}
		_ = vs[2].(*ProtoValidator).ValidateIndexed(p)
		if vs[2].Validate(p) == nil {
			if err := proto.Unmarshal(p, dynamicpb.NewMessage(descriptor)); err != nil {
				t.Errorf("%x is taken, and Protobuf says %v", p, err)
			}
		}
	})
}

// Whatever a schema is, it is parsed, compared and made a validator, or refused.
func FuzzSchema(f *testing.F) {
	for _, s := range []string{`"int"`, `{"type":"record","name":"n","fields":[{"name":"next","type":["null","n"],"default":null}]}`, `{"type":"fixed","name":"f","size":2}`} {
		f.Add(0, s)
	}
	for _, s := range []string{`true`, `{"$ref":"#/definitions/a","definitions":{"a":{"anyOf":[{"type":"string"},{"$ref":"#"}]}}}`, `{"items":[{"const":1}],"if":{},"then":{"not":{}}}`, `{"$id":"a","$anchor":"b","$ref":"#b"}`} {
		f.Add(1, s)
	}
	for _, s := range []string{`syntax = "proto3"; message M { oneof o { int32 a = 1; } }`, `message M { required group G = 1 {} extensions 5 to 9; }`, `edition = "2023"; enum E { A = 0; }`} {
		f.Add(2, s)
	}
	types := []Type{Avro, JSON, Protobuf}
	f.Fuzz(func(_ *testing.T, typ int, text string) {
		s, err := Parse(types[uint(typ)%3], text, nil)
		if err != nil {
			return
		}
		Compare(s, s)
		if v, err := s.Validator(); err == nil {
			_ = v.Validate([]byte(text))
		}
		_, _ = s.Normalised()
		_, _ = s.Serialised()
	})
}

func parsedFor(f *testing.F, typ Type, text string) *Schema {
	f.Helper()
	s, err := Parse(typ, text, nil)
	if err != nil {
		f.Fatal(err)
	}
	return s
}

func BenchmarkValidate(b *testing.B) {
	for _, c := range []struct {
		typ           Type
		text, payload string
	}{
		{Avro, `{"type":"record","name":"r","fields":[{"name":"id","type":"string"},{"name":"t","type":"long"},{"name":"lat","type":"double"},{"name":"lon","type":"double"}]}`,
			"0x0e747275636b2d37 b0d6a1c6f562 0000000000004a40 0000000000002a40"},
		{JSON, `{"type":"object","properties":{"id":{"type":"string"},"t":{"type":"integer"},"lat":{"type":"number","minimum":-90,"maximum":90},"lon":{"type":"number"}},"required":["id","t"],"additionalProperties":false}`,
			`{"id":"truck-7","t":1760000000000,"lat":52.0,"lon":13.0}`},
		{Protobuf, `syntax = "proto3"; message M { string id = 1; int64 t = 2; double lat = 3; double lon = 4; }`, "0x0a07747275636b2d37 10b0d6a1c6f562 190000000000004a40 210000000000002a40"},
	} {
		s, err := Parse(c.typ, c.text, nil)
		if err != nil {
			b.Fatal(err)
		}
		v, err := s.Validator()
		if err != nil {
			b.Fatal(err)
		}
		p := payload(b, c.payload)
		if err := v.Validate(p); err != nil {
			b.Fatal(fmt.Errorf("%s: %w", c.typ, err))
		}
		b.Run(string(c.typ), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = v.Validate(p)
			}
		})
	}
}
