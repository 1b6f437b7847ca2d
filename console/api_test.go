package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func noFindings(_ context.Context, _ VerifyQuery, emit func(any) error) error {
	return emit(map[string]any{"missing": 0})
}

func TestStatusAndPipeline(t *testing.T) {
	w := newWorld(t)
	st := decode(t, w.get("GET", "/api/v1/status").Body.Bytes())
	if st["ready"] != true || st["version"] != "v1" || st["now"] != millis(w.clock()) || st["user"] != "" || st["login"] != false || len(st["doors"].([]any)) != 1 {
		t.Errorf("%v", st)
	}
	w.pass(time.Minute)
	p := decode(t, w.get("GET", "/api/v1/pipeline").Body.Bytes())
	stage := p["stages"].([]any)[0].(map[string]any)
	if stage["total"] != 7.0 || stage["unaccounted"] != 0.0 || stage["joined"] == nil {
		t.Errorf("%v", p)
	}
}

func TestDevices(t *testing.T) {
	w := newWorld(t)
	w.hear("a/b ü%", -33, 151, 1)
	for i := range 250 {
		w.hear(fmt.Sprintf("truck-%03d", i), 60+float64(i)/1000, 24.9, 1)
		w.pass(time.Millisecond)
	}
	w.hear("a/b ü%", -33, 151, 1)
	var seen []string
	pages := 0
	for cursor := ""; ; pages++ {
		d := decode(t, w.get("GET", "/api/v1/devices?limit=100&cursor="+url.QueryEscape(cursor)).Body.Bytes())
		if d["total"] != 251.0 {
			t.Fatalf("total %v", d["total"])
		}
		for _, one := range d["devices"].([]any) {
			seen = append(seen, one.(map[string]any)["id"].(string))
		}
		if cursor = d["next"].(string); cursor == "" {
			break
		}
	}
	if pages != 2 || len(seen) != 251 || !slices.IsSorted(seen) || len(slices.Compact(seen)) != 251 {
		t.Errorf("%d devices on %d pages", len(seen), pages+1)
	}
	for query, want := range map[string]int{
		"q=TRUCK-00": 10, "q=nobody": 0, "bbox=24,60,25,60.0095": 10, "bbox=150,-34,-170,-32": 1, "slots=0,1,99999": 2, "sort=last_seen&q=truck": 250, "q=%25": 1,
	} {
		d := decode(t, w.get("GET", "/api/v1/devices?"+query).Body.Bytes())
		if d["total"] != float64(want) {
			t.Errorf("%s: %v of %d", query, d["total"], want)
		}
	}
	last := decode(t, w.get("GET", "/api/v1/devices?sort=last_seen&limit=1").Body.Bytes())["devices"].([]any)[0].(map[string]any)
	if last["id"] != "a/b ü%" || last["topic"] != "fleet/a/b ü%" || last["speed"] != 3.5 || last["heading"] != 90.0 || last["latency_ms"] != 20.0 {
		t.Errorf("%v", last)
	}
	d := w.get("GET", "/api/v1/devices/"+url.PathEscape("a/b ü%"))
	if one := decode(t, d.Body.Bytes()); d.Code != 200 || one["id"] != "a/b ü%" || len(one["track"].([]any)) != 1 {
		t.Errorf("%d %s", d.Code, d.Body)
	}
	if a := w.get("GET", "/api/v1/devices?limit=1000", "Accept-Encoding", "gzip"); a.Header().Get("Content-Encoding") != "gzip" || a.Body.Len() > 20_000 {
		t.Errorf("%d bytes, %v", a.Body.Len(), a.Header())
	}
}

