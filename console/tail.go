package console

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/eventlog"
)

var tailParams = []param{
	{"name", "path", "string", "of the topic"},
	{"from", "query", "string", "end (default): what comes from now on; start, or a time in milliseconds since 1970: from there, and then nothing is skipped, but all of it may lag"},
	{"partition", "query", "integer", "only that one"},
	{"rate", "query", "integer", "records a second that are given at most: 100, at most 1000; those beyond are counted in `skipped`"},
	{"limit", "query", "integer", "records after which the stream ends: 10000, at most 100000"},
}

const (
	maxTails     = 32 // at once
	tailBytes    = 256 << 10
	previewBytes = 1 << 10
	maxHeaders   = 16 // shown
	maxResumable = 64 // partitions of a topic whose tail can be resumed
)

// tail follows a topic as server-sent events. It gives no more than its rate: of what comes live the rest is skipped and counted, unread, so a
// tail costs little whatever comes; history waits.
func (s *Server) tail(w http.ResponseWriter, r *http.Request, v visitor) error {
	p, err := s.ready()
	if err != nil {
		return err
	}
	t, err := s.newTail(r, p)
	if err != nil {
		return err
	}
	defer t.log.Close()
	if s.tails.Add(1) > maxTails {
		s.tails.Add(-1)
		return tooMany(fmt.Sprintf("%d tails are open, which is all there may be", maxTails), 10*time.Second)
	}
	defer s.tails.Add(-1)
	streaming(w, r)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // proxies are to pass it on as it comes
	t.w, t.flush = w, http.NewResponseController(w).Flush
	t.stay = func() bool { return s.welcome(v) }
	ctx, cancel := p.while(r.Context())
	defer cancel()
	t.run(ctx)
	return nil
}

