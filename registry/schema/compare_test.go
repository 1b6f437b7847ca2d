package schema

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

func parsed(t *testing.T, typ Type, text string, imports ...Import) *Schema {
	t.Helper()
	s, err := Parse(typ, text, imports)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s
}

// kinds are those of the differences that keep reader from writer's data.
func kinds(reader, writer *Schema) string {
	var ks []string
	for _, d := range Compare(reader, writer) {
		ks = append(ks, d.Type)
	}
	return strings.Join(ks, " ")
}

// change is a schema that becomes another: what is told where the new one reads the old one's data, and the other way round.
type change struct{ name, was, is, backward, forward string }

func checkChanges(t *testing.T, typ Type, whole func(string) string, cs []change) {
	t.Helper()
	for _, c := range cs {
		t.Run(c.name, func(t *testing.T) {
			was, is := parsed(t, typ, whole(c.was)), parsed(t, typ, whole(c.is))
			if got := kinds(is, was); got != c.backward {
				t.Errorf("the new one reads the old one's: %q, want %q", got, c.backward)
			}
			if got := kinds(was, is); got != c.forward {
				t.Errorf("the old one reads the new one's: %q, want %q", got, c.forward)
			}
			if got := kinds(is, is); got != "" {
				t.Errorf("the new one reads its own: %q", got)
			}
		})
	}
}

func avroRecordOf(fields string) string {
	if strings.HasPrefix(fields, "=") {
		return fields[1:]
	}
	return `{"type":"record","name":"r","namespace":"a.b","fields":[` + fields + `]}`
}

