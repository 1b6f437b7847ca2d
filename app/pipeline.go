package app

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
)

// passage counts what the tail of the fleet's view has passed.
type passage struct {
	mu     sync.Mutex
	ends   session.Vector // of the log when the node started
	places session.Vector // the next offset in each partition
	sum    int64          // of the places
	own    int64          // records beyond ends that came over MQTT
	gapped int64          // offsets beyond ends that the tail went over
}

func newPassage(from, ends session.Vector) *passage {
	p := &passage{ends: ends, places: maps.Clone(from)}
	for _, at := range from {
		p.sum += at
	}
	return p
}

// passed takes one event of the tail.
func (p *passage) passed(e *broker.TailEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := p.ends[e.Part]
	if e.Gap {
		p.gapped += max(0, e.Next-max(p.places[e.Part], end))
	}
	if e.Batch != nil {
		for i := range e.Batch.Msgs {
			if m := &e.Batch.Msgs[i]; m.Offset >= end && m.Client != "" {
				p.own++
			}
		}
	}
	p.sum -= p.places[e.Part]
	if e.Deleted {
		delete(p.places, e.Part)
		return
	}
	p.places[e.Part] = e.Next
	p.sum += e.Next
}

// census is what the parts have counted, at one time. What is received is counted before what becomes of it, and a message is at the
// store (appending) until that is counted, so nothing is between two counters unnoticed.
type census struct {
	received, repeated, broken, wills int64
	bridged                           int64 // from other brokers, but for what the log refused
	appending, appended, unlogged     int64
	dead                              int64 // that became dead letters when they came
	own, gapped, passed               int64
	refused                           map[string]int64
}

// tolerated is a reason of the broker's refusals that refuses nothing.
const tolerated = "receive_maximum_exceeded_tolerated"

func (n *Node) count() (c census) {
	p := n.fleet.passage
	p.mu.Lock()
	c.own, c.gapped, c.passed = p.own, p.gapped, p.sum
	p.mu.Unlock()
	r := n.store.Stats()
	c.appended, c.unlogged, c.dead = int64(r.Appended), int64(r.Unlogged), int64(r.Invalid[route.DeadLettered])
	b := n.broker.Stats()
	for _, q := range b.Received {
		c.received += q
	}
	c.repeated, c.broken, c.wills, c.appending, c.refused = b.Repeated, b.Broken, b.Wills, b.Appending, b.Refused
	delete(c.refused, tolerated)
	if n.bridges != nil {
		handed, refused, appending := n.bridges.Taken()
		c.bridged, c.appending = handed-refused, c.appending+appending
	}
	return c
}

// allRefused is how many were refused, for whatever reason.
func (c *census) allRefused() (n int64) {
	for _, k := range c.refused {
		n += k
	}
	return n
}

// settled counts at a moment at which nothing moves. On a busy node there may be none: then moved is by how much the last two counts differ,
// and no more than that is uncertain.
func (n *Node) settled() (c census, moved int64) {
	c = n.count()
	for range 10 {
		before := c
		c = n.count()
		moved = 0
		for _, d := range [...]int64{c.received - before.received, c.repeated - before.repeated, c.broken - before.broken, c.wills - before.wills, c.bridged - before.bridged,
			c.appending - before.appending, c.appended - before.appended, c.unlogged - before.unlogged, c.own - before.own, c.dead - before.dead,
			c.allRefused() - before.allRefused()} {
			moved += max(d, -d)
		}
		if moved == 0 {
			break
		}
	}
	return c, moved
}

// strip remembers what the pipeline's figures need besides the counters.
type strip struct {
	mu       sync.Mutex
	started  time.Time
	past     [rateSeconds + 1]moment // oldest first
	n        int
	live     bool  // the view has read all that there was
	missing  int64 // sequence numbers that were missing in the past already
	repeated int64
	skews    console.Skew
	seen     map[string]int64 // what was off at each stage when somebody last looked
	off      map[string]int64 // and at the last tick
}

// moment is the stages' totals at a time.
type moment struct {
	at     time.Time
	totals map[string]int64
}

const rateSeconds = 10

// tickStrip remembers the totals for the rates, and what was off; it is called every second.
func (n *Node) tickStrip(now time.Time) {
	stages := n.stations()
	s := &n.strip
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = maps.Clone(s.seen)
	if s.n == len(s.past) {
		copy(s.past[:], s.past[1:])
		s.n--
	}
	totals := map[string]int64{}
	for i := range stages {
		totals[stages[i].Name] = stages[i].Total
	}
	s.past[s.n] = moment{now, totals}
	s.n++
	if now.Unix()%10 == 0 {
		k := n.fleet.view.Skews()
		if s.skews = (console.Skew{Devices: k.Devices}); k.Devices > 0 {
			s.skews.P50, s.skews.Max = new(ms(k.Median)), new(ms(k.Most))
		}
	}
}

