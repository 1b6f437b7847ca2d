package kafkawire

import (
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// operationNames are what can be denied, by the operation's number. The first one is opPublish, which has none.
var operationNames = [...]string{"publish_to_mqtt", "", "", "read", "write", "create", "delete", "alter", "describe", "cluster_action",
	"describe_configs", "alter_configs", "idempotent_write"}

// denied counts a no, and says it now and then.
func (s *Server) denied(c *conn, op kmsg.ACLOperation, kind kmsg.ACLResourceType) {
	i := int(max(op, 0))
	if i >= len(operationNames) || operationNames[i] == "" {
		return
	}
	s.stats.denials[i].Add(1)
	if skipped, say := s.saying.ask(operationNames[i]); say {
		s.Logger.Info("kafka: denied", "account", c.account(), "remote", c.nc.RemoteAddr().String(), "operation", operationNames[i], "on", kind.String(),
			"skipped_like_it", skipped)
	}
}

// say logs that a client was not let in, now and then, with what the client is not told.
func (s *Server) say(c *conn, text, mechanism string, err error) {
	if skipped, say := s.saying.ask(text + mechanism); say {
		s.Logger.Warn(text, "listener", c.listener.Name, "remote", c.nc.RemoteAddr().String(), "mechanism", mechanism, "error", err, "skipped_like_it", skipped)
	}
}

func (st *Stats) addSecurity(s *Server) {
	st.Ended, st.Logins, st.Denied = map[string]uint64{}, map[string]map[string]uint64{}, map[string]uint64{}
	for i, name := range endings {
		st.Ended[name] = s.stats.ended[i].Load()
	}
	for i, m := range mechanisms {
		st.Logins[m] = map[string]uint64{}
		for j, r := range saslResults {
			st.Logins[m][r] = s.stats.logins[i][j].Load()
		}
	}
	for i, name := range operationNames {
		if name != "" {
			st.Denied[name] = s.stats.denials[i].Load()
		}
	}
	st.ACLs = len(s.acls.set.Load().All())
}

// sparing lets one line of a kind through in ten seconds. Kinds are few, and ours.
type sparing struct {
	mu      sync.Mutex
	last    map[string]time.Time
	skipped map[string]int
}

const sayEvery = 10 * time.Second

func (s *sparing) ask(kind string) (skipped int, say bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last, s.skipped = map[string]time.Time{}, map[string]int{}
	}
	if at, there := s.last[kind]; there && time.Since(at) < sayEvery {
		s.skipped[kind]++
		return 0, false
	}
	skipped = s.skipped[kind]
	s.last[kind], s.skipped[kind] = time.Now(), 0
	return skipped, true
}
