package registry

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
)

func reasonFor(c *Check, payload string) string {
	err := c.Validate([]byte(payload))
	if err == nil {
		return ""
	}
	return ReasonOf(err)
}

func framed(id int, payload string) string {
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(id))) + payload
}

func registerAs(t *testing.T, r *Registry, subject, typ, text string) int {
	t.Helper()
	id, err := r.Register(t.Context(), subject, &Schema{Type: typ, Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCheck(t *testing.T) {
	r := open(t, newLog(t))
	now, first, byFrame := r.Check(CheckOptions{Subject: "s"}), r.Check(CheckOptions{Subject: "s", Version: 1}), r.Check(CheckOptions{Subject: "s", Framed: true})
	for _, c := range []*Check{now, first, byFrame} {
		if err := c.Ready(); err == nil || ReasonOf(err) != NoSchema {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
	if got := reasonFor(now, "\x02"); got != NoSchema {
		t.Errorf("without a schema: %q", got)
	}
	one := registerAs(t, r, "s", "AVRO", `"int"`)
	for p, want := range map[string]string{"\x02": "", "\x80": InvalidPayload, "\x02\x02": InvalidPayload} {
		if got := reasonFor(now, p); got != want {
			t.Errorf("%q: %q", p, got)
		}
	}
	two := registerAs(t, r, "s", "AVRO", `"double"`)
	other := registerAs(t, r, "other", "AVRO", `"string"`)
	double := strings.Repeat("\x00", 8)
	for _, c := range []struct {
		check         *Check
		payload, want string
	}{
		{now, double, ""}, {now, "\x02", InvalidPayload}, {first, "\x02", ""}, {first, double, InvalidPayload},
		{byFrame, framed(one, "\x02"), ""}, {byFrame, framed(two, double), ""}, {byFrame, framed(one, double), InvalidPayload}, {byFrame, framed(other, "\x00"), UnknownSchema},
		{byFrame, framed(99, ""), UnknownSchema}, {byFrame, "\x02", InvalidFrame}, {byFrame, "", InvalidFrame}, {byFrame, "\x01" + strings.Repeat("x", 16), InvalidFrame},
	} {
		if got := reasonFor(c.check, c.payload); got != c.want {
			t.Errorf("%+v, %q: %q, want %q", c.check.o, c.payload, got, c.want)
		}
	}
	if _, err := r.DeleteVersion(t.Context(), "s", 2, false); err != nil {
		t.Fatal(err)
	}
	if got := reasonFor(now, "\x02"); got != "" {
		t.Errorf("the version before the deleted one: %q", got)
	}
	if got := reasonFor(byFrame, framed(two, double)); got != UnknownSchema {
		t.Errorf("a deleted version: %q", got)
	}
	if s := byFrame.Stats(); s.Valid != 2 || s.Invalid[UnknownSchema] != 3 || s.Invalid[InvalidFrame] != 3 {
		t.Errorf("%+v", s)
	}
}

func TestCheckOfProtobuf(t *testing.T) {
	r := open(t, newLog(t))
	id := registerAs(t, r, "p", "PROTOBUF", `syntax = "proto3"; package x; message A { int32 a = 1; } message B { string b = 1; message C { int32 c = 1; } }`)
	first, named, missing, byFrame := r.Check(CheckOptions{Subject: "p"}), r.Check(CheckOptions{Subject: "p", Message: "x.B"}), r.Check(CheckOptions{Subject: "p", Message: "D"}), r.Check(CheckOptions{Subject: "p", Framed: true})
	for _, c := range []struct {
		check         *Check
		payload, want string
	}{
		{first, "\x08\x01", ""}, {first, "\x0a\x01b", InvalidPayload}, {named, "\x0a\x01b", ""}, {named, "\x08\x01", InvalidPayload}, {missing, "", UnusableSchema},
		{byFrame, framed(id, "\x00\x08\x01"), ""}, {byFrame, framed(id, "\x02\x02\x0a\x01b"), ""}, {byFrame, framed(id, "\x04\x02\x00\x08\x01"), ""}, {byFrame, framed(id, "\x02\x08\x01"), InvalidPayload},
	} {
		if got := reasonFor(c.check, c.payload); got != c.want {
			t.Errorf("%+v, %q: %q, want %q", c.check.o, c.payload, got, c.want)
		}
	}
	if id := registerAs(t, r, "j", "JSON", `{"pattern":"(?=x)"}`); id != 2 {
		t.Error(id)
	}
	if got := reasonFor(r.Check(CheckOptions{Subject: "j"}), `"x"`); got != UnusableSchema {
		t.Errorf("a pattern that is not possible here: %q", got)
	}
}

// Payloads are checked while versions come, and each is judged by a whole state.
func TestCheckWhileVersionsCome(t *testing.T) {
	r := open(t, newLog(t))
	if _, err := r.SetLevel(t.Context(), "", None); err != nil {
		t.Fatal(err)
	}
	registerAs(t, r, "s", "AVRO", `"int"`)
	c := r.Check(CheckOptions{Subject: "s"})
	quit := make(chan struct{})
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				var why *Invalid
				if err := c.Validate([]byte{2}); errors.As(err, &why) && why.Reason != InvalidPayload {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 20 {
		registerAs(t, r, "s", "AVRO", fixed(i+1))
	}
	close(quit)
	work.Wait()
	if got := reasonFor(c, strings.Repeat("x", 20)); got != "" {
		t.Errorf("the last version: %q", got)
	}
}
