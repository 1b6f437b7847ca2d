package engine

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// A stream of few appends a commit is paced; a lone appender is not, nor is what begins late anyway.
func TestPacer(t *testing.T) {
	const sync = 300 * time.Microsecond
	for _, x := range []struct {
		name  string
		items func(i int) int // of a commit
		since time.Duration   // it began
		want  time.Duration   // to wait
	}{
		{"a lone appender", func(int) int { return 1 }, sync, 0},
		{"with company now and then", func(i int) int { return 1 + i%5/4 }, sync, 0},
		{"a stream", func(int) int { return 2 }, sync, time.Millisecond - sync},
		{"a broad stream", func(int) int { return 30 }, sync, time.Millisecond - sync},
		{"bulk", func(int) int { return 10_000 }, sync, time.Millisecond - sync}, // but the queue has enough
		{"a slow disk", func(int) int { return 5 }, 2 * time.Millisecond, 0},
		{"hardly anything is left", func(int) int { return 5 }, 980 * time.Microsecond, 0},
		{"the clock was set back", func(int) int { return 5 }, -time.Hour, time.Millisecond},
	} {
		p, now := pacer{delay: time.Millisecond}, time.Unix(1, 0)
		for i := range 50 {
			p.begins(now, x.items(i))
		}
		if got := p.rest(now.Add(x.since)); got != x.want {
			t.Errorf("%s: rests %v, want %v", x.name, got, x.want)
		}
	}
	p, now := pacer{delay: time.Millisecond}, time.Unix(1, 0)
	for range 50 {
		p.begins(now, 10_000)
	}
	for range 50 { // a mean of thousands would take longer
		p.begins(now, 1)
	}
	if p.rest(now) != 0 {
		t.Error("bulk that is over is remembered")
	}
}

// simulated runs appends against a pacer for a second and a half, by a clock of its own, and says how many were answered in its last half. next
// is when the first of those appends comes that come after t.
func simulated(p *pacer, waiting []time.Duration, next func(answered time.Duration) time.Duration) (done, rests int) {
	const sync = 300 * time.Microsecond
	at := func(d time.Duration) time.Time { return time.Unix(1, 0).Add(d) }
	for now := time.Duration(0); now < 1500*time.Millisecond; {
		slices.Sort(waiting)
		now = max(now, waiting[0])
		if d := p.rest(at(now)); d > 0 {
			now += d
			rests++
		}
		n, _ := slices.BinarySearch(waiting, now+1)
		p.begins(at(now), n)
		now += sync
		for i := range n {
			waiting[i] = next(now)
		}
		if now > 750*time.Millisecond {
			done += n
		}
	}
	return done, rests
}

// A few that wait for their answers are hardly kept; who sends at a pace of its own is, and shares commits.
func TestPacerTries(t *testing.T) {
	for _, x := range []struct {
		name   string
		ours   func() (waiting []time.Duration, next func(time.Duration) time.Duration)
		within float64 // of what comes without rests
		rests  bool
	}{
		{"8 that wait for their answers", func() ([]time.Duration, func(time.Duration) time.Duration) {
			r := rand.New(rand.NewPCG(1, 1))
			return make([]time.Duration, 8), func(t time.Duration) time.Duration { return t + time.Duration(r.IntN(int(100*time.Microsecond))) }
		}, 0.9, false},
		{"10,000 a second that do not", func() ([]time.Duration, func(time.Duration) time.Duration) {
			r := rand.New(rand.NewPCG(1, 1))
			last := time.Duration(0)
			next := func(time.Duration) time.Duration {
				last += time.Duration(r.ExpFloat64() * float64(100*time.Microsecond))
				return last
			}
			var first []time.Duration
			for range 64 { // more than come at once
				first = append(first, next(0))
			}
			return first, next
		}, 0.97, true},
	} {
		waiting, next := x.ours()
		all, none := simulated(&pacer{}, waiting, next)
		waiting, next = x.ours()
		p := &pacer{delay: time.Millisecond}
		got, rests := simulated(p, waiting, next)
		if float64(got) < x.within*float64(all) || none != 0 {
			t.Errorf("%s: %d answers, %d without rests", x.name, got, all)
		}
		if p.awake == x.rests || rests == 0 || x.rests && rests < 1000 {
			t.Errorf("%s: awake %v, %d rests", x.name, p.awake, rests)
		}
		p.begins(p.began.Add(time.Hour), 1) // a pause
		if p.trial || p.items != 1 {
			t.Errorf("%s: a pause was counted: %+v", x.name, *p)
		}
	}
}

// fakeAlarm, once it is armed, sleeps until it is rung, or told to go on.
type fakeAlarm struct {
	armed  atomic.Bool
	slept  chan time.Duration
	goOn   chan struct{}
	rung   chan struct{}
	rings  atomic.Int64
	closed atomic.Bool
}