// What is wrong with a request is said, and a request cannot reach beyond the API.
func TestHostileRequests(t *testing.T) {
	w := newWorld(t)
	for path, code := range map[string]int{
		"/api/v1/devices?bbox=1,2,3":                           400,
		"/api/v1/devices?bbox=1,2,3,4,5":                       400,
		"/api/v1/devices?bbox=NaN,0,1,1":                       400,
		"/api/v1/devices?bbox=0,0,1e309,1":                     400,
		"/api/v1/devices?bbox=0,10,1,5":                        400,
		"/api/v1/devices?bbox=-181,0,1,1":                      400,
		"/api/v1/devices?bbox=,,,":                             400,
		"/api/v1/devices?cursor=garbage":                       400,
		"/api/v1/devices?cursor=%00%ff":                        400,
		"/api/v1/devices?cursor=" + strings.Repeat("A", 5000):  400,
		"/api/v1/devices?limit=0":                              400,
		"/api/v1/devices?limit=1001":                           400,
		"/api/v1/devices?limit=x":                              400,
		"/api/v1/devices?sort=speed":                           400,
		"/api/v1/devices?slots=-1":                             400,
		"/api/v1/devices?slots=1,,2":                           400,
		"/api/v1/devices?slots=4294967296":                     400,
		"/api/v1/devices?slots=1" + strings.Repeat(",1", 1000): 400,
		"/api/v1/devices?q=" + strings.Repeat("x", 257):        400,
		"/api/v1/devices?unknown=1":                            400,
		"/api/v1/devices?q=a&q=b":                              400,
		"/api/v1/devices?a;b":                                  400,
		"/api/v1/devices/%2e%2e%2f%2e%2e%2fetc%2fpasswd":       404,
		"/api/v1/devices/..%2fstatus":                          404,
		"/api/v1/devices/x%0d%0aSet-Cookie:%20a=b":             404,
		"/api/v1/devices/x?q=1":                                400,
		"/api/v1/devices/a/b":                                  404,
		"/api/v1/topics?limit=9999":                            400,
		"/api/v1/topics?q=x":                                   400,
		"/api/v1/":                                             404,
	} {
		a := w.get("GET", path)
		if a.Code != code {
			t.Errorf("%.60s: %d %s", path, a.Code, a.Body)
			continue
		}
		if len(a.Header().Values("Set-Cookie")) > 0 {
			t.Errorf("%.60s: %v", path, a.Header())
		}
		if p := decode(t, a.Body.Bytes()); a.Header().Get("Content-Type") != "application/problem+json" || p["status"] != float64(code) || p["title"] == "" || p["detail"] == "" {
			t.Errorf("%.60s: %s", path, a.Body)
		}
		if a.Body.Len() > 400 {
			t.Errorf("%.60s: the request comes back: %s", path, a.Body)
		}
	}
}

func TestTopics(t *testing.T) {
	w := newWorld(t)
	w.write(0, "a", "b")
	began := w.clock()
	w.pass(time.Minute)
	w.write(1, "c")
	body := decode(t, w.get("GET", "/api/v1/topics").Body.Bytes())
	topics := body["topics"].([]any)
	if len(topics) != 2 || body["next"] != "" {
		t.Fatalf("%v", body)
	}
	alarms, telemetry := topics[0].(map[string]any), topics[1].(map[string]any)
	if alarms["name"] != "alarms" || alarms["records"] != 0.0 || alarms["first"] != nil || alarms["last"] != nil {
		t.Errorf("%v", alarms)
	}
	if telemetry["records"] != 3.0 || telemetry["partitions"] != 2.0 || telemetry["bytes"] != 4096.0 || telemetry["first"] != millis(began) || telemetry["last"] != millis(w.clock()) {
		t.Errorf("%v", telemetry)
	}
	first := decode(t, w.get("GET", "/api/v1/topics?limit=1").Body.Bytes())
	second := decode(t, w.get("GET", "/api/v1/topics?limit=1&cursor="+first["next"].(string)).Body.Bytes())
	if first["next"] != "alarms" || second["next"] != "" || second["topics"].([]any)[0].(map[string]any)["name"] != "telemetry" {
		t.Errorf("%v %v", first, second)
	}
}

