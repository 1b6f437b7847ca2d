package kafka

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// held has the first request to the rig's topic wait until release is closed, and tells when each comes.
func (r *rig) held() (came <-chan time.Time, release chan struct{}) {
	times, release := make(chan time.Time, 1024), make(chan struct{})
	first := true
	r.c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		r.c.KeepControl()
		for _, rt := range req.(*kmsg.ProduceRequest).Topics {
			if rt.TopicID != r.topic.ID {
				continue
			}
			times <- time.Now()
			if first {
				first = false
				r.c.SleepControl(func() { <-release })
			}
		}
		return nil, nil, false
	})
	return times, release
}

// one makes a batch of one record.
func (r *rig) one(p eventlog.Part, value string) *eventlog.Batch {
	r.Helper()
	var bl eventlog.Builder
	bl.Add(time.Now().UnixMilli(), []byte("k"), []byte(value), nil)
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		r.Fatal(err)
	}
	return b
}

// send appends one record, and does not wait.
func (r *rig) send(p eventlog.Part, value string, answers chan<- eventlog.Outcome) {
	r.Helper()
	r.d.Append(r.one(p, value), func(o eventlog.Outcome) { answers <- o })
}

func (r *rig) answered(answers <-chan eventlog.Outcome, n int) {
	r.Helper()
	for i := range n {
		select {
		case o := <-answers:
			if o.Err != nil {
				r.Fatal(o.Err)
			}
		case <-r.ctx.Done():
			r.Fatalf("%d of %d are answered", i, n)
		}
	}
}

// TestFewShareARequest: what came while a request was under way, and is little, goes no earlier than Linger after that began, in one request.
func TestFewShareARequest(t *testing.T) {
	const linger, few = 300 * time.Millisecond, 10
	r := newRig(t, nil)
	r.d.o.Linger = linger
	came, release := r.held()
	answers := make(chan eventlog.Outcome, few+1)
	began := time.Now()
	r.send(r.part(0), "first", answers)
	<-came
	for i := range few {
		r.send(r.part(0), fmt.Sprint(i), answers)
	}
	close(release)
	r.answered(answers, few+1)
	if at := <-came; at.Sub(began) < linger {
		t.Errorf("the second request came %v after the first was begun", at.Sub(began))
	}
	if n := len(came); n > 0 {
		t.Errorf("%d requests, not 2", n+2)
	}
}

// TestAloneIsNotHeld: who waits for each answer waits for nothing else, and bulk for nothing at all.
func TestAloneIsNotHeld(t *testing.T) {
	r := newRig(t, nil)
	r.d.o.Linger = time.Hour
	answers := make(chan eventlog.Outcome, fewRecords+1)
	for i := range 20 {
		r.send(r.part(int32(i%4)), fmt.Sprint(i), answers)
		r.answered(answers, 1)
	}
	came, release := r.held()
	r.send(r.part(0), "first", answers)
	<-came
	for i := range fewRecords {
		r.send(r.part(0), fmt.Sprint(i), answers)
	}
	close(release)
	r.answered(answers, fewRecords+1)
}

// together is two partitions of one broker.
func (r *rig) together() (a, b eventlog.Part) {
	t := r.d.topics.cached(r.topic.ID)
	of := map[int32]int32{}
	for i, leader := range t.leaders {
		if other, ok := of[leader]; ok {
			return r.part(other), r.part(int32(i))
		}
		of[leader] = int32(i)
	}
	r.Fatalf("no two partitions of %v have the same broker", t.leaders)
	return a, b
}

// TestAnsweredAreNotHeld: who goes on from within its answer comes after that answer, so it is not taken for one who waited.
func TestAnsweredAreNotHeld(t *testing.T) {
	r := newRig(t, nil)
	r.d.o.Linger = time.Hour
	a, b := r.together()
	answers := make(chan eventlog.Outcome, 1)
	var next func(n int)
	next = func(n int) {
		r.d.Append(r.one([]eventlog.Part{a, b}[n%2], fmt.Sprint(n)), func(o eventlog.Outcome) {
			if o.Err != nil || n == 20 {
				answers <- o
				return
			}
			next(n + 1)
		})
	}
	next(0)
	r.answered(answers, 1)
}