func (a *fakeAlarm) Sleep(d time.Duration) {
	if !a.armed.Load() {
		return
	}
	a.slept <- d
	select {
	case <-a.rung:
	case <-a.goOn:
	}
}

func (a *fakeAlarm) Ring() {
	a.rings.Add(1)
	a.rung <- struct{}{}
}

func (a *fakeAlarm) Close() error {
	a.closed.Store(true)
	return nil
}

// What comes while the committer rests shares a commit; enough of it, by number or by size, ends the rest.
func TestRest(t *testing.T) {
	var s stall
	a := &fakeAlarm{slept: make(chan time.Duration, 64), goOn: make(chan struct{}), rung: make(chan struct{}, 8)}
	o := small(vfs.Faults(vfs.NewMem(), s.hook))
	o.CommitDelay, o.Alarm = time.Hour, a
	o.Now = func() time.Time { return time.Unix(1_700_000_000, 0) } // it is never time for a trial
	e := open(t, o)
	t.Cleanup(func() { close(a.goOn) }) // before e is closed
	p := topicOf(t, e, nil)
	answered := make(chan error, 1000)
	send := func(n, size int) {
		for range n {
			var bl eventlog.Builder
			bl.Add(e.Now(), nil, make([]byte, size), nil)
			b, _, err := bl.Batch(p, eventlog.None)
			if err != nil {
				t.Fatal(err)
			}
			e.Append(b, func(o eventlog.Outcome) { answered <- o.Err })
		}
	}
	await := func(n int) {
		t.Helper()
		for range n {
			select {
			case err := <-answered:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("no answer")
			}
		}
	}
	a.armed.Store(true)
	for range 20 { // lone appends are not delayed
		send(1, 10)
		await(1)
	}
	a.armed.Store(false)
	for range 4 { // a stream begins: several meet in a commit
		release := s.hold()
		send(1, 10)
		for !e.queue.empty() { // it is on the disk
			time.Sleep(time.Millisecond)
		}
		send(gatherItems, 10)
		release()
		await(1 + gatherItems)
	}
	a.armed.Store(true)
	for _, x := range []struct {
		name          string
		first, behind int
		size          int
		rings         int64
	}{
		{"the time is up", 1, 3, 10, 0},
		{"as many as are enough", 1, gatherItems - 1, 10, 1},
		{"as much as is enough", 1, 1, gatherBytes, 1},
	} {
		t.Run(x.name, func(t *testing.T) {
			commits, rings := e.Stats().Commits, a.rings.Load()
			send(x.first, 10)
			if d := <-a.slept; d <= 0 || d > o.CommitDelay {
				t.Errorf("rests %v", d)
			}
			send(x.behind, x.size)
			if x.rings == 0 {
				select {
				case <-answered:
					t.Error("answered before the rest is over")
				case <-time.After(10 * time.Millisecond):
				}
				a.goOn <- struct{}{}
			}
			await(x.first + x.behind)
			if got := e.Stats().Commits - commits; got != 1 {
				t.Errorf("%d commits", got)
			}
			if got := a.rings.Load() - rings; got != x.rings {
				t.Errorf("rung %d times, want %d", got, x.rings)
			}
		})
	}
	t.Run("enough at once", func(t *testing.T) {
		release := s.hold()
		send(1, 10)
		<-a.slept
		a.goOn <- struct{}{}
		for !e.queue.empty() {
			time.Sleep(time.Millisecond)
		}
		send(2*gatherItems, 10)
		release()
		await(1 + 2*gatherItems) // without a rest
	})
	t.Run("close", func(t *testing.T) {
		send(1, 10)
		<-a.slept
		closed := make(chan error)
		go func() { closed <- e.Close() }()
		a.goOn <- struct{}{}
		await(1)
		if err := <-closed; err != nil || !a.closed.Load() {
			t.Errorf("%v, alarm closed: %v", err, a.closed.Load())
		}
	})
}

// The system's alarm sleeps about as long as it is told, finer than the runtime, and can be rung at any time.
func TestSystemAlarm(t *testing.T) {
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	if a == nil {
		t.Skip("there is none here")
	}
	defer a.Close()
	const d = 2 * time.Millisecond
	for range 20 {
		began := time.Now()
		a.Sleep(d)
		if took := time.Since(began); took < d {
			t.Fatalf("slept %v of %v", took, d)
		}
	}
	began := time.Now()
	for range 100 {
		go a.Ring()
		a.Sleep(time.Hour) // or Ring came before it, and the next one returns
	}
	if time.Since(began) > time.Minute {
		t.Error("it slept")
	}
	a.Ring()
	a.Sleep(time.Hour)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	a.Ring()
	a.Sleep(time.Hour) // closed: not at all
}
