package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
)

// row is what is known of a minute, a topic and a device while it is put together.
type row struct {
	Counts
	digest uint32 // of what was logged
	sum    uint32 // of what was found
}

type rowKey struct {
	topic, device string
	over          bool
}

// rows are those of the window that do not add up, yet. A row is let go once it does and its minute is over.
type rows struct {
	c         *check
	minutes   map[int64]map[rowKey]*row
	n         int
	time      int64 // of the last flush that was read
	folded    uint64
	uncounted uint64 // records that are in no run's counts
	topics    map[string]*verdicts
}

// verdicts are what the rows of a topic come to.
type verdicts struct {
	before      int64 // published, and neither logged, nor failed, nor unknown
	outstanding int64 // owed, and neither delivered nor given up
	extra       int64 // found beyond what was logged, in rows
	again       int64 // delivered more often than owed
	unrouted    uint64
	gone        uint64
	why         Kind // they are gone
}

func (t *rows) init(c *check) {
	t.c, t.minutes, t.topics = c, map[int64]map[rowKey]*row{}, map[string]*verdicts{}
}

// at returns a row, made if it is not there.
func (t *rows) at(minute int64, topic, device string, over bool) *row {
	k := rowKey{topic, device, over}
	if r := t.minutes[minute][k]; r != nil {
		return r
	}
	if t.n >= t.c.MaxRows && !over {
		t.shrink()
		if t.n >= t.c.MaxRows {
			return t.at(minute, topic, "", true)
		}
	}
	if t.minutes[minute] == nil {
		t.minutes[minute] = map[rowKey]*row{}
	}
	r := &row{Counts: Counts{Minute: minute * 60_000, Topic: topic, Device: device, Others: over}}
	t.minutes[minute][k] = r
	t.n++
	return r
}

// settle lets go of rows that add up. Rows of a minute that is looked at for the third time stay to the end.
func (t *rows) settle(minute int64) {
	for m := minute - 2; m <= minute; m++ {
		t.settleMinute(m)
	}
}

func (t *rows) settleMinute(m int64) {
	for k, r := range t.minutes[m] {
		if !k.over && r.settled() {
			t.fold(r, "")
			delete(t.minutes[m], k)
			t.n--
		}
	}
}

func (r *row) settled() bool {
	return r.Published == r.Logged+total(r.Failed) && r.Found == r.Logged && r.Unknown == 0 && r.digest == r.sum &&
		r.Owed == r.Delivered+total(r.Dropped) && r.Uncounted == 0
}

// shrink makes room: what adds up goes, and the devices of a minute that do not become one row per topic.
func (t *rows) shrink() {
	for m := range t.minutes {
		t.settleMinute(m)
	}
	if t.n < t.c.MaxRows*3/4 {
		return
	}
	for m, rs := range t.minutes {
		for k, r := range rs {
			if !k.over {
				t.at(m, k.topic, "", true).merge(r)
				delete(rs, k)
				t.n--
				t.folded++
			}
		}
	}
}

// merge adds another row's numbers.
func (r *row) merge(o *row) {
	r.digest += o.digest
	r.sum += o.sum
	r.Counts.merge(&o.Counts)
}

func (k *Counts) merge(o *Counts) {
	k.Published += o.Published
	k.Logged += o.Logged
	k.Found += o.Found
	k.Uncounted += o.Uncounted
	k.Foreign += o.Foreign
	k.Dead += o.Dead
	k.Unlogged += o.Unlogged
	k.Unknown += o.Unknown
	k.Owed += o.Owed
	k.Delivered += o.Delivered
	for reason, n := range o.Failed {
		add(&k.Failed, reason, n)
	}
	for reason, n := range o.Refused {
		add(&k.Refused, reason, n)
	}
	for reason, n := range o.Dropped {
		add(&k.Dropped, reason, n)
	}
}

// fold puts a row that is judged into its topic's total, and tells it if it is of interest.
func (t *rows) fold(r *row, status Kind) {
	sum := t.c.totals[r.Topic]
	if sum == nil {
		sum = &Counts{Topic: r.Topic}
		t.c.totals[r.Topic] = sum
	}
	sum.merge(&r.Counts)
	if status != "" && (sum.Status == "" || !status.Mild()) {
		sum.Status = status
	}
	if r.Status = status; status != "" || t.c.All {
		k := r.Counts
		t.c.emit(Row{Counts: &k})
	}
}

// finish judges what is left.
func (t *rows) finish() {
	minutes := make([]int64, 0, len(t.minutes))
	for m := range t.minutes {
		minutes = append(minutes, m)
	}
	slices.Sort(minutes)
	for _, m := range minutes {
		for _, r := range t.grouped(m) {
			t.fold(r, t.judge(m, r))
		}
	}
	if t.folded > 0 {
		t.c.find(Finding{Kind: TooMany, Severity: Note, Partition: -1, Offset: -1, Count: t.folded,
			Text: fmt.Sprintf("%d rows did not fit into memory: their devices are added up; choose a shorter window, --topic or --device", t.folded)})
	}
	for _, name := range sortedNames(t.topics) {
		t.judgeTopic(name, t.topics[name])
	}
	for _, name := range sortedNames(t.c.totals) {
		t.qos0(t.c.totals[name])
	}
}