func TestAvroCompatibility(t *testing.T) {
	const a, b = `{"name":"a","type":"int"}`, `{"name":"b","type":"string"}`
	const bDefault = `{"name":"b","type":"string","default":""}`
	enum := func(symbols, more string) string {
		return `={"type":"enum","name":"e","symbols":[` + symbols + `]` + more + `}`
	}
	checkChanges(t, Avro, avroRecordOf, []change{
		{"same", a, a, "", ""},
		{"field added without default", a, a + "," + b, "READER_FIELD_MISSING_DEFAULT_VALUE", ""},
		{"field added with default", a, a + "," + bDefault, "", ""},
		{"field removed that had none", a + "," + b, a, "", "READER_FIELD_MISSING_DEFAULT_VALUE"},
		{"field renamed", a, `{"name":"x","type":"int"}`, "READER_FIELD_MISSING_DEFAULT_VALUE", "READER_FIELD_MISSING_DEFAULT_VALUE"},
		{"field renamed with alias", a, `{"name":"x","type":"int","aliases":["a"]}`, "", "READER_FIELD_MISSING_DEFAULT_VALUE"},
		{"order of fields", a + "," + b, b + "," + a, "", ""},
		{"doc and order of attributes", a, `{"type":"int","doc":"d","name":"a"}`, "", ""},
		{"int to long", `="int"`, `="long"`, "", "TYPE_MISMATCH"},
		{"int to float", `="int"`, `="float"`, "", "TYPE_MISMATCH"},
		{"long to float", `="long"`, `="float"`, "", "TYPE_MISMATCH"},
		{"float to double", `="float"`, `="double"`, "", "TYPE_MISMATCH"},
		{"int to boolean", `="int"`, `="boolean"`, "TYPE_MISMATCH", "TYPE_MISMATCH"},
		{"string and bytes", `="string"`, `="bytes"`, "", ""},
		{"int to string", `="int"`, `="string"`, "TYPE_MISMATCH", "TYPE_MISMATCH"},
		{"into a union", `="string"`, `=["null","string"]`, "", "TYPE_MISMATCH"},
		{"into a union by promotion", `="int"`, `=["null","long"]`, "", "TYPE_MISMATCH TYPE_MISMATCH"},
		{"branch added", `=["null","string"]`, `=["null","string","int"]`, "", "MISSING_UNION_BRANCH"},
		{"branches in another order", `=["null","string"]`, `=["string","null"]`, "", ""},
		{"union of one", `=["int"]`, `="long"`, "", "MISSING_UNION_BRANCH"},
		{"symbol added", enum(`"A"`, ""), enum(`"A","B"`, ""), "", "MISSING_ENUM_SYMBOLS"},
		{"symbol added, default", enum(`"A"`, `,"default":"A"`), enum(`"A","B"`, `,"default":"A"`), "", ""},
		{"enum renamed", enum(`"A"`, ""), `={"type":"enum","name":"f","symbols":["A"]}`, "NAME_MISMATCH", "NAME_MISMATCH"},
		{"namespace changed", enum(`"A"`, ""), enum(`"A"`, `,"namespace":"x.y"`), "", ""},
		{"renamed with alias", enum(`"A"`, ""), `={"type":"enum","name":"f","aliases":["e"],"symbols":["A"]}`, "", "NAME_MISMATCH"},
		{"fixed of another size", `={"type":"fixed","name":"f","size":4}`, `={"type":"fixed","name":"f","size":8}`, "FIXED_SIZE_MISMATCH", "FIXED_SIZE_MISMATCH"},
		{"items", `={"type":"array","items":"int"}`, `={"type":"array","items":"long"}`, "", "TYPE_MISMATCH"},
		{"values", `={"type":"map","values":"int"}`, `={"type":"map","values":"long"}`, "", "TYPE_MISMATCH"},
		{"array and map", `={"type":"map","values":"int"}`, `={"type":"array","items":"int"}`, "TYPE_MISMATCH", "TYPE_MISMATCH"},
		{"logical type added", `="long"`, `={"type":"long","logicalType":"timestamp-millis"}`, "", ""},
		{"scale of a decimal", `={"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, `={"type":"bytes","logicalType":"decimal","precision":9,"scale":3}`,
			"DECIMAL_MISMATCH", "DECIMAL_MISMATCH"},
		{"decimal to bytes", `={"type":"bytes","logicalType":"decimal","precision":9,"scale":2}`, `="bytes"`, "", ""},
		{"circle", `={"type":"record","name":"n","fields":[{"name":"next","type":["null","n"]},{"name":"v","type":"int"}]}`,
			`={"type":"record","name":"n","fields":[{"name":"next","type":["null","n"]},{"name":"v","type":"long"}]}`, "", "TYPE_MISMATCH"},
		{"circle gets a field", `={"type":"record","name":"n","fields":[{"name":"next","type":["null","n"]}]}`,
			`={"type":"record","name":"n","fields":[{"name":"next","type":["null","n"]},{"name":"v","type":"int"}]}`, "READER_FIELD_MISSING_DEFAULT_VALUE", ""},
		{"field in a union's record", `=["null",{"type":"record","name":"n","fields":[]}]`, `=["null",{"type":"record","name":"n","fields":[{"name":"v","type":"int"}]}]`,
			"MISSING_UNION_BRANCH", ""},
		{"a difference that a union hid is told", // the same pair once within a union, where it decides nothing, and once on its own
			`={"type":"record","name":"o","fields":[{"name":"u","type":{"type":"record","name":"n","fields":[]}},{"name":"v","type":"n"}]}`,
			`={"type":"record","name":"o","fields":[{"name":"u","type":[{"type":"record","name":"n","fields":[{"name":"x","type":"int"}]},{"type":"record","name":"p.n","fields":[]}]},{"name":"v","type":"n"}]}`,
			"READER_FIELD_MISSING_DEFAULT_VALUE", ""},
	})
}

func TestJSONCompatibility(t *testing.T) {
	object := func(properties string, more ...string) string {
		return `{"type":"object","properties":{` + properties + `}` + strings.Join(append([]string{""}, more...), ",") + `}`
	}
	const a, b, closed = `"a":{"type":"string"}`, `"b":{"type":"integer"}`, `"additionalProperties":false`
	checkChanges(t, JSON, func(s string) string { return s }, []change{
		{"same", object(a), object(a), "", ""},
		{"title, description", `{"type":"string","title":"x"}`, `{"type":"string","description":"y","$comment":"z"}`, "", ""},
		{"open: property added", object(a), object(a + "," + b), "PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL", ""},
		{"open: property of anything added", object(a), object(a + `,"b":{}`), "", ""},
		{"closed: property added", object(a, closed), object(a+","+b, closed), "", "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL"},
		{"closed: required property added", object(a, closed), object(a+","+b, closed, `"required":["b"]`), "REQUIRED_PROPERTY_ADDED_TO_UNOPEN_CONTENT_MODEL", "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL"},
		{"closed: required with default added", object(a, closed), object(a+`,"b":{"type":"integer","default":1}`, closed, `"required":["b"]`), "", "PROPERTY_REMOVED_FROM_CLOSED_CONTENT_MODEL"},
		{"partly open: covered", object(a, `"additionalProperties":{"type":"integer"}`), object(a+`,"b":{"type":"number"}`, `"additionalProperties":{"type":"integer"}`), "", "PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"},
		{"partly open: not covered", object(a, `"additionalProperties":{"type":"integer"}`), object(a+`,"b":{"type":"string"}`, `"additionalProperties":{"type":"integer"}`),
			"PROPERTY_ADDED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL", "PROPERTY_REMOVED_NOT_COVERED_BY_PARTIALLY_OPEN_CONTENT_MODEL"},
		{"pattern covers", object(a, `"patternProperties":{"^n":{"type":"integer"}}`), object(a+`,"n1":{"type":"integer"}`, `"patternProperties":{"^n":{"type":"integer"}}`), "", ""},
		{"opened", object(a, closed), object(a), "", "ADDITIONAL_PROPERTIES_REMOVED"},
		{"narrowed", object(a), object(a, `"additionalProperties":{"type":"string"}`), "ADDITIONAL_PROPERTIES_NARROWED", ""},
		{"required added", object(a), object(a, `"required":["a"]`), "REQUIRED_ATTRIBUTE_ADDED", ""},
		{"required with default added", object(`"a":{"type":"string","default":""}`), object(`"a":{"type":"string","default":""}`, `"required":["a"]`), "", ""},
		{"type extended", `{"type":"integer"}`, `{"type":"number"}`, "", "TYPE_NARROWED"},
		{"type changed", `{"type":"integer"}`, `{"type":"string"}`, "TYPE_CHANGED", "TYPE_CHANGED"},
		{"type gets null", `{"type":"string"}`, `{"type":["string","null"]}`, "", "TYPE_NARROWED"},
		{"to anything", `{"type":"string"}`, `true`, "", "TYPE_NARROWED"},
		{"to nothing", `{"type":"string"}`, `false`, "TYPE_CHANGED", ""},
		{"maxLength added", `{"type":"string"}`, `{"type":"string","maxLength":3}`, "MAX_LENGTH_ADDED", ""},
		{"maxLength increased", `{"type":"string","maxLength":3}`, `{"type":"string","maxLength":4}`, "", "MAX_LENGTH_DECREASED"},
		{"minLength increased", `{"type":"string","minLength":3}`, `{"type":"string","minLength":4}`, "MIN_LENGTH_INCREASED", ""},
		{"pattern added", `{"type":"string"}`, `{"type":"string","pattern":"x"}`, "PATTERN_ADDED", ""},
		{"pattern changed", `{"type":"string","pattern":"y"}`, `{"type":"string","pattern":"x"}`, "PATTERN_CHANGED", "PATTERN_CHANGED"},
		{"maximum", `{"type":"number","maximum":10}`, `{"type":"number","maximum":10.5}`, "", "MAXIMUM_DECREASED"},
		{"minimum", `{"type":"number","minimum":1}`, `{"type":"number","minimum":0}`, "", "MINIMUM_INCREASED"},
		{"exclusiveMaximum removed", `{"type":"number","exclusiveMaximum":1}`, `{"type":"number"}`, "", "EXCLUSIVE_MAXIMUM_ADDED"},
		{"multipleOf reduced", `{"type":"integer","multipleOf":10}`, `{"type":"integer","multipleOf":5}`, "", "MULTIPLE_OF_CHANGED"},
		{"enum extended", `{"type":"string","enum":["a"]}`, `{"type":"string","enum":["a","b"]}`, "", "ENUM_ARRAY_NARROWED"},
		{"enum changed", `{"enum":["a"]}`, `{"enum":["b"]}`, "ENUM_ARRAY_NARROWED", "ENUM_ARRAY_NARROWED"},
		{"const", `{"const":1}`, `{"enum":[1.0,2]}`, "", "ENUM_ARRAY_NARROWED"},
		{"items", `{"type":"array","items":{"type":"integer"}}`, `{"type":"array","items":{"type":"number"}}`, "", "TYPE_NARROWED"},
		{"uniqueItems", `{"type":"array"}`, `{"type":"array","uniqueItems":true}`, "UNIQUE_ITEMS_ADDED", ""},
		{"maxItems", `{"type":"array","maxItems":2}`, `{"type":"array","maxItems":1}`, "MAX_ITEMS_DECREASED", ""},
		{"tuple grows, closed", `{"type":"array","items":[{"type":"string"}],"additionalItems":false}`, `{"type":"array","items":[{"type":"string"},{"type":"string"}],"additionalItems":false}`,
			"", "ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL"},
		{"tuple grows, open", `{"type":"array","items":[{"type":"string"}]}`, `{"type":"array","items":[{"type":"string"},{"type":"string"}]}`, "ITEM_ADDED_TO_OPEN_CONTENT_MODEL", ""},
		{"2020-12: prefixItems", `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"array","prefixItems":[{"type":"string"}],"items":false}`,
			`{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"array","prefixItems":[{"type":"string"},{"type":"string"}],"items":false}`, "", "ITEM_REMOVED_FROM_CLOSED_CONTENT_MODEL"},
		{"into a oneOf", `{"type":"string"}`, `{"oneOf":[{"type":"string"},{"type":"integer"}]}`, "", "TYPE_NARROWED"},
		{"branch added", `{"oneOf":[{"type":"string"}]}`, `{"oneOf":[{"type":"string"},{"type":"integer"}]}`, "", "COMBINED_TYPE_SUBSCHEMAS_CHANGED"},
		{"branch removed", `{"anyOf":[{"type":"string"},{"type":"integer"}]}`, `{"anyOf":[{"type":"string"}]}`, "COMBINED_TYPE_SUBSCHEMAS_CHANGED", ""},
		{"branch widened", `{"anyOf":[{"type":"string"},{"type":"integer"}]}`, `{"anyOf":[{"type":"number"},{"type":"string"}]}`, "", "COMBINED_TYPE_SUBSCHEMAS_CHANGED"},
		{"oneOf becomes anyOf", `{"oneOf":[{"type":"string"},{"type":"integer"}]}`, `{"anyOf":[{"type":"string"},{"type":"integer"}]}`, "", "COMBINED_TYPE_CHANGED"},
		{"part of allOf removed", `{"allOf":[{"type":"string"},{"maxLength":3}]}`, `{"allOf":[{"type":"string"}]}`, "", "PRODUCT_TYPE_EXTENDED"},
		{"types as branches", `{"type":["string","null"]}`, `{"anyOf":[{"type":"string"},{"type":"null"}]}`, "", ""},
		{"not widened", `{"not":{"type":"string"}}`, `{"not":{"type":["string","null"]}}`, "NOT_TYPE_EXTENDED", ""},
		{"condition changed", `{"if":{"type":"string"},"then":{"maxLength":3}}`, `{"if":{"type":"null"},"then":{"maxLength":3}}`, "CONDITION_CHANGED", "CONDITION_CHANGED"},
		{"consequence dropped", `{"if":{"type":"string"},"then":{"maxLength":3}}`, `{"if":{"type":"string"}}`, "", "THEN_ADDED"},
		{"dependency added", object(a), object(a, `"dependencies":{"a":["b"]}`), "DEPENDENCY_ADDED", ""},
		{"dependency extended", object(a, `"dependentRequired":{"a":["b"]}`), object(a, `"dependentRequired":{"a":["b","c"]}`), "DEPENDENCY_ARRAY_EXTENDED", ""},
		{"behind a reference", `{"$ref":"#/definitions/x","definitions":{"x":{"type":"integer"}}}`, `{"$ref":"#/definitions/y","definitions":{"y":{"type":"number"}}}`, "", "TYPE_NARROWED"},
		{"beside a reference, 2020-12", `{"$schema":"https://json-schema.org/draft/2020-12/schema","$ref":"#/$defs/x","$defs":{"x":{"type":"string"}}}`,
			`{"$schema":"https://json-schema.org/draft/2020-12/schema","$ref":"#/$defs/x","maxLength":3,"$defs":{"x":{"type":"string"}}}`, "MAX_LENGTH_ADDED", ""},
		{"beside a reference, draft 7", `{"$ref":"#/definitions/x","definitions":{"x":{"type":"string"}}}`, `{"$ref":"#/definitions/x","maxLength":3,"definitions":{"x":{"type":"string"}}}`, "", ""},
		{"a circle", `{"$id":"http://x.example/tree.json","properties":{"v":{"type":"integer"},"next":{"$ref":"#"}}}`, `{"$id":"http://x.example/tree.json","properties":{"v":{"type":"number"},"next":{"$ref":"tree.json"}}}`, "", "TYPE_NARROWED TYPE_NARROWED"}, // told where it is, and where it is reached
	})
}

func TestProtobufCompatibility(t *testing.T) {
	checkChanges(t, Protobuf, func(s string) string {
		if strings.HasPrefix(s, "=") {
			return s[1:]
		}
		return `syntax = "proto3"; package p; message M {` + s + `}`
	}, []change{
		{"same", `int32 a = 1;`, `/* comment */ int32 a = 1;`, "", ""},
		{"field added", `int32 a = 1;`, `int32 a = 1; string b = 2;`, "", ""},
		{"field renamed", `int32 a = 1;`, `int32 b = 1;`, "", ""},
		{"field renumbered", `int32 a = 1;`, `int32 a = 2;`, "", ""},
		{"same group", `int32 a = 1;`, `uint64 a = 1;`, "", ""},
		{"bool", `int32 a = 1;`, `bool a = 1;`, "", ""},
		{"enum and number", `E a = 1; enum E {A = 0;}`, `int32 a = 1; enum E {A = 0;}`, "", ""},
		{"zigzag", `int32 a = 1;`, `sint32 a = 1;`, "FIELD_SCALAR_KIND_CHANGED", "FIELD_SCALAR_KIND_CHANGED"},
		{"string and bytes", `string a = 1;`, `bytes a = 1;`, "", ""},
		{"string and number", `string a = 1;`, `int32 a = 1;`, "FIELD_SCALAR_KIND_CHANGED", "FIELD_SCALAR_KIND_CHANGED"},
		{"fixed", `fixed32 a = 1;`, `sfixed32 a = 1;`, "", ""},
		{"float and double", `float a = 1;`, `double a = 1;`, "FIELD_SCALAR_KIND_CHANGED", "FIELD_SCALAR_KIND_CHANGED"},
		{"string repeated", `string a = 1;`, `repeated string a = 1;`, "", ""},
		{"number repeated", `int32 a = 1;`, `repeated int32 a = 1;`, "FIELD_NUMERIC_LABEL_CHANGED", "FIELD_NUMERIC_LABEL_CHANGED"},
		{"optional", `int32 a = 1;`, `optional int32 a = 1;`, "", ""},
		{"message and scalar", `N a = 1; message N {}`, `string a = 1; message N {}`, "FIELD_KIND_CHANGED", "FIELD_KIND_CHANGED"},
		{"message of another name", `N a = 1; message N {} message O {}`, `O a = 1; message N {} message O {}`, "FIELD_NAMED_TYPE_CHANGED", "FIELD_NAMED_TYPE_CHANGED"},
		{"message removed", `message N {}`, ``, "MESSAGE_REMOVED", ""},
		{"enum removed", `enum E {A = 0;}`, ``, "", ""},
		{"nested field", `message N {int32 a = 1;}`, `message N {string a = 1;}`, "FIELD_SCALAR_KIND_CHANGED", "FIELD_SCALAR_KIND_CHANGED"},
		{"map's value", `map<string, int32> a = 1;`, `map<string, string> a = 1;`, "FIELD_SCALAR_KIND_CHANGED", "FIELD_SCALAR_KIND_CHANGED"},
		{"one field into a oneof", `int32 a = 1;`, `oneof o {int32 a = 1;}`, "", ""},
		{"two fields into a oneof", `int32 a = 1; int32 b = 2;`, `oneof o {int32 a = 1; int32 b = 2;}`, "MULTIPLE_FIELDS_MOVED_TO_ONEOF", ""},
		{"into a oneof that was there", `oneof o {int32 a = 1;} int32 b = 2;`, `oneof o {int32 a = 1; int32 b = 2;}`, "FIELD_MOVED_TO_EXISTING_ONEOF", ""},
		{"new field in a oneof", `oneof o {int32 a = 1;}`, `oneof o {int32 a = 1; int32 b = 2;}`, "", "ONEOF_FIELD_REMOVED"},
		{"oneof renamed", `oneof o {int32 a = 1; int32 b = 2;}`, `oneof p {int32 a = 1; int32 b = 2;}`, "", ""},
		{"package changed", `=syntax = "proto3"; package p; message M {M m = 1;}`, `=syntax = "proto3"; package q; message M {M m = 1;}`, "", ""},
		{"required added", `=message M {optional int32 a = 1;}`, `=message M {required int32 a = 1;}`, "REQUIRED_FIELD_ADDED", ""},
		{"required field is new", `=message M {}`, `=message M {required int32 a = 1;}`, "REQUIRED_FIELD_ADDED", "REQUIRED_FIELD_REMOVED"},
	})
}

// What is compared is bounded, however the schemas are made.
func TestComparisonIsBounded(t *testing.T) {
	var avro [2]strings.Builder
	for i := range avro {
		fmt.Fprint(&avro[i], `{"type":"record","name":"r0","fields":[`)
		for n := range 300 { // unions of records that differ deep down
			fmt.Fprintf(&avro[i], `{"name":"f%d","type":["null",{"type":"record","name":"x%d.n","fields":[{"name":"v","type":["r0","int"]}]},{"type":"record","name":"y%d.n","fields":[{"name":"v","type":["r0","string"]}]}]},`, n, n, n)
		}
		fmt.Fprintf(&avro[i], `{"name":"z%d","type":"int"}]}`, i)
	}
	bounded := func(a, b *Schema) {
		t.Helper()
		if ds := compareWithin(a, b, tier.N(100_000)); len(ds) == 0 {
			t.Error("what differs is told to be alike")
		}
	}
	bounded(parsed(t, Avro, avro[0].String()), parsed(t, Avro, avro[1].String()))
	var deepest strings.Builder
	deepest.WriteString(`{"anyOf":[{"$ref":"#/definitions/d0"}],"definitions":{`)
	for n := range 60 {
		fmt.Fprintf(&deepest, `"d%d":{"anyOf":[{"$ref":"#/definitions/d%d"},{"$ref":"#/definitions/d%d"}]},`, n, n+1, n+1)
	}
	deepest.WriteString(`"d60":{"type":%q}}}`)
	a, b := parsed(t, JSON, fmt.Sprintf(deepest.String(), "string")), parsed(t, JSON, fmt.Sprintf(deepest.String(), "integer"))
	bounded(a, b)
	if _, err := a.Validator(); err == nil {
		t.Error("a schema of 2^60 branches is taken for validation")
	}
	chain := func(last string) string {
		var s strings.Builder
		s.WriteString(`{"$ref":"#/definitions/d0","definitions":{`)
		for n := range 2000 {
			fmt.Fprintf(&s, `"d%d":{"properties":{"x":{"$ref":"#/definitions/d%d"}}},`, n, n+1)
		}
		return s.String() + `"d2000":{"type":"` + last + `"}}}`
	}
	bounded(parsed(t, JSON, chain("string")), parsed(t, JSON, chain("integer")))
}

// Data that a comparison says can be read is valid for the reader: of JSON Schema, where that can be tried.
func TestComparisonAgreesWithValidation(t *testing.T) {
	values := []string{`1`, `1.5`, `-3`, `"a"`, `"abcdef"`, `null`, `true`, `{}`, `[]`, `[1,"a"]`, `{"a":"x"}`, `{"a":1}`, `{"b":1}`, `{"b":"x","a":"y"}`, `{"a":"x","c":null}`, `["x","x"]`, `20`}
	schemas := []string{`true`, `{"type":"string"}`, `{"type":["string","null"]}`, `{"type":"integer"}`, `{"type":"number","maximum":10}`, `{"type":"string","maxLength":3}`,
		`{"type":"object","properties":{"a":{"type":"string"}}}`, `{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":false}`,
		`{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"additionalProperties":false}`,
		`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`, `{"type":"object","additionalProperties":{"type":"integer"}}`,
		`{"anyOf":[{"type":"string"},{"type":"integer"}]}`, `{"anyOf":[{"type":"integer","maximum":5},{"type":"object"}]}`, `{"not":{"type":"string"}}`, `{"enum":[1,"a"]}`, `{"const":1}`,
		`{"allOf":[{"type":"string"},{"maxLength":3}]}`, `{"type":"array","items":{"type":"string"}}`, `{"type":"array","items":[{"type":"integer"}],"additionalItems":false}`,
		`{"type":"array","uniqueItems":true}`, `{"if":{"type":"string"},"then":{"maxLength":1}}`, `{"type":"object","patternProperties":{"^a":{"type":"string"}},"additionalProperties":false}`,
		`{"type":"object","minProperties":1}`, `{"type":"number","multipleOf":2}`, `false`}
	var all []*Schema
	var vs []Validator
	for _, text := range schemas {
		s := parsed(t, JSON, text)
		v, err := s.Validator()
		if err != nil {
			t.Fatal(err)
		}
		all, vs = append(all, s), append(vs, v)
	}
	compatible := 0
	for i, r := range all {
		for j, w := range all {
			if Compare(r, w) != nil {
				continue
			}
			compatible++
			for _, v := range values {
				if vs[j].Validate([]byte(v)) == nil && vs[i].Validate([]byte(v)) != nil {
					t.Errorf("%s is said to read all of %s, but not %s", schemas[i], schemas[j], v)
				}
			}
		}
	}
	if compatible < 60 {
		t.Errorf("only %d pairs are compatible", compatible)
	}
}
