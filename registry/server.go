package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/admission"
)

// ServerOptions say how a registry is served. Functions must be safe for concurrent use.
type ServerOptions struct {
	Registry *Registry
	Hosts    []string // names, beside addresses and localhost, under which those who have shown nothing reach the server
	// Allowed says whether an account may do something to a subject. The subject "" is what holds for all of them. Nil: everything is.
	Allowed func(account string, to Right, subject string) bool
	Logger  *slog.Logger
	Now     func() time.Time // default time.Now

	MaxConnections int // default 256, of which half may be of one address
}

// Right is what somebody may do to a subject.
type Right uint8

const (
	// Read its schemas, compare with them.
	Read Right = iota
	// Write: register versions.
	Write
	// Manage: delete, and set level and mode.
	Manage
)

func (r Right) String() string { return [...]string{"Read", "Write", "Manage"}[r] }

// Door is one listener, and who gets in there.
type Door struct {
	Name     string // for whom Chain asks
	Listener net.Listener
	TLS      *tls.Config // nil: plain HTTP
	Chain    *identity.Chain
	// Certificate verifies the client's certificate as of now; one that is not there is no error. Nil: nobody is asked for any.
	Certificate func(*tls.ConnectionState) (identity.Certificate, error)
}

// Server answers Confluent's REST API.
type Server struct {
	o       ServerOptions
	http    *http.Server
	guesses guesses
	busy    chan struct{} // a token for each request that parses or compares
}

type doorKey struct{}

// Bounds of a request.
const (
	maxBody     = 5 << 20 // a schema as JSON text, its escapes included
	requestTime = 30 * time.Second
	maxBusy     = 4 // requests that parse or compare at once
)

// The content types of the API.
const (
	contentType  = "application/vnd.schemaregistry.v1+json"
	contentType2 = "application/vnd.schemaregistry+json"
)

// NewServer returns a server that listens to nobody yet.
func NewServer(o ServerOptions) *Server {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.MaxConnections = cmp.Or(o.MaxConnections, 256)
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{o: o, busy: make(chan struct{}, maxBusy), guesses: guesses{now: o.Now}}
	s.http = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: requestTime, WriteTimeout: 2 * requestTime,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			if t, ok := nc.(*tls.Conn); ok {
				nc = t.NetConn()
			}
			if c, ok := nc.(*conn); ok {
				ctx = context.WithValue(ctx, doorKey{}, c.door)
			}
			return ctx
		}}
	return s
}

// Serve answers at a door until Close. It owns the listener.
func (s *Server) Serve(d *Door) error {
	var l net.Listener = admitted{admission.Limit(d.Listener, s.o.MaxConnections), d}
	if d.TLS != nil {
		l = tls.NewListener(l, d.TLS)
	}
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("schema registry on %v: %w", d.Listener.Addr(), err)
	}
	return nil
}

// Close lets requests finish until ctx ends.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop schema registry: %w", err), s.http.Close())
	}
	return err
}

// request is one on its way.
type request struct {
	*http.Request
	account string
}

// handler makes an answer: what is written as JSON, or raw text.
type handler func(r *request) (any, error)

type raw string // an answer that is JSON, or a schema, already

// serve is what is done for every request.
func (s *Server) serve(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, hr *http.Request) {
		hd := w.Header()
		hd.Set("X-Content-Type-Options", "nosniff")
		hd.Set("Cache-Control", "no-store")
		ctx, cancel := context.WithTimeout(hr.Context(), requestTime)
		defer cancel()
		r := &request{Request: hr.WithContext(ctx)}
		r.Body = http.MaxBytesReader(w, hr.Body, maxBody)
		answer, err := s.answer(r, h)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		kind, _ := accepted(r)
		var body []byte
		if text, is := answer.(raw); is {
			body = []byte(text)
		} else if body, err = json.Marshal(answer); err != nil {
			s.fail(w, r, fmt.Errorf("encode answer: %w", err))
			return
		}
		hd.Set("Content-Type", kind)
		w.Write(body) //nolint:errcheck // the client went away
	}
}

func (s *Server) answer(r *request, h handler) (any, error) {
	if err := s.admit(r); err != nil {
		return nil, err
	}
	if _, ok := accepted(r); !ok {
		return nil, errorf(http.StatusNotAcceptable, "HTTP 406 Not Acceptable: the answer is %s, or application/json", contentType)
	}
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		switch kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
		case err != nil || kind != contentType && kind != contentType2 && kind != "application/json" && kind != "application/octet-stream":
			return nil, errorf(http.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type: send Content-Type: %s", contentType)
		}
		select {
		case s.busy <- struct{}{}:
			defer func() { <-s.busy }()
		case <-r.Context().Done():
			return nil, errorf(codeStoreTimeout, "too many requests are under way")
		}
	}
	return h(r)
}

