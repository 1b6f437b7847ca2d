package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/broker"
)

// bansTopic keeps who is banned across restarts; see docs/formats/bans.md.
const bansTopic = eventlog.InternalPrefix + "bans"

// banBook writes down each ban that begins or ends. The broker does not wait for it: what a crash cuts off is the last moment's.
type banBook struct {
	log   *eventlog.Log
	part  eventlog.Part
	now   func() int64
	bans  []broker.Ban // as they were read
	wake  chan struct{}
	quit  chan struct{}
	ended chan struct{}
	said  func(error)

	next int64 // where reading ended

	mu      sync.Mutex
	settled sync.Cond // something is not pending any more, or the book is closed
	follows bool      // other nodes write here too
	closing bool
	wrote   map[banKey]int64   // the last record of ours that following has not come to
	pending map[banKey]banWord // as many at most as there are bans, and were since the last write
	order   []banKey
}

// banKey is a record's key.
type banKey struct {
	Client    string `json:"client,omitempty"`
	Principal string `json:"principal,omitempty"`
	Network   string `json:"network,omitempty"`
}

// banWord is what a record says of a key: who is banned until when, or, without a ban, that it has ended. With over it says no more than that the one
// which ended then need not be remembered: where several nodes write, another one may have come before that record, which the writer did not know of.
type banWord struct {
	ban  *broker.Ban
	over time.Time
}

// touches tells whether a record without a ban is about one.
func (w *banWord) touches(x *broker.Ban) bool {
	return w.over.IsZero() || !x.Until.IsZero() && !x.Until.After(w.over)
}

// banValue is a record's value.
type banValue struct {
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
}

func keyOf(b *broker.Ban) banKey {
	k := banKey{Client: b.Client, Principal: b.Principal}
	if b.Network.IsValid() {
		k.Network = b.Network.String()
	}
	return k
}

// ban is the way back; false: it is no ban.
func (k *banKey) ban(v *banValue) (b broker.Ban, ok bool) {
	b = broker.Ban{Client: k.Client, Principal: k.Principal, Since: v.Since, Until: v.Until, Reason: v.Reason, By: v.By}
	if k.Network != "" {
		p, err := netip.ParsePrefix(k.Network)
		if err != nil {
			return b, false
		}
		b.Network = p
	}
	return b, *k != banKey{}
}

// openBans reads who is banned, and begins to write down what changes.
func (n *Node) openBans(ctx context.Context) error {
	t, err := n.log.Ensure(ctx, eventlog.TopicSpec{Name: bansTopic, Partitions: 1, Config: map[string]string{"cleanup.policy": "compact"}})
	if err != nil {
		return fmt.Errorf("topic %q: %w", bansTopic, err)
	}
	b := &banBook{log: n.log, part: eventlog.Part{Topic: t.ID}, now: n.now, pending: map[banKey]banWord{},
		wrote: map[banKey]int64{}, wake: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{})}
	b.said = func(err error) {
		n.o.Logger.Error("a ban cannot be written down; it is in force, and would be forgotten at a restart", "part", "bans", "err", err)
	}
	if err := b.read(ctx); err != nil {
		return fmt.Errorf("read topic %q: %w", bansTopic, err)
	}
	n.bans = b
	go b.run()
	return nil
}

// closeBans writes what is left to write.
func (n *Node) closeBans(ctx context.Context) error {
	close(n.bans.quit)
	<-n.bans.ended
	if err := n.bans.write(ctx); err != nil {
		return fmt.Errorf("topic %q: %w", bansTopic, err)
	}
	return nil
}