func TestVerify(t *testing.T) {
	if a := newWorld(t).get("GET", verifyPath); a.Code != 404 || strings.Contains(newWorld(t).get("GET", "/api/v1/openapi.json").Body.String(), verifyPath) {
		t.Errorf("a node that cannot verify: %d", a.Code)
	}
	var asked VerifyQuery
	var fault error
	w := newWorld(t, func(o *Options) {
		o.Verify = func(_ context.Context, q VerifyQuery, emit func(any) error) error {
			asked = q
			if err := emit(map[string]int{"missing": 1}); err != nil {
				return err
			}
			return fault
		}
	})
	a := w.get("GET", verifyPath+"?from=1000&to=2000&topic=telemetry")
	if a.Code != 200 || a.Body.String() != "{\"missing\":1}\n" || a.Header().Get("Content-Type") != "application/x-ndjson" || asked != (VerifyQuery{From: time.UnixMilli(1000), To: time.UnixMilli(2000), Topic: "telemetry"}) {
		t.Errorf("%d %q %+v", a.Code, a.Body, asked)
	}
	fault = errors.New("the disk is gone")
	if a := w.get("GET", verifyPath); !strings.Contains(a.Body.String(), "ended early") || strings.Contains(a.Body.String(), "disk") {
		t.Errorf("%s", a.Body)
	}
	if a := w.get("GET", verifyPath+"?from=x"); a.Code != 400 {
		t.Errorf("%d", a.Code)
	}
	w.s.verifying.Store(true)
	if a := w.get("GET", verifyPath); a.Code != 429 {
		t.Errorf("two at once: %d", a.Code)
	}
}

// openapi.json says what is served: every route, every parameter, every field of every answer; and nothing else.
func TestOpenAPI(t *testing.T) {
	option, _ := locked(t)
	w := newWorld(t, option, func(o *Options) { o.Verify = noFindings })
	_, token := passwords()
	w.hear("truck", 60, 25, 1)
	w.write(0, "x")
	doc := decode(t, w.get("GET", "/api/v1/openapi.json").Body.Bytes())
	if doc["openapi"] != "3.1.0" {
		t.Errorf("%v", doc["openapi"])
	}
	paths := doc["paths"].(map[string]any)
	served := map[string][]string{}
	for _, e := range endpoints {
		served[e.path] = append(served[e.path], strings.ToLower(e.method))
	}
	names := map[any]bool{}
	for path, ops := range paths {
		for method, op := range ops.(map[string]any) {
			if name := op.(map[string]any)["operationId"]; names[name] {
				t.Errorf("two operations are %v", name)
			} else {
				names[name] = true
			}
			if !slices.Contains(served[path], method) {
				t.Errorf("%s %s is described, not served", method, path)
			}
			if op.(map[string]any)["summary"] == "" {
				t.Errorf("%s says nothing", path)
			}
		}
	}
	for path, methods := range served {
		for _, method := range methods {
			if ops, _ := paths[path].(map[string]any); ops == nil || ops[method] == nil {
				t.Errorf("%s %s is served, not described", method, path)
			}
		}
		// The mux has it too: another method is refused by the route itself.
		if a := w.get("PATCH", strings.NewReplacer("{id}", "x", "{name}", "x").Replace(path)); a.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s is not served: %d", path, a.Code)
		}
	}
	login := w.login("127.0.0.1", "anna", annasPassword)
	answers := map[string][]byte{"Problem": w.get("GET", "/api/v1/status").Body.Bytes(), "LoggedIn": login.Body.Bytes()}
	for name, path := range map[string]string{"Status": "status", "Pipeline": "pipeline", "Devices": "devices", "DeviceDetail": "devices/truck", "Topics": "topics",
		"Clients": "mqtt/clients", "ClientDetail": "mqtt/clients/truck-1", "Subscribers": "mqtt/subscriptions?topic=a", "TopicMetrics": "mqtt/topics?interval=1ms",
		"RetainedMessages": "mqtt/retained?limit=1", "SharedGroups": "mqtt/groups", "Bridges": "mqtt/bridges", "Bans": "mqtt/bans", "Drain": "mqtt/drain"} {
		a := w.get("GET", "/api/v1/"+path, "Authorization", "Bearer "+token)
		if a.Code != 200 {
			t.Fatalf("%s: %d %s", path, a.Code, a.Body)
		}
		answers[name] = a.Body.Bytes()
	}
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	used := map[string]bool{"Login": true, "Record": true, "Problem": true}
	for name, b := range answers {
		conforms(t, schemas, used, name, name, decode(t, b))
	}
	value := "x"
	r, _ := json.Marshal(Record{Value: &value, Base64: &value, Headers: map[string]string{"a": "b"}})
	conforms(t, schemas, used, "Record", "Record", decode(t, r))
	l, _ := json.Marshal(Login{})
	conforms(t, schemas, used, "Login", "Login", decode(t, l))
	for name, method := range map[string]string{"Kicked": "POST mqtt/clients/truck-1/kick", "SessionEnded": "DELETE mqtt/clients/truck-1/session"} {
		method, path, _ := strings.Cut(method, " ")
		conforms(t, schemas, used, name, name, decode(t, w.get(method, "/api/v1/"+path, "Authorization", "Bearer "+token).Body.Bytes()))
	}
	for name, v := range map[string]any{"Kick": Kick{Reason: "x"}, "NewBan": NewBan{"a", "b", "c", "d", "e"}, "NewDrain": NewDrain{"a", 1}, "TraceEvent": wholeTraceEvent} {
		b, _ := json.Marshal(v)
		conforms(t, schemas, used, name, name, decode(t, b))
	}
	for name := range schemas {
		if !used[name] {
			t.Errorf("the schema %s describes nothing", name)
		}
	}
}

