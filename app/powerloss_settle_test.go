package app

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/sim"
)

// again is a message that came n times on one connection.
type again struct {
	who string
	s   *sending
	n   int
}

func (w *world) twice(who string, s *sending, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.again = append(w.again, again{who, s, n})
}

// settle is the last life: everybody comes back, what is owed is delivered, and the books are closed.
func (w *world) settle(l *life) {
	w.settled = true
	rng := w.fork()
	if w.cluster == nil {
		w.committer.check(l)
	}
	for _, p := range w.publishers {
		if !p.connect(l) {
			return
		}
		p.drain(l)
	}
	if w.cluster == nil {
		w.producer.settle(l)
	}
	for _, x := range w.wills {
		if x.owed() {
			w.ledger.Acked(x.s.ref, packet.Success)
			met.wills.Add(1)
		}
	}
	slices.SortFunc(w.watchers, func(a, b *watcher) int { return rng.IntN(3) - 1 })
	for _, x := range w.watchers {
		if !x.online(l) {
			return
		}
	}
	w.checkRetained(l)
	w.last(l)
	for _, x := range w.watchers {
		var rep sim.Report
		if !w.until(l, x.name+" has got everything", func() bool { rep = x.reader.Report(); return rep.Missing == 0 }) {
			w.wrong("%s", &rep)
		}
	}
	w.until(l, "every will that is owed is in the log", func() bool { return w.fired(l) })
	log := w.readLog(l)
	w.audit(log)
	if w.cluster == nil {
		w.reader.check(l)
	}
}

// fired tells whether every will that is owed is in the log. Nobody may be subscribed who was owed it.
func (w *world) fired(l *life) bool {
	ctx := context.Background()
	t, err := l.node.log.Topic(ctx, route.CatchAllTopic)
	if err != nil {
		w.wrong("%w", err)
		return true
	}
	in := map[*sending]bool{}
	for i := range t.Partitions {
		if err := w.readPartition(ctx, l, t, i, func(r *eventlog.Record) { in[w.find(&packet.Publish{Payload: r.Value})] = true }); err != nil {
			w.wrong("read %s/%d: %w", t.Name, i, err)
			return true
		}
	}
	return !slices.ContainsFunc(w.wills, func(x *willing) bool { return x.owed() && !in[x.s] })
}

// last sends one more message to every subscription, behind all others of its partition: what should not come comes before it.
func (w *world) last(l *life) {
	ctx, cancel := context.WithTimeout(context.Background(), w.patience)
	defer cancel()
	for _, p := range w.publishers {
		for _, name := range []string{"fleet/v0/telemetry", "fleet/v1/telemetry", "fleet/v2/telemetry", "fleet/v3/telemetry", "cmd/v0", "cmd/v1",
			"misc/" + p.name + "/0", "state/last/" + p.name, "will/0"} {
			m := &packet.Publish{Topic: []byte(name), QoS: 2}
			s := w.send(p.name, m, 0, false)
			if err := p.c.Publish(ctx, m, func(code packet.Code) { w.acked(s, code) }); err != nil {
				w.wrong("%s publishes at last: %w", p.name, err)
			}
		}
		p.drain(l)
	}
}

// readLog reads every record of every topic, as whoever replays it does, and holds the ledger against it.
func (w *world) readLog(l *life) *sim.Reader {
	reader := w.ledger.Reader("the log", "#", 2).All()
	ctx, cancel := context.WithTimeout(context.Background(), w.patience)
	defer cancel()
	topics, err := l.node.log.Topics(ctx)
	if err != nil {
		w.wrong("list topics: %w", err)
	}
	for _, t := range topics {
		if t.Name == eventlog.InternalPrefix+"sessions" && w.cluster == nil {
			w.countCompacted(ctx, l, t)
		}
		if strings.HasPrefix(t.Name, eventlog.InternalPrefix) || strings.HasPrefix(t.Name, "__") || t.Name == rawTopic {
			continue
		}
		for i := range t.Partitions {
			if err := w.readPartition(ctx, l, t, i, func(r *eventlog.Record) { w.logged(reader, t.Name, r) }); err != nil {
				w.wrong("read %s/%d: %w", t.Name, i, err)
			}
		}
	}
	return reader
}

