package console

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
)

// asset is a fixed body, zipped once.
type asset struct {
	kind         string
	plain, small []byte
	tag          string
}

func newAsset(b []byte, kind string) asset {
	if b == nil {
		return asset{}
	}
	sum := sha256.Sum256(b)
	return asset{kind: kind, plain: b, small: zipped(b), tag: base64.RawURLEncoding.EncodeToString(sum[:12])}
}

// serve answers with the asset, or with 304 if the client has it.
func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	b, tag, h := a.plain, `"`+a.tag+`"`, w.Header()
	if acceptsGzip(r) {
		b, tag = a.small, `"`+a.tag+`-gz"`
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Type", a.kind)
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", "Accept-Encoding")
	h.Set("ETag", tag)
	if strings.Contains(r.Header.Get("If-None-Match"), tag) {
		h.Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.Write(b) //nolint:errcheck // the client went away
}

func (s *Server) serveStreets(w http.ResponseWriter, r *http.Request) {
	if _, err := s.admit(r); err != nil {
		s.fail(w, r, err)
		return
	}
	if s.streets.plain == nil {
		w.WriteHeader(http.StatusNoContent) // not 404, which browsers write down as an error
		return
	}
	s.streets.serve(w, r)
}

// views are the pages of the web app; whatever lies below one is a deep link into it.
var views = []string{"map", "devices", "pipeline", "topics", "about", "login"}

// page serves the web app: to everybody, since it is what asks for the login, and has nothing of the node in it.
func (s *Server) page(mux *http.ServeMux, app http.Handler) {
	index := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.URL.Path, r.URL.RawPath = "/", ""
		app.ServeHTTP(w, r)
	})
	mux.Handle("/", app)
	for _, v := range views {
		mux.Handle("/"+v, index)
		mux.Handle("/"+v+"/", index)
	}
}
