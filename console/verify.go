package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

var verifyParams = []param{
	{"from", "query", "integer", "receive time in milliseconds since 1970; default: an hour ago"},
	{"to", "query", "integer", "receive time; default: now"},
	{"topic", "query", "string", "one log topic; default: all"},
	{"device", "query", "string", "one record key; default: all"},
	{"all", "query", "boolean", "tell what adds up, too"},
	{"strict", "query", "boolean", "losses of QoS 0 are wrong"},
	{"stamps", "query", "boolean", "tell the stamps of simulated messages that are in the log, for a sender's ledger"},
}

// verify streams findings, one JSON object a line. One at a time: it reads the log.
func (s *Server) verify(w http.ResponseWriter, r *http.Request, v visitor) error {
	p, err := s.ready()
	if err != nil {
		return err
	}
	q, err := query(r, verifyParams)
	if err != nil {
		return err
	}
	now := s.o.Now()
	ask := VerifyQuery{From: now.Add(-time.Hour), To: now, Topic: q.Get("topic"), Device: q.Get("device")}
	for name, on := range map[string]*bool{"all": &ask.All, "strict": &ask.Strict, "stamps": &ask.Stamps} {
		if text := q.Get(name); text != "" {
			if *on, err = strconv.ParseBool(text); err != nil {
				return badParam(name, "is neither true nor false")
			}
		}
	}
	for name, t := range map[string]*time.Time{"from": &ask.From, "to": &ask.To} {
		if text := q.Get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 0 {
				return badParam(name, "is not a time in milliseconds since 1970")
			}
			*t = time.UnixMilli(n)
		}
	}
	if !s.verifying.CompareAndSwap(false, true) {
		return tooMany("the log is being verified already", 10*time.Second)
	}
	defer s.verifying.Store(false)
	ctx, cancel := p.while(r.Context())
	defer cancel()
	streaming(w, r)
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w).Flush
	begun := false
	err = s.o.Verify(ctx, ask, func(finding any) error {
		if !s.welcome(v) {
			return errors.New(reasonLogin)
		}
		begun = true
		if err := enc.Encode(finding); err != nil {
			return fmt.Errorf("write a finding: %w", err)
		}
		return flush()
	})
	if err != nil && begun { // the status is sent: the last line says what went wrong
		s.o.Logger.Warn("verify over HTTP ended early", "err", err)
		enc.Encode(map[string]string{"error": "verify ended early; the node's log says why"}) //nolint:errcheck // the client went away
		return nil
	}
	return err
}
