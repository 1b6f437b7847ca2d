package broker

import (
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/session"
)

// Flapping says who is banned for a while because of the way they connect. The zero Flapping bans nobody.
type Flapping struct {
	// Losses of one client (principal and client id) within Window ban it: connections that ended without DISCONNECT, or that the client
	// itself took over. Only who was authenticated is counted, and only as that principal banned: nobody has others banned by
	// knowing their client ids. 0: never.
	Losses int
	// Failures of one address (IPv6: of one /64) within Window ban it: losses, and connections that came to no session. 0: never, for many
	// clients may share an address.
	Failures int
	// Exempt are principals that are never banned so, nor their addresses because of them: bridges over bad links, say.
	Exempt map[string]bool
	Window time.Duration // default 1 min
	Ban    time.Duration // default 5 min
}

// loopTakeOvers within the window are a loop: two clients use the same id, or one comes back before its last connection is known to be lost.
const loopTakeOvers = 5

// flapping counts what has ended badly, for a window each, in two generations of bounded size: what is in neither has been quiet.
type flapping struct {
	o    Flapping
	seed maphash.Seed

	mu         sync.Mutex
	young, old map[uint64]lapses
	turned     time.Duration // when young began
}

// lapses are one client's or address's.
type lapses struct {
	since  time.Duration
	losses int32
	taken  int32
	named  bool // the loop was
}

const maxLapses = 1 << 16 // of one generation

func newFlapping(o Flapping) flapping {
	def(&o.Window, time.Minute)
	def(&o.Ban, 5*time.Minute)
	return flapping{o: o, seed: maphash.MakeSeed()}
}

// note counts one more end; counted is false where there is no room for another name.
func (f *flapping) note(now time.Duration, key uint64, taken bool) (l lapses, counted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now-f.turned >= f.o.Window || f.young == nil {
		if f.old = f.young; now-f.turned >= 2*f.o.Window {
			f.old = nil
		}
		f.young, f.turned = map[uint64]lapses{}, now
	}
	l, is := f.young[key]
	if !is {
		if len(f.young) >= maxLapses {
			return lapses{}, false
		}
		l = f.old[key]
	}
	if now-l.since >= f.o.Window {
		l = lapses{since: now}
	}
	l.losses++
	if taken {
		l.taken++
	}
	f.young[key] = l
	return l, true
}

// set remembers that a loop was named, or forgets all there was.
func (f *flapping) set(key uint64, l lapses) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.young[key] = l
}

// lost are the ends that a client has brought about.
var lost = map[string]bool{
	"connection_lost": true, "connection_closed_by_client": true, "session_taken_over": true, "keep_alive_timeout": true,
	"malformed_packet": true, "protocol_error": true, "write_failed": true,
}

// blameless are the ends of connections without a session that are no fault of who connected, or are a refusal already.
var blameless = map[string]bool{
	"banned": true, "half_open_limit": true, turnedAddressRate: true, "server_unavailable": true, "server_busy": true, "server_shutting_down": true,
	"use_another_server": true, "quota_exceeded": true, "client_disconnect": true, "panic": true,
}

// flaps is told of every connection that has ended.
func (b *Broker) flaps(k session.Key, from net.Addr, accepted bool, why string) {
	f := &b.flapping
	if accepted && !lost[why] || !accepted && blameless[why] {
		return
	}
	now := b.clock()
	if accepted {
		b.clientFlaps(now, k, from, why == "session_taken_over")
	}
	where := network(from)
	if accepted && f.o.Exempt[k.Principal] || f.o.Failures == 0 || !where.IsValid() {
		return
	}
	if l, counted := f.note(now, maphash.Comparable(f.seed, where), false); counted && int(l.losses) >= f.o.Failures {
		f.set(maphash.Comparable(f.seed, where), lapses{since: now})
		b.banFlapping(Ban{Network: where}, "an address is banned for a while: its connections fail again and again")
	}
}

func (b *Broker) clientFlaps(now time.Duration, k session.Key, from net.Addr, taken bool) {
	f := &b.flapping
	if f.o.Losses == 0 && !taken {
		return
	}
	key := maphash.Comparable(f.seed, k)
	l, counted := f.note(now, key, taken)
	if !counted {
		b.stats.loops.add(loopUncounted, 1)
		return
	}
	if l.taken == loopTakeOvers && !l.named {
		l.named = true
		f.set(key, l)
		b.stats.loops.add(loopTakeOver, 1)
		b.samples.warn("a client id is taken over again and again: two clients use it, or its connections are lost without a word",
			"client", k.ClientID, "principal", k.Principal, "peer", from)
	}
	if f.o.Exempt[k.Principal] {
		b.stats.loops.add(loopExempt, 1)
		return
	}
	if f.o.Losses > 0 && int(l.losses) >= f.o.Losses {
		f.set(key, lapses{since: now, named: l.named})
		b.banFlapping(Ban{Client: k.ClientID, Principal: k.Principal}, "a client is banned for a while: it loses its connections again and again")
	}
}

// What of flapping is counted.
const (
	loopTakeOver  = "take_over_loop"
	loopUncounted = "not_counted"
	loopBanned    = "banned"
	loopNotBanned = "ban_list_full"
	loopExempt    = "exempt" // losses that were not counted against anybody
)

// ByFlapping is who bans when nobody did.
const ByFlapping = "flapping"

func (b *Broker) banFlapping(x Ban, text string) {
	now := b.o.Now()
	x.Since, x.Until, x.Reason, x.By = now, now.Add(b.flapping.o.Ban), "its connections end badly again and again", ByFlapping
	if err := b.Ban(x); err != nil {
		b.stats.loops.add(loopNotBanned, 1)
		return
	}
	b.stats.loops.add(loopBanned, 1)
	args := []any{"client", x.Client, "principal", x.Principal}
	if x.Network != (netip.Prefix{}) {
		args = []any{"network", x.Network}
	}
	b.samples.warn(text, append(args, "until", x.Until)...)
}