// rate of a stage since the oldest moment that is remembered.
func (s *strip) rate(name string, total int64, now time.Time) float64 {
	if s.n == 0 {
		return 0
	}
	then := s.past[0]
	span := now.Sub(then.at).Seconds()
	if span <= 0 {
		return 0
	}
	return max(0, float64(total-then.totals[name])/span)
}

// pipeline is the strip: what every stage has counted, how late it is, and whether it adds up.
func (n *Node) pipeline() console.Pipeline {
	now := time.Now()
	p := console.Pipeline{Now: millis(now), Hub: n.http.Hub(), Stages: n.stations()}
	s := &n.strip
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Started, p.Skew = millis(s.started), s.skews
	for i := range p.Stages {
		st := &p.Stages[i]
		st.Rate = s.rate(st.Name, st.Total, now)
		if leg := stageLegs[st.Name]; leg != "" {
			quantiles(st, n.recentLatency("send", leg, now))
		}
	}
	return p
}

// stageLegs names how far a message is at each stage, as the legs of latency do.
var stageLegs = map[string]string{"broker": "receive", "log": "commit", "console": "console", "browser": "browser"}

func quantiles(st *console.Stage, s metrics.Snapshot) {
	if st.Samples = int64(s.Count()); st.Samples > 0 {
		st.P50, st.P99 = new(ms(s.Quantile(0.5))), new(ms(s.Quantile(0.99)))
	}
}

// stations are the stages with their totals, and what lies between each and the one before.
func (n *Node) stations() []console.Stage {
	c, moved := n.settled()
	behind := n.behind(&c)
	devices, broker := n.firstStations(&c, behind)
	all := []console.Stage{devices, broker, logStation(&c, moved), n.viewStation(&c, behind+moved), {Name: "browser", Total: n.http.Hub().Frames}}
	for i := range all {
		n.strip.believe(&all[i])
	}
	return all
}

// believe reports as unaccounted for only what was so at the tick before too: a message that is caught between two counters is on its way,
// one that is lost stays so.
func (s *strip) believe(st *console.Stage) {
	if st.Unaccounted == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now, before := *st.Unaccounted, s.off[st.Name]
	if s.seen == nil {
		s.seen = map[string]int64{}
	}
	s.seen[st.Name] = now
	lasting := int64(0)
	switch {
	case now > 0 && before > 0:
		lasting = min(now, before)
	case now < 0 && before < 0:
		lasting = max(now, before)
	}
	*st.Unaccounted = lasting
	if late := now - lasting; late > 0 {
		st.Left = append(st.Left, console.Reason{Reason: "being_counted", Kind: "in_flight", Count: late})
	} else if late < 0 {
		st.Joined = append(st.Joined, console.Reason{Reason: "being_counted", Kind: "in_flight", Count: -late})
	}
}

// firstStations are what devices sent and what was received. What they sent is known by their sequence numbers: those that are missing and
// that nobody refused did not arrive.
func (n *Node) firstStations(c *census, behind int64) (devices, broker console.Stage) {
	t := n.fleet.view.Totals()
	s := &n.strip
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live { // what is missing in the past is not of this run
		s.missing, s.repeated = int64(t.Missing), int64(t.Repeated)
		s.live = behind == 0 && (n.engine != nil || t.Records > t.History)
	}
	lost := max(0, int64(t.Missing)-s.missing-c.allRefused()-c.broken-c.dead-c.appending)
	again := max(0, int64(t.Repeated)-s.repeated) + c.repeated
	devices = console.Stage{Name: "devices", Total: max(0, c.received-again) + lost}
	broker = console.Stage{Name: "broker", Total: c.received, Joined: reasons(console.Reason{Reason: "resent", Kind: "repeated", Count: again})}
	balance(&broker, devices.Total)
	return devices, broker
}

