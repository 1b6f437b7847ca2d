// Package console is the HTTP server of a node: health, metrics, and a page that says where everything is.
//
// It answers GET and HEAD only, takes nothing from a request but its path, and shows nothing that a device or client chose. A
// page of another origin cannot read it, nor can a name that merely resolves here (DNS rebinding): Host must be an address, localhost
// or a name the node was told. Its goroutines are net/http's; Close ends them. Nothing is on disk.
package console

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say what is served. Functions must be safe for concurrent use.
type Options struct {
	Metrics http.Handler
	Status  func() Status
	Doors   func() []Door
	Hosts   []string // names, beside addresses and localhost, under which the server is reached
	Logger  *slog.Logger
}

// Server is the HTTP server.
type Server struct {
	o    Options
	http *http.Server
}

// New returns a server that listens to nobody yet.
func New(o Options) *Server {
	s := &Server{o: o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", o.Metrics)
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Write(style) //nolint:errcheck // the client went away
	})
	mux.HandleFunc("GET /{$}", s.page)
	s.http = &http.Server{
		Handler: s.guard(mux), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

// maxConnections at once; more are closed at once. Descriptors are for devices and for the log.
const maxConnections = 32

// bounded is a listener that lets in maxConnections.
type bounded struct {
	net.Listener
	open atomic.Int32
}

func (l *bounded) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		switch {
		case err != nil:
			return nil, err
		case l.open.Add(1) <= maxConnections:
			return &counted{Conn: nc, of: l}, nil
		}
		l.open.Add(-1)
		nc.Close()
	}
}

type counted struct {
	net.Conn
	of   *bounded
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.of.open.Add(-1) })
	return c.Conn.Close()
}

// Serve answers until Close. It owns l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(&bounded{Listener: l}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http server on %v: %w", l.Addr(), err)
	}
	return nil
}

// Close lets requests finish until ctx ends.
func (s *Server) Close(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("stop http server: %w", err), s.http.Close())
	}
	return nil
}

// guard refuses what only a hostile page or a misled browser sends, and marks every answer as its own island.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !s.known(r.Host) {
			http.Error(w, "unknown host name; reach the node by address, or add the name to listeners.http.hosts", http.StatusMisdirectedRequest)
			return
		}
		if o := r.Header.Get("Origin"); o != "" && o != "http://"+r.Host && o != "https://"+r.Host {
			http.Error(w, "requests from other origins are not answered", http.StatusForbidden)
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
			http.Error(w, "requests from other sites are not answered", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// known tells whether a Host header names this server.
func (s *Server) known(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return strings.EqualFold(host, "localhost") || slices.ContainsFunc(s.o.Hosts, func(n string) bool { return strings.EqualFold(n, host) })
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	st := s.o.Status()
	w.Header().Set("Content-Type", "application/json")
	if !st.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(st) //nolint:errcheck // the client went away
}

//go:embed page.html
var pageText string

//go:embed style.css
var style []byte

var pageTemplate = template.Must(template.New("page").Parse(pageText))

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	data := struct {
		Status
		Doors []Door
	}{s.o.Status(), s.o.Doors()}
	if err := pageTemplate.Execute(w, data); err != nil {
		s.o.Logger.Debug("page not written", "err", err)
	}
}