// countCompacted notes how many records of a topic compaction has taken.
func (w *world) countCompacted(ctx context.Context, l *life, t eventlog.Topic) {
	ends, err := l.node.log.Ends(ctx, t.ID)
	if err != nil {
		w.wrong("%w", err)
		return
	}
	for i, end := range ends {
		if err := w.readPartition(ctx, l, t, int32(i), func(*eventlog.Record) { end-- }); err != nil {
			w.wrong("read %s/%d: %w", t.Name, i, err)
		}
		met.compacted.Add(end)
	}
}

func (w *world) readPartition(ctx context.Context, l *life, t eventlog.Topic, i int32, visit func(*eventlog.Record)) error {
	ends, err := l.node.log.Ends(ctx, t.ID)
	if err != nil {
		return err
	}
	pos := eventlog.Position{Part: eventlog.Part{Topic: t.ID, Index: i}}
	for pos.Offset < ends[i] {
		batches, next, err := l.node.log.Read(ctx, pos, 64<<10)
		if err != nil {
			return err
		}
		for _, b := range batches {
			recs, err := b.Records()
			if err != nil {
				return err
			}
			for k := range recs {
				if recs[k].Offset >= pos.Offset {
					visit(&recs[k])
				}
			}
		}
		if next <= pos.Offset {
			return fmt.Errorf("no progress at %v below %d", pos, ends[i])
		}
		pos.Offset = next
	}
	return nil
}

// logRecord is a message as the log has it.
type logRecord struct {
	s      *sending
	offset int64
}

// logged enters one record of the log.
func (w *world) logged(reader *sim.Reader, topicName string, r *eventlog.Record) {
	if strings.HasSuffix(topicName, ".dlq") {
		w.wrong("a dead letter: %q", r.Value)
		return
	}
	p := &packet.Publish{Payload: r.Value}
	for _, h := range r.Headers {
		switch {
		case h.Key == "mr-qos2" && w.cluster != nil: // there a crash may leave a second one, which every view skips
			if w.marks[string(h.Value)] {
				return
			}
			w.marks[string(h.Value)] = true
		case h.Key == "mqtt.topic":
			p.Topic = h.Value
		case !strings.HasPrefix(h.Key, "mqtt.") && !strings.HasPrefix(h.Key, "mr-"):
			p.Props.User = append(p.Props.User, packet.UserProperty{Name: h.Key, Value: string(h.Value)})
		}
	}
	if p.Topic == nil {
		p.Topic = append([]byte("cmd/"), r.Key...)
	}
	reader.Got(p)
	if s := w.find(p); s != nil {
		s.copies++
		w.order = append(w.order, logRecord{s, r.Offset})
	}
}

// audit closes the books.
func (w *world) audit(log *sim.Reader) {
	readers := []*sim.Reader{log}
	for _, x := range w.watchers {
		x.mu.Lock()
		readers = append(readers, x.reader)
		for _, r := range x.retired {
			rep := r.Report()
			rep.Missing = 0
			if err := rep.Err(); err != nil {
				w.wrong("%w", err)
			}
		}
		x.mu.Unlock()
	}
	for _, r := range readers {
		rep := r.Report()
		if name, _, _ := r.Name(); strings.HasPrefix(name, "$share/") {
			rep.Reordered = 0 // its members work side by side
		}
		if err := rep.Err(); err != nil {
			w.wrong("%w", err)
		}
	}
	for _, x := range w.watchers {
		if x.tally(); x.shared != nil {
			continue
		}
		if story := x.story(); story != "" {
			w.wrong("%s", story)
		}
	}
	w.mu.Lock()
	again := w.again
	w.mu.Unlock()
	for _, a := range again {
		if a.n > a.s.copies {
			w.wrong("%s got %+v %d times on one connection; the log has it %d times", a.who, a.s.stamp, a.n, a.s.copies)
		}
	}
	for _, s := range w.sent {
		switch {
		case s.got && s.copies == 0:
			w.wrong("somebody got %+v, and it is not in the log", s.stamp)
		case s.copies > 1 && s.on > 0 && s.on == s.doneOn:
			w.wrong("%+v was sent once and is in the log %d times", s.stamp, s.copies)
		}
	}
	for _, x := range w.wills {
		if x.uncalled && x.s.copies > 0 {
			w.wrong("the will of %s fired after its DISCONNECT", x.s.stamp.Device)
		}
	}
}
