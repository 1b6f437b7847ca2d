package registry

import (
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"
)

func TestAPI(t *testing.T) {
	w := serve(t, open(t, newLog(t)))
	record := func(fields string) string { return `{"type":"record","name":"r","fields":[` + fields + `]}` }
	const a, b = `{"name":"a","type":"int"}`, `{"name":"b","type":"int"}`

	w.want("GET", "/", nil, 200, `{}`)
	w.want("GET", "/subjects", nil, 200, `[]`)
	w.want("GET", "/schemas/types", nil, 200, `["JSON","PROTOBUF","AVRO"]`)
	w.want("GET", "/contexts", nil, 200, `["."]`)
	w.want("GET", "/config", nil, 200, `{"compatibilityLevel":"BACKWARD"}`)
	w.want("GET", "/mode", nil, 200, `{"mode":"READWRITE"}`)

	w.want("POST", "/subjects/s/versions", of(record(a)), 200, `{"id":1}`)
	w.want("POST", "/subjects/s/versions", of("  "+strings.ReplaceAll(record(a), ",", " ,\n")), 200, `{"id":1}`)
	w.want("POST", "/subjects/s/versions", of(record(a+","+b)), 409, `{"error_code":409,"message":"Schema being registered is incompatible with an earlier schema for subject \"s\", details: [{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', …`)
	w.want("POST", "/subjects/s/versions", of(record("")), 200, `{"id":2}`)
	w.want("POST", "/subjects/t/versions", of(record(a)), 200, `{"id":1}`)
	w.want("GET", "/subjects", nil, 200, `["s","t"]`)
	w.want("GET", "/subjects?subjectPrefix=t", nil, 200, `["t"]`)
	w.want("GET", "/subjects/s/versions", nil, 200, `[1,2]`)
	w.want("GET", "/subjects/s/versions/1", nil, 200, `{"subject":"s","version":1,"id":1,"schema":"{\"type\":\"record\",\"name\":\"r\",\"fields\":[{\"name\":\"a\",\"type\":\"int\"}]}"}`)
	w.want("GET", "/subjects/s/versions/1/schema", nil, 200, record(a))
	w.want("GET", "/subjects/s/versions/latest/schema", nil, 200, record(""))
	w.want("GET", "/schemas/ids/2", nil, 200, `{"schema":"{\"type\":\"record\",\"name\":\"r\",\"fields\":[]}"}`)
	w.want("GET", "/schemas/ids/2?fetchMaxId=true", nil, 200, `{"schema":"{\"type\":\"record\",\"name\":\"r\",\"fields\":[]}","maxId":2}`)
	w.want("GET", "/schemas/ids/2/schema", nil, 200, record(""))
	w.want("GET", "/schemas/ids/1/subjects", nil, 200, `["s","t"]`)
	w.want("GET", "/schemas/ids/1/versions", nil, 200, `[{"subject":"s","version":1},{"subject":"t","version":1}]`)
	w.want("GET", "/schemas?latestOnly=true&limit=1", nil, 200, `[{"subject":"s","version":2,"id":2,…`)
	w.want("POST", "/subjects/s", of(record(a)), 200, `{"subject":"s","version":1,"id":1,…`)

	// What there is not.
	w.want("GET", "/subjects/x/versions", nil, 404, `{"error_code":40401,"message":"Subject 'x' not found."}`)
	w.want("GET", "/subjects/s/versions/9", nil, 404, `{"error_code":40402,"message":"Version 9 not found."}`)
	w.want("GET", "/subjects/s/versions/0", nil, 422, `{"error_code":42202,…`)
	w.want("GET", "/subjects/s/versions/x", nil, 422, `{"error_code":42202,…`)
	w.want("GET", "/schemas/ids/99", nil, 404, `{"error_code":40403,"message":"Schema 99 not found"}`)
	w.want("POST", "/subjects/s", of(intSchema), 404, `{"error_code":40403,"message":"Schema not found"}`)
	w.want("POST", "/subjects/x", of(intSchema), 404, `{"error_code":40401,…`)
	w.want("POST", "/subjects/s/versions", of(`{"type":"x"}`), 422, `{"error_code":42201,"message":"Invalid schema: \"x\" is not defined"}`)
	w.want("POST", "/subjects/s/versions", of(""), 422, `{"error_code":42201,"message":"Empty schema"}`)
	w.want("POST", "/subjects/s/versions", of(intSchema, "schemaType", "XML"), 422, `{"error_code":42201,…`)
	w.want("POST", "/subjects/s/versions", of(intSchema, "metadata", map[string]any{"x": 1}), 422, `{"error_code":422,…`)
	w.want("POST", "/subjects/s/versions", "no", 422, `{"error_code":422,…`)
	w.want("POST", "/subjects/:.ctx:s/versions", of(intSchema), 422, `{"error_code":42208,…`)
	w.want("POST", "/subjects/a%0ab/versions", of(intSchema), 422, `{"error_code":42208,…`)
	w.want("POST", "/subjects/a%2fb/versions", of(intSchema), 200, `{"id":3}`)
	w.want("GET", "/subjects/a%2Fb/versions", nil, 200, `[1]`)
	w.want("GET", "/nothing", nil, 404, `{"error_code":404,"message":"HTTP 404 Not Found"}`)
	w.want("POST", "/subjects/s/versions", of(intSchema), 415, `{"error_code":415,…`, "Content-Type", "application/x-www-form-urlencoded")
	w.want("GET", "/subjects", nil, 406, `{"error_code":406,…`, "Accept", "text/html")

	// Levels.
	w.want("GET", "/config/s", nil, 404, `{"error_code":40408,…`)
	w.want("GET", "/config/s?defaultToGlobal=true", nil, 200, `{"compatibilityLevel":"BACKWARD"}`)
	w.want("PUT", "/config/s", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	w.want("PUT", "/config/s", `{"compatibility":"SOME"}`, 422, `{"error_code":42203,…`)
	w.want("POST", "/subjects/s/versions", of(intSchema), 200, `{"id":3}`)
	w.want("DELETE", "/config/s", nil, 200, `{"compatibilityLevel":"NONE"}`)
	w.want("PUT", "/config", `{"compatibility":"full_transitive"}`, 200, `{"compatibility":"FULL_TRANSITIVE"}`)
	w.want("DELETE", "/config", nil, 200, `{"compatibilityLevel":"FULL_TRANSITIVE"}`)
	w.want("GET", "/config", nil, 200, `{"compatibilityLevel":"BACKWARD"}`)
	w.want("POST", "/compatibility/subjects/s/versions/latest", of(longSchema), 200, `{"is_compatible":true}`)
	w.want("POST", "/compatibility/subjects/s/versions/latest?verbose=true", of(stringSchema), 200, `{"is_compatible":false,"messages":["{errorType:'TYPE_MISMATCH', description:'reader type string is not compatible with writer type int', path:'/'}","{oldSchemaVersion: 3}","{compatibility: 'BACKWARD'}"]}`)
	w.want("POST", "/compatibility/subjects/s/versions", of(longSchema), 200, `{"is_compatible":true}`)
	w.want("POST", "/compatibility/subjects/s/versions/8", of(longSchema), 404, `{"error_code":40402,…`)
	w.want("POST", "/compatibility/subjects/x/versions/latest", of(longSchema), 200, `{"is_compatible":true}`)

	// Deleting.
	w.want("DELETE", "/subjects/s/versions/3?permanent=true", nil, 404, `{"error_code":40407,…`)
	w.want("DELETE", "/subjects/s/versions/3", nil, 200, `3`)
	w.want("DELETE", "/subjects/s/versions/3", nil, 404, `{"error_code":40406,…`)
	w.want("GET", "/subjects/s/versions", nil, 200, `[1,2]`)
	w.want("GET", "/subjects/s/versions?deleted=true", nil, 200, `[1,2,3]`)
	w.want("GET", "/subjects/s/versions/3?deleted=true", nil, 200, `{"subject":"s","version":3,"id":3,"schema":"\"int\"","deleted":true}`)
	w.want("GET", "/schemas/ids/3", nil, 200, `{"schema":"\"int\""}`)
	w.want("PUT", "/config/s", `{"compatibility":"NONE"}`, 200, `{"compatibility":"NONE"}`)
	w.want("POST", "/subjects/s/versions", of(intSchema), 200, `{"id":3}`)
	w.want("GET", "/subjects/s/versions", nil, 200, `[1,2,4]`)
	w.want("DELETE", "/subjects/s?permanent=true", nil, 404, `{"error_code":40405,…`)
	w.want("DELETE", "/subjects/s", nil, 200, `[1,2,4]`)
	w.want("DELETE", "/subjects/s", nil, 404, `{"error_code":40404,…`)
	w.want("GET", "/config/s", nil, 404, `{"error_code":40408,…`) // it ended with the subject
	w.want("GET", "/subjects", nil, 200, `["a/b","t"]`)
	w.want("GET", "/subjects?deleted=true", nil, 200, `["a/b","s","t"]`)
	w.want("GET", "/subjects?deletedOnly=true", nil, 200, `["s"]`)
	w.want("DELETE", "/subjects/s?permanent=true", nil, 200, `[1,2,3,4]`)
	w.want("GET", "/subjects?deleted=true", nil, 200, `["a/b","t"]`)
	w.want("GET", "/schemas/ids/2", nil, 404, `{"error_code":40403,…`)
	w.want("DELETE", "/subjects/s", nil, 404, `{"error_code":40401,…`)

	w.want("GET", "/schemas?limit=1&offset=1", nil, 200, `[{"subject":"t",…`)

	// Modes.
	w.want("PUT", "/mode/m", `{"mode":"READONLY"}`, 200, `{"mode":"READONLY"}`)
	w.want("POST", "/subjects/m/versions", of(intSchema), 422, `{"error_code":42205,…`)
	w.want("GET", "/mode/x", nil, 404, `{"error_code":40409,…`)
	w.want("PUT", "/mode/m", `{"mode":"SLEEPING"}`, 422, `{"error_code":42204,…`)
	w.want("PUT", "/mode/m", `{"mode":"IMPORT"}`, 200, `{"mode":"IMPORT"}`)
	w.want("POST", "/subjects/m/versions", of(stringSchema, "id", 77, "version", 5), 200, `{"id":77}`)
	w.want("POST", "/subjects/m/versions", of(longSchema, "id", 77), 422, `{"error_code":42207,…`)
	w.want("GET", "/subjects/m/versions", nil, 200, `[5]`)
	w.want("DELETE", "/mode/m", nil, 200, `{"mode":"IMPORT"}`)
	w.want("POST", "/subjects/m/versions", of(stringSchema, "id", 78), 422, `{"error_code":42205,…`)
	w.want("PUT", "/mode/t", `{"mode":"IMPORT"}`, 422, `{"error_code":42205,…`)
	w.want("PUT", "/mode", `{"mode":"READONLY_OVERRIDE"}`, 200, `{"mode":"READONLY_OVERRIDE"}`)
	w.want("POST", "/subjects/n/versions", of(intSchema), 422, `{"error_code":42205,…`)
	w.want("PUT", "/mode", `{"mode":"READWRITE"}`, 200, `{"mode":"READWRITE"}`)
	w.want("POST", "/subjects/n/versions", of(`"double"`), 200, `{"id":78}`)
}

func TestReferences(t *testing.T) {
	w := serve(t, open(t, newLog(t)))
	ref := func(name, subject string) []Reference { return []Reference{{name, subject, 1}} }
	w.want("POST", "/subjects/point/versions", of(`{"type":"record","name":"geo.Point","fields":[{"name":"x","type":"int"}]}`), 200, `{"id":1}`)
	track := `{"type":"record","name":"Track","fields":[{"name":"p","type":{"type":"array","items":"geo.Point"}}]}`
	w.want("POST", "/subjects/track/versions", of(track), 422, `{"error_code":42201,…`)
	w.want("POST", "/subjects/track/versions", of(track, "references", ref("geo.Point", "nothing")), 422, `{"error_code":42201,…`)
	w.want("POST", "/subjects/track/versions", of(track, "references", ref("geo.Point", "point")), 200, `{"id":2}`)
	w.want("POST", "/subjects/track", of(track, "references", ref("geo.Point", "point")), 200, `{"subject":"track","version":1,"id":2,"references":[{"name":"geo.Point","subject":"point","version":1}],…`)
	w.want("GET", "/subjects/point/versions/1/referencedby", nil, 200, `[2]`)
	w.want("GET", "/subjects/track/versions/1/referencedby", nil, 200, `[]`)
	w.want("DELETE", "/subjects/point/versions/1", nil, 422, `{"error_code":42206,…`)
	w.want("DELETE", "/subjects/point", nil, 422, `{"error_code":42206,…`)

	w.want("POST", "/subjects/unit/versions", of(`{"type":"string","enum":["m"]}`, "schemaType", "JSON"), 200, `{"id":3}`)
	w.want("POST", "/subjects/length/versions", of(`{"properties":{"u":{"$ref":"unit.json"}}}`, "schemaType", "JSON", "references", ref("unit.json", "unit")), 200, `{"id":4}`)
	w.want("POST", "/subjects/length/versions", of(`{"properties":{"u":{"$ref":"http://127.0.0.1:1/x.json"}}}`, "schemaType", "JSON"), 422, `{"error_code":42201,…`)
	w.want("POST", "/subjects/length/versions", of(`{"properties":{"u":{"$ref":"file:///etc/passwd"}}}`, "schemaType", "JSON"), 422, `{"error_code":42201,…`)

	w.want("POST", "/subjects/unit.proto/versions", of(`syntax = "proto3"; package u; message Unit { string name = 1; }`, "schemaType", "PROTOBUF"), 200, `{"id":5}`)
	length := `syntax = "proto3"; import "unit.proto"; import "google/protobuf/timestamp.proto"; message Length { u.Unit unit = 1; google.protobuf.Timestamp at = 2; }`
	w.want("POST", "/subjects/length.proto/versions", of(length, "schemaType", "PROTOBUF"), 422, `{"error_code":42201,…`)
	w.want("POST", "/subjects/length.proto/versions", of(length, "schemaType", "PROTOBUF", "references", ref("unit.proto", "unit.proto")), 200, `{"id":6}`)

	// As a FileDescriptorProto in base64, as some serializers send it, it is the same schema.
	_, body := w.ask("GET", "/schemas/ids/5/schema?format=serialized", nil)
	w.want("POST", "/subjects/unit.proto/versions", of(body, "schemaType", "PROTOBUF"), 200, `{"id":5}`)
	w.want("POST", "/subjects/unit.proto/versions", of(`syntax="proto3";package u;message Unit{string name=1;/* ! */}`, "schemaType", "PROTOBUF"), 200, `{"id":5}`)
}

func TestNormalize(t *testing.T) {
	w := serve(t, open(t, newLog(t)))
	w.want("POST", "/subjects/a/versions?normalize=true", of(`{"name":"f","type":"fixed","size":2}`), 200, `{"id":1}`)
	w.want("POST", "/subjects/b/versions?normalize=true", of(`{"size":2,"type":"fixed","name":"f"}`), 200, `{"id":1}`)
	w.want("POST", "/subjects/j/versions", of(`{"type":"string","maxLength":2}`, "schemaType", "JSON"), 200, `{"id":2}`)
	w.want("POST", "/subjects/j", of(`{"maxLength":2,"type":"string"}`, "schemaType", "JSON"), 404, `{"error_code":40403,…`)
	w.want("POST", "/subjects/k/versions?normalize=true", of(`{"type":"string","maxLength":2}`, "schemaType", "JSON"), 200, `{"id":3}`)
	w.want("POST", "/subjects/k?normalize=true", of(`{"maxLength":2,"type":"string"}`, "schemaType", "JSON"), 200, `{"subject":"k",…`)
}

// A transitive level looks at all versions, the others at the latest one.
func TestTransitive(t *testing.T) {
	field := func(s string) string { return `{"type":"record","name":"r","fields":[` + s + `]}` }
	one, two, three := field(``), field(`{"name":"a","type":"int","default":0}`), field(`{"name":"a","type":"int"}`)
	for level, want := range map[string]bool{None: true, Backward: true, BackwardTransitive: false, Forward: true, ForwardTransitive: true, Full: true, FullTransitive: false} {
		w := serve(t, open(t, newLog(t)))
		for _, s := range []string{one, two} {
			w.want("POST", "/subjects/s/versions", of(s), 200, `{"id":…`)
		}
		w.want("PUT", "/config", `{"compatibility":"`+level+`"}`, 200, `{"compatibility":"`+level+`"}`)
		if code, body := w.ask("POST", "/subjects/s/versions", of(three)); code == 200 != want {
			t.Errorf("%s: %d %s", level, code, body)
		}
	}
}

// A client that others have written finds what it expects.
func TestClient(t *testing.T) {
	w := serve(t, open(t, newLog(t)))
	ctx := t.Context()
	c, err := sr.NewClient(sr.URLs(w.url))
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	first, err := c.CreateSchema(ctx, "s-value", sr.Schema{Schema: intSchema})
	check("create", err)
	if first.ID != 1 || first.Version != 1 {
		t.Errorf("%+v", first)
	}
	second, err := c.CreateSchema(ctx, "s-value", sr.Schema{Schema: longSchema})
	check("create", err)
	found, err := c.LookupSchema(ctx, "s-value", sr.Schema{Schema: longSchema})
	check("look up", err)
	if found.ID != second.ID || found.Version != 2 {
		t.Errorf("%+v", found)
	}
	json, err := c.CreateSchema(ctx, "j-value", sr.Schema{Schema: `{"type":"object"}`, Type: sr.TypeJSON})
	check("create", err)
	if got, err := c.SchemaByID(ctx, json.ID); err != nil || got.Type != sr.TypeJSON || got.Schema != `{"type":"object"}` {
		t.Errorf("%+v, %v", got, err)
	}
	if text, err := c.SchemaTextByVersion(ctx, "s-value", -1); err != nil || text != longSchema {
		t.Errorf("%s, %v", text, err)
	}
	if all, err := c.AllSchemas(ctx); err != nil || len(all) != 3 {
		t.Errorf("%+v, %v", all, err)
	}
	if types, err := c.SupportedTypes(ctx); err != nil || len(types) != 3 {
		t.Errorf("%v, %v", types, err)
	}
	for _, r := range c.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFullTransitive}, "s-value") {
		check("set a level", r.Err)
	}
	if r, err := c.CheckCompatibility(sr.WithParams(ctx, sr.Verbose), "s-value", -1, sr.Schema{Schema: stringSchema}); err != nil || r.Is || len(r.Messages) == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	_, err = c.CreateSchema(ctx, "s-value", sr.Schema{Schema: stringSchema})
	var told *sr.ResponseError
	if !errors.As(err, &told) || told.ErrorCode != codeIncompatible {
		t.Errorf("%v", err)
	}
	for _, r := range c.ResetCompatibility(ctx, "s-value") {
		check("reset a level", r.Err)
	}
	for _, r := range c.SetMode(ctx, sr.ModeReadOnly, "s-value") {
		check("set a mode", r.Err)
	}
	for _, r := range c.ResetMode(ctx, "s-value") {
		check("reset a mode", r.Err)
	}
	check("delete a version", c.DeleteSchema(ctx, "s-value", 1, sr.SoftDelete))
	for _, how := range []sr.DeleteHow{sr.SoftDelete, sr.HardDelete} {
		_, err = c.DeleteSubject(ctx, "s-value", how)
		check("delete a subject", err)
	}
	if list, err := c.Subjects(sr.WithParams(ctx, sr.ShowDeleted)); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}