// conforms compares a value with the schema of a name: the same fields, of the same kinds, down to the leaves.
func conforms(t *testing.T, schemas map[string]any, used map[string]bool, name, at string, v map[string]any) {
	t.Helper()
	used[name] = true
	schema, _ := schemas[name].(map[string]any)
	if schema == nil {
		t.Errorf("%s: no schema", name)
		return
	}
	properties := schema["properties"].(map[string]any)
	for _, field := range slices.Sorted(maps.Keys(properties)) {
		p := properties[field].(map[string]any)
		if p["description"] == "" || p["description"] == nil {
			t.Errorf("%s.%s is not described", at, field)
		}
		value, there := v[field]
		if !there {
			if slices.Contains(schema["required"].([]any), any(field)) {
				t.Errorf("%s.%s is described, not given", at, field)
			}
			continue
		}
		fits(t, schemas, used, at+"."+field, p, value)
	}
	for field := range v {
		if properties[field] == nil {
			t.Errorf("%s.%s is given, not described", at, field)
		}
	}
}

func fits(t *testing.T, schemas map[string]any, used map[string]bool, at string, p map[string]any, v any) {
	t.Helper()
	if ref, ok := p["$ref"].(string); ok {
		conforms(t, schemas, used, ref[strings.LastIndex(ref, "/")+1:], at, v.(map[string]any))
		return
	}
	kinds, ok := p["type"].([]any)
	if !ok {
		kinds = []any{p["type"]}
	}
	kind := "null"
	switch v := v.(type) {
	case string:
		kind = "string"
	case bool:
		kind = "boolean"
	case map[string]any:
		kind = "object"
	case []any:
		kind = "array"
		if len(v) == 0 {
			t.Errorf("%s: an empty list shows nothing", at)
		}
		for _, item := range v {
			fits(t, schemas, used, at+"[]", p["items"].(map[string]any), item)
		}
	case float64:
		if kind = "number"; v == float64(int64(v)) && !slices.Contains(kinds, any("number")) {
			kind = "integer"
		}
	}
	if !slices.Contains(kinds, any(kind)) {
		t.Errorf("%s is of the kind %s, described as %v", at, kind, kinds)
	}
}

// The comparison has teeth.
func TestConformsFindsDifferences(t *testing.T) {
	schema := map[string]any{"X": map[string]any{"properties": map[string]any{"a": map[string]any{"type": "integer", "description": "d"}}, "required": []any{"a"}}}
	for name, v := range map[string]map[string]any{"missing": {}, "more": {"a": 1.0, "b": 1.0}, "kind": {"a": "x"}, "fraction": {"a": 1.5}, "null": {"a": nil}} {
		inner := &testing.T{}
		conforms(inner, schema, map[string]bool{}, "X", "X", v)
		if !inner.Failed() {
			t.Errorf("%s is not found", name)
		}
	}
	inner := &testing.T{}
	if conforms(inner, schema, map[string]bool{}, "X", "X", map[string]any{"a": 1.0}); inner.Failed() {
		t.Error("what conforms does not")
	}
}
