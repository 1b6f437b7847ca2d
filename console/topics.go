package console

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/eventlog"
)

// hidden tells whether a topic is not for people: Millrace's own state, and the groups of Kafka clients.
func hidden(name string) bool {
	return strings.HasPrefix(name, eventlog.InternalPrefix) || strings.HasPrefix(name, "__")
}

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
	all, err := p.Log.Topics(r.Context())
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
	for _, t := range all {
		one, err := topicBody(r.Context(), p, t)
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

// maxTimes is in how many partitions of a topic the oldest and the newest record are looked for: a read each.
const maxTimes = 64

func topicBody(ctx context.Context, p *attached, t eventlog.Topic) (Topic, error) {
	b := Topic{Name: t.Name, Partitions: int(t.Partitions)}
	starts, err := p.Log.Starts(ctx, t.ID)
	if err != nil {
		return b, err
	}
	ends, err := p.Log.Ends(ctx, t.ID)
	if err != nil {
		return b, err
	}
	for i := range min(len(starts), len(ends)) {
		b.Records += max(0, ends[i]-starts[i])
	}
	if p.Bytes != nil {
		if n, ok := p.Bytes(t); ok {
			b.Bytes = &n
		}
	}
	for i := range min(len(starts), len(ends), maxTimes) {
		if ends[i] <= starts[i] {
			continue
		}
		part := eventlog.Part{Topic: t.ID, Index: int32(i)}
		first, err := timeAt(ctx, p.Log, eventlog.Position{Part: part, Offset: starts[i]})
		if err != nil {
			return b, err
		}
		last, err := timeAt(ctx, p.Log, eventlog.Position{Part: part, Offset: ends[i] - 1})
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

// timeAt is the timestamp of the record at a place, or of the next one; nil: there is none, or it is gone.
func timeAt(ctx context.Context, log *eventlog.Log, at eventlog.Position) (t *float64, err error) {
	batches, _, err := log.Read(ctx, at, 1)
	var gone *eventlog.OutOfRangeError
	if errors.As(err, &gone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, b := range batches {
		err := b.Each(func(r *eventlog.Record) error {
			if r.Offset >= at.Offset {
				v := float64(r.Timestamp)
				t = &v
				return errFound
			}
			return nil
		})
		if t != nil || err != nil {
			return t, ignore(err, errFound)
		}
	}
	return nil, nil
}

var errFound = errors.New("found")

func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}