// grouped are the rows of a minute, in order; where some devices had no row of their own, all of the topic that are left are one.
func (t *rows) grouped(m int64) (list []*row) {
	for k, r := range t.minutes[m] {
		if over := t.minutes[m][rowKey{k.topic, "", true}]; over != nil && over != r {
			over.merge(r)
			continue
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *row) int {
		if a.Topic != b.Topic {
			return compare(a.Topic, b.Topic)
		}
		return compare(a.Device, b.Device)
	})
	return list
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// judge decides about a row. What can only be judged for the topic as a whole is put down for that.
func (t *rows) judge(m int64, r *row) (status Kind) {
	v := t.topics[r.Topic]
	if v == nil {
		v = &verdicts{}
		t.topics[r.Topic] = v
	}
	if d := int64(r.Owed) - int64(r.Delivered) - int64(total(r.Dropped)); d > 0 {
		v.outstanding += d
		status = Pending
	} else {
		v.again -= d
	}
	if d := int64(r.Published) - int64(r.Logged) - int64(total(r.Failed)) - int64(r.Unknown); d != 0 {
		if v.before += d; v.before > 0 && v.before <= t.c.runs.inFlight(r.Topic) {
			status = InFlight // or was, when its node was killed
		} else {
			status = LostBeforeLog
		}
	}
	if r.Uncounted > 0 {
		status = NotCounted
	}
	topic := t.c.topics[r.Topic]
	if topic == nil {
		if !strings.HasPrefix(r.Topic, route.Unstored) && r.Topic != route.NoRoute {
			v.unrouted += r.Logged
			return NotRouted
		}
		return status
	}
	if why := topic.blind(m, r); why != "" {
		if r.Found < r.Logged && why != Compacted {
			v.gone, v.why = v.gone+r.Logged-r.Found, why
			status = why
		}
		return status
	}
	f := Finding{Severity: Wrong, Minute: r.Minute, Topic: r.Topic, Device: r.Device, Partition: -1, Offset: -1}
	if !r.Others {
		f.Partition = route.Partition([]byte(r.Device), topic.t.Partitions)
	}
	who := fmt.Sprintf("%s of %q", clock(r.Minute), r.Device)
	if r.Others {
		who = clock(r.Minute) + " of several devices"
	}
	switch {
	case r.Found < r.Logged:
		f.Kind, f.Count = MissingRecords, r.Logged-r.Found
		f.Text = fmt.Sprintf("%d of %d records in the minute %s are not in the log", f.Count, r.Logged, who)
	case r.Found > r.Logged+r.Unknown:
		f.Kind, f.Count = ExtraRecords, r.Found-r.Logged-r.Unknown
		if v.extra += int64(f.Count); v.extra <= t.c.runs.landed[r.Topic] || t.c.runs.overlap {
			return NotCounted // answered while its node was killed, or of another node that was
		}
		f.Text = fmt.Sprintf("%d records more than the %d that were published are in the log, in the minute %s", f.Count, r.Logged, who)
	case r.Unknown == 0 && r.digest != r.sum:
		f.Kind = AlteredRecords
		f.Text = fmt.Sprintf("as many records as were published (%d) are in the log, but not the same payloads, in the minute %s", r.Logged, who)
	default:
		return status
	}
	t.c.find(f)
	return f.Kind
}

// judgeTopic decides what a row alone does not tell.
func (t *rows) judgeTopic(name string, v *verdicts) {
	f := Finding{Topic: name, Partition: -1, Offset: -1}
	if n := v.before; n != 0 && n > t.c.runs.inFlight(name) || n < 0 {
		f.Kind, f.Severity, f.Count = LostBeforeLog, Wrong, uint64(max(n, -n))
		f.Text = fmt.Sprintf("%d messages were accepted from clients and are neither in the log nor refused", n)
		t.c.find(f)
	}
	if f.Count = v.unrouted; v.unrouted > 0 {
		f.Kind, f.Severity = NotRouted, Note
		f.Text = fmt.Sprintf("%d records were not looked at: no route of this configuration leads to their topic, or it is deleted; --config names another", v.unrouted)
		t.c.find(f)
	}
	if f.Count = v.gone; v.gone > 0 {
		f.Kind, f.Severity = v.why, Note
		f.Text = fmt.Sprintf("%d records that were counted are gone, as retention or somebody's trimming removes them", v.gone)
		if v.why == Recreated {
			f.Text = fmt.Sprintf("%d records that were counted are gone with their topic, which was deleted and made again", v.gone)
		}
		t.c.find(f)
	}
	if n := v.outstanding; n > 0 {
		f.Count = uint64(n)
		f.Kind, f.Severity, f.Text = t.c.runs.outstanding(name, n)
		t.c.find(f)
	}
}

// qos0 tells what was given up where nothing is promised.
func (t *rows) qos0(k *Counts) {
	n := k.Dropped[session.DropQoS0Full] + k.Dropped[session.DropOffline]
	if n > 0 {
		t.c.find(Finding{Kind: QoS0Dropped, Severity: Loss, Topic: k.Topic, Partition: -1, Offset: -1, Count: n,
			Text: fmt.Sprintf("%d deliveries at QoS 0 were dropped: the subscriber was too slow, or went away", n)})
	}
}
