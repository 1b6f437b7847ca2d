package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/internal/admission"
)

// MQTT is the broker, as the API shows and moves it. An error that is a *Problem is the client's to hear.
type MQTT interface {
	// Clients visits every session that want is true for, in no order.
	Clients(ctx context.Context, want func(id, principal string, connected bool) bool, visit func(*Client)) error
	// Named lists the accounts that have a session under a client id.
	Named(ctx context.Context, id string) (principals []string, err error)
	Client(ctx context.Context, id, principal string) (ClientDetail, error)
	Kick(ctx context.Context, id, principal, reason string) error
	EndSession(ctx context.Context, id, principal string) (discarded int64, err error)

	// ValidFilter and Match know what MQTT's filters are.
	ValidFilter(filter string) bool
	Match(filter, topic string) bool

	Subscribers(ctx context.Context, topic string, n int) (Subscribers, error)
	// Topics visits the topics that messages have come on.
	Topics(ctx context.Context, visit func(*TopicCount)) (others TopicCount, since float64, err error)
	Retained(ctx context.Context, filter, after string, n int) (list []RetainedMessage, last string, more bool, err error)
	Groups(ctx context.Context, n int) (SharedGroups, error)

	Bans() []Ban
	Ban(b Ban) error
	Unban(b Ban) error

	Drain(server string, rate int) error
	Drained() Drain
	Admit() error

	// Trace gives events, some at a time and at times none, until ctx ends or emit fails.
	Trace(ctx context.Context, q TraceQuery, emit func([]TraceEvent) error) error
}

// TraceQuery says what to trace.
type TraceQuery struct {
	Client, Filter string // one of them
	Payload        int    // bytes to show
}

const mqttPath = "/api/v1/mqtt/"

var (
	clientParam = param{"id", "path", "string", "the client id, URL-escaped: a slash is %2F; or -, and the parameter client names it"}
	namedParam  = param{"client", "query", "string", "the client id, where it cannot stand in a path: . and .. and /"}
	whoseParam  = param{"principal", "query", "string", "the account whose session it is, where several accounts use the client id"}
)

// mqttEndpoints is the part of the API for who operates the broker.
var mqttEndpoints = []endpoint{
	{method: "GET", path: mqttPath + "clients", sum: "The MQTT clients: every session, connected or not", params: clientParams, response: Clients{}, get: (*Server).clients},
	{method: "GET", path: mqttPath + "clients/{id}", sum: "One client, with its subscriptions and what has happened to it", response: ClientDetail{},
		params: []param{clientParam, namedParam, whoseParam}, get: (*Server).client},
	{method: "POST", path: mqttPath + "clients/{id}/kick", sum: "End a client's connection; its session stays, and its will fires", admin: true, request: Kick{}, response: Kicked{},
		params: []param{clientParam, namedParam, whoseParam}, act: (*Server).kick},
	{method: "DELETE", path: mqttPath + "clients/{id}/session", sum: "End a session for good: its queue is given up, its will fires", admin: true, response: SessionEnded{},
		params: []param{clientParam, namedParam, whoseParam}, act: (*Server).endSession},
	{method: "GET", path: mqttPath + "slow", sum: "The subscribers that do not keep up, the slowest first", params: slowParams, response: Clients{}, get: (*Server).slow},
	{method: "GET", path: mqttPath + "subscriptions", sum: "Who would receive a message on a topic", params: subscriberParams, response: Subscribers{}, get: (*Server).subscribers},
	{method: "GET", path: mqttPath + "topics", sum: "What comes on which MQTT topic", params: topicParams, response: TopicMetrics{}, get: (*Server).topicMetrics},
	{method: "GET", path: mqttPath + "retained", sum: "The retained messages, without their payloads", params: retainedParams, response: RetainedMessages{}, get: (*Server).retained},
	{method: "GET", path: mqttPath + "groups", sum: "The groups of shared subscriptions", params: []param{pageParams[0]}, response: SharedGroups{}, get: (*Server).groups},
	{method: "GET", path: mqttPath + "bridges", sum: "The bridges to other brokers", response: Bridges{}, get: (*Server).bridges},
	{method: "GET", path: mqttPath + "bans", sum: "Who is banned, the latest first", response: Bans{}, get: (*Server).bans},
	{method: "POST", path: mqttPath + "bans", sum: "Ban a client id, an account or a network: its connections end, and no other is let in", admin: true, request: NewBan{}, response: Ban{}, act: (*Server).ban},
	{method: "DELETE", path: mqttPath + "bans", sum: "Lift a ban", params: unbanParams, admin: true, status: http.StatusNoContent, act: (*Server).unban},
	{method: "GET", path: mqttPath + "drain", sum: "How far the sending away of clients is", response: Drain{}, get: (*Server).drained},
	{method: "POST", path: mqttPath + "drain", sum: "Send every client away, some a second, and let none in", admin: true, request: NewDrain{}, response: Drain{},
		status: http.StatusAccepted, act: (*Server).drain},
	{method: "DELETE", path: mqttPath + "drain", sum: "Let clients in again", admin: true, status: http.StatusNoContent, act: (*Server).admitClients},
	{method: "GET", path: mqttPath + "trace", sum: "The packets of one client, or the messages of one filter, as they come: one JSON object a line", params: traceParams, admin: true,
		response: TraceEvent{}, kind: "application/x-ndjson", stream: (*Server).trace},
}

