// Package console is the HTTP server of a node: its API, the live channel, the web page (console/web), health and metrics.
//
// Requests that are GET or HEAD change nothing. Those that do are for administrators, who have shown who they are: without a password file
// there are none, not on loopback either. A page of another origin cannot read it, nor can a name that merely resolves here (DNS rebinding):
// Host must be an address, localhost or a name the node was told.
// Whoever may read is asked at every request, and again and again while a stream lasts. Everything that a client can make grow has a bound:
// connections (in all and per address), streams, pages, sessions, failed logins.
//
// Its goroutines are net/http's and one writer per page (live.go); Close ends them. Nothing is on disk. It follows no log: it asks the
// parts that Attach gives it.
package console

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/console/web"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/fleet"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/admission"
)

// Options say what is served. Functions must be safe for concurrent use.
type Options struct {
	Metrics   http.Handler
	Status    func() Status       // but for User and Login
	Passwords *identity.Passwords // nil: everybody may read
	TLS       *tls.Config         // nil: plain HTTP
	Hosts     []string            // names, beside addresses and localhost, under which the server is reached
	Streets   []byte              // GeoJSON below the map; nil: none
	// Verify checks that everything adds up and gives its findings, one after the other, to emit. Nil: there is no such route.
	Verify func(ctx context.Context, q VerifyQuery, emit func(any) error) error
	// Backup writes a consistent copy of the log, but for segments last written before a time in nanoseconds since 1970. Nil: the log is not here.
	Backup func(ctx context.Context, since int64, w io.Writer) error
	Logger *slog.Logger
	Now    func() time.Time // default time.Now

	MaxConnections int // default 256, of which half may be of one address
}

// Parts are what the API shows, and are there while the node runs. Functions must be safe for concurrent use.
type Parts struct {
	View     *fleet.View
	Log      *eventlog.Log
	Pipeline func() Pipeline
	// Bytes is what a topic takes on disk; false: that is not known.
	Bytes func(eventlog.Topic) (int64, bool)
	MQTT  MQTT // the broker
	// Bridges lists the bridges to other brokers; nil: there are none.
	Bridges func(ctx context.Context) ([]Bridge, error)
}

// attached are the parts while they are shown; ctx ends with that.
type attached struct {
	Parts
	ctx    context.Context
	cancel context.CancelFunc
}

// VerifyQuery says what to verify: receive times from From to To, of one log topic or (empty) all, of one device (record key) or all.
type VerifyQuery struct {
	From, To      time.Time
	Topic, Device string
	All           bool // tell what adds up, too
	Strict        bool // losses of QoS 0 are wrong
	Stamps        bool // tell the stamps of simulated messages
}

// Server is the HTTP server.
type Server struct {
	o         Options
	http      *http.Server
	started   time.Time
	parts     atomic.Pointer[attached] // nil while the node starts and stops
	sessions  sessions
	guesses   guesses
	hub       hub
	tails     atomic.Int32
	verifying atomic.Bool
	backingUp atomic.Bool
	measuring atomic.Bool // the rates of topics
	times     times
	streets   asset
	openapi   []byte
}

// New returns a server that listens to nobody yet.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = 256
	}
	s := &Server{o: o, started: o.Now(), streets: newAsset(o.Streets, "application/geo+json"), openapi: openAPI(o.endpoints())}
	s.sessions.init(o.Now)
	s.guesses.init(o.Now)
	s.http = &http.Server{
		Handler: s.guard(s.routes()), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, // writes: see connection
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		ConnContext: withConnection,
	}
	return s
}

// routes is everything that is answered.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	paths := map[string][]endpoint{}
	for _, e := range s.o.endpoints() {
		paths[e.path] = append(paths[e.path], e)
	}
	for path, es := range paths {
		mux.HandleFunc(path, s.serve(es))
	}
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, problem(http.StatusNotFound, "there is no such route; /api/v1/openapi.json lists them all"))
	})
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.admit(r); err != nil {
			s.fail(w, r, err)
			return
		}
		s.o.Metrics.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /map/streets.json", s.serveStreets)
	s.page(mux, web.Handler())
	return mux
}

// endpoints are those that the options provide for.
func (o *Options) endpoints() []endpoint {
	return slices.DeleteFunc(slices.Clone(endpoints), func(e endpoint) bool { return e.path == verifyPath && o.Verify == nil })
}

// Attach begins to show the parts of a node.
func (s *Server) Attach(p Parts) {
	a := &attached{Parts: p}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	s.parts.Store(a)
}

// Detach ends every stream and page, and answers 503 from then on.
func (s *Server) Detach() {
	if a := s.parts.Swap(nil); a != nil {
		a.cancel()
	}
}

// Tick sends every page what is new. It is called when the view has ticked, and never waits for a page.
func (s *Server) Tick() {
	if p := s.parts.Load(); p != nil {
		s.hub.tick(p)
	}
}

// Hub is what the live channel has done.
func (s *Server) Hub() Hub { return s.hub.stats() }

// Serve answers until Close. It owns l.
func (s *Server) Serve(l net.Listener) error {
	address := l.Addr()
	l = admitted{admission.Limit(l, s.o.MaxConnections)}
	if s.o.TLS != nil {
		l = tls.NewListener(l, s.o.TLS)
	}
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http server on %v: %w", address, err)
	}
	return nil
}

// Close lets requests finish until ctx ends.
func (s *Server) Close(ctx context.Context) error {
	s.Detach()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop http server: %w", err), s.http.Close())
	}
	s.hub.pagesGone.Wait()
	return err
}

// readyz says whether the node does its work; why not, only to those who may read.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	st := s.o.Status()
	var body any = struct {
		Ready    bool     `json:"ready"`
		Version  string   `json:"version"`
		Checks   []Check  `json:"checks"`
		Warnings []string `json:"warnings"`
	}{st.Ready, st.Version, st.Checks, st.Warnings}
	if _, err := s.admit(r); err != nil {
		body = struct {
			Ready bool `json:"ready"`
		}{st.Ready}
	}
	code := http.StatusOK
	if !st.Ready {
		code = http.StatusServiceUnavailable
	}
	var b bytes.Buffer
	if err := indent(&b, body); err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(b.Bytes()) //nolint:errcheck // the client went away
}
