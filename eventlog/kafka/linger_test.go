package kafka

import (
	"fmt"
	"testing"
	"time"

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

// send appends one record, and does not wait.
func (r *rig) send(p eventlog.Part, value string, answers chan<- eventlog.Outcome) {
	r.Helper()
	var bl eventlog.Builder
	bl.Add(time.Now().UnixMilli(), []byte("k"), []byte(value), nil)
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		r.Fatal(err)
	}
	r.d.Append(b, func(o eventlog.Outcome) { answers <- o })
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
	go r.d.Close()
	r.d.Hurry()
	select {
	case o := <-answers:
		if o.Err == nil {
			t.Error("it was sent all the same")
		}
	case <-r.ctx.Done():
		t.Error("nobody answers it")
	}
}