// accepted is the type that the client wants the answer to have.
func accepted(r *request) (kind string, ok bool) {
	accept := r.Header.Values("Accept")
	if len(accept) == 0 {
		return contentType, true
	}
	for _, part := range strings.Split(strings.Join(accept, ","), ",") {
		part, _, _ = strings.Cut(part, ";")
		switch part = strings.TrimSpace(part); part {
		case contentType, contentType2, "application/json":
			return part, true
		case "*/*", "application/*", "":
			return contentType, true
		case "text/plain": // for bare schemas
			return "text/plain; charset=utf-8", true
		}
	}
	return contentType, false
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, r *request, err error) {
	var told *Error
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &told):
	case errors.As(err, &large):
		told = errorf(http.StatusRequestEntityTooLarge, "the request has more than %d bytes", large.Limit)
	default:
		s.o.Logger.Error("a request failed", "path", r.URL.Path, "err", err)
		told = errorf(50001, "the registry has failed; its log says why")
	}
	if told.Status() == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="schema registry", charset="UTF-8"`)
	}
	body, err := json.Marshal(struct {
		Code int    `json:"error_code"`
		Text string `json:"message"`
	}{told.Code, told.Text})
	if err != nil {
		body = nil
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(told.Status())
	w.Write(body) //nolint:errcheck // the client went away
}

// admit finds out who has sent a request.
func (s *Server) admit(r *request) error {
	d, _ := r.Context().Value(doorKey{}).(*Door)
	if d == nil {
		return errors.New("a request came through no door")
	}
	claim := identity.Claim{Peer: r.RemoteAddr, Listener: d.Name}
	if d.Certificate != nil && r.TLS != nil {
		var err error
		if claim.Certificate, err = d.Certificate(r.TLS); err != nil {
			s.o.Logger.Warn("a client certificate of the schema registry is not good any more", "from", r.RemoteAddr, "err", err)
			return errorf(40101, "HTTP 401 Unauthorized: the client certificate is not good")
		}
	}
	if name, password, ok := r.BasicAuth(); ok {
		claim.Username, claim.Password = name, password
	} else if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		claim.Password = strings.TrimSpace(token)
	}
	from := admission.Client(r.RemoteAddr)
	if claim.Password != "" && s.guesses.many(from) {
		return errorf(http.StatusTooManyRequests, "too many failed logins; try again in a minute")
	}
	g, err := d.Chain.Judge(r.Context(), &claim)
	switch {
	case errors.Is(err, identity.ErrBusy):
		return errorf(http.StatusServiceUnavailable, "too many logins at once")
	case errors.Is(err, identity.ErrRefused):
		if claim.Password != "" {
			s.guesses.failed(from)
			s.o.Logger.Warn("a login at the schema registry failed", "from", from, "err", err)
		}
		return errorf(40101, "HTTP 401 Unauthorized: log in with HTTP basic authentication, a bearer token, or a client certificate")
	case err != nil:
		s.o.Logger.Warn("who a client of the schema registry is cannot be found out", "from", from, "err", err)
		return errorf(http.StatusServiceUnavailable, "logins cannot be judged at present")
	}
	r.account = g.Name
	// A page in a browser can send requests under a name of its own that resolves to this address; it has nothing to show.
	if g.Name == identity.Anonymous && (!s.known(r.Host) || r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "") {
		return errorf(http.StatusMisdirectedRequest, "unknown host name, or a page in a browser: reach the registry by address, log in, or add the name to the listener's hosts")
	}
	return nil
}

func (s *Server) known(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return strings.EqualFold(host, "localhost") || slices.ContainsFunc(s.o.Hosts, func(n string) bool { return strings.EqualFold(n, host) })
}

// may says why an account may not do something to a subject, or nil.
func (s *Server) may(r *request, to Right, subject string) error {
	if s.o.Allowed == nil || s.o.Allowed(r.account, to, subject) {
		return nil
	}
	what := "Subject: " + clip(subject)
	if subject == "" {
		what = "all subjects"
	}
	return errorf(40301, "User is denied operation %s on %s", to, what)
}

// flag reads a boolean query parameter.
func (r *request) flag(name string) bool {
	v, err := strconv.ParseBool(r.URL.Query().Get(name))
	return err == nil && v
}

// number reads a query parameter; without it, or if it is none, otherwise.
func (r *request) number(name string, otherwise int) int {
	n, err := strconv.Atoi(r.URL.Query().Get(name))
	if err != nil {
		return otherwise
	}
	return n
}

// body reads the request's as JSON.
func (r *request) body(into any) error {
	d := json.NewDecoder(r.Body)
	if err := d.Decode(into); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return err
		}
		return errorf(http.StatusUnprocessableEntity, "the body is not the JSON that was expected: %s", clip(err.Error()))
	}
	return nil
}

// version reads the number of a version from the path.
func (r *request) version() (int, error) {
	text := r.PathValue("version")
	if text == "latest" || text == "-1" {
		return latest, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return 0, errorf(codeInvalidVersion, "The specified version '%s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"", clip(text))
	}
	return int(n), nil
}
