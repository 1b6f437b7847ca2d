package logtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
)

// Ledger remembers every record that was appended and what its outcome was, and says whether what is read adds up:
//
//   - a record answered durable is there, once, at its offset;
//   - a refused record is not there; one of unknown outcome is there at most once;
//   - nothing is there that was never appended, unless it is somebody else's; nothing of an aborted transaction is;
//   - the durable records of one stream (one goroutine's appends to one partition) are in order;
//   - what was read once stays where it was.
//
// Records are told apart by their values, which must differ. A Ledger is safe for concurrent use.
type Ledger struct {
	mu    sync.Mutex
	cond  *sync.Cond
	sent  map[string]*Sent
	seqs  map[stream]int
	read  map[eventlog.Position]string
	calls int // appends without an answer
	bad   []error
}

type stream struct {
	part eventlog.Part
	name string
}

// Fate is what became of an appended record.
type Fate uint8

const (
	Outstanding Fate = iota
	Durable
	Refused
	Unknown
)

func (f Fate) String() string { return [...]string{"outstanding", "durable", "refused", "unknown"}[f] }

// Sent is one record that was appended.
type Sent struct {
	Value  string
	Part   eventlog.Part
	Stream string
	Seq    int // its place in the stream
	Fate   Fate
	Offset int64 // when durable
	Err    error // when refused or unknown
	dead   bool  // its process died: an answer means nothing
}

// Seen is one record that was read.
type Seen struct {
	eventlog.Position
	Value     string
	Timestamp int64
	Own       bool
}

// Appender is what records are appended through: a driver, a log or a writer.
type Appender interface {
	Append(*eventlog.Batch, func(eventlog.Outcome))
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger {
	l := &Ledger{sent: map[string]*Sent{}, seqs: map[stream]int{}, read: map[eventlog.Position]string{}}
	l.cond = sync.NewCond(&l.mu)
	return l
}

// Append appends a batch of n new records, with values of at least size bytes, and returns them; their fates are filled in
// when the answer comes. Only Ledger's methods read them safely before that.
func (l *Ledger) Append(a Appender, p eventlog.Part, name string, n, size int) []*Sent {
	var bl eventlog.Builder
	l.mu.Lock()
	for i := range n {
		seq := l.seqs[stream{p, name}] + i
		v := fmt.Appendf(nil, "%s/%d/%d ", name, p.Index, seq)
		for len(v) < size {
			v = append(v, '.')
		}
		bl.Add(int64(1_000_000+seq), fmt.Appendf(nil, "%s/%d", name, p.Index), v, nil)
	}
	l.mu.Unlock()
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		panic(err) // n is 0: the test is wrong
	}
	return l.AppendBatch(a, name, b)
}

// AppendBatch appends a batch whose values the ledger has not seen yet.
func (l *Ledger) AppendBatch(a Appender, name string, b *eventlog.Batch) []*Sent {
	sent := l.Register(name, b)
	a.Append(b, func(o eventlog.Outcome) { l.Answer(sent, o) })
	return sent
}

// Register enters a batch that is about to be appended; Answer must get its outcome.
func (l *Ledger) Register(name string, b *eventlog.Batch) []*Sent {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sent []*Sent
	for _, r := range records(b) {
		k := stream{b.Part, name}
		s := &Sent{Value: string(r.Value), Part: b.Part, Stream: name, Seq: l.seqs[k]}
		l.seqs[k]++
		if l.sent[s.Value] != nil {
			l.bad = append(l.bad, fmt.Errorf("value %q is appended twice", s.Value))
		}
		l.sent[s.Value] = s
		sent = append(sent, s)
	}
	l.calls++
	return sent
}

// Answer enters the outcome of a registered batch.
func (l *Ledger) Answer(sent []*Sent, o eventlog.Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(sent) > 0 && sent[0].dead {
		return
	}
	defer l.cond.Broadcast()
	l.calls--
	if o.Each != nil && len(o.Each) != len(sent) {
		l.bad = append(l.bad, fmt.Errorf("%d results for %d records", len(o.Each), len(sent)))
		return
	}
	for i, s := range sent {
		if s.Fate != Outstanding {
			l.bad = append(l.bad, fmt.Errorf("%q: answered twice", s.Value))
			continue
		}
		r := o.At(i)
		switch {
		case r.Err == nil:
			s.Fate, s.Offset = Durable, r.Offset
		case errors.Is(r.Err, eventlog.ErrUnknownOutcome):
			s.Fate, s.Err = Unknown, r.Err
		default:
			s.Fate, s.Err = Refused, r.Err
		}
	}
}

// Crash makes every outstanding record's outcome unknown: the process died. An answer that still comes was heard by nobody.
func (l *Ledger) Crash() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sent {
		if s.Fate == Outstanding {
			s.Fate, s.Err, s.dead = Unknown, eventlog.ErrUnknownOutcome, true
		}
	}
	l.calls = 0
	l.cond.Broadcast()
}

// Wait waits until every append has its answer, or for ctx.
func (l *Ledger) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.cond.Broadcast()
	})
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.calls > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("%d appends have no answer: %w", l.calls, ctx.Err())
		}
		l.cond.Wait()
	}
	return nil
}

