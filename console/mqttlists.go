package console

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The lists of clients and topics. A list is made by looking at all there is, of which only what belongs on the page is kept: a node with a
// million sessions answers in time, and with the memory of one page.

var clientParams = append([]param{
	{"client", "query", "string", "a client id; * stands for any characters, also none. At most 1,024 bytes"},
	{"principal", "query", "string", "likewise the account"},
	{"connected", "query", "boolean", "true: those with a connection; false: those without"},
	{"sort", "query", "string", "id (default), or the most first: queued, inflight, waiting, lag, subscriptions, bytes_in, bytes_out, messages_in, messages_out; since, last_seen: the latest first"},
}, pageParams...)

var slowParams = append([]param{
	{"sort", "query", "string", "lag (default): by the age of the oldest message that waits; queued; waiting: by the bytes that the client has not taken"},
	{"offline", "query", "boolean", "true: also sessions without a connection that have a queue"},
}, pageParams[0])

// clientOrder are the numbers that clients can be sorted by.
var clientOrder = map[string]func(*Client) float64{
	"queued":        func(c *Client) float64 { return float64(c.Queued) },
	"inflight":      func(c *Client) float64 { return float64(c.Inflight) },
	"waiting":       func(c *Client) float64 { return float64(c.Waiting) },
	"lag":           func(c *Client) float64 { return orNone(c.Lag) },
	"subscriptions": func(c *Client) float64 { return float64(c.Subscriptions) },
	"bytes_in":      func(c *Client) float64 { return float64(c.BytesIn) },
	"bytes_out":     func(c *Client) float64 { return float64(c.BytesOut) },
	"messages_in":   func(c *Client) float64 { return float64(c.MessagesIn) },
	"messages_out":  func(c *Client) float64 { return float64(c.MessagesOut) },
	"since":         func(c *Client) float64 { return orNone(c.Since) },
	"last_seen":     func(c *Client) float64 { return orNone(c.LastSeen) },
}

func orNone(f *float64) float64 {
	if f == nil {
		return -1
	}
	return *f
}

// best keeps the first n of what it is shown, in an order.
type best[T any] struct {
	n     int
	order func(a, b *T) int
	after *T // what is shown on earlier pages; nil: nothing
	kept  []T
	full  bool // the last of those that trim left is a bound: what comes behind it is not kept
	bound T
	total int
}

func (p *best[T]) add(x *T) {
	p.total++
	if p.after != nil && p.order(x, p.after) <= 0 || p.full && p.order(x, &p.bound) >= 0 {
		return
	}
	if p.kept = append(p.kept, *x); len(p.kept) > 2*p.n+64 {
		p.trim()
	}
}

// trim keeps one more than the page has, which tells that there is another page.
func (p *best[T]) trim() {
	slices.SortFunc(p.kept, func(a, b T) int { return p.order(&a, &b) })
	if len(p.kept) > p.n+1 {
		clear(p.kept[p.n+1:])
		p.kept = p.kept[:p.n+1]
	}
	if len(p.kept) == p.n+1 {
		p.full, p.bound = true, p.kept[p.n]
	}
}

func (p *best[T]) done() (list []T, more bool) {
	p.trim()
	if len(p.kept) > p.n {
		return p.kept[:p.n], true
	}
	return p.kept, false
}

// cursor is the place of the last entry of a page.
type cursor struct {
	Sort  string  `json:"s"`
	Value float64 `json:"v"`
	ID    string  `json:"i"`
	Of    string  `json:"p"`
}

