package bridge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// limits are what the remote takes; it says so at each connection.
type limits struct {
	qos    byte
	retain bool
	packet int // bytes; 0: no bound
}

// refusal is the error of an answer that is a failure.
func refusal(what string, code packet.Code) error {
	return fmt.Errorf("%q: %w", what, &client.Refused{Code: code})
}

// run keeps the bridge connected until ctx is done.
func (b *bridge) run(ctx context.Context) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		b.condition.set(Connecting, b.set.o.Now())
		began := b.set.o.Now()
		err := b.connect(ctx)
		if err == nil {
			b.condition.set(Connected, b.set.o.Now())
			b.log.Info("the bridge is connected", "remote", b.spec.Remote)
			acked := b.counters.acked.Load()
			select {
			case <-b.mqtt.Done():
			case <-ctx.Done():
				return
			}
			b.offline()
			err = b.mqtt.Err()
			progress := b.counters.acked.Load() > acked
			b.suspect(err, progress)
			if progress || b.set.o.Now().Sub(began) > b.spec.RetryMax {
				pause = 0
			}
		}
		if ctx.Err() != nil {
			return
		}
		b.failed("connection to the remote", err)
		pause = b.jittered(pause)
		b.condition.set(Waiting, b.set.o.Now())
		select {
		case <-time.After(max(pause, b.hold(b.set.o.Now()))):
		case <-ctx.Done():
		}
	}
}

// jittered is the next pause between two attempts: between the shortest and three times the last, at most the longest.
func (b *bridge) jittered(last time.Duration) time.Duration {
	lo, hi := b.spec.RetryMin, max(3*last, b.spec.RetryMin)
	return min(lo+time.Duration(b.set.o.Random()*float64(hi-lo)), b.spec.RetryMax)
}

// note remembers that a connection was made.
func (b *bridge) note(now time.Time) {
	if len(b.made) == b.spec.PerMinute {
		b.made = slices.Delete(b.made, 0, 1)
	}
	b.made = append(b.made, now)
}

// hold is how long the next connection has to wait so that no minute has more than there may be. With it, bridges that were cut off together
// do not come back together.
func (b *bridge) hold(now time.Time) time.Duration {
	if len(b.made) < b.spec.PerMinute {
		return 0
	}
	left := time.Minute - now.Sub(b.made[0])
	if left <= 0 {
		return 0
	}
	return min(left, time.Minute) + time.Duration(b.set.o.Random()*float64(b.spec.RetryMin))
}

// connect makes a connection, subscribes, and lets the sender go on.
func (b *bridge) connect(ctx context.Context) error {
	ack, err := b.mqtt.Connect(ctx)
	if err != nil {
		b.tryPlain(err)
		return err
	}
	b.note(b.set.o.Now()) // also one that ends before it is of use
	l := limits{qos: 2, retain: true}
	if p := &ack.Props; b.spec.Version == packet.V5 {
		if p.Has&packet.PMaximumQoS != 0 {
			l.qos = p.MaximumQoS
		}
		l.retain = p.Has&packet.PRetainAvailable == 0 || p.RetainAvailable != 0
		l.packet = int(p.MaximumPacket)
	}
	ctx, cancel := context.WithTimeout(ctx, b.spec.Patience)
	defer cancel()
	if err = b.subscribe(ctx, ack.SessionPresent); err != nil {
		b.mqtt.Drop()
		<-b.mqtt.Done()
		return err
	}
	b.announce(ctx, "1")
	b.mu.Lock()
	b.limits = l
	close(b.up)
	b.mu.Unlock()
	return nil
}

// tryPlain gives up saying that this is a bridge to a remote that answers that it does not know such a level. A connection that only
// ends says nothing: without the level, what the bridge publishes would come back to it.
func (b *bridge) tryPlain(err error) {
	refused, ok := errors.AsType[*client.Refused](err)
	if ok && refused.Code == packet.UnsupportedProtocolVersion && b.private.CompareAndSwap(true, false) {
		b.log.Warn("the remote does not know the protocol level of bridges; what this one publishes may come back once", "remote", b.spec.Remote)
	}
}

// online waits for a connection, and says what the remote takes.
func (b *bridge) online(ctx context.Context) (limits, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		up := b.up
		select {
		case <-up:
			return b.limits, true
		default:
		}
		b.mu.Unlock()
		select {
		case <-up:
		case <-ctx.Done():
		}
		b.mu.Lock()
		if ctx.Err() != nil {
			return limits{}, false
		}
	}
}

func (b *bridge) offline() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.up = make(chan struct{})
}

