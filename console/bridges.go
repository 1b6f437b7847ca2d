package console

import (
	"context"
	"net/http"
)

// Bridges are the bridges to other brokers.
type Bridges struct {
	Bridges []Bridge `json:"bridges" doc:"in the order of the configuration"`
}

// Bridge is how one bridge is.
type Bridge struct {
	Name   string  `json:"name" doc:"as it is configured"`
	Remote string  `json:"remote" doc:"the URL of the other broker"`
	State  string  `json:"state" doc:"connecting, connected, waiting (before the next attempt), fenced (another node on this log runs the bridges) or stopped"`
	Since  float64 `json:"since" doc:"it is so"`

	Connects    uint64   `json:"connects" doc:"connections made"`
	LastError   string   `json:"last_error" doc:"what went wrong last; empty: nothing has"`
	LastErrorAt *float64 `json:"last_error_at" doc:"when"`

	BehindRecords int64   `json:"behind_records" doc:"log records after what the remote has taken, whether or not they are for it"`
	LagSeconds    float64 `json:"lag_seconds" doc:"age of the oldest message that waits for the remote"`
	InFlight      int     `json:"in_flight" doc:"messages that the remote has not acknowledged"`

	Sent     uint64            `json:"sent" doc:"messages sent to the remote, resent ones not counted"`
	Resent   uint64            `json:"resent" doc:"messages sent to the remote again"`
	Acked    uint64            `json:"acked" doc:"messages that the remote has taken; at QoS 0, that were written to the connection"`
	Received uint64            `json:"received" doc:"messages received from the remote"`
	Stored   uint64            `json:"stored" doc:"of these, those in the log"`
	Dropped  map[string]uint64 `json:"dropped" doc:"messages that did not go over the bridge, by reason"`
}

func (s *Server) bridges(r *http.Request) (answer, error) {
	p, err := s.ready()
	if err != nil {
		return answer{}, err
	}
	if _, err := query(r, nil); err != nil {
		return answer{}, err
	}
	if p.Bridges == nil {
		return answer{body: Bridges{Bridges: []Bridge{}}}, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), mqttPatience)
	defer cancel()
	list, err := p.Bridges(ctx)
	if err != nil {
		return answer{}, err
	}
	return answer{body: Bridges{Bridges: listed(list)}}, nil
}
