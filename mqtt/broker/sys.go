package broker

import (
	"math"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// sysPrefix is what the topics begin with that the broker itself publishes: under Mosquitto's names, and of the same counters as Stats.
// They are messages of effective QoS 0 that no log has. Who subscribes gets the values of now as if they were retained, then what changes.
const sysPrefix = "$SYS/"

// sysRun computes the values at every interval, until the broker closes.
func (b *Broker) sysRun() {
	every := b.o.SysInterval
	timer := time.NewTicker(every)
	defer timer.Stop()
	var l loads
	for {
		b.publishSys(&l, every)
		select {
		case <-timer.C:
		case <-b.quit:
			return
		}
	}
}

// publishSys makes the values of now those of new subscribers, and gives what has changed to the others.
func (b *Broker) publishSys(l *loads, every time.Duration) {
	now, s := b.o.Now(), b.Stats()
	b.mostConnected = max(b.mostConnected, int64(s.Session.Connected))
	l.step(&s, every)
	var list, changed []session.Message
	old := map[string]string{}
	if was := b.sys.Load(); was != nil {
		for i := range *was {
			old[(*was)[i].Topic] = string((*was)[i].Payload)
		}
	}
	for _, v := range b.sysValues(now, &s, l) {
		m := session.Message{Offset: -1, Time: now.UnixMilli(), Topic: sysPrefix + "broker/" + v.name, Payload: []byte(v.value), Retain: true}
		list = append(list, m)
		if was, there := old[m.Topic]; !there || was != v.value {
			changed = append(changed, m)
		}
	}
	b.sys.Store(&list)
	o := b.owner.Load()
	o.post(func(now int64) {
		for i := range changed {
			o.encoder.forget()
			o.core.Unlogged(now, &changed[i])
		}
	})
}

type sysValue struct{ name, value string }

// sysValues are the topics below $SYS/broker/.
func (b *Broker) sysValues(now time.Time, s *Stats, l *loads) []sysValue {
	var list []sysValue
	add := func(name string, n int64) { list = append(list, sysValue{name, strconv.FormatInt(n, 10)}) }
	list = append(list, sysValue{"version", "millrace version " + b.o.Version},
		sysValue{"uptime", strconv.FormatInt(int64(now.Sub(b.began).Seconds()), 10) + " seconds"})
	away := int64(s.Session.Sessions - s.Session.Connected)
	add("clients/connected", int64(s.Session.Connected))
	add("clients/active", int64(s.Session.Connected)) // as older programs know it
	add("clients/disconnected", away)
	add("clients/inactive", away)
	add("clients/total", int64(s.Session.Sessions))
	add("clients/maximum", b.mostConnected)
	add("clients/expired", s.Expired)
	add("messages/received", s.PacketsIn)
	add("messages/sent", s.PacketsOut)
	add("publish/messages/received", s.published())
	add("publish/messages/sent", s.sent())
	add("publish/messages/dropped", s.droppedInAll())
	add("bytes/received", s.ReceivedIn)
	add("bytes/sent", s.SentOut)
	add("subscriptions/count", int64(s.Session.Subscriptions))
	add("retained messages/count", int64(s.Session.Retained))
	add("heap/current", heapBytes())
	for i, name := range loadNames {
		for j, span := range []string{"1min", "5min", "15min"} {
			list = append(list, sysValue{"load/" + name + "/" + span, strconv.FormatFloat(l.mean[i][j], 'f', 2, 64)})
		}
	}
	return list
}

func (s *Stats) published() int64 { return s.Received[0] + s.Received[1] + s.Received[2] }
func (s *Stats) sent() int64      { return s.Delivered[0] + s.Delivered[1] + s.Delivered[2] }

func (s *Stats) droppedInAll() (n int64) {
	for _, k := range s.Dropped {
		n += k
	}
	return n
}

// heapBytes is the memory of live and not yet collected objects.
func heapBytes() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// loads are means per minute over the last 1, 5 and 15 minutes, each weighing the past less the longer ago it is, as Mosquitto reckons.
type loads struct {
	last [len(loadNames)]int64
	mean [len(loadNames)][3]float64
	any  bool
}

var loadNames = [...]string{
	"messages/received", "messages/sent", "publish/received", "publish/sent", "publish/dropped", "bytes/received", "bytes/sent", "sockets", "connections",
}

func (l *loads) step(s *Stats, every time.Duration) {
	now := [len(loadNames)]int64{
		s.PacketsIn, s.PacketsOut, s.published(), s.sent(), s.droppedInAll(), s.ReceivedIn, s.SentOut, s.Accepted, s.Connects,
	}
	if l.any {
		for i := range now {
			perMinute := float64(now[i]-l.last[i]) / every.Minutes()
			for j, minutes := range []float64{1, 5, 15} {
				l.mean[i][j] = perMinute + math.Exp(-every.Minutes()/minutes)*(l.mean[i][j]-perMinute)
			}
		}
	}
	l.last, l.any = now, true
}

// maxSysFilters is how many filters of one SUBSCRIBE get the values of now.
const maxSysFilters = 64

// sysWanted notes which filters of a SUBSCRIBE are owed the values of now, once it is answered. The owner's.
func (o *owner) sysWanted(c *conn, s *packet.Subscribe) {
	if o.b.sys.Load() == nil {
		return
	}
	var wanted []sysFilter
	for i, f := range s.Filters {
		if len(wanted) == maxSysFilters {
			break
		}
		if f.Refused != 0 || !strings.HasPrefix(f.Filter, "$SYS") || f.RetainHandling == 2 || f.RetainHandling == 1 && o.core.Subscribed(c, f.Filter) {
			continue
		}
		w := sysFilter{at: i, filter: f.Filter}
		if len(s.Props.SubscriptionIDs) > 0 {
			w.id = s.Props.SubscriptionIDs[0]
		}
		wanted = append(wanted, w)
	}
	if wanted != nil {
		o.sysOwed[sysAsked{c, s.PacketID}] = wanted
	}
}

// sysAsked is a SUBSCRIBE that is not answered yet.
type sysAsked struct {
	c  *conn
	id uint16
}

// sysFilter is the filter at a place of a SUBSCRIBE.
type sysFilter struct {
	at     int
	filter string
	id     uint32
}

// sysNow gives a client the values that it has just subscribed to. The owner's.
func (o *owner) sysNow(c *conn, s *packet.Suback) {
	wanted, ok := o.sysOwed[sysAsked{c, s.PacketID}]
	if !ok || s.Kind != packet.SUBACK {
		return
	}
	delete(o.sysOwed, sysAsked{c, s.PacketID})
	wanted = slices.DeleteFunc(wanted, func(w sysFilter) bool { return w.at >= len(s.Codes) || s.Codes[w.at].Failed() })
	values := o.b.sys.Load()
	if len(wanted) == 0 || values == nil {
		return
	}
	o.encoder.forget()
	for i := range *values {
		m := &(*values)[i]
		at := slices.IndexFunc(wanted, func(w sysFilter) bool { return topic.Match(w.filter, m.Topic) })
		if at < 0 || !o.b.o.allowed(c.key, Receive, m.Topic) {
			continue
		}
		d := session.Delivery{Msg: m, Retain: true}
		if id := wanted[at].id; id != 0 {
			d.SubIDs = []uint32{id}
		}
		c.Deliver(&d)
	}
}

// Sys returns the values of now by topic; empty: none are published.
func (b *Broker) Sys() map[string]string {
	values := map[string]string{}
	if list := b.sys.Load(); list != nil {
		for i := range *list {
			values[(*list)[i].Topic] = string((*list)[i].Payload)
		}
	}
	return values
}
