package session

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// step lets one thing happen.
func (w *world) step() {
	c := w.clients[w.rnd.IntN(len(w.clients))]
	up := c.conn != nil && c.conn.accepted && !c.conn.dead
	if up && c.present {
		c.resend()
		return
	}
	if w.wavering && up && w.chance(10) {
		c.unsubscribe()
		return
	}
	if w.arid && w.chance(8) {
		w.tick(2500)
		w.trim(w.rnd.IntN(len(w.parts)))
		return
	}
	switch n := w.rnd.IntN(100); {
	case n < 10:
		if c.conn == nil || w.chance(5) {
			c.connect()
		}
	case n < 17:
		if up {
			c.subscribe()
		}
	case n < 19:
		if up {
			c.unsubscribe()
		}
	case n < 33:
		c.publish()
	case n < 45:
		if up && len(c.conn.out) > 0 {
			c.receive()
		}
	case n < 55:
		if up && len(c.acks) > 0 {
			c.ack(w.rnd.IntN(len(c.acks)))
		}
	case n < 58:
		if c.conn != nil && !c.conn.dead {
			w.disconnect(c)
		}
	case n < 94:
		w.io()
	case n < 97:
		w.tick(int64(w.pick(1, 100, 2500, 2500, 30_000)))
	case n < 98:
		w.trim(w.rnd.IntN(len(w.parts)))
	case n < 99:
		w.policy(c)
	default:
		if w.chance(40) {
			w.crash()
		}
	}
}

func (w *world) disconnect(c *simClient) {
	cause := Cause(w.pick(int(Lost), int(Lost), int(Normal), int(WithWill)))
	var expiry *uint32
	if cause != Lost && c.conn.accepted && c.session != nil && c.session.expiry > 0 && w.chance(20) {
		e := uint32(w.pick(0, 5, 200))
		expiry = &e
	}
	c.disconnect(cause, expiry)
}

func (w *world) policy(c *simClient) {
	name := simTopics[w.rnd.IntN(len(simTopics))]
	key := c.key.ClientID + " " + name
	if w.denied[key] {
		delete(w.denied, key)
	} else if w.chance(50) {
		w.denied[key] = true
		w.model.deny(c, name)
	}
	w.logf("policy %s denied %v", key, w.denied[key])
	w.core.PolicyChanged(w.now)
	w.core.Unlogged(w.now, &Message{Offset: -1, Time: w.now, Topic: name, Payload: []byte("unlogged"), QoS: 1})
}

// io lets one outstanding thing of the log happen; false if there is none.
func (w *world) io() bool {
	for _, i := range w.rnd.Perm(len(w.targets)) {
		if t := w.targets[i]; len(t.writes) > 0 && w.chance(60) {
			w.writeOne(t)
			return true
		}
	}
	if len(w.reads) > 0 && w.chance(60) {
		w.readOne(w.rnd.IntN(len(w.reads)))
		return true
	}
	if len(w.histories) > 0 && w.chance(50) {
		w.historyOne(w.rnd.IntN(len(w.histories)))
		return true
	}
	if len(w.pubs) > 0 && w.chance(60) {
		w.appendOne()
		return true
	}
	if len(w.slow) > 0 && w.chance(30) {
		f := w.slow[0]
		w.slow = w.slow[1:]
		f()
		return true
	}
	if len(w.late) > 0 && w.chance(20) {
		w.append(w.late[0].msg)
		w.late = w.late[1:]
		return true
	}
	for _, i := range w.rnd.Perm(len(w.parts)) {
		if w.fed[i] < w.parts[i].next {
			w.feed(i)
			return true
		}
	}
	return false
}

func (w *world) idle() bool {
	for _, t := range w.targets {
		if len(t.writes) > 0 {
			return false
		}
	}
	for i, p := range w.parts {
		if w.fed[i] < p.next {
			return false
		}
	}
	return len(w.reads) == 0 && len(w.histories) == 0 && len(w.pubs) == 0 && len(w.slow) == 0
}

