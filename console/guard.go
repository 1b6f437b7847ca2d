package console

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// guard refuses what only a hostile page or a misled browser sends, and marks every answer as its own island. What is answered may say
// otherwise about caching and its policy.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !s.known(r.Host) {
			s.fail(w, r, problem(http.StatusMisdirectedRequest, "unknown host name; reach the node by address, or add the name to listeners.http.hosts"))
			return
		}
		if foreign(r) {
			s.fail(w, r, problem(http.StatusForbidden, "requests from other origins are not answered"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// foreign tells whether a page of another origin has sent the request. A WebSocket's handshake always has an Origin from a browser.
func foreign(r *http.Request) bool {
	if o := r.Header.Get("Origin"); o != "" && !strings.EqualFold(o, "http://"+r.Host) && !strings.EqualFold(o, "https://"+r.Host) {
		return true
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site": // same-site: another port or subdomain, which need not be ours
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Method != http.MethodGet
	}
	return false
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