// while is a request's context that also ends when the parts are shown no more.
func (a *attached) while(request context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(request)
	stop := context.AfterFunc(a.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

type tail struct {
	log    eventlog.Tail
	topic  eventlog.Topic
	places []int64 // the next offset of each partition; -1: not followed
	resume bool    // the places fit into an event's id

	rate    float64
	tokens  float64
	patient bool // reads history: what may not go yet waits, instead of being skipped
	left    int  // records until the end
	skipped int64
	ended   string // why, if it has

	w     http.ResponseWriter
	flush func() error
	stay  func() bool // whether the client may read on
	err   error       // of writing
}

func (s *Server) newTail(r *http.Request, p *attached) (*tail, error) {
	q, err := query(r, tailParams)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("name")
	if hidden(name) || eventlog.CheckTopicName(name) != nil {
		return nil, logError(eventlog.ErrUnknownTopic)
	}
	t := &tail{rate: 100}
	if v := q.Get("rate"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 1000 {
			return nil, badParam("rate", "is not between 1 and 1000")
		}
		t.rate = float64(n)
	}
	t.tokens = t.rate
	if t.left, err = limit(q, 10_000, 100_000); err != nil {
		return nil, err
	}
	if t.topic, err = p.Log.Topic(r.Context(), name); err != nil {
		return nil, logError(err)
	}
	only := -1
	if v := q.Get("partition"); v != "" {
		if only, err = strconv.Atoi(v); err != nil || only < 0 || only >= int(t.topic.Partitions) {
			return nil, badParam("partition", fmt.Sprintf("is not between 0 and %d", t.topic.Partitions-1))
		}
	}
	if err := t.begin(r.Context(), p.Log, q.Get("from"), r.Header.Get("Last-Event-ID"), only); err != nil {
		return nil, err
	}
	vector := eventlog.Vector{}
	for i, at := range t.places {
		if at >= 0 {
			vector[eventlog.Part{Topic: t.topic.ID, Index: int32(i)}] = at
		}
	}
	if t.log, err = p.Log.Tail(vector); err != nil {
		return nil, logError(err)
	}
	return t, nil
}

// begin finds out where each partition's tail begins.
func (t *tail) begin(ctx context.Context, log *eventlog.Log, from, last string, only int) error {
	starts, err := log.Starts(ctx, t.topic.ID)
	if err != nil {
		return logError(err)
	}
	ends, err := log.Ends(ctx, t.topic.ID)
	if err != nil {
		return logError(err)
	}
	n := min(len(starts), len(ends))
	t.places = make([]int64, n)
	resumed, err := parsePlaces(last, n)
	if err != nil {
		return err
	}
	for i := range t.places {
		switch {
		case only >= 0 && i != only:
			t.places[i] = -1
		case resumed != nil && resumed[i] >= 0:
			t.places[i] = min(max(resumed[i], starts[i]), ends[i])
		case from == "" || from == "end":
			t.places[i] = ends[i]
		case from == "start":
			t.places[i] = starts[i]
		default:
			at, err := strconv.ParseInt(from, 10, 64)
			if err != nil || at < 0 {
				return badParam("from", "is neither end, start, nor a time in milliseconds since 1970")
			}
			o, err := log.OffsetByTime(ctx, eventlog.Part{Topic: t.topic.ID, Index: int32(i)}, at)
			if err != nil {
				return logError(err)
			}
			if t.places[i] = o; o < 0 {
				t.places[i] = ends[i]
			}
		}
	}
	t.patient = from != "" && from != "end"
	t.resume = only >= 0 || n <= maxResumable
	return nil
}

// An event's id is the place after it in every partition that is followed: 0:17,3:9. It is what Last-Event-ID brings back.
func (t *tail) id() string {
	var b []byte
	for i, at := range t.places {
		if at < 0 {
			continue
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, ':')
		b = strconv.AppendInt(b, at, 10)
	}
	return string(b)
}

func parsePlaces(id string, partitions int) ([]int64, error) {
	if id == "" {
		return nil, nil
	}
	bad := problem(http.StatusBadRequest, "Last-Event-ID is not an id of this stream")
	places := make([]int64, partitions)
	for i := range places {
		places[i] = -1
	}
	if len(id) > 4096 {
		return nil, bad
	}
	for part := range strings.SplitSeq(id, ",") {
		index, at, _ := strings.Cut(part, ":")
		i, err := strconv.ParseUint(index, 10, 31)
		o, err2 := strconv.ParseInt(at, 10, 64)
		if err != nil || err2 != nil || int(i) >= partitions || o < 0 {
			return nil, bad
		}
		places[i] = o
	}
	return places, nil
}

// run gives events until the client goes, may no longer read, or has had its limit.
func (t *tail) run(ctx context.Context) {
	t.write(": tail of %s\nretry: 2000\n\n", t.topic.Name)
	tick := time.NewTicker(time.Second / refills)
	defer tick.Stop()
	var waiting []eventlog.Event // not given yet: their turn comes with the next tick
	for beat := 0; t.err == nil; {
		if len(waiting) == 0 {
			var err error
			if waiting, err = t.log.Poll(waiting[:0], tailBytes); err != nil {
				t.end("the log is closed")
				return
			}
		}
		idle := len(waiting) == 0
		for len(waiting) > 0 && t.event(&waiting[0]) {
			waiting = waiting[1:]
		}
		t.flushed()
		wake := t.log.Wake()
		switch {
		case t.ended != "":
			t.end(t.ended)
			return
		case len(waiting) > 0:
			wake = nil
		case !idle: // there may be more
			wake = ready
		}
		select {
		case <-ctx.Done():
			t.end("the node stops") // or the client has gone, and hears nothing
			return
		case <-wake:
			continue
		case <-tick.C:
		}
		t.refill()
		if beat++; beat%(2*refills) == 0 && !t.stay() {
			t.ended = reasonLogin
		}
		if beat%(10*refills) == 0 {
			t.write(": still here\n\n")
		}
	}
}

// refills is how many times a second the rate lets something through.
const refills = 4

// ready is a channel that is always readable.
var ready = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (t *tail) refill() {
	t.tokens = min(t.rate, t.tokens+t.rate/refills)
	t.tellSkipped()
}

func (t *tail) tellSkipped() {
	if t.skipped > 0 {
		b, _ := json.Marshal(Skipped{t.skipped})
		t.write("event: skipped\n%sdata: %s\n\n", t.idLine(), b)
		t.skipped = 0
	}
}

func (t *tail) idLine() string {
	if !t.resume {
		return ""
	}
	return "id: " + t.id() + "\n"
}

// event gives what came in one partition; false: not all of it, the rest may not go yet.
func (t *tail) event(e *eventlog.Event) bool {
	at := &t.places[e.Part.Index]
	switch {
	case e.Kind == eventlog.Deleted || e.Kind == eventlog.Recreated:
		t.ended = "the topic was deleted"
		return true
	case e.Kind == eventlog.Gap:
		t.skipped += max(0, e.Next-*at)
	case e.Batch == nil:
	case t.tokens < 1 && t.patient:
		return false
	case t.tokens < 1: // nothing of it will be given: it need not be looked into
		t.skipped += min(int64(e.Batch.Len()), max(0, e.Next-*at))
	default:
		err := e.Batch.Each(func(r *eventlog.Record) error { return t.record(e.Part.Index, r) })
		if errors.Is(err, errNotYet) || t.ended != "" {
			return false
		}
		if err != nil && t.err == nil { // a batch that cannot be read
			t.skipped += max(0, e.Next-*at)
		}
	}
	*at = e.Next
	return true
}

var errNotYet = errors.New("the rate lets nothing through now")

func (t *tail) record(partition int32, r *eventlog.Record) error {
	if r.Offset < t.places[partition] {
		return nil
	}
	if t.tokens < 1 {
		if t.patient {
			return errNotYet
		}
		t.skipped++
		return nil
	}
	t.places[partition] = r.Offset + 1
	b, err := json.Marshal(recordBody(partition, r))
	if err != nil {
		return fmt.Errorf("encode a record: %w", err)
	}
	t.write("%sdata: %s\n\n", t.idLine(), b)
	t.tokens--
	if t.left--; t.left == 0 {
		t.ended = "the limit is reached"
		return errNotYet
	}
	return t.err
}

func (t *tail) end(why string) {
	t.tellSkipped()
	b, _ := json.Marshal(map[string]string{"reason": why})
	t.write("event: end\n%sdata: %s\n\n", t.idLine(), b)
	t.flushed()
}

func (t *tail) write(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format, args...)
	}
}

