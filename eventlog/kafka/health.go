package kafka

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// State is the one word for how the cluster treats us.
type State string

// The states. All but OK mean that something waits, and will go on by itself when the cause is gone.
const (
	OK          State = "ok"
	Unreachable State = "unreachable"      // connections are refused, reset, or cannot be made
	NoAnswer    State = "no_answer"        // connections stand, answers do not come
	FewReplicas State = "too_few_replicas" // fewer replicas in sync than min.insync.replicas
	NoLeader    State = "no_leader"        // a partition has no leader, or it is not found
	Denied      State = "denied"           // our credentials, or our rights, are not accepted
	NoTopic     State = "topic_missing"    // a topic is not there
	Clock       State = "clock"            // our time stamps are not accepted: the clocks differ
	Unwell      State = "error"            // any other error, which Health names
)

// States are all of them.
var States = []State{OK, Unreachable, NoAnswer, FewReplicas, NoLeader, Denied, NoTopic, Clock, Unwell}

// stateOf is the state that an error of a request is a sign of.
func stateOf(err error) State {
	var ke *kerr.Error
	var ne net.Error
	switch {
	case errors.As(err, &ke):
		switch ke {
		case kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend:
			return FewReplicas
		case kerr.LeaderNotAvailable, kerr.NotLeaderForPartition, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch, kerr.ReplicaNotAvailable:
			return NoLeader
		case kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
			kerr.SaslAuthenticationFailed, kerr.GroupAuthorizationFailed:
			return Denied
		case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InconsistentTopicID:
			return NoTopic
		case kerr.InvalidTimestamp:
			return Clock
		case kerr.RequestTimedOut, kerr.NetworkException:
			return NoAnswer
		}
		return Unwell
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errMoved), errors.As(err, &ne) && ne.Timeout():
		return NoAnswer
	}
	var op *net.OpError
	if errors.As(err, &op) || errors.As(err, &ne) || kgo.IsRetryableBrokerErr(err) || hangsUp(err) {
		return Unreachable
	}
	return Unwell
}

// hangsUp says that a broker takes connections and ends them at once, as a proxy in front of one that is down does.
func hangsUp(err error) bool {
	var eof *kgo.ErrFirstReadEOF
	return errors.As(err, &eof)
}

// isDialed says that a connection could not be made, or was reset.
func isDialed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// denied says of an error that we may not do what we asked for, at present.
func denied(err error) bool { return err != nil && stateOf(err) == Denied }

// Health is what of us waits for the cluster. Nothing has to be done about it: it says why devices are held back.
type Health struct {
	State   State     // of most that waits
	Since   time.Time // something has waited since
	Err     error     // what one of those was answered last
	Appends int       // partitions and writers whose appends are being repeated
	Reads   int       // partitions that tails cannot read
	Bytes   int64     // of all appends that are not answered
	Stuck   bool      // for some seconds nothing at all was accepted, or nothing at all could be read
}

// Health tells how the cluster treats us.
func (d *Driver) Health() Health { return d.trouble.health(d.rooms.bytes(), time.Now()) }

// troubles keeps what is being repeated, and since when.
type troubles struct {
	mu      sync.Mutex
	appends map[any]*trouble // by who repeats: a lane, a transaction
	reads   map[any]*trouble // by who: a followed partition
	written time.Time        // when an append was last accepted
	read    time.Time        // when a fetch was last answered
	errors  map[string]uint64

	patience time.Duration // how long something must be repeated before it counts as waiting
}

type trouble struct {
	since time.Time
	err   error
}

func newTroubles(patience time.Duration) *troubles {
	return &troubles{appends: map[any]*trouble{}, reads: map[any]*trouble{}, errors: map[string]uint64{}, patience: patience}
}

// add notes that an append (read: a fetch) of who failed and is repeated.
func (t *troubles) add(read bool, who any, err error) {
	if err == nil || isDone(err) && !errors.Is(err, context.DeadlineExceeded) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.appends
	if read {
		of = t.reads
	}
	tr := of[who]
	if tr == nil {
		tr = &trouble{since: time.Now()}
		of[who] = tr
	}
	if tr.err == nil || !kgo.IsRetryableBrokerErr(err) || isDialed(err) { // that a connection ended tells less than what was known before
		tr.err = err
	}
	t.errors[nameOf(err)]++
}

// end notes that who has nothing to repeat any more; good: because it got through.
func (t *troubles) end(read bool, who any, good bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if read {
		delete(t.reads, who)
		if good {
			t.read = time.Now()
		}
		return
	}
	delete(t.appends, who)
	if good {
		t.written = time.Now()
	}
}

func (t *troubles) health(bytes int64, now time.Time) Health {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := Health{State: OK, Bytes: bytes}
	votes, why := map[State]int{}, map[State]error{} // of all that waits: one cause shows itself in several ways
	look := func(of map[any]*trouble, good time.Time) (n int) {
		for _, tr := range of {
			if now.Sub(tr.since) < t.patience {
				continue
			}
			n++
			if h.Since.IsZero() || tr.since.Before(h.Since) {
				h.Since = tr.since
			}
			s := stateOf(tr.err)
			votes[s]++
			why[s] = tr.err
		}
		if n > 0 && now.Sub(good) >= t.patience {
			h.Stuck = true
		}
		return n
	}
	h.Appends, h.Reads = look(t.appends, t.written), look(t.reads, t.read)
	for _, s := range States {
		if votes[s] > votes[h.State] {
			h.State, h.Err = s, why[s]
		}
	}
	return h
}

// Errors counts, by name, the errors after which something was repeated.
func (d *Driver) Errors() map[string]uint64 {
	t := d.trouble
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string]uint64, len(t.errors))
	for name, n := range t.errors {
		out[name] = n
	}
	return out
}

// nameOf names an error in a counter: by Kafka's name, or by the state that it means.
func nameOf(err error) string {
	var ke *kerr.Error
	if errors.As(err, &ke) {
		return ke.Message
	}
	return string(stateOf(err))
}