// subscribe asks for what comes in, and ends what is not wanted any more.
func (b *bridge) subscribe(ctx context.Context, present bool) error {
	var filters []packet.Filter
	var names []string
	for i := range b.spec.In {
		t := &b.spec.In[i]
		filters = append(filters, packet.Filter{Filter: t.RemoteFilter(), QoS: t.QoS, NoLocal: true, RetainAsPublished: true, RetainHandling: 1})
		names = append(names, t.RemoteFilter())
	}
	old := b.setSubscribed(names)
	if old = slices.DeleteFunc(old, func(f string) bool { return slices.Contains(names, f) }); present && len(old) > 0 {
		if _, err := b.mqtt.Unsubscribe(ctx, old...); err != nil {
			return fmt.Errorf("unsubscribe: %w", err)
		}
	}
	if len(filters) == 0 {
		return nil
	}
	codes, err := b.mqtt.Subscribe(ctx, filters...)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for i, code := range codes {
		if code.Failed() && i < len(names) {
			b.failed("subscribe at the remote", refusal(names[i], code))
		}
	}
	return nil
}

// announce publishes the bridge's state at the remote, where that is wanted.
func (b *bridge) announce(ctx context.Context, state string) {
	if b.spec.StateTopic == "" {
		return
	}
	p := &packet.Publish{Topic: []byte(b.spec.StateTopic), Payload: []byte(state), Retain: true}
	if err := b.mqtt.Publish(ctx, p, nil); err != nil && ctx.Err() == nil {
		b.failed("publish the state of the bridge", err)
	}
}

// prepare completes a CONNECT.
func (b *bridge) prepare(c *packet.Connect) error {
	c.Bridge = b.private.Load()
	if b.spec.Password == nil {
		return nil
	}
	password, err := b.spec.Password()
	if err != nil {
		return fmt.Errorf("password of the bridge: %w", err)
	}
	c.HasPass, c.Password = true, password
	return nil
}

// greeting is the CONNECT of the bridge.
func (b *bridge) greeting() packet.Connect {
	s := &b.spec
	c := packet.Connect{Version: s.Version, CleanStart: s.CleanStart, ClientID: s.ClientID, HasUser: s.Username != "", Username: s.Username,
		KeepAlive: uint16(min(s.KeepAlive/time.Second, math.MaxUint16))}
	if s.Version == packet.V5 {
		c.Props.Has = packet.PReceiveMaximum
		c.Props.ReceiveMaximum = receiveMaximum
		if s.MaxPacket > 0 {
			c.Props.Has |= packet.PMaximumPacket
			c.Props.MaximumPacket = uint32(s.MaxPacket)
		}
		if !s.CleanStart {
			c.Props.Has |= packet.PSessionExpiry
			c.Props.SessionExpiry = math.MaxUint32
		}
	}
	if s.StateTopic != "" {
		c.Will = &packet.Will{QoS: 1, Retain: true, Topic: s.StateTopic, Payload: []byte("0")}
	}
	return c
}

// receiveMaximum is how many messages of the remote may be on their way into the log at once.
const receiveMaximum = 256

// minPatience is the least time that an answer may take; a remote that hangs is found after one to two of them.
const minPatience = 2 * time.Second

// A remote may end the connection because of one message, rather than refuse it, and would for ever. Suspicion falls on the oldest one
// after some connections without progress: from then on one message is sent at a time, and the one that ends the connection again and
// again is given up.
const (
	suspectAfter = 2  // connections without progress
	giveUpAfter  = 4  // of one message alone, where the remote says that it is a packet's fault
	silentAfter  = 12 // where it says nothing, and for Options.GiveUpAfter at least
)

// suspect draws conclusions from the end of a connection.
func (b *bridge) suspect(err error, progress bool) {
	f := b.books.oldest()
	if progress || f == nil || errors.Is(err, client.ErrSilent) {
		b.barren, b.alone, b.suspected = 0, 0, nil
		b.quota.Store(int64(b.spec.Window))
		return
	}
	if b.barren++; b.barren < suspectAfter {
		return
	}
	b.quota.Store(1)
	if f != b.suspected {
		b.suspected, b.alone, b.aloneSince = f, 0, b.set.o.Now()
		return
	}
	b.alone++
	refused, told := errors.AsType[*client.Refused](err)
	if told && b.alone >= giveUpAfter && blames(refused.Code) || b.alone >= silentAfter && b.set.o.Now().Sub(b.aloneSince) >= b.set.o.GiveUpAfter {
		b.giveUp(f, err)
	}
}

// blames tells whether a DISCONNECT's code is about a packet.
func blames(c packet.Code) bool {
	switch c {
	case packet.MalformedPacket, packet.ProtocolError, packet.ImplementationSpecificError, packet.NotAuthorized, packet.TopicNameInvalid,
		packet.PacketTooLarge, packet.QuotaExceeded, packet.PayloadFormatInvalid, packet.RetainNotSupported, packet.QoSNotSupported:
		return true
	}
	return false
}

func (b *bridge) giveUp(f *flight, err error) {
	b.log.Error("a message is given up: the remote ends the connection whenever it is sent", "remote", b.spec.Remote, "offset", f.offset, "err", err)
	b.mqtt.GiveUp(b.books.wire(f))
	b.counters.drop(DropPoison, 1)
	b.books.finish(f)
	b.barren, b.alone, b.suspected = 0, 0, nil
	b.quota.Store(int64(b.spec.Window))
}