func (c cursor) String() string {
	b, _ := json.Marshal(c)
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(text, sort string) (c cursor, err error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(b, &c) != nil || c.Sort != sort {
		return c, badParam("cursor", "is not one of this query")
	}
	return c, nil
}

func (s *Server) clients(r *http.Request) (answer, error) {
	m, q, ctx, cancel, err := s.broker(r, clientParams)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	connected, err := optionalBool(q, "connected")
	if err != nil {
		return answer{}, err
	}
	for _, name := range []string{"client", "principal"} {
		if len(q[name]) > maxWild {
			return answer{}, badParam(name, "has more than "+strconv.Itoa(maxWild)+" bytes")
		}
	}
	want := func(id, principal string, now bool) bool {
		return (connected == nil || *connected == now) && wild(q["client"], id) && wild(q["principal"], principal)
	}
	sort := cmp.Or(q["sort"], "id")
	return listClients(ctx, m, q, sort, 100, want, func(*Client) bool { return true })
}

func (s *Server) slow(r *http.Request) (answer, error) {
	m, q, ctx, cancel, err := s.broker(r, slowParams)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	offline, err := optionalBool(q, "offline")
	if err != nil {
		return answer{}, err
	}
	sort := cmp.Or(q["sort"], "lag")
	if sort != "lag" && sort != "queued" && sort != "waiting" {
		return answer{}, badParam("sort", "is neither lag, queued nor waiting")
	}
	also := offline != nil && *offline
	return listClients(ctx, m, q, sort, 20, func(_, _ string, connected bool) bool { return connected || also }, (*Client).slow)
}

// slowBytes is how much may wait for a client before it counts as slow although it reads live.
const slowBytes = 256 << 10

// slow tells whether a subscriber does not keep up: it reads from the log because more came than it took, as much waits for it as may, or
// much waits. One without a connection is slow if it has a queue.
func (c *Client) slow() bool {
	if !c.Connected {
		return c.Queued > 0
	}
	return c.Behind || c.Full || c.Waiting >= slowBytes
}

// listClients answers with a page of the clients that want and pick choose.
func listClients(ctx context.Context, m MQTT, q map[string]string, sort string, def int, want func(id, principal string, connected bool) bool, pick func(*Client) bool) (answer, error) {
	n, err := limitOf(q["limit"], def, 1000)
	if err != nil {
		return answer{}, err
	}
	value, known := clientOrder[sort]
	if !known && sort != "id" {
		return answer{}, badParam("sort", "is not one of those that /api/v1/openapi.json names")
	}
	of := func(c *Client) cursor {
		at := cursor{Sort: sort, ID: c.ID, Of: c.Principal}
		if value != nil {
			at.Value = value(c)
		}
		return at
	}
	type entry struct {
		at cursor
		c  Client
	}
	p := best[entry]{n: n, order: func(a, b *entry) int {
		return cmp.Or(cmp.Compare(b.at.Value, a.at.Value), strings.Compare(a.at.ID, b.at.ID), strings.Compare(a.at.Of, b.at.Of))
	}}
	if text := q["cursor"]; text != "" {
		at, err := parseCursor(text, sort)
		if err != nil {
			return answer{}, err
		}
		p.after = &entry{at: at}
	}
	if err := m.Clients(ctx, want, func(c *Client) {
		if pick(c) {
			p.add(&entry{of(c), *c})
		}
	}); err != nil {
		return answer{}, err
	}
	list, more := p.done()
	body := Clients{Clients: make([]Client, len(list)), Total: p.total}
	for i := range list {
		body.Clients[i] = list[i].c
	}
	if more {
		body.Next = list[len(list)-1].at.String()
	}
	return answer{body: body}, nil
}

func optionalBool(q map[string]string, name string) (*bool, error) {
	v := q[name]
	if v == "" {
		return nil, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return nil, badParam(name, "is neither true nor false")
	}
	return &b, nil
}

// maxWild bounds a pattern: it is held against every session there is.
const maxWild = 1024

// wild tells whether a pattern matches a text: * is any characters, also none; an empty pattern matches everything.
func wild(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return true
}

var topicParams = []param{
	{"filter", "query", "string", "an MQTT filter: those topics; default: #"},
	{"sort", "query", "string", "messages (default), bytes, or last: the latest first"},
	{"interval", "query", "string", "measure the rates over so long a time, in which there is no answer: 5s, at most 20s; 0s: no rates"},
	pageParams[0],
}

var topicOrder = map[string]func(*TopicCount) float64{
	"messages": func(t *TopicCount) float64 { return float64(t.Messages) },
	"bytes":    func(t *TopicCount) float64 { return float64(t.Bytes) },
	"last":     func(t *TopicCount) float64 { return t.Last },
}

// topicMetrics looks at the counts twice where rates are asked for: nothing is kept between two requests.
func (s *Server) topicMetrics(r *http.Request) (answer, error) {
	m, q, ctx, cancel, err := s.broker(r, topicParams)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	n, err := limitOf(q["limit"], 20, 1000)
	if err != nil {
		return answer{}, err
	}
	interval := 5 * time.Second
	if v := q["interval"]; v != "" {
		if interval, err = time.ParseDuration(v); err != nil || interval < 0 || interval > 20*time.Second {
			return answer{}, badParam("interval", "is not a time from 0s to 20s")
		}
	}
	by := cmp.Or(q["sort"], "messages")
	value, known := topicOrder[by]
	if !known {
		return answer{}, badParam("sort", "is neither messages, bytes nor last")
	}
	filter := cmp.Or(q["filter"], "#")
	if !m.ValidFilter(filter) {
		return answer{}, badParam("filter", "is not an MQTT filter")
	}
	before := map[string]TopicCount{}
	if interval > 0 {
		if !s.measuring.CompareAndSwap(false, true) { // it takes memory for each topic
			return answer{}, tooMany("the rates of topics are being measured already", interval)
		}
		defer s.measuring.Store(false)
		if _, _, err := m.Topics(ctx, func(t *TopicCount) {
			if m.Match(filter, t.Topic) {
				before[t.Topic] = *t
			}
		}); err != nil {
			return answer{}, err
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return answer{}, problem(http.StatusServiceUnavailable, "the node stops")
		}
	}
	body := TopicMetrics{}
	p := best[TopicCount]{n: n, order: func(a, b *TopicCount) int {
		return cmp.Or(cmp.Compare(value(b), value(a)), strings.Compare(a.Topic, b.Topic))
	}}
	body.Others, body.Since, err = m.Topics(ctx, func(t *TopicCount) {
		if !m.Match(filter, t.Topic) {
			return
		}
		if interval > 0 {
			was := before[t.Topic] // of one that is new, nothing
			t.Rate, t.ByteRate = new(perSecond(t.Messages-was.Messages, interval)), new(perSecond(t.Bytes-was.Bytes, interval))
		}
		body.Matched.Messages += t.Messages
		body.Matched.Bytes += t.Bytes
		body.Matched.Last = max(body.Matched.Last, t.Last)
		p.add(t)
	})
	if err != nil {
		return answer{}, err
	}
	body.Topics, _ = p.done()
	body.Topics, body.Total = listed(body.Topics), p.total
	return answer{body: body}, nil
}

func perSecond(n int64, d time.Duration) float64 { return float64(max(n, 0)) / d.Seconds() }
