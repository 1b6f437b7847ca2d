package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/vfs"
)

func dir(t testing.TB) (vfs.FS, string) {
	t.Helper()
	name := t.TempDir()
	fsys, err := vfs.OS(name)
	if err != nil {
		t.Fatal(err)
	}
	return fsys, name
}

func open(t testing.TB, fsys vfs.FS) *engine.Engine {
	t.Helper()
	e, err := engine.Open(engine.Options{FS: fsys, WALFileBytes: 256 << 10, WALFiles: 2, SegmentBytes: 16 << 10, MaintainEvery: -1, ReserveBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func topic(t testing.TB, e *engine.Engine, name string, config map[string]string) eventlog.Topic {
	t.Helper()
	tp, err := eventlog.New(e).Ensure(t.Context(), eventlog.TopicSpec{Name: name, Partitions: 2, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

func put(t testing.TB, e *engine.Engine, p eventlog.Part, key, value string) int64 {
	t.Helper()
	var bl eventlog.Builder
	bl.Add(e.Now(), []byte(key), []byte(value), nil)
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	o, err := eventlog.New(e).AppendWait(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return o.Base
}

// contents is every record of the topics, by partition.
func contents(t testing.TB, e *engine.Engine, topics ...eventlog.Topic) map[eventlog.Part][]string {
	t.Helper()
	out := map[eventlog.Part][]string{}
	for _, tp := range topics {
		starts, err := e.Starts(t.Context(), tp.ID)
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range starts {
			p := eventlog.Part{Topic: tp.ID, Index: int32(i)}
			for {
				batches, next, err := e.Read(t.Context(), eventlog.Position{Part: p, Offset: at}, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				if next == at {
					break
				}
				for _, b := range batches {
					recs, err := b.Records()
					if err != nil {
						t.Fatal(err)
					}
					for _, r := range recs {
						if r.Offset >= at {
							out[p] = append(out[p], fmt.Sprintf("%d %s=%s", r.Offset, r.Key, r.Value))
						}
					}
				}
				at = next
			}
		}
	}
	return out
}

func from(ctx context.Context, e *engine.Engine) Source {
	return func(since int64) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(Send(ctx, e, since, w)) }()
		return r, nil
	}
}

func take(t testing.TB, to vfs.FS, o Options, e *engine.Engine) *Result {
	t.Helper()
	r, err := Take(to, o, from(t.Context(), e))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestUnderLoad backs a log up again and again while it is written, compacted and trimmed, and restores each cut: what it has is a prefix of what
// was written, everything that was acknowledged before the cut began is in it, and the restored log goes on.
func TestUnderLoad(t *testing.T) {
	data, _ := dir(t)
	to, _ := dir(t)
	e := open(t, data)
	plain := topic(t, e, "plain", nil)
	compacted := topic(t, e, "compacted", map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})
	var mu sync.Mutex
	acked := map[eventlog.Part]int64{} // the last offset that was acknowledged
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range int32(2) {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				for _, tp := range []eventlog.Topic{plain, compacted} {
					p := eventlog.Part{Topic: tp.ID, Index: i}
					o := put(t, e, p, fmt.Sprint("k", n%20), fmt.Sprint(i, ".", n, strings.Repeat("x", 500)))
					mu.Lock()
					acked[p] = o
					mu.Unlock()
				}
				if n%100 == 50 {
					if err := e.Maintain(ctx); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
			}
		})
	}
	defer wg.Wait()
	defer stop()
	for round := range 4 {
		for {
			mu.Lock()
			enough := len(acked) == 4 && acked[eventlog.Part{Topic: plain.ID}] > int64(100*(round+1))
			mu.Unlock()
			if enough {
				break
			}
		}
		mu.Lock()
		before := map[eventlog.Part]int64{}
		for p, o := range acked {
			before[p] = o
		}
		mu.Unlock()
		r := take(t, to, Options{}, e)
		if round > 0 && r.Copied >= r.Bytes {
			t.Errorf("round %d: all of %d bytes were copied again", round, r.Bytes)
		}
		fresh, _ := dir(t)
		if _, err := Restore(t.Context(), to, fresh, RestoreOptions{Commit: r.Commit}); err != nil {
			t.Fatal(err)
		}
		report, err := engine.Check(t.Context(), fresh, engine.CheckOptions{})
		if err != nil || len(report.Damage) > 0 {
			t.Fatalf("%+v, %v", report, err)
		}
		copied := open(t, fresh)
		for p, recs := range contents(t, copied, plain) {
			for i, r := range recs {
				if want := fmt.Sprintf("%d k%d=%d.%d", i, i%20, p.Index, i); !strings.HasPrefix(r, want) {
					t.Fatalf("round %d: %v has %.30q at %d, want %q", round, p, r, i, want)
				}
			}
			if int64(len(recs)) <= before[p] {
				t.Fatalf("round %d: %v has %d records, %d were acknowledged", round, p, len(recs), before[p]+1)
			}
		}
		last := map[string]bool{}
		for p, recs := range contents(t, copied, compacted) {
			for _, r := range recs {
				_, kv, _ := strings.Cut(r, " ")
				key, _, _ := strings.Cut(kv, "=")
				last[fmt.Sprint(p.Index, key)] = true
			}
		}
		if len(last) != 40 {
			t.Fatalf("round %d: %d keys, want 40", round, len(last))
		}
		put(t, copied, eventlog.Part{Topic: plain.ID}, "on", "and on")
		copied.Close()
	}
}

// TestNothingTwice: what did not change is not copied again; older cuts go with Keep, and what they alone had.
func TestNothingTwice(t *testing.T) {
	data, _ := dir(t)
	to, name := dir(t)
	e := open(t, data)
	tp := topic(t, e, "plain", nil)
	p := eventlog.Part{Topic: tp.ID}
	for i := range 100 {
		put(t, e, p, "k", fmt.Sprint(i, strings.Repeat("x", 900)))
	}
	first := take(t, to, Options{}, e)
	if first.Copied != first.Bytes || first.Bytes < 90_000 {
		t.Errorf("%+v", first)
	}
	again := take(t, to, Options{}, e)
	if again.Copied > 20<<10 {
		t.Errorf("nothing has changed, and %d bytes are copied", again.Copied)
	}
	put(t, e, p, "k", "more")
	third := take(t, to, Options{Keep: 1}, e)
	if third.Copied > 20<<10 || third.Removed == 0 {
		t.Errorf("%+v", third)
	}
	list, err := List(to)
	if err != nil || len(list) != 1 || list[0].Commit != third.Commit {
		t.Errorf("%+v, %v", list, err)
	}
	files, err := os.ReadDir(filepath.Join(name, segmentsDir))
	if err != nil || len(files) != third.Segments {
		t.Errorf("%d files of %d segments are left, %v", len(files), third.Segments, err)
	}
	// A segment that is gone from the backup comes again.
	if err := os.Remove(filepath.Join(name, segmentsDir, files[0].Name())); err != nil {
		t.Fatal(err)
	}
	take(t, to, Options{}, e)
	if _, err := Restore(t.Context(), to, nil, RestoreOptions{Check: true}); err != nil {
		t.Error(err)
	}
	other, _ := dir(t)
	if _, err := Take(to, Options{}, from(t.Context(), open(t, other))); err == nil || !strings.Contains(err.Error(), "another log") {
		t.Errorf("of another log: %v", err)
	}
}

// TestDamage: no damage gets into a backup, and none out of it.
func TestDamage(t *testing.T) {
	data, dataName := dir(t)
	to, name := dir(t)
	e := open(t, data)
	tp := topic(t, e, "plain", nil)
	p := eventlog.Part{Topic: tp.ID}
	for i := range 60 {
		put(t, e, p, "k", fmt.Sprint(i, strings.Repeat("x", 900)))
	}
	take(t, to, Options{}, e)
	flip := func(file string, at int64) (mend func()) {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		write := func() {
			b[at] ^= 4
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write()
		return write
	}
	var files []string
	for _, d := range []string{cutsDir, segmentsDir} {
		entries, err := os.ReadDir(filepath.Join(name, d))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range entries {
			files = append(files, filepath.Join(name, d, f.Name()))
		}
	}
	for _, file := range files {
		mend := flip(file, 90)
		fresh, _ := dir(t)
		for _, check := range []bool{true, false} {
			if _, err := Restore(t.Context(), to, fresh, RestoreOptions{Check: check}); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s is damaged: %v", file, err)
			}
		}
		if _, err := fresh.Stat(engine.CheckpointName); err == nil {
			t.Errorf("%s is damaged, and there is a log", file)
		}
		mend()
	}
	if _, err := Restore(t.Context(), to, data, RestoreOptions{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a log that is there: %v", err)
	}
	if _, err := Restore(t.Context(), to, nil, RestoreOptions{Check: true, Commit: 12345}); !errors.Is(err, ErrNone) {
		t.Errorf("a cut that is none: %v", err)
	}

	logs, err := filepath.Glob(filepath.Join(dataName, "topics", "*", "0", "00000000000000000000.log"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	flip(logs[0], 1500)
	other := eventlog.Part{Topic: topic(t, e, "other", nil).ID, Index: 1} // of one segment, which is being written
	for i := range 3 {
		put(t, e, other, "k", fmt.Sprint(i, strings.Repeat("x", 900)))
	}
	if err := e.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	last, err := filepath.Glob(filepath.Join(dataName, "topics", hex.EncodeToString(other.Topic[:]), "1", "00000000000000000000.log"))
	if err != nil || len(last) != 1 {
		t.Fatal(last, err)
	}
	empty, _ := dir(t)
	if _, err := Take(empty, Options{}, from(t.Context(), e)); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "offsets 1 to 1") {
		t.Errorf("a backup of a damaged log: %v", err)
	}
	if list, err := List(empty); err != nil || len(list) > 0 {
		t.Errorf("it left %+v, %v", list, err)
	}
	flip(last[0], 100)
	r, err := Take(empty, Options{AllowDamaged: true}, from(t.Context(), e))
	if err != nil || len(r.Damaged) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	fresh, _ := dir(t)
	info, err := Restore(t.Context(), empty, fresh, RestoreOptions{})
	if err != nil || info.Left != 2 {
		t.Fatalf("%+v, %v", info, err)
	}
	copied := open(t, fresh)
	for _, p := range []eventlog.Part{p, other} {
		if _, _, err := copied.Read(t.Context(), eventlog.Position{Part: p}, 100); !errors.Is(err, eventlog.ErrCorrupt) {
			t.Errorf("a read of what was left out: %v", err)
		}
		at := put(t, copied, p, "on", "and on")
		if err := copied.Maintain(t.Context()); err != nil {
			t.Error(err)
		}
		if batches, _, err := copied.Read(t.Context(), eventlog.Position{Part: p, Offset: at}, 100); err != nil || len(batches) != 1 {
			t.Errorf("a read behind it: %d batches, %v", len(batches), err)
		}
	}
}

// TestTornStream: a stream that ends too soon makes no cut, and what came of it is not copied again.
func TestTornStream(t *testing.T) {
	data, _ := dir(t)
	e := open(t, data)
	tp := topic(t, e, "plain", nil)
	for i := range 60 {
		put(t, e, eventlog.Part{Topic: tp.ID}, "k", fmt.Sprint(i, strings.Repeat("x", 900)))
	}
	var whole strings.Builder
	if err := Send(t.Context(), e, -1<<63, &whole); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < whole.Len()-1024; n += 5000 {
		to, _ := dir(t)
		_, err := Take(to, Options{}, func(int64) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(whole.String()[:n])), nil })
		if err == nil {
			t.Fatalf("%d of %d bytes are a backup", n, whole.Len())
		}
		if list, err := List(to); err != nil || len(list) > 0 {
			t.Fatalf("%d bytes: %+v, %v", n, list, err)
		}
	}
}

// TestHostileManifest: no name in a backup leads out of the folder, whoever has written it.
func TestHostileManifest(t *testing.T) {
	for _, p := range []Part{
		{Name: "../../etc/passwd", Limit: 1}, {Name: "topics/x/0/00000000000000000000.log", Limit: 1}, {Name: "checkpoint", Limit: 1},
		{Name: "topics/" + strings.Repeat("0", 32) + "/0/00000000000000000000.log", Limit: 1, Size: -1},
		{Name: "topics/" + strings.Repeat("0", 32) + "/0/00000000000000000000.log", Base: 5, Limit: 5},
	} {
		if m := (Manifest{Format: 1, Parts: []Part{p}}); !errors.Is(m.check(), ErrDamaged) {
			t.Errorf("%+v is taken", p)
		}
	}
	if m := (Manifest{Format: 2}); !errors.Is(m.check(), engine.ErrNewer) {
		t.Error("a newer format is taken")
	}
}