// logStation compares what was received with what is in the log.
func logStation(c *census, moved int64) console.Stage {
	if ahead := c.own - c.appended; ahead > 0 { // in the log as everybody can see, but its answer is not counted yet
		c.appended, c.appending = c.appended+ahead, c.appending-ahead
	}
	off := c.received + c.wills + c.bridged - c.appended - c.appending - c.unlogged - c.dead - c.repeated - c.broken - c.allRefused()
	if off != 0 && max(off, -off) <= moved || off < 0 && c.appending >= -off { // no still moment to count in; or counted, and not let go of yet
		c.appending += off
	}
	st := console.Stage{Name: "log", Total: c.appended,
		Joined: reasons(console.Reason{Reason: "wills", Kind: "other", Count: c.wills}, console.Reason{Reason: "bridges", Kind: "other", Count: c.bridged}),
		Left: reasons(console.Reason{Reason: "in_flight", Kind: "in_flight", Count: c.appending},
			console.Reason{Reason: "not_stored", Kind: "unlogged", Count: c.unlogged},
			console.Reason{Reason: route.DeadLettered, Kind: "other", Count: c.dead},
			console.Reason{Reason: "resent", Kind: "repeated", Count: c.repeated},
			console.Reason{Reason: "protocol_error", Kind: "refused", Count: c.broken})}
	for _, why := range slices.Sorted(maps.Keys(c.refused)) {
		kind := "refused"
		if why == "outcome_unknown" {
			kind = "other"
		}
		st.Left = append(st.Left, reasons(console.Reason{Reason: why, Kind: kind, Count: c.refused[why]})...)
	}
	balance(&st, c.received)
	return st
}

// behind is how many offsets of the log the view's tail had not passed at the count. A cluster would have to be asked: there it is taken for 0.
func (n *Node) behind(c *census) (sum int64) {
	if n.engine == nil {
		return 0
	}
	_, ends, err := n.store.Data(context.Background())
	if err != nil {
		return 0 // the log is closed, and nothing comes any more
	}
	for _, end := range ends {
		sum += end
	}
	return max(0, sum-c.passed)
}

// viewStation compares what is in the log with what the view of the fleet has had, which may be late by so much. On a Kafka cluster nobody
// can say cheaply how far its tail is behind, so there is nothing to compare with.
func (n *Node) viewStation(c *census, late int64) console.Stage {
	st := console.Stage{Name: "console", Total: c.own}
	missing := c.appended - c.own
	gapped := min(max(0, missing), c.gapped)
	late = min(max(0, missing-gapped), late)
	st.Left = reasons(console.Reason{Reason: "gap", Kind: "dropped", Count: gapped}, console.Reason{Reason: "in_flight", Kind: "in_flight", Count: late})
	if n.engine != nil {
		balance(&st, c.appended)
	}
	return st
}

// reasons are those that there is something of.
func reasons(all ...console.Reason) []console.Reason {
	return slices.DeleteFunc(all, func(r console.Reason) bool { return r.Count == 0 })
}

// balance says what cannot be accounted for between a stage and the one before.
func balance(st *console.Stage, before int64) {
	left := before - st.Total
	for _, r := range st.Joined {
		left += r.Count
	}
	for _, r := range st.Left {
		left -= r.Count
	}
	st.Unaccounted = &left
}

func millis(t time.Time) float64 { return float64(t.UnixMicro()) / 1000 }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (n *Node) collectConsole(s *metrics.Samples) {
	h := n.http.Hub()
	s.Gauge("console_pages", "Browser pages that look on.", float64(h.Pages))
	s.Counter("console_frames", "Frames of the map sent to pages.", float64(h.Frames))
	s.Counter("console_frames_coalesced", "Frames that pages missed because they were slow; the next one began anew.", float64(h.Coalesced))
	s.Counter("console_bytes", "Bytes sent to pages.", float64(h.Bytes))
	for _, st := range n.stations() {
		s.Gauge("stage_messages", "Messages that a stage of the pipeline has counted since the start; of devices: as their sequence numbers tell.",
			float64(st.Total), "stage", st.Name)
		if st.Unaccounted != nil {
			s.Gauge("stage_unaccounted", "Messages of the stage before that neither came on nor are accounted for.", float64(*st.Unaccounted), "stage", st.Name)
		}
	}
}

// topicBytes is what a topic takes on disk; a cluster does not say.
func (n *Node) topicBytes(t eventlog.Topic) (sum int64, ok bool) {
	if n.engine == nil {
		return 0, false
	}
	sizes, err := n.engine.PartSizes(t.ID)
	for _, b := range sizes {
		sum += b
	}
	return sum, err == nil
}

// show lets the console show the node, hide takes that back.
func (n *Node) show(context.Context) error {
	n.strip.started = time.Now()
	n.tickStrip(n.strip.started)
	n.http.Attach(console.Parts{View: n.fleet.view, Log: n.log, Pipeline: n.pipeline, Bytes: n.topicBytes, MQTT: operator{n, n.broker}, Bridges: n.consoleBridges})
	return nil
}

func (n *Node) hide(context.Context) error {
	n.http.Detach()
	return nil
}
