package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// A failing is how the operation that fails does.
type failing struct {
	name string
	err  error
	part bool // a write writes half
	on   bool // and so do all of its kind that follow
}

var failings = []failing{
	{"EIO", syscall.EIO, false, false},
	{"EIO from then on", syscall.EIO, false, true},
	{"ENOSPC", syscall.ENOSPC, false, false},
	{"ENOSPC from then on", syscall.ENOSPC, false, true},
	{"a short write", syscall.EIO, true, false},
	{"a short write for want of room", syscall.ENOSPC, true, true},
}

// grows tells whether an operation can find no room.
func grows(k vfs.Kind) bool {
	return k == vfs.OpCreate || k == vfs.OpWrite || k == vfs.OpMkdir || k == vfs.OpRename
}

// life is one run of the script, with one operation that fails.
type life struct {
	t    *testing.T
	what string
	mem  *vfs.Mem
	ops  atomic.Int64
	at   atomic.Int64 // which operation fails, or -1
	how  failing
	hit  atomic.Pointer[vfs.Op]
	well atomic.Bool // no more failures

	acked   map[string]bool // values by "topic/value"; those of the compacted topic are last ones per key
	refused map[string]bool
	unsure  map[string]bool
	last    map[string]string // of the compacted topic: the last acked value of each key
}

func (l *life) hook(op vfs.Op) error {
	n := l.ops.Add(1) - 1
	at := l.at.Load()
	if l.well.Load() || at < 0 || n < at {
		return nil
	}
	if errors.Is(l.how.err, syscall.ENOSPC) && !grows(op.Kind) || l.how.part && op.Kind != vfs.OpWrite {
		l.at.CompareAndSwap(n, n+1) // the next one that can
		return nil
	}
	if first := l.hit.Load(); first != nil && (!l.how.on || op.Kind != first.Kind) {
		return nil
	}
	if l.hit.CompareAndSwap(nil, &op) && l.how.on && errors.Is(l.how.err, syscall.ENOSPC) {
		// While there is no room for segments appends are taken until the WAL is full, and then they wait: somebody has to make room.
		time.AfterFunc(30*time.Millisecond, func() { l.well.Store(true) })
	}
	if l.how.part {
		return &vfs.PartialWrite{N: int(op.Len / 2), Err: l.how.err}
	}
	return l.how.err
}

func (l *life) fatal(format string, args ...any) {
	l.t.Helper()
	op := "nothing"
	if o := l.hit.Load(); o != nil {
		op = fmt.Sprintf("%v %s", o.Kind, o.Name)
	}
	panic(wrong(fmt.Sprintf("%s (%s): %s", l.what, op, fmt.Sprintf(format, args...))))
}

// wrong is what ends a life that is not as it should be.
type wrong string

// run is the script, and a look at what is left.
func (l *life) run(power bool) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case wrong:
			err = errors.New(string(r))
		default:
			panic(r)
		}
	}()
	l.script()
	l.verify(power)
	return nil
}

func (l *life) options() Options {
	o := small(vfs.Faults(l.mem, l.hook))
	o.WALFileBytes, o.WALFiles, o.SegmentBytes, o.CheckpointBytes, o.OpenFiles = 64<<10, 2, 4<<10, 40<<10, 4
	return o
}

// append appends one value and notes what became of it. No answer within a minute is a failure of the test.
func (l *life) append(e *Engine, p eventlog.Part, key, value string) {
	l.t.Helper()
	var bl eventlog.Builder
	bl.Add(e.Now(), []byte(key), []byte(value), nil)
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	o, _ := eventlog.New(e).AppendWait(ctx, b)
	switch {
	case ctx.Err() != nil:
		l.fatal("an append has no answer; health %v", e.Health())
	case o.Err == nil:
		l.acked[key+"/"+value] = true
		l.last[key] = value
	case errors.Is(o.Err, eventlog.ErrUnknownOutcome):
		l.unsure[key+"/"+value] = true
	default:
		l.refused[key+"/"+value] = true
	}
}