// Outstanding is the number of appends without an answer.
func (l *Ledger) Outstanding() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// With returns copies of the records of a partition that met a fate, in the order of their streams.
func (l *Ledger) With(p eventlog.Part, f Fate) (out []Sent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sent {
		if s.Part == p && s.Fate == f {
			out = append(out, *s)
		}
	}
	slices.SortFunc(out, func(a, b Sent) int {
		if a.Stream != b.Stream {
			if a.Stream < b.Stream {
				return -1
			}
			return 1
		}
		return a.Seq - b.Seq
	})
	return out
}

// Check says whether the records read from [from, to) of a partition, all of them, add up.
func (l *Ledger) Check(p eventlog.Part, from, to int64, got []Seen) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	bad := slices.Clone(l.bad)
	wrong := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }

	at := map[string]int64{}
	there := map[int64]bool{}
	last := map[string]*Sent{}
	before := from - 1
	for _, r := range got {
		if r.Part != p || r.Offset <= before || r.Offset >= to {
			wrong("%q read at %v after offset %d, reading [%d, %d) of %v", r.Value, r.Position, before, from, to, p)
			continue
		}
		before = r.Offset
		there[r.Offset] = true
		if was, ok := l.read[r.Position]; ok && was != r.Value {
			wrong("%v holds %q, and held %q when read before", r.Position, r.Value, was)
		}
		l.read[r.Position] = r.Value
		if r.Value == AbortedValue {
			wrong("%v shows a record of an aborted transaction", r.Position)
			continue
		}
		s := l.sent[r.Value]
		if s == nil {
			if r.Own {
				wrong("%v holds %q, which was never appended", r.Position, r.Value)
			}
			continue
		}
		if !r.Own {
			wrong("%v holds %q, which is ours, without Own", r.Position, r.Value)
		}
		if o, twice := at[r.Value]; twice {
			wrong("%q is there twice, at %d and %d (its fate: %v)", r.Value, o, r.Offset, s.Fate)
		}
		at[r.Value] = r.Offset
		switch {
		case s.Part != p:
			wrong("%q of %v is in %v", r.Value, s.Part, p)
		case s.Fate == Refused:
			wrong("%q is at %d but was refused: %v", r.Value, r.Offset, s.Err)
		case s.Fate == Durable && s.Offset != r.Offset:
			wrong("%q is at %d but was answered %d", r.Value, r.Offset, s.Offset)
		}
		if s.Fate != Unknown {
			if prev := last[s.Stream]; prev != nil && prev.Seq > s.Seq {
				wrong("%q at %d comes after %q at %d", s.Value, r.Offset, prev.Value, at[prev.Value])
			}
			last[s.Stream] = s
		}
	}
	for _, s := range l.sent {
		if s.Part == p && s.Fate == Durable && s.Offset >= from && s.Offset < to {
			if _, ok := at[s.Value]; !ok {
				wrong("%q was answered durable at %d and is not there", s.Value, s.Offset)
			}
		}
	}
	for pos, v := range l.read {
		if pos.Part == p && pos.Offset >= from && pos.Offset < to && !there[pos.Offset] {
			wrong("%q at %v was read before and is gone", v, pos)
		}
	}
	if len(bad) > 20 {
		bad = append(bad[:20], fmt.Errorf("and %d more", len(bad)-20))
	}
	return errors.Join(bad...)
}

// CheckLog reads a partition from start to end and checks it. It returns what it read, and the end.
func (l *Ledger) CheckLog(ctx context.Context, d eventlog.Driver, p eventlog.Part) ([]Seen, int64, error) {
	starts, err := d.Starts(ctx, p.Topic)
	if err != nil {
		return nil, 0, err
	}
	ends, err := d.Ends(ctx, p.Topic)
	if err != nil {
		return nil, 0, err
	}
	from, to := starts[p.Index], ends[p.Index]
	got, err := ReadRange(ctx, d, p, from, to, 1<<16)
	if err != nil {
		return nil, 0, err
	}
	return got, to, l.Check(p, from, to, got)
}

// ReadRange reads the records of [from, to), maxBytes at a time.
func ReadRange(ctx context.Context, d eventlog.Driver, p eventlog.Part, from, to int64, maxBytes int) ([]Seen, error) {
	var got []Seen
	for at := from; at < to; {
		batches, next, err := d.Read(ctx, eventlog.Position{Part: p, Offset: at}, maxBytes)
		if err != nil {
			return got, fmt.Errorf("read %v from %d: %w", p, at, err)
		}
		for _, b := range batches {
			if b.Next() <= at {
				return got, fmt.Errorf("read %v from %d: a batch that ends at %d", p, at, b.Next())
			}
			if got, err = Collect(got, b, at, to); err != nil {
				return got, err
			}
		}
		if next <= at {
			return got, fmt.Errorf("read %v from %d, below its end %d: no progress, next is %d", p, at, to, next)
		}
		at = next
	}
	return got, nil
}

// Collect appends the records of a batch that lie in [from, to).
func Collect(into []Seen, b *eventlog.Batch, from, to int64) ([]Seen, error) {
	err := b.Each(func(r *eventlog.Record) error {
		if r.Offset >= from && r.Offset < to {
			into = append(into, Seen{eventlog.Position{Part: b.Part, Offset: r.Offset}, string(r.Value), r.Timestamp, b.Own})
		}
		return nil
	})
	if err != nil {
		return into, fmt.Errorf("batch %v@%d: %w", b.Part, b.Base(), err)
	}
	return into, nil
}
