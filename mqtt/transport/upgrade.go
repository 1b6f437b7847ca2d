package transport

import (
	"bufio"
	"bytes"
	"crypto/sha1" // the protocol wants it; nothing depends on its strength
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// WebSocket says which upgrades are granted.
type WebSocket struct {
	Path string // of the URL; "/mqtt"
	// Origins are those whose pages may connect ("https://app.example"), or "*". A page that the browser had from an address or
	// localhost may connect to the same one in any case. What sends no Origin is no browser, and not asked.
	Origins []string
}

const (
	maxRequest  = 8 << 10 // bytes of the HTTP request
	subprotocol = "mqtt"  // MQTT-6.0.0-4
	acceptGUID  = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// refusal is an HTTP answer that is no upgrade.
type refusal struct {
	status int
	text   string
	header string
}

func (r *refusal) Error() string { return "WebSocket: " + r.text }

// lower is the connection below WebSocket, while the upgrade is under way.
type lower struct{ c *Conn }

func (l lower) Read(b []byte) (int, error) { return l.c.receive(b) }

// upgrade reads the HTTP request and answers it.
func (c *Conn) upgrade(w *WebSocket) error {
	var write io.Writer = c.Conn
	if c.tls != nil {
		write = c.tls
	}
	in := bufio.NewReaderSize(io.LimitReader(lower{c}, maxRequest), 2<<10)
	r, err := http.ReadRequest(in)
	if err != nil {
		return c.notHTTP(write, err)
	}
	key, refused := w.accept(r)
	if refused != nil {
		refused.write(write)
		return &Error{"websocket_refused", refused}
	}
	if c.early, err = io.ReadAll(io.LimitReader(in, int64(in.Buffered()))); err != nil {
		return &Error{"connection_lost", err}
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + key +
		"\r\nSec-WebSocket-Protocol: " + subprotocol + "\r\n\r\n"
	if _, err := io.WriteString(write, answer); err != nil {
		return &Error{"connection_lost", fmt.Errorf("answer the upgrade: %w", err)}
	}
	c.ws = &frames{mu: &c.mu}
	return nil
}

// notHTTP ends a connection whose first bytes are no HTTP request, or too long a one.
func (c *Conn) notHTTP(write io.Writer, err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op):
		return &Error{"connection_lost", err}
	case errors.Is(err, io.EOF):
		return &Error{"connection_closed_by_client", err}
	}
	refused := &refusal{http.StatusBadRequest, "no HTTP request of at most 8 KiB: " + err.Error(), ""}
	refused.write(write)
	return &Error{"websocket_not_http", refused}
}

func (r *refusal) write(w io.Writer) {
	fmt.Fprintf(w, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s\n",
		r.status, http.StatusText(r.status), r.header, len(r.text)+1, r.text)
}

// accept checks a request, and returns what Sec-WebSocket-Accept says.
func (w *WebSocket) accept(r *http.Request) (key string, refused *refusal) {
	h := r.Header
	raw, err := base64.StdEncoding.DecodeString(h.Get("Sec-WebSocket-Key"))
	switch {
	case r.URL.Path != w.Path:
		return "", &refusal{http.StatusNotFound, "MQTT over WebSocket is at " + w.Path, ""}
	case !w.allowed(r):
		return "", &refusal{http.StatusForbidden, "pages of this origin may not connect; the listener's `origins` names those that may", ""}
	case r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1) || r.ContentLength != 0 || len(r.TransferEncoding) > 0,
		!names(h, "Connection", "upgrade") || !names(h, "Upgrade", "websocket"):
		return "", &refusal{http.StatusUpgradeRequired, "this is a WebSocket for MQTT; connect with an MQTT client", "Upgrade: websocket\r\n"}
	case h.Get("Sec-WebSocket-Version") != "13":
		return "", &refusal{http.StatusUpgradeRequired, "WebSocket version 13 is spoken here", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"}
	case err != nil || len(raw) != 16 || len(h["Sec-Websocket-Key"]) != 1:
		return "", &refusal{http.StatusBadRequest, "Sec-WebSocket-Key is not 16 bytes in base64", ""}
	case !names(h, "Sec-WebSocket-Protocol", subprotocol): // MQTT-6.0.0-3
		return "", &refusal{http.StatusBadRequest, "the client does not offer the subprotocol mqtt", ""}
	}
	sum := sha1.Sum([]byte(h.Get("Sec-WebSocket-Key") + acceptGUID))
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

// names tells whether a header's list has a word.
func names(h http.Header, header, word string) bool {
	for _, line := range h.Values(header) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), word) {
				return true
			}
		}
	}
	return false
}

// allowed tells whether the page that connects, if it is one, may. A name that merely resolves to our address does not make a
// page ours: only an address or localhost does.
func (w *WebSocket) allowed(r *http.Request) bool {
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return true
	}
	if len(origins) > 1 {
		return false
	}
	if slices.Contains(w.Origins, "*") || slices.ContainsFunc(w.Origins, func(o string) bool { return strings.EqualFold(o, origins[0]) }) {
		return true
	}
	page, err := url.Parse(origins[0])
	if err != nil || page.Scheme != "http" && page.Scheme != "https" {
		return false
	}
	host := (&url.URL{Host: r.Host}).Hostname()
	_, err = netip.ParseAddr(host)
	return strings.EqualFold(page.Hostname(), host) && (err == nil || strings.EqualFold(host, "localhost"))
}

// ValidOrigin tells whether a text is what browsers send as Origin, or "*".
func ValidOrigin(s string) bool {
	if s == "*" {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && u.Scheme != "" && u.Host != "" && u.Path == "" && u.RawQuery == "" && u.Fragment == "" && u.User == nil &&
		!bytes.ContainsAny([]byte(s), " \r\n\t")
}