// script is a life of a log: topics, rolls, checkpoints, compaction, retention, a kill, a recovery, a close. It goes on after whatever fails, as a
// program would.
func (l *life) script() {
	l.t.Helper()
	var plain, compacted eventlog.Part
	value := strings.Repeat("x", 700)
	for round := range 3 {
		e, err := Open(l.options())
		if err != nil { // it is started again, on a disk that works
			if l.hit.Load() == nil {
				l.fatal("open: %v", err)
			}
			l.well.Store(true)
			l.mem = l.mem.Kill()
			if e, err = Open(l.options()); err != nil {
				l.fatal("opened again: %v", err)
			}
		}
		ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
		topic := func(name string, config map[string]string) (p eventlog.Part, ok bool) {
			t, err := eventlog.New(e).Ensure(ctx, eventlog.TopicSpec{Name: name, Partitions: 1, Config: config})
			return eventlog.Part{Topic: t.ID}, err == nil
		}
		p, ok1 := topic("plain", nil)
		c, ok2 := topic("compacted", map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0", "segment.bytes": "1048576"})
		doomed, ok3 := topic(fmt.Sprint("doomed", round), nil)
		if ok1 {
			plain = p
		}
		if ok2 {
			compacted = c
		}
		for i := range 12 {
			if ok1 {
				l.append(e, p, fmt.Sprintf("p%d.%d", round, i), value)
			}
			if ok2 {
				l.append(e, c, fmt.Sprint("k", i%3), fmt.Sprint(round, ".", i, value))
			}
			if ok3 && i < 2 {
				l.append(e, doomed, "d", "gone")
			}
		}
		l.reads(e, plain, compacted)
		_ = e.Maintain(ctx)
		if ok3 {
			_ = e.DeleteTopic(ctx, fmt.Sprint("doomed", round))
		}
		if ok1 && round == 1 {
			_ = e.Trim(ctx, eventlog.Position{Part: p, Offset: 5})
		}
		_ = e.Maintain(ctx)
		_ = e.Scrub(ctx)
		for i := range 4 {
			if ok1 {
				l.append(e, p, fmt.Sprintf("q%d.%d", round, i), value)
			}
		}
		l.reads(e, plain, compacted)
		cancel()
		if round == 1 {
			l.mem = l.mem.Kill()
			_ = e.Close()
			continue
		}
		_ = e.Close()
	}
}

// reads reads everything: an error is allowed where the disk has failed, and nothing wrong is.
func (l *life) reads(e *Engine, parts ...eventlog.Part) {
	l.t.Helper()
	for _, p := range parts {
		if p == (eventlog.Part{}) {
			continue
		}
		_, values, err := l.contents(e, p)
		if err != nil && l.hit.Load() == nil {
			l.fatal("read: %v", err)
		}
		if err != nil && l.how.err == syscall.ENOSPC && l.how.on { // reads go on while there is no room
			l.fatal("read for want of room: %v", err)
		}
		for _, v := range values {
			if !l.acked[v] && !l.unsure[v] {
				l.fatal("%.40q is read, which was refused or never sent", v)
			}
		}
	}
}

// contents reads a partition.
func (l *life) contents(e *Engine, p eventlog.Part) (start int64, values []string, err error) {
	starts, err := e.Starts(context.Background(), p.Topic)
	if err != nil {
		return 0, nil, err
	}
	for at := starts[p.Index]; ; {
		batches, next, err := e.Read(context.Background(), eventlog.Position{Part: p, Offset: at}, 4<<10)
		if err != nil {
			return starts[p.Index], values, err
		}
		if next == at {
			return starts[p.Index], values, nil
		}
		for _, b := range batches {
			err := b.Each(func(r *eventlog.Record) error {
				if r.Offset >= at {
					values = append(values, string(r.Key)+"/"+string(r.Value))
				}
				return nil
			})
			if err != nil {
				return starts[p.Index], values, err
			}
		}
		at = next
	}
}

// verify opens what is left, after a kill or a power cut, on a disk that works: everything acknowledged is there, nothing refused is.
func (l *life) verify(power bool) {
	l.t.Helper()
	l.well.Store(true)
	if power {
		l.mem = l.mem.Crash(rand.New(rand.NewPCG(uint64(l.at.Load()), 1)))
	} else {
		l.mem = l.mem.Kill()
	}
	report, err := Check(l.t.Context(), l.mem, CheckOptions{})
	if err == nil && len(report.Damage) > 0 {
		l.fatal("Check: %+v", report.Damage)
	}
	e, err := Open(l.options())
	if err != nil {
		l.fatal("opened after all: %v", err)
	}
	defer e.Close()
	there := map[string]bool{}
	start := int64(0)
	for _, name := range []string{"plain", "compacted"} {
		topic, err := eventlog.New(e).Topic(l.t.Context(), name)
		if err != nil {
			continue // then nothing of it was acknowledged, or it is missed below
		}
		from, values, err := l.contents(e, eventlog.Part{Topic: topic.ID})
		if err != nil {
			l.fatal("read after all: %v", err)
		}
		if name == "plain" {
			start = from
		}
		for _, v := range values {
			if l.refused[v] || !l.acked[v] && !l.unsure[v] {
				l.fatal("%.40q is there, which was refused or never sent", v)
			}
			there[v] = true
		}
	}
	missing := 0
	for v := range l.acked {
		key, value, _ := strings.Cut(v, "/")
		switch {
		case there[v] || key == "d":
		case key[0] == 'k': // compacted: unless it is the last one
			if l.last[key] == value && !l.later(key, there) {
				l.fatal("%.40q, the last of its key, is lost", v)
			}
		default:
			missing++
		}
	}
	if int64(missing) > start || start > 5 {
		l.fatal("%d acknowledged records are lost; the log begins at %d", missing, start)
	}
}

// later tells whether a value of a key is there whose append had no definite answer.
func (l *life) later(key string, there map[string]bool) bool {
	for v := range l.unsure {
		if k, _, _ := strings.Cut(v, "/"); k == key && there[v] {
			return true
		}
	}
	return false
}

func newLife(t *testing.T, at int64, how failing) *life {
	l := &life{t: t, what: fmt.Sprintf("%s at operation %d", how.name, at), mem: vfs.NewMem(), how: how, acked: map[string]bool{},
		refused: map[string]bool{}, unsure: map[string]bool{}, last: map[string]string{}}
	l.at.Store(at)
	return l
}

// TestEveryOperationFails lets each operation on files of a log's life fail, one life after the other: opening, appending, rolling, checkpoints,
// compaction, retention, deletion, recovery, closing; with an error of the disk, for want of room, after half of a write, once or for good. Nothing is
// acknowledged that is not durable, everything is answered, reads never give what is wrong, and go on while there is no room; what is left opens,
// by kill and by power cut, with all that was acknowledged.
func TestEveryOperationFails(t *testing.T) {
	calm := newLife(t, -1, failings[0])
	if err := calm.run(false); err != nil {
		t.Fatal(err)
	}
	n := calm.ops.Load()
	if n < 300 || len(calm.refused)+len(calm.unsure) > 0 {
		t.Fatalf("%d operations; %d refused, %d unsure", n, len(calm.refused), len(calm.unsure))
	}
	kinds := map[vfs.Kind]int{}
	step := int64(1)
	if !tier.Soak() {
		step = n / 16
	}
	lives := 0
	for i, how := range failings {
		for at := (int64(i) + int64(tier.Seed())) % step; at < n; at += step {
			l := newLife(t, at, how)
			if err := l.run(at%2 == 0); err != nil {
				t.Fatal(err)
			}
			if op := l.hit.Load(); op != nil {
				kinds[op.Kind]++
			}
			lives++
		}
	}
	t.Logf("%d lives, of %d operations; what failed first: %v", lives, n, kinds)
	for _, k := range []vfs.Kind{vfs.OpCreate, vfs.OpOpen, vfs.OpRead, vfs.OpWrite, vfs.OpDatasync, vfs.OpSync, vfs.OpSyncDir, vfs.OpRename, vfs.OpRemove} {
		if kinds[k] == 0 && step == 1 {
			t.Errorf("no %v has failed", k)
		}
	}
}
