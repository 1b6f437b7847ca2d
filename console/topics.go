package console

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// hidden tells whether a topic is not for people: Millrace's own state, and the groups of Kafka clients.
func hidden(name string) bool {
	return strings.HasPrefix(name, eventlog.InternalPrefix) || strings.HasPrefix(name, "__")
}

// logPatience is how long a cluster may take to say what it has.
const logPatience = 10 * time.Second

func (s *Server) topics(r *http.Request) (answer, error) {
	p, err := s.ready()
	if err != nil {
		return answer{}, err
	}
	q, err := query(r, pageParams)
	if err != nil {
		return answer{}, err
	}
	n, err := limit(q, 100, 1000)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), logPatience)
	defer cancel()
	all, err := p.Log.Topics(ctx)
	if err != nil {
		return answer{}, logError(err)
	}
	after := q.Get("cursor")
	all = slices.DeleteFunc(all, func(t eventlog.Topic) bool { return hidden(t.Name) || t.Name <= after })
	slices.SortFunc(all, func(a, b eventlog.Topic) int { return strings.Compare(a.Name, b.Name) })
	body := Topics{Topics: []Topic{}}
	if len(all) > n {
		all, body.Next = all[:n], all[n-1].Name
	}
	look := s.times.begin(p.Log)
	defer look.end()
	for _, t := range all {
		one, err := look.topic(ctx, p, t)
		if errors.Is(err, eventlog.ErrUnknownTopic) {
			continue // deleted meanwhile
		}
		if err != nil {
			return answer{}, logError(err)
		}
		body.Topics = append(body.Topics, one)
	}
	return answer{body: body}, nil
}

// logError makes an error of the log one for the client: a log that stops, or a cluster that does not answer, is no fault of the API.
func logError(err error) error {
	if errors.Is(err, eventlog.ErrUnknownTopic) {
		return problem(http.StatusNotFound, "there is no such topic; /api/v1/topics lists them")
	}
	if errors.Is(err, eventlog.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return problem(http.StatusServiceUnavailable, "the log does not answer")
	}
	return err
}

// times remembers the timestamps of records by their places, which do not change: only the ends of topics that are written to are read again.
type times struct {
	mu    sync.Mutex // held by the one request that lists topics
	known map[eventlog.Position]float64
}

const (
	maxTimes = 16_384 // remembered
	maxReads = 1024   // of one request
)

// lookUp is one request's use of times.
type lookUp struct {
	*times
	log  *eventlog.Log
	left int
}

func (t *times) begin(log *eventlog.Log) *lookUp {
	t.mu.Lock()
	if t.known == nil || len(t.known) > maxTimes {
		t.known = map[eventlog.Position]float64{}
	}
	return &lookUp{t, log, maxReads}
}

func (l *lookUp) end() { l.mu.Unlock() }

func (l *lookUp) topic(ctx context.Context, p *attached, t eventlog.Topic) (Topic, error) {
	b := Topic{Name: t.Name, Partitions: int(t.Partitions)}
	starts, err := p.Log.Starts(ctx, t.ID)
	if err != nil {
		return b, err
	}
	ends, err := p.Log.Ends(ctx, t.ID)
	if err != nil {
		return b, err
	}
	if p.Bytes != nil {
		if n, ok := p.Bytes(t); ok {
			b.Bytes = &n
		}
	}
	for i := range min(len(starts), len(ends)) {
		if ends[i] <= starts[i] {
			continue
		}
		b.Records += ends[i] - starts[i]
		part := eventlog.Part{Topic: t.ID, Index: int32(i)}
		first, err := l.at(ctx, eventlog.Position{Part: part, Offset: starts[i]})
		if err != nil {
			return b, err
		}
		last, err := l.at(ctx, eventlog.Position{Part: part, Offset: ends[i] - 1})
		if err != nil {
			return b, err
		}
		if first != nil && (b.First == nil || *first < *b.First) {
			b.First = first
		}
		if last != nil && (b.Last == nil || *last > *b.Last) {
			b.Last = last
		}
	}
	return b, nil
}

// at is the timestamp of the record at a place, or of the next one; nil: there is none, it is gone, or this request has read enough.
func (l *lookUp) at(ctx context.Context, at eventlog.Position) (*float64, error) {
	if t, known := l.known[at]; known {
		return &t, nil
	}
	if l.left--; l.left < 0 {
		return nil, nil
	}
	batches, _, err := l.log.Read(ctx, at, 1)
	var gone *eventlog.OutOfRangeError
	if errors.As(err, &gone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found *float64
	for _, b := range batches {
		err := b.Each(func(r *eventlog.Record) error {
			if r.Offset < at.Offset {
				return nil
			}
			found = new(float64(r.Timestamp))
			return errFound
		})
		if found != nil {
			l.known[at] = *found
			return found, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

var errFound = errors.New("found")