// TestFailingAreNotCompany: nobody is held for the sake of a lane that cannot be sent now.
func TestFailingAreNotCompany(t *testing.T) {
	r := newRig(t, nil)
	r.d.o.Linger, r.d.o.Backoff = time.Hour, time.Hour
	t.Cleanup(r.d.Hurry)
	failing, well := r.together()
	answers, never := make(chan eventlog.Outcome, 1), make(chan eventlog.Outcome, 4)
	r.send(well, "first", answers)
	r.answered(answers, 1)
	r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas})
	r.send(failing, "refused", never)
	r.until(func(p *producer) bool { l := p.lanes[failing]; return l.tries > 0 && !l.held })
	r.send(failing, "behind", never)
	for i := range 20 {
		r.send(well, fmt.Sprint(i), answers)
		r.answered(answers, 1)
	}
}

// until waits until something is true of the producer.
func (r *rig) until(is func(p *producer) bool) {
	r.Helper()
	for p := r.d.plain; ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		ok := is(p)
		p.mu.Unlock()
		if ok {
			return
		}
		if r.ctx.Err() != nil {
			r.Fatal("it does not become true")
		}
	}
}

// resting has a broker rest for an hour, since one record waits for it. Two are to be answered.
func (r *rig) resting(answers chan<- eventlog.Outcome) {
	r.Helper()
	r.d.o.Linger = time.Hour
	came, release := r.held()
	r.send(r.part(0), "first", answers)
	<-came
	r.send(r.part(0), "second", answers)
	close(release)
	r.until(func(p *producer) bool { return len(p.resting) == 1 })
}

// TestBulkEndsARest: a request that is worth it begins at once, also when its broker rests already.
func TestBulkEndsARest(t *testing.T) {
	for _, c := range []struct{ records, bytes int }{{fewRecords - 1, 1}, {1, fewBytes}} {
		r := newRig(t, nil)
		answers := make(chan eventlog.Outcome, fewRecords+2)
		r.resting(answers)
		for range c.records {
			r.send(r.part(0), strings.Repeat("x", c.bytes), answers)
		}
		r.answered(answers, c.records+2)
		r.until(func(p *producer) bool { return len(p.resting) == 0 })
	}
}

// TestCloseEndsARest: nothing comes any more that would share the request.
func TestCloseEndsARest(t *testing.T) {
	r := newRig(t, nil)
	answers := make(chan eventlog.Outcome, 2)
	r.resting(answers)
	r.d.o.CloseWait = time.Hour
	t.Cleanup(r.d.Hurry)
	go r.d.Close()
	r.answered(answers, 2)
}

// TestMovedFromBusyBroker: a lane whose leader moves from a busy broker to an idle one has the scheduler look when something is appended.
func TestMovedFromBusyBroker(t *testing.T) {
	r := newRig(t, nil)
	part := r.part(0)
	from := r.d.topics.cached(r.topic.ID).leader(0)
	p := &producer{d: r.d, lanes: map[eventlog.Part]*lane{}, busy: map[int32]bool{from: true}, wake: make(chan struct{}, 1)} // nobody schedules
	add := func() (wakes int) {
		p.append(r.one(part, "v"), func(eventlog.Outcome) {})
		return len(p.wake)
	}
	if add() != 0 {
		t.Error("it is to wait for its broker's answer")
	}
	if err := r.c.MoveTopicPartition(r.topic.Name, 0, (from+1)%3); err != nil {
		t.Fatal(err)
	}
	for r.d.topics.cached(r.topic.ID).leader(0) == from {
		if err := r.d.topics.refresh(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if add() != 1 {
		t.Error("nobody looks although its broker is idle")
	}
}

// TestLingerEndsWithTheDriver: what waits for company is answered when a Close is told to hurry.
func TestLingerEndsWithTheDriver(t *testing.T) {
	r := newRig(t, nil)
	r.d.o.Linger = time.Hour
	came, release := r.held()
	answers := make(chan eventlog.Outcome, 2)
	r.send(r.part(0), "first", answers)
	<-came
	r.send(r.part(0), "second", answers)
	close(release)
	r.answered(answers, 1)
	r.d.Hurry()
	go r.d.Close()
	select {
	case o := <-answers:
		if o.Err == nil {
			t.Error("it was sent all the same")
		}
	case <-r.ctx.Done():
		t.Error("nobody answers it")
	}
}
