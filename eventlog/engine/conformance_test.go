package engine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/internal/vfs"
)

// small are options under which little data goes a long way: WAL files are recycled, checkpoints made, memory is short.
func small(fs vfs.FS) Options {
	return Options{FS: fs, WALFileBytes: 256 << 10, WALFiles: 3, CheckpointBytes: 300 << 10, MemoryBytes: 512 << 10,
		SegmentBytes: 64 << 10, DefaultPartitions: 4, ReserveBytes: 1 << 20, MaintainEvery: -1, OpenFiles: 16}
}

func open(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// stall is a file system whose syncs of the WAL can be held.
type stall struct {
	mu   sync.Mutex
	held chan struct{}
}

func (s *stall) hook(op vfs.Op) error {
	if op.Kind != vfs.OpDatasync {
		return nil
	}
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	return nil
}

func (s *stall) hold() (release func()) {
	held := make(chan struct{})
	s.mu.Lock()
	s.held = held
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.held = nil
		s.mu.Unlock()
		close(held)
	})
}

func TestConformance(t *testing.T) {
	logtest.Run(t, func(t testing.TB) *logtest.Env {
		mem := vfs.NewMem()
		s := &stall{}
		var e *Engine
		reopen := func(t testing.TB) eventlog.Driver {
			e = open(t, small(vfs.Faults(mem, s.hook)))
			return e
		}
		env := &logtest.Env{Driver: reopen(t), Reopen: reopen}
		env.Crash = func(t testing.TB) eventlog.Driver {
			next := mem.Kill()
			e.Close()
			mem = next
			return reopen(t)
		}
		env.Stall = func(t testing.TB) func() {
			release := s.hold()
			t.Cleanup(release)
			return release
		}
		env.Foreign = func(t testing.TB, p eventlog.Part, recs []eventlog.Record, commit bool) {
			id, err := e.NewProducerID()
			if err != nil {
				t.Fatal(err)
			}
			if r := transact(t, e, foreign(t, p, id, 0, 0, recs...), p); r.Err != nil {
				t.Fatal(r.Err)
			}
			endTxn(t, e, End{ProducerID: id, Epoch: 1, Commit: commit, Parts: []eventlog.Part{p}})
		}
		env.RoomBytes = int(small(nil).MemoryBytes / 16)
		return env
	}, nil)
}

// foreign builds a batch as somebody else's producer would.
func foreign(t testing.TB, p eventlog.Part, pid int64, epoch int16, seq int32, recs ...eventlog.Record) eventlog.RawBatch {
	t.Helper()
	var bl eventlog.Builder
	for _, r := range recs {
		bl.Add(r.Timestamp, r.Key, r.Value, r.Headers)
	}
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	b.Raw().SetProducer(pid, epoch, seq)
	b.Raw().Reseal()
	return b.Raw()
}

func produce(t testing.TB, e *Engine, p eventlog.Part, raw []byte, acks Acks) Produced {
	t.Helper()
	c := make(chan Produced, 1)
	e.Produce(p, raw, acks, func(r Produced) { c <- r })
	select {
	case r := <-c:
		return r
	case <-time.After(30 * time.Second):
		t.Fatal("a batch has no answer")
		panic("unreachable")
	}
}

func produceWait(t testing.TB, e *Engine, p eventlog.Part, raw eventlog.RawBatch) Produced {
	t.Helper()
	r := produce(t, e, p, raw, AcksDurable)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r
}

func appendWait(t testing.TB, e *Engine, p eventlog.Part, values ...string) eventlog.Outcome {
	t.Helper()
	var bl eventlog.Builder
	for _, v := range values {
		bl.Add(e.Now(), nil, []byte(v), nil)
	}
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o, err := eventlog.New(e).AppendWait(ctx, b)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("an append has no answer")
	}
	return o
}

func createTopic(t testing.TB, e *Engine, name string, parts int32, config map[string]string) eventlog.Topic {
	t.Helper()
	topic, err := e.CreateTopic(t.Context(), eventlog.TopicSpec{Name: name, Partitions: parts, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return topic
}