// mqttPatience is how long the broker may take to say or do something.
const mqttPatience = 30 * time.Second

// broker is what answers about MQTT, and until when.
func (s *Server) broker(r *http.Request, known []param) (m MQTT, q map[string]string, ctx context.Context, cancel func(), err error) {
	p, err := s.ready()
	if err != nil {
		return nil, nil, nil, nil, err
	}
	if p.MQTT == nil {
		return nil, nil, nil, nil, problem(http.StatusNotFound, "this node has no MQTT broker")
	}
	values, err := query(r, known)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	q = map[string]string{}
	for name, v := range values {
		if q[name] = v[0]; len(v[0]) > maxParam {
			return nil, nil, nil, nil, badParam(name, "is too long")
		}
	}
	ctx, cancel = context.WithTimeout(r.Context(), mqttPatience)
	return p.MQTT, q, ctx, cancel, nil
}

const maxParam = 64 << 10 // bytes: an MQTT topic's

// whose finds out which client is meant, and under which account.
func whose(ctx context.Context, m MQTT, r *http.Request, q map[string]string) (id, principal string, err error) {
	id = r.PathValue("id")
	if name, named := q["client"]; named {
		if id != "-" {
			return "", "", badParam("client", "stands beside a client id in the path: write - there")
		}
		id = name
	}
	if name, named := q["principal"]; named {
		return id, name, nil
	}
	names, err := m.Named(ctx, id)
	switch {
	case err != nil:
		return "", "", err
	case len(names) > 1:
		return "", "", problem(http.StatusConflict, fmt.Sprintf("%d accounts have a session with this client id; name one with the parameter principal: %s",
			len(names), clip(quoted(names), 300)))
	case len(names) == 0:
		return "", "", errNoClient
	}
	return id, names[0], nil
}

var errNoClient = problem(http.StatusNotFound, "there is no session with this client id; /api/v1/mqtt/clients lists them")

func quoted(names []string) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(n))
	}
	return b.String()
}

func (s *Server) client(r *http.Request) (answer, error) {
	m, q, ctx, cancel, err := s.broker(r, []param{namedParam, whoseParam})
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	id, principal, err := whose(ctx, m, r, q)
	if err != nil {
		return answer{}, err
	}
	c, err := m.Client(ctx, id, principal)
	if err != nil {
		return answer{}, err
	}
	c.List, c.Events = listed(c.List), listed(c.Events)
	return answer{body: c}, nil
}

func (s *Server) kick(r *http.Request, _ visitor) (answer, error) {
	m, q, ctx, cancel, err := s.broker(r, []param{namedParam, whoseParam})
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	k := Kick{Reason: "administrative_action"}
	if r.ContentLength != 0 {
		if err := readBody(r, &k); err != nil {
			return answer{}, err
		}
	}
	id, principal, err := whose(ctx, m, r, q)
	if err != nil {
		return answer{}, err
	}
	if err := m.Kick(ctx, id, principal, k.Reason); err != nil {
		return answer{}, err
	}
	return answer{body: Kicked{Client: id, Principal: principal, Reason: k.Reason}}, nil
}

func (s *Server) endSession(r *http.Request, _ visitor) (answer, error) {
	m, q, ctx, cancel, err := s.broker(r, []param{namedParam, whoseParam})
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	id, principal, err := whose(ctx, m, r, q)
	if err != nil {
		return answer{}, err
	}
	n, err := m.EndSession(ctx, id, principal)
	if err != nil {
		return answer{}, err
	}
	return answer{body: SessionEnded{Client: id, Principal: principal, Discarded: n}}, nil
}

var subscriberParams = []param{
	{"topic", "query", "string", "the topic, a name without + and #; required"},
	{"limit", "query", "integer", "receivers that are listed: 100, at most 1000"},
}

