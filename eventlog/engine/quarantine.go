package engine

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/millrace-io/millrace/eventlog/engine/segment"
)

// Quarantined is a run of offsets of one partition that cannot be read, because bytes of its segments are damaged. Nothing in it is
// served, compacted or backed up; nothing is deleted because of it.
type Quarantined struct {
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"` // the first offset
	To        int64  `json:"to"`   // the first behind it
	File      string `json:"file"`
	Pos       int64  `json:"byte"`
	Error     string `json:"error"`
	Since     int64  `json:"since"` // milliseconds since 1970
}

// scrubName is the file that says what is quarantined and where the scrubber is. It is for people and for the next start: without it, reads
// find damage all the same.
const (
	scrubName = "scrub.json"
	scrubTemp = "scrub.json.tmp"
)

// quarantine is what is known to be damaged.
type quarantine struct {
	mu    sync.Mutex
	runs  map[*partition][]Quarantined
	dirty bool // since it was written
}

// Quarantine lists what is known to be damaged, by topic, partition and offset.
func (e *Engine) Quarantine() (list []Quarantined) {
	q := &e.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	for p, runs := range q.runs {
		start := p.start.Load()
		for _, r := range runs {
			if r.To > start && !p.topic.gone.Load() {
				list = append(list, r)
			}
		}
	}
	slices.SortFunc(list, func(a, b Quarantined) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.From, b.From))
	})
	return list
}

// maxRuns bounds what is remembered of one partition: a disk that gives nothing back is one line.
const maxRuns = 100

func (e *Engine) quarantined(p *partition, d *segment.Damage) Quarantined {
	return Quarantined{Topic: p.topic.name, TopicID: p.part.Topic.String(), Partition: p.part.Index, From: d.Offset, To: d.Next,
		File: d.File, Pos: d.Pos, Error: d.Err.Error(), Since: e.Now()}
}

// damaged notes damage that a reader or the scrubber has met.
func (e *Engine) damaged(p *partition, d *segment.Damage) {
	run := e.quarantined(p, d)
	if !e.quarantine.add(p, run) {
		return
	}
	e.o.Logger.Error("damaged records are quarantined: they are not served, and what is around them is", "topic", run.Topic, "partition",
		run.Partition, "from", run.From, "to", run.To-1, "file", run.File, "byte", run.Pos, "error", run.Error)
}

// add takes a run, unless it is known; runs that touch become one.
func (q *quarantine) add(p *partition, run Quarantined) (fresh bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	runs := q.runs[p]
	for _, r := range runs {
		if r.From <= run.From && run.To <= r.To {
			return false
		}
	}
	runs = slices.DeleteFunc(slices.Clone(runs), func(r Quarantined) bool {
		touches := r.From <= run.To && run.From <= r.To || len(runs) >= maxRuns
		if touches {
			run.From, run.To = min(run.From, r.From), max(run.To, r.To)
		}
		return touches
	})
	if q.runs == nil {
		q.runs = map[*partition][]Quarantined{}
	}
	q.runs[p] = append(runs, run)
	q.dirty = true
	return true
}

// replace puts what one reading of a whole partition has found in the place of what was known.
func (q *quarantine) replace(p *partition, found []Quarantined) {
	q.mu.Lock()
	known := q.runs[p]
	if len(known) > 0 {
		delete(q.runs, p)
		q.dirty = true
	}
	q.mu.Unlock()
	for _, run := range found {
		for _, k := range known {
			if k.From == run.From && k.To == run.To {
				run.Since = k.Since
			}
		}
		q.add(p, run)
	}
}

// changed tells whether it is to be written.
func (q *quarantine) changed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dirty
}

// has tells whether anything of a partition is quarantined.
func (q *quarantine) has(p *partition) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	start := p.start.Load()
	return slices.ContainsFunc(q.runs[p], func(r Quarantined) bool { return r.To > start })
}

// noteDamage notes the damage that an error of a read speaks of, if it does.
func (e *Engine) noteDamage(p *partition, err error) {
	var d *segment.Damage
	if errors.As(err, &d) {
		e.damaged(p, d)
	}
}

// scrubFile is the content of scrub.json.
type scrubFile struct {
	Quarantined []Quarantined `json:"quarantined"`
	LastPass    int64         `json:"last_pass,omitempty"` // when the last one ended, milliseconds since 1970
	Done        []scrubbed    `json:"done,omitempty"`      // of the pass under way
}

// scrubbed says how far the pass under way has come in a partition.
type scrubbed struct {
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	Next      int64  `json:"next"`
}

// readScrub reads what the last life has left; a file that cannot be read is as good as none.
func (e *Engine) readScrub() (s scrubFile) {
	p, err := readAll(e.o.FS, scrubName)
	if err == nil {
		err = json.Unmarshal(p, &s)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.o.Logger.Warn("what was quarantined is not known; scrubbing begins anew", "file", scrubName, "error", err)
		return scrubFile{}
	}
	return s
}

func (e *Engine) writeScrub(s scrubFile) {
	q := &e.quarantine
	q.mu.Lock()
	q.dirty = false
	q.mu.Unlock()
	s.Quarantined = e.Quarantine()
	p, err := json.MarshalIndent(s, "", " ")
	if err == nil {
		err = replaceFile(e.o.FS, scrubTemp, scrubName, append(p, '\n'))
	}
	if err != nil && e.failure() == nil {
		e.o.Logger.Warn("the scrubber's notes are not written", "error", fmt.Errorf("write %s: %w", scrubName, err))
	}
}

// partOf finds a partition by what a scrub file says of it.
func (e *Engine) partOf(id string, index int32) *partition {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for tid, t := range e.topics {
		if tid.String() == id {
			if parts := *t.parts.Load(); index >= 0 && int(index) < len(parts) {
				return parts[index]
			}
		}
	}
	return nil
}
