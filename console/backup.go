package console

import (
	"net/http"
	"strconv"

	"github.com/millrace-io/millrace/internal/admission"
)

var backupParams = []param{
	{"since", "query", "integer", "leave out segments last written before this time, in nanoseconds since 1970; default: none"},
}

// backup streams a consistent copy of the log, as a tar archive: docs/backup.md. One at a time: it holds up retention.
func (s *Server) backup(w http.ResponseWriter, r *http.Request, v visitor) error {
	p, err := s.ready()
	if err != nil {
		return err
	}
	if s.o.Backup == nil {
		return problem(http.StatusNotFound, "the log of this node is on a Kafka cluster: back that up")
	}
	q, err := query(r, backupParams)
	if err != nil {
		return err
	}
	since := int64(-1 << 63)
	if text := q.Get("since"); text != "" {
		if since, err = strconv.ParseInt(text, 10, 64); err != nil {
			return badParam("since", "is not a time in nanoseconds since 1970")
		}
	}
	if !s.backingUp.CompareAndSwap(false, true) {
		return tooMany("the log is being backed up already", 0)
	}
	defer s.backingUp.Store(false)
	ctx, cancel := p.while(r.Context())
	defer cancel()
	s.o.Logger.Info("an administrator's request", "what", "GET "+backupPath, "name", v.who.Name, "from", admission.Client(r.RemoteAddr))
	streaming(w, r)
	w.Header().Set("Content-Type", "application/x-tar")
	if err := s.o.Backup(ctx, since, w); err != nil { // the stream lacks its last entry: whoever reads it knows
		s.o.Logger.Warn("a backup over HTTP ended early", "err", err)
	}
	return nil
}
