package registry

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
)

// register registers, again and again where the log refuses to write.
func register(t testing.TB, r *Registry, subject, text string) int {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		id, err := r.Register(t.Context(), subject, &Schema{Text: text})
		var told *Error
		if err == nil {
			return id
		}
		if !errors.As(err, &told) || told.Code != codeStore || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func fixed(n int) string { return fmt.Sprintf(`{"type":"fixed","name":"f","size":%d}`, n) }

// sameState tells whether two registries hold the same.
func sameState(t *testing.T, a, b *Registry) {
	t.Helper()
	x, y := a.state.Load(), b.state.Load()
	if !reflect.DeepEqual(x.subjects, y.subjects) || !reflect.DeepEqual(x.ids, y.ids) || !reflect.DeepEqual(x.sums, y.sums) ||
		!reflect.DeepEqual(x.config, y.config) || !reflect.DeepEqual(x.mode, y.mode) || x.lastID != y.lastID || x.versions != y.versions || x.bytes != y.bytes {
		t.Errorf("the states differ:\n%+v\n%+v", x, y)
	}
}

// What was answered is in the log: another registry that replays it has the same, and gives no id twice.
func TestReplay(t *testing.T) {
	l := newEngine(t)
	r := open(t, l)
	ctx := t.Context()
	if _, err := r.SetLevel(ctx, "", None); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		register(t, r, fmt.Sprintf("s%d", i%3), fixed(i))
	}
	sameState(t, r, open(t, l))
	if _, err := r.DeleteSubject(ctx, "s0", false); err != nil { // it has the highest id
		t.Fatal(err)
	}
	if _, err := r.SetMode(ctx, "s1", ReadOnly, false); err != nil {
		t.Fatal(err)
	}
	if _, err := r.DeleteVersion(ctx, "s2", latest, false); err != nil {
		t.Fatal(err)
	}
	sameState(t, r, open(t, l))
	if _, err := r.DeleteSubject(ctx, "s0", true); err != nil {
		t.Fatal(err)
	}
	again := open(t, l)
	sameState(t, r, again)
	if id := register(t, again, "s9", fixed(99)); id != 11 {
		t.Errorf("id %d after 10 were given, of which the highest was deleted for good", id)
	}
}