// read finds the last word on everybody. What has run out meanwhile is written off.
func (b *banBook) read(ctx context.Context) error {
	starts, err := b.log.Starts(ctx, b.part.Topic)
	if err != nil {
		return err
	}
	ends, err := b.log.Ends(ctx, b.part.Topic)
	if err != nil {
		return err
	}
	last := map[banKey]lastBan{}
	for pos := (eventlog.Position{Part: b.part, Offset: starts[0]}); pos.Offset < ends[0]; {
		batches, next, err := b.log.Read(ctx, pos, 1<<20)
		var low *eventlog.OutOfRangeError
		if errors.As(err, &low) && pos.Offset < low.Start {
			pos.Offset = low.Start
			continue
		}
		if err != nil {
			return err
		}
		for _, batch := range batches {
			err := batch.Each(func(r *eventlog.Record) error {
				if r.Offset >= pos.Offset {
					learnBan(last, r)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		pos.Offset = next
	}
	b.next = ends[0]
	for k, x := range last {
		switch {
		case b.isOver(&x.Ban):
			b.note(k, banWord{over: x.Until})
			continue
		case x.hidden:
			b.note(k, banWord{ban: &x.Ban})
		}
		b.bans = append(b.bans, x.Ban)
	}
	slices.SortFunc(b.bans, func(x, y broker.Ban) int { return x.Since.Compare(y.Since) })
	return nil
}

// lastBan is the last word on somebody, as it is read. hidden: a record after it said that one before it was over, and must not be the last.
type lastBan struct {
	broker.Ban
	hidden bool
}

// learnBan takes in a record.
func learnBan(last map[banKey]lastBan, r *eventlog.Record) {
	k, w, ok := decodeBan(r)
	x, there := last[k]
	switch {
	case !ok:
	case w.ban != nil:
		last[k] = lastBan{Ban: *w.ban}
	case there && !w.touches(&x.Ban):
		last[k] = lastBan{x.Ban, true}
	default:
		delete(last, k)
	}
}

// banOver is the header of a record without a value that says which ban is over, by the time of its end.
const banOver = "over"

// decodeBan reads a record. One that is no ban of ours is not ok: the topic may be on somebody's cluster.
func decodeBan(r *eventlog.Record) (k banKey, w banWord, ok bool) {
	if json.Unmarshal(r.Key, &k) != nil {
		return k, w, false
	}
	var v banValue
	if r.Value != nil && json.Unmarshal(r.Value, &v) != nil {
		return k, w, false
	}
	b, ok := k.ban(&v)
	if r.Value != nil {
		return k, banWord{ban: &b}, ok
	}
	for _, h := range r.Headers {
		if h.Key != banOver {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, string(h.Value))
		if err != nil {
			return k, w, false
		}
		w.over = t
	}
	return k, w, ok
}

// told is Options.OnBan of the broker. That a ban has run out every node knows by itself, and where there are others it is not written: one of them may have
// banned the same one again, and a record of ours after that would lift it. The next start writes it off.
func (b *banBook) told(x broker.Ban, begins bool) {
	switch {
	case begins:
		b.note(keyOf(&x), banWord{ban: &x})
	case b.hasOthers() && b.isOver(&x):
	default:
		b.note(keyOf(&x), banWord{})
	}
}

// hasOthers tells whether other nodes write here too.
func (b *banBook) hasOthers() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.follows
}

func (b *banBook) isOver(x *broker.Ban) bool {
	return !x.Until.IsZero() && x.Until.UnixMilli() <= b.now()
}

func (b *banBook) note(k banKey, w banWord) {
	b.mu.Lock()
	if _, waits := b.pending[k]; !waits {
		b.order = append(b.order, k)
	}
	b.pending[k] = w
	b.mu.Unlock()
	b.again()
}

// repeat is note for a ban that was found in force while a record was heard, unless we have said something of it since: that comes to be heard itself.
func (b *banBook) repeat(k banKey, x broker.Ban) {
	b.mu.Lock()
	_, waits := b.pending[k]
	_, wrote := b.wrote[k]
	if !waits && !wrote {
		b.order, b.pending[k] = append(b.order, k), banWord{ban: &x}
	}
	b.mu.Unlock()
	b.again()
}

// again has the writer look.
func (b *banBook) again() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

const banPatience = 30 * time.Second // with the log, before it is said

func (b *banBook) run() {
	defer close(b.ended)
	for {
		select {
		case <-b.wake:
		case <-b.quit:
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), banPatience)
		err := b.write(ctx)
		cancel()
		if err == nil {
			continue
		}
		b.said(err)
		select {
		case <-time.After(banPatience):
			b.again()
		case <-b.quit:
			return
		}
	}
}

// write appends what is pending. What failed stays pending: a record that is there twice says the same.
func (b *banBook) write(ctx context.Context) error {
	for {
		b.mu.Lock()
		batch := slices.Clone(b.order[:min(len(b.order), banBatch)])
		changed := map[banKey]banWord{}
		bl := eventlog.Builder{}
		for _, k := range batch {
			changed[k] = b.pending[k]
			key, value, headers := encodeBan(k, b.pending[k])
			bl.Add(b.now(), key, value, headers)
		}
		b.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		x, _, err := bl.Batch(b.part, eventlog.None)
		if err != nil {
			return fmt.Errorf("encode bans: %w", err)
		}
		o, err := b.log.AppendWait(ctx, x)
		at := map[banKey]int64{}
		for i, k := range batch {
			r := o.At(i)
			if r.Err != nil {
				delete(changed, k)
				err = r.Err
				continue
			}
			if changed[k].over.IsZero() {
				at[k] = r.Offset
			}
		}
		b.settle(changed, at)
		if err != nil {
			return fmt.Errorf("append bans: %w", err)
		}
	}
}

const banBatch = 500 // records of one append

// settle forgets what is written, unless it has changed since, and notes where.
func (b *banBook) settle(changed map[banKey]banWord, at map[banKey]int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.follows {
		maps.Copy(b.wrote, at)
	}
	b.settled.Broadcast()
	b.order = slices.DeleteFunc(b.order, func(k banKey) bool {
		w, was := changed[k]
		if !was || b.pending[k] != w {
			return false
		}
		delete(b.pending, k)
		return true
	})
}

func encodeBan(k banKey, w banWord) (key, value []byte, headers []eventlog.Header) {
	key, _ = json.Marshal(k) // texts always have JSON
	if x := w.ban; x != nil {
		value, _ = json.Marshal(banValue{x.Since, x.Until, x.Reason, x.By})
	} else if !w.over.IsZero() {
		headers = []eventlog.Header{{Key: banOver, Value: []byte(w.over.Format(time.RFC3339Nano))}}
	}
	return key, value, headers
}
