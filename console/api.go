package console

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/internal/admission"
)

// endpoint is one route of the API: what answers it, and what openapi.json says of it.
type endpoint struct {
	method, path string
	open         bool // to anybody, logged in or not
	admin        bool // to administrators only: it changes something, or shows what only they may see
	sum          string
	params       []param
	request      any    // its body
	response     any    // an example of its body's type; nil: none
	kind         string // media type of the response; "": JSON
	status       int    // of success; 0: 200

	get    func(*Server, *http.Request) (answer, error)                     // answers once
	act    func(*Server, *http.Request, visitor) (answer, error)            // likewise, and changes something
	stream func(*Server, http.ResponseWriter, *http.Request, visitor) error // answers in parts
}

type param struct{ name, in, kind, doc string }

const (
	verifyPath = "/api/v1/verify"
	backupPath = "/api/v1/log/backup"
)

// endpoints is the whole API. What changes something is not a GET, and is marked for administrators: a test goes through them.
var endpoints = append([]endpoint{
	{method: "GET", path: "/api/v1/status", sum: "Is the node ready, where are its doors", response: Status{}, get: (*Server).status},
	{method: "GET", path: "/api/v1/pipeline", sum: "Totals, rates and latencies of each stage, and whether it adds up", response: Pipeline{}, get: (*Server).pipeline},
	{method: "GET", path: "/api/v1/devices", sum: "The devices", params: deviceParams, response: Devices{}, get: (*Server).devices},
	{method: "GET", path: "/api/v1/devices/{id}", sum: "One device, with its recent track", response: DeviceDetail{}, get: (*Server).device,
		params: []param{{"id", "path", "string", "the device's name, URL-escaped: a slash is %2F"}}},
	{method: "GET", path: "/api/v1/topics", sum: "The topics of the log", params: pageParams, response: Topics{}, get: (*Server).topics},
	{method: "GET", path: "/api/v1/topics/{name}/tail", sum: "The records of a topic as they come, as server-sent events `record`, `skipped` and `end`",
		params: tailParams, response: Record{}, kind: "text/event-stream", stream: (*Server).tail},
	{method: "GET", path: verifyPath, sum: "Check that everything adds up, as one JSON object a line", params: verifyParams, response: map[string]any{},
		kind: "application/x-ndjson", stream: (*Server).verify},
	{method: "GET", path: "/api/v1/live", sum: "The WebSocket of the page, subprotocol millrace.live.v1: docs/live.md", status: http.StatusSwitchingProtocols,
		stream: (*Server).live},
	{method: "GET", path: backupPath, admin: true, sum: "A consistent copy of the embedded log, as a tar archive for `millrace backup`", params: backupParams,
		kind: "application/x-tar", response: "", stream: (*Server).backup},
	{method: "POST", path: "/api/v1/login", sum: "Begin a session, where the node has a password file", open: true, request: Login{}, response: LoggedIn{}, get: (*Server).login},
	{method: "POST", path: "/api/v1/logout", sum: "End the session", open: true, status: http.StatusNoContent, get: (*Server).logout},
	{method: "GET", path: "/api/v1/openapi.json", sum: "This description", open: true, response: map[string]any{}, get: (*Server).describe},
}, mqttEndpoints...)

// answer is a whole response.
type answer struct {
	status int // 0: 200
	body   any // nil: none; []byte: JSON as it is
	cookie *http.Cookie
}

// serve answers the endpoints of one path.
func (s *Server) serve(es []endpoint) http.HandlerFunc {
	var methods []string
	for _, e := range es {
		methods = append(methods, e.method)
	}
	allow := strings.Join(methods, ", ")
	return func(w http.ResponseWriter, r *http.Request) {
		for i := range es {
			if e := &es[i]; r.Method == e.method || r.Method == http.MethodHead && e.method == http.MethodGet && e.stream == nil {
				s.answer(e, w, r)
				return
			}
		}
		w.Header().Set("Allow", allow)
		s.fail(w, r, problem(http.StatusMethodNotAllowed, "this route answers "+allow))
	}
}

