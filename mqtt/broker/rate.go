package broker

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Rate lets so many per second through, and after a pause Burst at once. The zero Rate means the default, a negative one no limit.
type Rate struct {
	PerSecond float64
	Burst     float64 // default: what a second brings, at least 1
}

// Rates are the rates of a listener and its clients.
type Rates struct {
	// Messages and Bytes are of one client: its PUBLISHes, and all that it sends. A client that is ahead is not read until it is not.
	Messages, Bytes Rate
	// Connects is of one listener: beyond it connections wait, and those that would wait for more than 10 s are closed.
	Connects Rate
	// ConnectsPerIP is of one address (IPv6: of one /64): what is beyond is closed before TLS, and takes nothing from the others.
	ConnectsPerIP Rate
}

// limit is a Rate made ready. The zero limit lets everything through.
type limit struct {
	each  float64       // nanoseconds
	slack time.Duration // of the burst
}

func (r Rate) limit() limit {
	if r.PerSecond <= 0 {
		return limit{}
	}
	burst := r.Burst
	if burst <= 0 {
		burst = max(1, r.PerSecond)
	}
	each := float64(time.Second) / r.PerSecond
	return limit{each: each, slack: time.Duration(burst * each)}
}

func (l *limit) none() bool { return l.each == 0 }

// bucket is when all that was taken will have been made up for, on the broker's clock. It is a token bucket in one word.
type bucket time.Duration

// take takes n, whatever is left, and returns how long to wait before taking more.
func (k *bucket) take(l *limit, now time.Duration, n int) time.Duration {
	at := max(time.Duration(*k), now) + time.Duration(float64(n)*l.each)
	*k = bucket(at)
	return at - now - l.slack
}

// later is how long one more would have to wait for its turn.
func (k *bucket) later(l *limit, now time.Duration) time.Duration {
	return max(time.Duration(*k)-now+time.Duration(l.each)-l.slack, 0)
}

// flow is what one client has taken; clients have one only where there is something to keep to.
type flow struct{ messages, bytes bucket }

// limitedRead is the most that a read brings of a client that may have to wait: what was read and is not its turn yet is kept.
const limitedRead = 4 << 10

// charge counts a packet of n bytes, and holds the client back once it is ahead of its rates.
func (c *conn) charge(s *burst, p packet.Packet, n int) {
	s.stamp(c.b)
	r := &c.lis.rates
	if !r.bytes.none() {
		if wait := c.flow.bytes.take(&r.bytes, s.clock, n); wait > 0 {
			s.hold, s.why = wait, pausedBytes
		}
	}
	if _, is := p.(*packet.Publish); is && !r.messages.none() {
		if wait := c.flow.messages.take(&r.messages, s.clock, 1); wait > s.hold {
			s.hold, s.why = wait, pausedMessages
		}
	}
}

// rates are a listener's.
type rates struct {
	messages, bytes     limit // of each client
	connects, addresses limit // of all, of one address
	next                bucket
	byAddress           *addressRates
}

func newRates(l *Rates) rates {
	r := rates{messages: l.Messages.limit(), bytes: l.Bytes.limit(), connects: l.Connects.limit(), addresses: l.ConnectsPerIP.limit()}
	if !r.addresses.none() {
		r.byAddress = &addressRates{seed: maphash.MakeSeed()}
	}
	return r
}

// flows tells whether clients are counted.
func (r *rates) flows() bool { return !r.messages.none() || !r.bytes.none() }

// maxTurn is the longest that a connection waits for its turn. What would wait longer is closed at once: clients that give up and
// come again must not find their own leftovers before them.
const maxTurn = 10 * time.Second

// turn gives a new connection its place in the row; false: the row is too long. The accept loop's.
func (r *rates) turn(now time.Duration) (wait time.Duration, ok bool) {
	if r.connects.none() {
		return 0, true
	}
	if r.next.later(&r.connects, now) > maxTurn {
		return 0, false
	}
	wait = r.next.later(&r.connects, now)
	r.next.take(&r.connects, now, 1)
	return wait, true
}

// addressRates count what each address does, in memory that does not grow: addresses that hash alike share a count.
type addressRates struct {
	seed    maphash.Seed
	mu      sync.Mutex
	buckets [1 << 14]bucket
}

// admits tells whether an address may connect now. Who may not is not counted, so that patience is of use.
func (a *addressRates) admits(l *limit, now time.Duration, from netip.Prefix) bool {
	if a == nil || !from.IsValid() {
		return true
	}
	at := maphash.Comparable(a.seed, from) % uint64(len(a.buckets))
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.buckets[at].later(l, now) > 0 {
		return false
	}
	a.buckets[at].take(l, now, 1)
	return true
}