// Compaction may take away all that is superseded: what is left adds up to the same.
func TestReplayOfWhatCompactionLeaves(t *testing.T) {
	l := newLog(t)
	r := open(t, l)
	ctx := t.Context()
	for i := range 4 {
		register(t, r, fmt.Sprint("s", i), fixed(i))
	}
	for i := range 2 {
		for _, permanent := range []bool{false, true} {
			if _, err := r.DeleteSubject(ctx, fmt.Sprint("s", 3-i), permanent); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := map[string][]byte{}
	var order []string
	batches, _, err := l.Read(ctx, eventlog.Position{Part: r.part}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		err := b.Each(func(rec *eventlog.Record) error {
			order = append(order, string(rec.Key))
			last[string(rec.Key)] = rec.Value
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	left := newState()
	for _, k := range order {
		if v := last[k]; v != nil { // tombstones go, too
			if err := left.apply([]byte(k), v); err != nil {
				t.Fatal(err)
			}
			delete(last, k)
		}
	}
	if st := r.state.Load(); left.lastID != st.lastID || left.versions != st.versions || !reflect.DeepEqual(left.ids, st.ids) {
		t.Errorf("%+v is left of %+v", left, st)
	}
}

// Registries of several nodes share a log: ids and versions are given once, and each sees what the others wrote, on a log that refuses,
// forgets to answer and mixes in what is nobody's.
func TestNodes(t *testing.T) {
	memory := logtest.NewMemory(7, logtest.Hostile())
	t.Cleanup(func() { memory.Close() })
	var nodes []*Registry
	for i := range 3 {
		d := memory
		if i > 0 {
			d = memory.Peer()
			t.Cleanup(func() { d.Close() })
		}
		nodes = append(nodes, open(t, eventlog.New(d)))
	}
	if _, err := nodes[0].SetLevel(t.Context(), "", None); err != nil {
		t.Logf("the level is what it was: %v", err)
		for err != nil {
			_, err = nodes[0].SetLevel(t.Context(), "", None)
		}
	}
	var mu sync.Mutex
	ids := map[int]string{}
	var work sync.WaitGroup
	for n, r := range nodes {
		work.Go(func() {
			for i := range 8 {
				own, shared := fixed(1000*n+i), fixed(100_000+i)
				for _, text := range []string{own, shared} {
					deadline := time.Now().Add(time.Minute)
					id, err := r.Register(t.Context(), "s", &Schema{Text: text})
					for err != nil && time.Now().Before(deadline) {
						id, err = r.Register(t.Context(), "s", &Schema{Text: text})
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if was, there := ids[id]; there && was != text {
						t.Errorf("id %d is given to %s and %s", id, was, text)
					}
					ids[id] = text
					mu.Unlock()
				}
			}
		})
	}
	work.Wait()
	if len(ids) != 3*8+8 {
		t.Errorf("%d ids for %d schemas", len(ids), 3*8+8)
	}
	for _, r := range nodes {
		if err := r.catchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		sameState(t, nodes[0], r)
		if list, err := r.Versions("s", true); err != nil || len(list) != len(ids) {
			t.Errorf("%d versions, %v", len(list), err)
		}
	}
}

// Records that no registry has written are passed over, and never more.
func TestForeignRecords(t *testing.T) {
	l := newLog(t)
	r := open(t, l)
	register(t, r, "s", intSchema)
	var b eventlog.Builder
	strange := [][2]string{{"", ""}, {"x", "y"}, {`{"keytype":"SCHEMA"}`, `{}`}, {`{"keytype":"SCHEMA","subject":"s","version":-1}`, `{"id":1}`},
		{`{"keytype":"SCHEMA","subject":"s","version":9}`, `{"id":-5,"schema":"x"}`}, {`{"keytype":"CONFIG","subject":null}`, `{"compatibilityLevel":"SOME"}`},
		{`{"keytype":"DELETE_SUBJECT","subject":"s"}`, `[]`}, {`{"keytype":"WHAT"}`, `1`}}
	for _, s := range strange {
		b.Add(testNow(), []byte(s[0]), []byte(s[1]), nil)
	}
	b.Add(testNow(), []byte(`{"keytype":"NOOP","magic":0}`), nil, nil)
	b.Add(testNow(), []byte(`{"keytype":"SCHEMA","subject":"broken","version":1,"magic":1}`), []byte(`{"subject":"broken","version":1,"id":7,"schema":"{"}`), nil)
	batch, _, err := b.Batch(r.part, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.AppendWait(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if err := r.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.Stats().Skipped; n != uint64(len(strange)) {
		t.Errorf("%d records are passed over, of %d", n, len(strange))
	}
	if list, err := r.Versions("s", true); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if id := register(t, r, "t", longSchema); id != 8 {
		t.Errorf("id %d after 7", id)
	}
	var told *Error
	if _, err := r.Register(t.Context(), "broken", &Schema{Text: longSchema}); !errors.As(err, &told) || told.Code != codeIncompatible {
		t.Errorf("after a schema that cannot be read: %v", err)
	}
}

func TestBounds(t *testing.T) {
	l := newLog(t)
	r, err := Open(t.Context(), Options{Log: l, Now: testNow, MaxSchemas: 2, MaxBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	register(t, r, "a", intSchema)
	var told *Error
	if _, err := r.Register(t.Context(), "b", &Schema{Text: `{"type":"fixed","name":"` + strings.Repeat("x", 1000) + `","size":1}`}); !errors.As(err, &told) || told.Code != codeNotPermitted {
		t.Errorf("too many bytes: %v", err)
	}
	register(t, r, "b", longSchema)
	if _, err := r.Register(t.Context(), "c", &Schema{Text: longSchema}); !errors.As(err, &told) || told.Code != codeNotPermitted {
		t.Errorf("too many versions: %v", err)
	}
}

// A topic that goes away under a registry ends writing, not reading.
func TestTopicDeleted(t *testing.T) {
	l := newEngine(t)
	r := open(t, l)
	register(t, r, "s", intSchema)
	if err := l.DeleteTopic(t.Context(), Topic); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var told *Error
	if _, err := r.Register(ctx, "t", &Schema{Text: longSchema}); !errors.As(err, &told) || told.Code != codeStore {
		t.Errorf("%v", err)
	}
	if list, err := r.Versions("s", false); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}