func (s *Server) answer(e *endpoint, w http.ResponseWriter, r *http.Request) {
	var v visitor
	var a answer
	var err error
	if !e.open {
		if v, err = s.admit(r); err == nil && e.admin {
			err = s.administers(v)
		}
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	switch {
	case e.stream != nil:
		if err = e.stream(s, w, r, v); err != nil {
			s.fail(w, r, err)
		}
		return
	case e.act != nil:
		a, err = e.act(s, r, v)
		s.o.Logger.Info("an administrator's request", "what", e.method+" "+e.path, "path", r.URL.Path, "query", r.URL.RawQuery, "name", v.who.Name,
			"from", admission.Client(r.RemoteAddr), "done", err == nil)
	default:
		a, err = e.get(s, r)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if st, ok := a.body.(Status); ok {
		st.User, st.Login = v.who.Name, s.o.Passwords != nil
		a.body = st
	}
	s.give(w, r, a)
}

// give writes an answer.
func (s *Server) give(w http.ResponseWriter, r *http.Request, a answer) {
	if a.cookie != nil {
		http.SetCookie(w, a.cookie)
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	b, ok := a.body.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(a.body); err != nil {
			s.fail(w, r, fmt.Errorf("encode the answer: %w", err))
			return
		}
		b = append(b, '\n')
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Vary", "Accept-Encoding")
	if len(b) > 2<<10 && acceptsGzip(r) {
		b = zipped(b)
		w.Header().Set("Content-Encoding", "gzip")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(a.status)
	w.Write(b) //nolint:errcheck // the client went away
}

func acceptsGzip(r *http.Request) bool {
	for v := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(v), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			return !strings.HasPrefix(strings.ReplaceAll(q, " ", ""), "q=0") || strings.ContainsAny(q, "123456789")
		}
	}
	return false
}

var zippers = sync.Pool{New: func() any { z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed); return z }}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	z := zippers.Get().(*gzip.Writer)
	z.Reset(&out)
	z.Write(b) //nolint:errcheck // a buffer takes everything
	z.Close()  //nolint:errcheck // so it does of the end
	zippers.Put(z)
	return out.Bytes()
}

func indent(b *bytes.Buffer, body any) error {
	enc := json.NewEncoder(b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(body); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	return nil
}

func (p *Problem) Error() string { return fmt.Sprintf("%d %s: %s", p.Status, p.Title, p.Detail) }

func problem(status int, detail string) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: detail}
}

// NewProblem is an error whose detail the client is to hear.
func NewProblem(status int, detail string) *Problem { return problem(status, detail) }

func badParam(name, what string) *Problem {
	return problem(http.StatusBadRequest, "the parameter "+name+" "+what)
}

// fail answers with an error. What is not a Problem is our own fault, and nobody else's business.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p *Problem
	if !errors.As(err, &p) {
		s.o.Logger.Error("a request failed", "path", r.URL.Path, "err", err)
		p = problem(http.StatusInternalServerError, "the node could not answer; its log says why")
	}
	b, _ := json.Marshal(p)
	h := w.Header()
	for _, name := range []string{"Content-Encoding", "Content-Length", "ETag", "Last-Modified"} {
		h.Del(name)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="millrace"`)
	}
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retry))
	}
	w.WriteHeader(p.Status)
	w.Write(append(b, '\n')) //nolint:errcheck // the client went away
}

// ready returns the parts of the node, or says that there are none now.
func (s *Server) ready() (*attached, error) {
	if p := s.parts.Load(); p != nil {
		return p, nil
	}
	p := problem(http.StatusServiceUnavailable, "the node is starting or stopping; /readyz says which")
	p.retry = 1
	return nil, p
}

// query reads a request's parameters, of which every one must be known and stand once.
func query(r *http.Request, known []param) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, problem(http.StatusBadRequest, "the query is not well-formed")
	}
	for name, values := range q {
		if !slices.ContainsFunc(known, func(p param) bool { return p.name == name && p.in == "query" }) {
			return nil, badParam(strconv.Quote(clip(name, 40)), "is not known here")
		}
		if len(values) != 1 {
			return nil, badParam(name, "stands twice")
		}
	}
	return q, nil
}

// limit reads the number of entries that are asked for.
func limit(q url.Values, def, most int) (int, error) {
	v := q.Get("limit")
	if v == "" {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		return 0, badParam("limit", fmt.Sprintf("is not between 1 and %d", most))
	}
	return n, nil
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// millis is a time in the API.
func millis(t time.Time) float64 { return float64(t.UnixMicro()) / 1000 }

// ms is a span in the API.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (s *Server) status(*http.Request) (answer, error) {
	st := s.o.Status()
	st.Now, st.Started = millis(s.o.Now()), millis(s.started)
	st.Checks, st.Warnings, st.Doors = listed(st.Checks), listed(st.Warnings), listed(st.Doors)
	return answer{body: st}, nil
}

// listed is a list that JSON writes as one, also when it is empty.
func listed[E any](list []E) []E {
	if list == nil {
		return []E{}
	}
	return list
}

func (s *Server) pipeline(*http.Request) (answer, error) {
	p, err := s.ready()
	if err != nil {
		return answer{}, err
	}
	return answer{body: p.pipeline()}, nil
}

// pipeline is the strip, with lists that are ones.
func (a *attached) pipeline() Pipeline {
	p := a.Pipeline()
	p.Stages = listed(p.Stages)
	for i := range p.Stages {
		p.Stages[i].Joined, p.Stages[i].Left = listed(p.Stages[i].Joined), listed(p.Stages[i].Left)
	}
	return p
}

func (s *Server) describe(*http.Request) (answer, error) { return answer{body: s.openapi}, nil }