func (s *Server) subscribers(r *http.Request) (answer, error) {
	m, q, ctx, cancel, err := s.broker(r, subscriberParams)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	n, err := limitOf(q["limit"], 100, 1000)
	if err != nil {
		return answer{}, err
	}
	if q["topic"] == "" || strings.ContainsAny(q["topic"], "+#") {
		return answer{}, badParam("topic", "is not the name of one topic")
	}
	body, err := m.Subscribers(ctx, q["topic"], n)
	body.Subscribers = listed(body.Subscribers)
	return answer{body: body}, err
}

var retainedParams = append([]param{{"filter", "query", "string", "an MQTT filter; default: #"}}, pageParams...)

func (s *Server) retained(r *http.Request) (answer, error) {
	m, q, ctx, cancel, err := s.broker(r, retainedParams)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	n, err := limitOf(q["limit"], 100, 1000)
	if err != nil {
		return answer{}, err
	}
	filter := q["filter"]
	if filter == "" {
		filter = "#"
	}
	list, last, more, err := m.Retained(ctx, filter, q["cursor"], n)
	if err != nil {
		return answer{}, err
	}
	body := RetainedMessages{Retained: listed(list)}
	if more {
		body.Next = last
	}
	return answer{body: body}, nil
}

func (s *Server) groups(r *http.Request) (answer, error) {
	m, q, ctx, cancel, err := s.broker(r, pageParams[:1])
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	n, err := limitOf(q["limit"], 100, 1000)
	if err != nil {
		return answer{}, err
	}
	body, err := m.Groups(ctx, n)
	body.Groups = listed(body.Groups)
	return answer{body: body}, err
}

// limitOf is limit of one value.
func limitOf(v string, def, most int) (int, error) {
	if v == "" {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		return 0, badParam("limit", fmt.Sprintf("is not between 1 and %d", most))
	}
	return n, nil
}

var traceParams = []param{
	{"client", "query", "string", "a client id: its packets, both ways; or"},
	{"filter", "query", "string", "an MQTT filter: the messages that it matches, from and to everybody"},
	{"payload", "query", "integer", "bytes of each payload to show: 0, at most 65536"},
	{"duration", "query", "string", "until the trace ends by itself: 5m, at most 1h"},
}

// trace streams what is traced. Whether the login still holds is asked as it goes on; the last line says why it is over.
func (s *Server) trace(w http.ResponseWriter, r *http.Request, v visitor) error {
	m, q, _, cancel, err := s.broker(r, traceParams)
	if err != nil {
		return err
	}
	cancel()
	t, d, err := traceQuery(q)
	if err != nil {
		return err
	}
	p, err := s.ready()
	if err != nil {
		return err
	}
	node, cancel := p.while(r.Context())
	defer cancel()
	ctx, stop := context.WithTimeout(node, d)
	defer stop()
	s.o.Logger.Info("an administrator traces", "client", t.Client, "filter", t.Filter, "payload", t.Payload, "name", v.who.Name, "from", admission.Client(r.RemoteAddr))
	enc, flush, begun := json.NewEncoder(w), http.NewResponseController(w).Flush, false
	err = m.Trace(ctx, t, func(events []TraceEvent) error {
		if !begun {
			begun = true
			streaming(w, r)
			w.Header().Set("Content-Type", "application/x-ndjson")
			w.Header().Set("X-Accel-Buffering", "no")
		}
		if !s.welcome(v) {
			return errTraceOver
		}
		for i := range events {
			if err := enc.Encode(&events[i]); err != nil {
				return fmt.Errorf("write an event: %w", err)
			}
		}
		return flush()
	})
	if !begun {
		return err
	}
	end := "the time is over"
	switch {
	case errors.Is(err, errTraceOver):
		end = reasonLogin
	case node.Err() != nil:
		end = "the node stops"
	case err != nil:
		end = "the trace has failed"
	}
	enc.Encode(TraceEvent{At: millis(s.o.Now()), End: end}) //nolint:errcheck // the client went away
	return nil
}

var errTraceOver = errors.New("trace: " + reasonLogin)

func traceQuery(q map[string]string) (t TraceQuery, d time.Duration, err error) {
	t, d = TraceQuery{Client: q["client"], Filter: q["filter"]}, 5*time.Minute
	if (t.Client == "") == (t.Filter == "") {
		return t, d, problem(http.StatusBadRequest, "name either a client or a filter")
	}
	if v := q["payload"]; v != "" {
		if t.Payload, err = strconv.Atoi(v); err != nil || t.Payload < 0 || t.Payload > 64<<10 {
			return t, d, badParam("payload", "is not between 0 and 65536")
		}
	}
	if v := q["duration"]; v != "" {
		if d, err = time.ParseDuration(v); err != nil || d <= 0 || d > time.Hour {
			return t, d, badParam("duration", "is not a time like 30s or 5m, of 1h at most")
		}
	}
	return t, d, nil
}