func (t *tail) flushed() {
	if err := t.flush(); t.err == nil && !errors.Is(err, http.ErrNotSupported) {
		t.err = err
	}
}

// recordBody shows a record. Whatever stands in it ends up inside JSON strings, so no device can forge an event.
func recordBody(partition int32, r *eventlog.Record) Record {
	b := Record{Partition: partition, Offset: r.Offset, Time: r.Timestamp, Key: text(r.Key, 256), Size: len(r.Value), Headers: map[string]string{}}
	for _, h := range r.Headers[:min(len(r.Headers), maxHeaders)] {
		b.Headers[text([]byte(h.Key), 64)] = text(h.Value, 256)
	}
	if r.Value == nil {
		return b
	}
	shown := r.Value[:min(len(r.Value), previewBytes)]
	b.Truncated = len(shown) < len(r.Value)
	whole := shown
	for cut := 0; b.Truncated && cut < utf8.UTFMax-1 && !utf8.Valid(whole); cut++ { // within a character
		whole = whole[:len(whole)-1]
	}
	if utf8.Valid(whole) && !bytes.ContainsRune(whole, 0) {
		b.Value = new(string(whole))
	} else {
		b.Base64 = new(base64.StdEncoding.EncodeToString(shown))
	}
	return b
}

func text(b []byte, n int) string {
	return strings.ToValidUTF8(clip(string(b), n), "\ufffd")
}
