package schematool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/registry"
)

// serve is a registry of ours, and a client of it.
func serve(t *testing.T) *Registry {
	t.Helper()
	log := eventlog.New(logtest.NewMemory(1, logtest.Hostility{}))
	t.Cleanup(func() { log.Close() })
	kept, err := registry.Open(t.Context(), registry.Options{Log: log, Now: func() int64 { return time.Now().UnixMilli() }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kept.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := registry.NewServer(registry.ServerOptions{Registry: kept})
	chain := identity.NewChain(&identity.Counts{})
	chain.Add(identity.LinkAnonymous, identity.Everybody{})
	go s.Serve(&registry.Door{Name: "test", Listener: l, Chain: chain})
	t.Cleanup(func() { s.Close(context.Background()) })
	return open(t, Options{URL: l.Addr().String()})
}

func open(t *testing.T, o Options) *Registry {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *Registry) register(t *testing.T, subject string, s Schema) *Registered {
	t.Helper()
	made, err := r.Register(t.Context(), subject, &s, false)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

const (
	first  = `{"type":"record","name":"r","fields":[{"name":"a","type":"int"}]}`
	second = `{"type":"record","name":"r","fields":[{"name":"a","type":"int"},{"name":"b","type":"string","default":"it's, {quoted: 'so'}"}]}`
	broken = `{"type":"record","name":"r","fields":[{"name":"a","type":"int"},{"name":"c","type":"string"}]}`
)

func TestRegisterAndShow(t *testing.T) {
	r := serve(t)
	ctx := t.Context()
	if list, err := r.Subjects(ctx, "", false); err != nil || len(list) != 0 {
		t.Fatal(list, err)
	}
	if got := *r.register(t, "a/b value", Schema{Type: Avro, Text: first}); got != (Registered{"a/b value", 1, 1, true}) {
		t.Errorf("%+v", got)
	}
	if got := *r.register(t, "a/b value", Schema{Type: Avro, Text: first}); got != (Registered{"a/b value", 1, 1, false}) {
		t.Errorf("the same again: %+v", got)
	}
	if got := *r.register(t, "a/b value", Schema{Type: Avro, Text: second}); got != (Registered{"a/b value", 2, 2, true}) {
		t.Errorf("%+v", got)
	}
	r.register(t, "money", Schema{Type: Protobuf, Text: "syntax = \"proto3\"; message Money { int64 cents = 1; }"})
	refs := []Reference{{Name: "money.proto", Subject: "money"}}
	if err := r.Resolve(ctx, refs); err != nil || refs[0].Version != 1 {
		t.Fatal(refs, err)
	}
	r.register(t, "order", Schema{Type: Protobuf, References: refs, Text: "syntax = \"proto3\"; import \"money.proto\"; message Order { Money total = 1; }"})

	list, err := r.Subjects(ctx, "", false)
	want := []Subject{{"a/b value", Avro, 2, 2, false}, {"money", Protobuf, 1, 3, false}, {"order", Protobuf, 1, 4, false}}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("%+v %v", list, err)
	}
	if list, err := r.Subjects(ctx, "mo", false); err != nil || len(list) != 1 || list[0].Name != "money" {
		t.Errorf("%+v %v", list, err)
	}
	v, err := r.Version(ctx, "a/b value", Latest)
	if err != nil || v.Version != 2 || v.ID != 2 || v.Type != Avro || v.Schema != second || v.Level != "BACKWARD" || v.LevelOwn || !slices.Equal(v.Versions, []int{1, 2}) {
		t.Errorf("%+v %v", v, err)
	}
	if v, err := r.Version(ctx, "money", "1"); err != nil || !slices.Equal(v.ReferredBy, []int{4}) {
		t.Errorf("%+v %v", v, err)
	}
	if v, err := r.ByID(ctx, 4); err != nil || v.Subject != "order" || !reflect.DeepEqual(v.References, refs) {
		t.Errorf("%+v %v", v, err)
	}
	for what, err := range map[string]error{
		"subject": second2(r.Version(ctx, "none", Latest)), "version": second2(r.Version(ctx, "money", "7")), "id": second2(r.ByID(ctx, 99)),
		"reference": r.Resolve(ctx, []Reference{{Name: "x", Subject: "none"}}), "schema": second2(r.Register(ctx, "x", &Schema{Type: Avro, Text: "{"}, false)),
	} {
		var said *Error
		if !errors.As(err, &said) || said.Text == "" {
			t.Errorf("no such %s: %v", what, err)
		}
	}
}

func second2[T any](_ T, err error) error { return err }

func TestCheck(t *testing.T) {
	r := serve(t)
	ctx := t.Context()
	if v, err := r.Check(ctx, "s", "", &Schema{Type: Avro, Text: first}); err != nil || !v.Compatible || !v.New {
		t.Errorf("a new subject: %+v %v", v, err)
	}
	r.register(t, "s", Schema{Type: Avro, Text: first})
	r.register(t, "s", Schema{Type: Avro, Text: second})
	if v, err := r.Check(ctx, "s", "", &Schema{Type: Avro, Text: first}); err != nil || !v.Compatible || v.New || v.Level != "BACKWARD" {
		t.Errorf("%+v %v", v, err)
	}
	v, err := r.Check(ctx, "s", "1", &Schema{Type: Avro, Text: broken})
	if err != nil || v.Compatible || v.With != 1 || v.Level != "BACKWARD" || len(v.Differences) != 1 {
		t.Fatalf("%+v %v", v, err)
	}
	if d := v.Differences[0]; d.Kind != "READER_FIELD_MISSING_DEFAULT_VALUE" || !strings.Contains(d.Path, "fields/1") || !strings.Contains(d.Text, "c") {
		t.Errorf("%+v", d)
	}
	if _, err := r.Check(ctx, "none", "1", &Schema{Type: Avro, Text: first}); !hasCode(err, codeSubjectNotFound, codeVersionNotFound) {
		t.Errorf("a version that is not there: %v", err)
	}
}

// What registries of others say of differences is read, and what cannot be is told as it is.
func TestMessagesOfOthers(t *testing.T) {
	for message, want := range map[string]Verdict{
		"{errorType:'READER_FIELD_MISSING_DEFAULT_VALUE', description:'The field 'b' at path '/fields/1' in the new schema has no default value and is missing in the old schema', additionalInfo:'b'}": {
			Differences: []Difference{{"READER_FIELD_MISSING_DEFAULT_VALUE", "", "The field 'b' at path '/fields/1' in the new schema has no default value and is missing in the old schema b"}}},
		"{oldSchemaVersion: 3}": {With: 3},
		"{oldSchema: '{\"type\":\"record\",\"name\":\"path: \"}'}":       {},
		"{compatibility: 'FULL'}":                                        {Level: "FULL"},
		"{validateFields: 'false', compatibility: 'BACKWARD'}":           {Level: "BACKWARD"},
		"{errorType:\"TYPE_CHANGED\", description:\"it's \"another\"\"}": {Differences: []Difference{{"TYPE_CHANGED", "", "it's \"another\""}}},
		"Incompatible because of the moon":                               {Differences: []Difference{{Text: "Incompatible because of the moon"}}},
		"{errorType:'X'":                                                 {Differences: []Difference{{Text: "{errorType:'X'"}}},
	} {
		var got Verdict
		if got.take(message); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", message, got, want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add("{errorType:'A', description:'b', path:'/c'}")
	f.Add("{oldSchemaVersion: 3}")
	f.Fuzz(func(t *testing.T, message string) {
		if message == "" {
			return
		}
		var v Verdict
		v.take(message)
		for _, d := range v.Differences {
			if d == (Difference{}) {
				t.Errorf("%q: an empty difference", message)
			}
		}
	})
}

func TestLevels(t *testing.T) {
	r := serve(t)
	ctx := t.Context()
	want := func(subject, level string, own bool) {
		t.Helper()
		if l, o, err := r.Level(ctx, subject); err != nil || l != level || o != own {
			t.Errorf("%q: %s %v %v, want %s %v", subject, l, o, err, level, own)
		}
	}
	want("", "BACKWARD", true)
	want("s", "BACKWARD", false)
	if err := errors.Join(r.SetLevel(ctx, "", "NONE"), r.SetLevel(ctx, "s", "FULL")); err != nil {
		t.Fatal(err)
	}
	want("", "NONE", true)
	want("s", "FULL", true)
	if err := errors.Join(r.DropLevel(ctx, "s"), r.DropLevel(ctx, "s")); err != nil {
		t.Error(err)
	}
	want("s", "NONE", false)
	if l, err := ParseLevel("full-transitive"); l != "FULL_TRANSITIVE" || err != nil {
		t.Error(l, err)
	}
	if _, err := ParseLevel("some"); err == nil {
		t.Error("some level")
	}
}

func TestDelete(t *testing.T) {
	r := serve(t)
	ctx := t.Context()
	r.register(t, "s", Schema{Type: Avro, Text: first})
	r.register(t, "s", Schema{Type: Avro, Text: second})
	if got, err := r.Delete(ctx, "s", Latest, true); err != nil || !slices.Equal(got.Versions, []int{2}) || !got.Permanent {
		t.Fatalf("%+v %v", got, err)
	}
	if v, err := r.Version(ctx, "s", Latest); err != nil || v.Version != 1 {
		t.Errorf("only the latest was to go: %+v %v", v, err)
	}
	if got, err := r.Delete(ctx, "s", "", false); err != nil || !slices.Equal(got.Versions, []int{1}) || got.Permanent {
		t.Fatalf("%+v %v", got, err)
	}
	if list, err := r.Subjects(ctx, "", false); err != nil || len(list) != 0 {
		t.Errorf("%+v %v", list, err)
	}
	if list, err := r.Subjects(ctx, "", true); err != nil || !slices.Equal(list, []Subject{{"s", Avro, 1, 1, true}}) {
		t.Errorf("%+v %v", list, err)
	}
	if v, err := r.ByID(ctx, 1); err != nil || v.Schema != first || v.Subject != "" {
		t.Errorf("what was written with it: %+v %v", v, err)
	}
	if got, err := r.Delete(ctx, "s", "", true); err != nil || !got.Permanent {
		t.Fatalf("after it was deleted softly: %+v %v", got, err)
	}
	if _, err := r.Delete(ctx, "s", "", true); !hasCode(err, codeSubjectNotFound) {
		t.Errorf("what is not there: %v", err)
	}
}

// All pages of a long list are asked for, of a registry that knows pages, and of one that does not.
func TestManySubjects(t *testing.T) {
	for _, pages := range []bool{true, false} {
		t.Run(fmt.Sprint(pages), func(t *testing.T) {
			var names, versions []string
			for i := range 25 {
				names = append(names, fmt.Sprintf(`"s%02d"`, i))
				versions = append(versions, fmt.Sprintf(`{"subject":"s%02d","version":3,"id":%d,"schema":"\"int\""}`, i, i+1))
			}
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				list := names
				if q.URL.Path == "/schemas" {
					list = versions
					if from := 0; pages {
						fmt.Sscan(q.URL.Query().Get("offset"), &from)
						list = list[min(from, len(list)):min(from+10, len(list))]
					}
				}
				fmt.Fprintf(w, "[%s]", strings.Join(list, ","))
			}))
			defer s.Close()
			list, err := open(t, Options{URL: s.URL}).Subjects(t.Context(), "", false)
			if err != nil || len(list) != 25 || list[24] != (Subject{"s24", Avro, 3, 25, false}) {
				t.Errorf("%+v %v", list, err)
			}
		})
	}
}

