package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
	"github.com/millrace-io/millrace/internal/vfs"
)

// DumpLine is one thing that is on disk, as Dump tells of it.
type DumpLine struct {
	Kind   string
	Fields []DumpField
}

// DumpField is one of its fields; the order counts.
type DumpField struct {
	Name  string
	Value any
}

// MarshalJSON writes the line as an object, its kind first.
func (l DumpLine) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	for i, f := range append([]DumpField{{"kind", l.Kind}}, l.Fields...) {
		b.WriteByte("{,"[min(i, 1)])
		v, err := json.Marshal(f.Value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", f.Name, v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// DumpOptions say what of a log is told.
type DumpOptions struct {
	Checkpoint, WAL, Segments, Indexes bool

	Topic     string // only this one, if it is set
	Partition int32  // only this one, unless it is negative
	From, To  int64  // offsets [From, To); To 0: to the end
	Records   bool   // what is in the batches, too

	// Decode makes of a record of a topic what it means, or nil if it does not know. It may be nil.
	Decode func(topic string, r *eventlog.Record) any
}

// Dump tells what is in a log's files, one line after another, until emit returns an error. The log must not be open, and is not changed.
func Dump(ctx context.Context, fsys vfs.FS, o DumpOptions, emit func(DumpLine) error) error {
	unlock, err := lockToLook(fsys)
	if err != nil {
		return fmt.Errorf("dump the log: %w", err)
	}
	defer unlock()
	d := &dumping{ctx: ctx, o: o, emit: emit}
	if d.Engine, err = offline(fsys); err == nil {
		err = d.run()
	}
	if err == nil {
		err = d.err
	}
	if err != nil {
		return fmt.Errorf("dump the log: %w", err)
	}
	return nil
}

type dumping struct {
	*Engine
	ctx  context.Context
	o    DumpOptions
	emit func(DumpLine) error
	err  error // of emit
}

// line tells one thing; fields are names and values in turn.
func (d *dumping) line(kind string, fields ...any) {
	if d.err != nil {
		return
	}
	l := DumpLine{Kind: kind}
	for i := 0; i < len(fields); i += 2 {
		l.Fields = append(l.Fields, DumpField{fields[i].(string), fields[i+1]})
	}
	d.err = d.emit(l)
}

func (d *dumping) run() error {
	s, err := readCheckpoint(d.Engine.o.FS)
	if err != nil {
		return err
	}
	st := d.committer.state
	if err := st.load(s); err != nil {
		return err
	}
	if d.o.Checkpoint {
		d.line("checkpoint", "format", s.format, "cluster_id", eventlog.TopicID(s.clusterID).String(), "commit", s.commit, "salt", fmt.Sprintf("%016x", s.salt),
			"generation", s.generation, "time", stamp(s.time), "next_producer_id", s.nextID, "log_budget", s.maxLog)
	}
	for i := range s.topics {
		if t := &s.topics[i]; d.o.Topic == "" || d.o.Topic == t.name {
			if err := d.topic(t, st.topics[t.id]); err != nil {
				return err
			}
		}
	}
	if !d.o.WAL {
		return nil
	}
	frames, err := walSince(d.Engine.o, s)
	if err != nil {
		return err
	}
	commit := uint64(0)
	return d.eachFrame(frames, s.salt, func(f *walFrame, en *entry, _ int64) error {
		if f.commit != commit {
			commit = f.commit
			d.line("frame", "file", f.file, "byte", f.off, "size", f.next-f.off, "commit", f.commit, "time", stamp(f.time))
		}
		d.entry(en)
		return errors.Join(d.err, d.ctx.Err())
	})
}

func stamp(ms int64) string {
	if ms < 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

func (d *dumping) wants(part int32) bool { return d.o.Partition < 0 || d.o.Partition == part }

func (d *dumping) topic(t *topicSnapshot, now *topic) error {
	if d.o.Checkpoint {
		d.line("topic", "topic", t.name, "id", t.id.String(), "directory", topicDir(t.id), "partitions", len(t.parts), "configs", t.configs)
	}
	for i, p := range now.head.parts {
		if !d.wants(int32(i)) {
			continue
		}
		ps := &t.parts[i]
		if d.o.Checkpoint {
			st := ps.state
			d.line("partition", "topic", t.name, "partition", i, "start", ps.start, "end", ps.end, "claim", ps.claim, "segments_start", st.Start,
				"segments_end", st.End, "active_base", st.Base, "active_size", st.Size, "active_entries", st.Entries, "clean", st.Clean, "gapless", st.Gapless,
				"bytes", st.Bytes)
			for id, pr := range p.head.producers {
				d.line("producer", "topic", t.name, "partition", i, "producer_id", id, "epoch", pr.epoch, "last_sequence", pr.last[0].last,
					"last_offset", pr.last[0].base, "batches", pr.n, "active", stamp(pr.active), "transaction_open", p.isOpen(id))
			}
			for _, a := range p.abortedSince(0) {
				d.line("aborted", "topic", t.name, "partition", i, "producer_id", a.ProducerID, "first_offset", a.First, "marker_offset", a.Last)
			}
		}
		if err := d.segments(t.name, p, ps); err != nil {
			return err
		}
	}
	return nil
}

func (d *dumping) segments(name string, p *partition, ps *partSnapshot) error {
	if !d.o.Segments && !d.o.Indexes {
		return nil
	}
	v := segment.Verification{
		Pace: func(int64) error { return errors.Join(d.err, d.ctx.Err()) },
		Damaged: func(g *segment.Damage) {
			if d.o.Segments && d.inRange(g.Offset, g.Next) {
				d.line("damage", "topic", name, "partition", p.part.Index, "file", g.File, "byte", g.Pos, "from", g.Offset, "to", g.Next, "error", g.Err.Error())
			}
		},
		Wrong: func(file, what string) {
			d.line("note", "topic", name, "partition", p.part.Index, "file", file, "what", what)
		},
	}
	if d.o.Segments {
		v.Batch = func(file string, pos int64, b eventlog.RawBatch) { d.batch(name, p.part.Index, file, pos, b) }
	}
	if d.o.Indexes {
		v.Entry = func(file string, offset, pos, latest int64) {
			if d.inRange(offset, offset+1) {
				d.line("index", "topic", name, "partition", p.part.Index, "file", file, "offset", offset, "byte", pos, "max_time_before", stamp(latest))
			}
		}
	}
	_, err := v.Run(d.Engine.o.FS, p.dir(), ps.state)
	return err
}

func (d *dumping) inRange(from, to int64) bool {
	return to > d.o.From && (d.o.To <= 0 || from < d.o.To)
}

func (d *dumping) batch(topic string, part int32, file string, pos int64, b eventlog.RawBatch) {
	if !d.inRange(b.Base(), b.Next()) {
		return
	}
	a := b.Attributes()
	horizon, base := "", b.BaseTime()
	if a&eventlog.AttrDeleteHorizon != 0 {
		horizon = stamp(base)
	}
	last := int32(-1)
	if b.BaseSequence() >= 0 {
		last = addSequence(b.BaseSequence(), b.LastDelta())
	}
	d.line("batch", "topic", topic, "partition", part, "base_offset", b.Base(), "last_offset", b.Last(), "count", b.Count(), "base_sequence", b.BaseSequence(),
		"last_sequence", last, "producer_id", b.ProducerID(), "producer_epoch", b.ProducerEpoch(), "own", b.ProducerID() >= FirstOwnProducerID,
		"transactional", a&eventlog.AttrTransactional != 0, "control", a&eventlog.AttrControl != 0, "delete_horizon", horizon, "file", file, "byte", pos,
		"max_time", stamp(b.MaxTime()), "log_append_time", a&eventlog.AttrLogAppendTime != 0, "size", len(b), "compression", b.Codec().String())
	if !d.o.Records {
		return
	}
	err := eventlog.NewRawBatch(eventlog.Part{}, b).Each(func(r *eventlog.Record) error {
		if d.inRange(r.Offset, r.Offset+1) {
			d.record(topic, part, r, a&eventlog.AttrControl != 0)
		}
		return d.err
	})
	if err != nil && d.err == nil {
		d.line("undecodable", "topic", topic, "partition", part, "base_offset", b.Base(), "error", err.Error())
	}
}

func (d *dumping) record(topic string, part int32, r *eventlog.Record, control bool) {
	fields := []any{"topic", topic, "partition", part, "offset", r.Offset, "time", stamp(r.Timestamp)}
	var meaning any
	if d.o.Decode != nil && !control {
		meaning = d.o.Decode(topic, r)
	}
	if meaning != nil {
		fields = append(fields, "decoded", meaning)
	} else {
		fields = append(fields, "key", text(r.Key), "value", text(r.Value))
	}
	for _, h := range r.Headers {
		fields = append(fields, "header "+h.Key, text(h.Value))
	}
	d.line("record", fields...)
}

// text is bytes as JSON has them: nil for null, a string where they are one, else bytes.
func text(b []byte) any {
	switch {
	case b == nil:
		return nil
	case utf8.Valid(b):
		return string(b)
	}
	return b
}

func (d *dumping) entry(en *entry) {
	name := en.name
	if t := d.committer.state.topics[en.part.Topic]; t != nil {
		name = t.name
	}
	if en.kind != entryBatch {
		// What comes later has to know of it; what does not belong here is Check's to tell.
		_ = d.committer.state.step(en)
	}
	if d.o.Topic != "" && d.o.Topic != name || en.kind == entryBatch && !d.wants(en.part.Index) {
		return
	}
	id := en.part.Topic.String()
	switch en.kind {
	case entryBatch:
		d.batch(name, en.part.Index, walDir, -1, en.raw)
	case entryCreate:
		d.line("create", "topic", name, "id", id, "partitions", en.count, "configs", en.configs)
	case entryDelete:
		d.line("delete", "topic", name, "id", id)
	case entryConfigure:
		d.line("configure", "topic", name, "configs", en.configs)
	case entryPartitions:
		d.line("partitions", "topic", name, "partitions", en.count)
	case entryStart:
		d.line("start", "topic", name, "partition", en.part.Index, "offset", en.value)
	case entryClaim:
		d.line("claim", "topic", name, "partition", en.part.Index, "epoch", en.value)
	case entryForgotten:
		d.line("forgotten", "topic", name, "partition", en.part.Index, "offset", en.value)
	case entryIDs:
		d.line("producer_ids", "next", en.value)
	}
}
