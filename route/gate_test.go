package route

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/session"
)

// sender publishes under one key, several calls at a time, and notes where each message went.
type sender struct {
	n    *node
	name string
	mu   sync.Mutex
	at   []session.Result // by number of the message
	left sync.WaitGroup
}

func (s *sender) send(calls int, rng *rand.Rand) {
	slots := make(chan struct{}, 8)
	for range calls {
		var msgs []session.Message
		s.mu.Lock()
		first := len(s.at)
		for i := range 1 + rng.IntN(4) {
			msgs = append(msgs, session.Message{Topic: "gate/" + s.name, Client: s.name, QoS: 1, Payload: fmt.Appendf(nil, "%s %d", s.name, first+i)})
			s.at = append(s.at, session.Result{})
		}
		s.mu.Unlock()
		slots <- struct{}{}
		s.left.Add(1)
		wait := s.n.store.Append(msgs, func(rs []session.Result) {
			s.mu.Lock()
			copy(s.at[first:], rs)
			s.mu.Unlock()
			<-slots
			s.left.Done()
		})
		if wait != nil {
			<-wait
		}
	}
}

// check wants that every message is in the log, once, those of a topic in order, and that no message went to a topic after one that came before it
// went to the next.
func (s *sender) check(last eventlog.TopicID) error {
	seen := map[eventlog.TopicID]bool{}
	for i, r := range s.at {
		if r.Err != nil {
			return fmt.Errorf("%s %d: %w", s.name, i, r.Err)
		}
		if i > 0 && s.at[i-1].Pos.Topic == r.Pos.Topic {
			if was := s.at[i-1].Pos; was.Part != r.Pos.Part || was.Offset >= r.Pos.Offset {
				return fmt.Errorf("%s %d is at %v, the one before at %v", s.name, i, r.Pos, was)
			}
		} else if seen[r.Pos.Topic] {
			return fmt.Errorf("%s %d went to a topic that others before it had left", s.name, i)
		}
		seen[r.Pos.Topic] = true
		if r.Pos.Topic != last {
			continue
		}
		if m, err := s.n.readOne(r.Pos); err != nil || string(m.Payload) != fmt.Sprintf("%s %d", s.name, i) {
			return fmt.Errorf("%s %d: at %v is %q, %v", s.name, i, r.Pos, m.Payload, err)
		}
	}
	return nil
}

// TestDeletedUnderLoad: a topic is deleted again and again while messages come, and made again by the store or by somebody else, with other
// partitions. Nobody is refused, and the order of each key is kept.
func TestDeletedUnderLoad(t *testing.T) {
	for seed := range uint64(tier.N(20)) {
		if err := onMemory(t, tier.Seed()+seed); err != nil {
			t.Fatalf("seed %d: %v", tier.Seed()+seed, err)
		}
	}
}

func onMemory(t *testing.T, seed uint64) error {
	mem := logtest.NewMemory(seed, logtest.Hostility{Shuffle: true})
	defer mem.Close()
	return deletedUnderLoad(t, eventlog.New(mem), seed, 3*time.Millisecond)
}

// deletedUnderLoad deletes the topic at intervals, and says what was amiss.
func deletedUnderLoad(t *testing.T, log *eventlog.Log, seed uint64, interval time.Duration) error {
	rng := rand.New(rand.NewPCG(seed, 6))
	n := openOn(t, log, []Spec{{MQTT: "gate/#", Topic: "gate", Compression: eventlog.Codec(rng.IntN(2))}})
	defer n.store.Close()
	n.clock.Store(time.Now().UnixMilli())
	tail := n.follow()
	stop, polled := make(chan struct{}), make(chan struct{})
	go func() { // who follows the log, as the owner does, is the first to hear of it, or not
		defer close(polled)
		for {
			if _, err := tail.Poll(nil, 1<<20); err != nil {
				t.Error(err)
			}
			select {
			case <-tail.Wake():
			case <-stop:
				return
			}
		}
	}()
	defer func() {
		close(stop)
		<-polled
	}()
	var senders []*sender
	var all sync.WaitGroup
	for i := range 4 {
		s := &sender{n: n, name: fmt.Sprint("client-", i)}
		senders = append(senders, s)
		own := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() { s.send(150, own); s.left.Wait() })
	}
	for range 4 {
		time.Sleep(time.Duration(rng.Int64N(int64(interval)))) // how far they get
		_ = n.log.DeleteTopic(t.Context(), "gate")             // or it is not there just now
		if rng.IntN(2) == 0 {
			_, _ = n.log.CreateTopic(t.Context(), eventlog.TopicSpec{Name: "gate", Partitions: int32(1 + rng.IntN(5))})
		}
	}
	over := make(chan struct{})
	go func() {
		all.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-time.After(30 * time.Second):
		return errors.New("not everybody is answered")
	}
	for _, s := range senders { // who publishes after the last deletion finds the topic there, or has it made
		s.send(1, rng)
		s.left.Wait()
	}
	deadline := time.Now().Add(30 * time.Second)
	for absent, _ := n.store.Absent(); len(absent) > 0; absent, _ = n.store.Absent() { // what waited is answered before the gate is open again
		if time.Now().After(deadline) {
			return fmt.Errorf("absent: %+v", absent)
		}
		time.Sleep(time.Millisecond)
	}
	for _, s := range senders {
		if err := s.check(n.store.places.Load().topics[0].ID); err != nil {
			return err
		}
	}
	return nil
}

// TestAbsentTopicHolds: while a topic cannot be made again nothing is answered and publishers are held back; when it can, all that waited is there, and
// when the store ends before that, nobody is told that it is.
func TestAbsentTopicHolds(t *testing.T) {
	for _, mended := range []bool{true, false} {
		mem := logtest.NewMemory(1, logtest.Hostility{})
		n := open(t, mem, []Spec{{MQTT: "gate/#", Topic: "gate", Partitions: 3}})
		n.publish(session.Message{Topic: "gate/1"})
		if err := n.log.DeleteTopic(t.Context(), "gate"); err != nil {
			t.Fatal(err)
		}
		if _, err := n.log.CreateTopic(t.Context(), eventlog.TopicSpec{Name: "gate", Partitions: 2}); err != nil {
			t.Fatal(err)
		}
		answers := make(chan []session.Result, 2)
		var wait <-chan struct{}
		for range 2 { // what finds it gone, and what comes after that
			wait = n.store.Append([]session.Message{{Topic: "gate/1", Payload: []byte("x")}}, func(rs []session.Result) { answers <- slices.Clone(rs) })
			deadline := time.Now().Add(20 * time.Second)
			for absent, _ := n.store.Absent(); len(absent) != 1 || absent[0].Topic != "gate" || absent[0].Err == nil; absent, _ = n.store.Absent() {
				if time.Now().After(deadline) {
					t.Fatalf("%+v", absent)
				}
				time.Sleep(time.Millisecond)
			}
		}
		select {
		case <-wait:
			t.Fatal("a publisher is not held back")
		case rs := <-answers:
			t.Fatalf("answered: %+v", rs)
		default:
		}
		if !mended {
			n.store.Close()
		} else if err := n.log.DeleteTopic(t.Context(), "gate"); err != nil {
			t.Fatal(err)
		}
		<-wait
		for range 2 {
			if r := (<-answers)[0]; (r.Err == nil) != mended {
				t.Errorf("mended %v: %+v", mended, r)
			}
		}
		n.store.Close()
		mem.Close()
	}
}