func TestWhoAnswers(t *testing.T) {
	answer, status := "", 200
	var authorization string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		authorization = q.Header.Get("Authorization")
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	}))
	defer s.Close()
	ask := func(o Options) error {
		o.URL = s.URL
		_, _, err := open(t, o).Level(t.Context(), "")
		return err
	}
	for _, c := range []struct {
		status int
		answer string
		want   error
	}{
		{200, "<html>", ErrForeign},
		{404, "not found", ErrForeign},
		{401, "who is there", ErrUnauthorized},
		{401, `{"error_code":40101,"message":"HTTP 401"}`, ErrUnauthorized},
	} {
		if status, answer = c.status, c.answer; !errors.Is(ask(Options{}), c.want) {
			t.Errorf("%d %s: %v", c.status, c.answer, ask(Options{}))
		}
	}
	status, answer = 200, `{"compatibilityLevel":"NONE"}`
	if err := ask(Options{User: "anna", Password: "pw"}); err != nil || authorization != "Basic YW5uYTpwdw==" {
		t.Error(err, authorization)
	}
	if err := ask(Options{Token: "t"}); err != nil || authorization != "Bearer t" {
		t.Error(err, authorization)
	}
	s.Close()
	if err := ask(Options{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody: %v", err)
	}
	for _, bad := range []string{"ftp://h", "http://", "http://anna:secret@h", "http://h/?a=b", "http://h:x"} {
		if _, err := New(Options{URL: bad}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestReadArguments(t *testing.T) {
	for text, want := range map[string]Reference{
		"a=b": {"a", "b", 0}, "a=b@3": {"a", "b", 3}, "a=b@latest": {"a", "b", 0}, "https://x/y.json=s=1@2": {"https://x/y.json", "s=1", 2},
	} {
		if got, err := ParseReference(text); err != nil || got != want {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "a", "a=", "=b", "a=b@0", "a=b@x", "a=@1"} {
		if got, err := ParseReference(bad); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
	for name, want := range map[string]string{"x.avsc": Avro, "x.JSON": JSON, "d/x.proto": Protobuf, "x": "", "-": "", "x.txt": ""} {
		if got := TypeOfFile(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestNobodyIsFollowed: a registry that sends on to another address gets nobody's password sent there; the error names it.
func TestNobodyIsFollowed(t *testing.T) {
	asked := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer other.Close()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, other.URL+q.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	r, err := New(Options{URL: s.URL, User: "ada", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Level(t.Context(), ""); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), other.URL) {
		t.Errorf("%v", err)
	}
	if asked {
		t.Error("the other address is asked")
	}
}

// TestBadAddressIsNotRepeated: an address that cannot be read may have a password in it.
func TestBadAddressIsNotRepeated(t *testing.T) {
	if _, err := New(Options{URL: "http://ada:se cret@127.0.0.1\x7f/"}); err == nil || strings.Contains(err.Error(), "cret") {
		t.Errorf("%v", err)
	}
}
