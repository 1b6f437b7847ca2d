package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// docs/configuration.md names every key, and every default of the limits.
func TestDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for _, typ := range []reflect.Type{reflect.TypeFor[MQTT](), reflect.TypeFor[ListenerTLS](), reflect.TypeFor[Auth](), reflect.TypeFor[JWT](), reflect.TypeFor[Hook](), reflect.TypeFor[ListenerLimits](), reflect.TypeFor[Kafka](), reflect.TypeFor[Registry](), reflect.TypeFor[RouteSchema](), reflect.TypeFor[HTTP](), reflect.TypeFor[TLS](), reflect.TypeFor[Log](), reflect.TypeFor[ClusterTLS](), reflect.TypeFor[ClusterSASL](), reflect.TypeFor[Spill](), reflect.TypeFor[Route](), reflect.TypeFor[Bridge](), reflect.TypeFor[BridgeRemote](), reflect.TypeFor[BridgeTLS](), reflect.TypeFor[BridgeTopic](), reflect.TypeFor[BridgeBuffer](), reflect.TypeFor[Fields](), reflect.TypeFor[Policy](), reflect.TypeFor[Rule](),
		reflect.TypeFor[Limits](), reflect.TypeFor[Sys](), reflect.TypeFor[Logging](), reflect.TypeFor[Config]()} {
		for _, key := range keys(typ) {
			if !strings.Contains(doc, key) {
				t.Errorf("the key %s of %v is not documented", key, typ)
			}
		}
	}
	limits := reflect.ValueOf(Default().Limits)
	for f := range fields(limits.Type()) {
		v := limits.FieldByIndex(f.Index)
		if !v.CanInterface() || v.IsZero() || v.Kind() != reflect.Int {
			continue
		}
		want := "| `" + f.Tag.Get("yaml") + "` | " + itoa(int(v.Int())) + " |"
		if !strings.Contains(doc, want) {
			t.Errorf("docs/configuration.md does not say %s", want)
		}
	}
	example, _, _ := strings.Cut(doc[strings.Index(doc, "    listeners:"):], "\nTime spans")
	example = strings.ReplaceAll(example, "\n    ", "\n")[4:]
	if c, err := Parse(example, "docs/configuration.md"); err != nil || len(c.Routes) != 3 {
		t.Errorf("the example: %v\n%s", err, example)
	}
}

// The examples of docs/authentication.md and docs/kafka-security.md are configurations.
func TestAuthenticationExamples(t *testing.T) {
	b, err := os.ReadFile("../docs/authentication.md")
	if err != nil {
		t.Fatal(err)
	}
	kafka, err := os.ReadFile("../docs/kafka-security.md")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, kafka...)
	var block string
	n := 0
	for line := range strings.Lines(string(b) + "\n") {
		if indented, is := strings.CutPrefix(line, "    "); is {
			block += indented
			continue
		}
		if strings.HasPrefix(block, "auth:") {
			n++
			if _, err := Parse(block, "docs/authentication.md"); err != nil {
				t.Errorf("%v\n%s", err, block)
			}
		}
		block = ""
	}
	if n != 5 {
		t.Errorf("%d examples were found", n)
	}
}