// calm ends a run: no more trouble, every client comes back and acknowledges what it gets, until nothing moves any more.
func (w *world) calm() {
	w.refuse, w.model.quiet = false, true
	for round := range 400 {
		for range 200_000 {
			if w.err != nil || w.idle() {
				break
			}
			w.io()
			if w.crashed {
				w.crash()
			}
		}
		busy := false
		for _, c := range w.clients {
			busy = w.serve(c) || busy
		}
		if w.err != nil || !busy && w.idle() && round > 300 {
			return
		}
		w.tick(500)
		if w.crashed {
			w.crash()
		}
	}
	w.fail("the world never comes to rest")
}

// serve lets a client do all it can.
func (w *world) serve(c *simClient) (busy bool) {
	if c.conn == nil {
		if c.session != nil || len(c.sent) > 0 {
			c.connectWith(&Connect{Key: c.key, Version: packet.V5, Expiry: 100_000, ReceiveMaximum: 100}, 1000)
			return true
		}
		return false
	}
	for c.conn != nil && c.conn.accepted && w.err == nil {
		switch {
		case c.present:
			c.resend()
		case len(c.conn.out) > 0:
			c.receive()
		case len(c.acks) > 0:
			c.ack(0)
		default:
			return busy
		}
		busy = true
	}
	return busy
}

func (w *world) run(steps int) {
	for range steps {
		if w.refuse = w.rnd.IntN(10) == 0 && w.serial > 5; w.err != nil {
			return
		}
		w.step()
		if w.crashed && w.err == nil {
			w.crash()
		}
	}
	w.calm()
	if w.err != nil {
		return
	}
	w.model.finish()
	st := w.core.Stats()
	if st.Behind != 0 || st.Inflight != 0 || st.QueueBytes != 0 || st.Replays != 0 {
		w.fail("not at rest: %+v", st)
	}
}

func runSeed(seed uint64) *world { return runWorld(newWorld(seed), seed) }

// runWavering is runSeed for what becomes of changes of mind whose writes are refused.
func runWavering(seed uint64) *world {
	w := newWorld(seed)
	w.wavering = true
	return runWorld(w, seed)
}

func runWorld(w *world, seed uint64) *world {
	w.run(100 + rand.New(rand.NewPCG(seed, 1)).IntN(400))
	return w
}

// TestModel drives a real core through random traffic, faults and crashes beside the reference model.
func TestModel(t *testing.T) {
	if all := testModel(t, runSeed); all.copies == 0 && tier.Soak() {
		t.Error("no message that retention took was open at QoS 2 and copied")
	}
}

// TestModelWavering does so with clients that subscribe to what they have just unsubscribed, while the log refuses many writes.
func TestModelWavering(t *testing.T) {
	if all := testModel(t, runWavering); all.fellBack < tier.N(2000)/10 {
		t.Errorf("only %d subscriptions came back", all.fellBack)
	}
}

// testModel runs seeds and adds up what was seen.
func testModel(t *testing.T, run func(seed uint64) *world) (all model) {
	t.Helper()
	counts := map[string]int{}
	for i := range tier.N(2000) {
		seed := tier.Seed() + uint64(i)
		w := run(seed)
		if w.err != nil {
			trace := w.trace
			if len(trace) > 120 && os.Getenv("MILLRACE_TRACE") == "" {
				trace = trace[len(trace)-120:]
			}
			t.Fatalf("seed %d: %v\n%s", seed, w.err, strings.Join(trace, "\n"))
		}
		all.copies += w.model.copies
		all.replayed += w.model.replayed
		all.shared += w.model.shared
		all.fellBack += w.model.fellBack
		for k, n := range w.counts {
			counts[k] += n
		}
	}
	t.Log(counts, all.copies, all.replayed, all.shared, all.fellBack)
	return all
}
