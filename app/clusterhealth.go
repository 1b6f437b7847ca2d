package app

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/spill"
)

// clusterWords says what a state of the cluster means to who operates the node.
var clusterWords = map[kafka.State]string{
	kafka.OK:          "takes and gives everything",
	kafka.Unreachable: "its brokers cannot be reached",
	kafka.NoAnswer:    "brokers take connections, and do not answer",
	kafka.FewReplicas: "fewer replicas are in sync than min.insync.replicas asks for",
	kafka.NoLeader:    "partitions have no leader",
	kafka.Denied:      "the node's credentials are not accepted, or it lacks a right",
	kafka.NoTopic:     "a topic is missing",
	kafka.Clock:       "brokers do not take the node's time stamps: its clock and theirs differ",
	kafka.Unwell:      "requests fail",
}

// clusterHealth is the driver's, with the topics that routes lack.
func (n *Node) clusterHealth() kafka.Health {
	h := n.cluster.Health()
	if n.store == nil || h.State != kafka.OK && h.State != kafka.NoTopic && h.State != kafka.Unwell {
		return h
	}
	absent, all := n.absent()
	if len(absent) == 0 {
		return h
	}
	h.State, h.Err, h.Since = kafka.NoTopic, nil, absent[0].Since
	for _, a := range absent {
		h.Err = errors.Join(h.Err, errors.New(absence(a)))
		if a.Since.Before(h.Since) {
			h.Since = a.Since
		}
	}
	h.Stuck = h.Stuck || all
	return h
}

// absentPatience is how long a topic is missing before it is told: one that is made again at once is no matter.
const absentPatience = time.Second

// absent lists the topics of routes that have been missing for long enough. all: none is left.
func (n *Node) absent() (list []route.Absence, all bool) {
	list, all = n.store.Absent()
	short := len(list)
	list = slices.DeleteFunc(list, func(a route.Absence) bool { return time.Since(a.Since) < absentPatience })
	return list, all && len(list) == short
}

// absence says what is the matter with a missing topic.
func absence(a route.Absence) string {
	if a.Err == nil {
		return fmt.Sprintf("topic %q was deleted, and is being made again", a.Topic)
	}
	return fmt.Sprintf("topic %q was deleted, and cannot be made again: %v", a.Topic, a.Err)
}

// clusterCheck is the condition of readiness that the cluster does its work. Nobody has to do anything to the node when it does not hold:
// devices are held back, and everything goes on by itself.
func (n *Node) clusterCheck() (c console.Check) {
	h := n.clusterHealth()
	c = console.Check{Name: "log", OK: !h.Stuck, Detail: fmt.Sprintf("on a Kafka cluster, %s: it %s", h.State, clusterWords[h.State])}
	if st, ok := n.spillStats(); ok && (st.Messages > 0 || st.Full) {
		defer func() {
			c.Detail += fmt.Sprintf("; %d messages (%d bytes) wait on the local disk for it, the oldest for %s", st.Messages, st.Bytes, st.Age.Round(time.Second))
			c.OK = !st.Full // who publishes on a spilled route need not wait
			if st.Full {
				c.Detail += ", and no more are taken"
			}
			switch {
			case errors.Is(st.Err, spill.ErrUnreadable):
				c.Detail += fmt.Sprintf("; damaged: %v (docs/on-kafka.md says how to go on)", st.Err)
			case st.Err != nil:
				c.Detail += fmt.Sprintf(" (%v)", st.Err)
			}
		}()
	}
	if h.State == kafka.OK {
		return c
	}
	c.Detail = fmt.Sprintf("on a Kafka cluster, %s: %s", h.State, clusterWords[h.State])
	switch {
	case h.State == kafka.NoTopic && h.Appends+h.Reads == 0:
		c.Detail += "; its publishers wait since " + h.Since.UTC().Format(time.RFC3339)
	case h.Appends+h.Reads > 0:
		c.Detail += fmt.Sprintf("; since %s publishers of %d partitions wait, and readers of %d", h.Since.UTC().Format(time.RFC3339), h.Appends, h.Reads)
	}
	c.Detail += fmt.Sprintf(" (%v)", h.Err)
	return c
}

// heard is what was last said about the cluster. The watch's goroutine has it.
type heard struct {
	state kafka.State
	since time.Time
}

// tickCluster says in the log when the cluster's state changes.
func (n *Node) tickCluster() {
	if n.cluster == nil {
		return
	}
	h, was := n.clusterHealth(), n.heard
	if h.State == was.state || was.state == "" && h.State == kafka.OK {
		return
	}
	n.heard = heard{h.State, time.Now()}
	log := n.o.Logger.With("state", string(h.State))
	if h.State == kafka.OK {
		log.Info("the Kafka cluster takes and gives everything again", "after", time.Since(was.since).Round(time.Second).String())
		return
	}
	log.Warn("the Kafka cluster makes us wait: "+clusterWords[h.State], "appends", h.Appends, "reads", h.Reads, "err", h.Err)
}

// clusterDoor says where Kafka clients connect: to the cluster itself.
func (n *Node) clusterDoor() console.Door {
	c := &n.o.Config.Log
	at := strings.Join(c.Kafka, ",")
	line := "kcat -b " + at
	security := []string{"plaintext", "ssl", "sasl_plaintext", "sasl_ssl"}
	i := 0
	if n.o.Config.Log.TLS.CA != "" {
		i++
	}
	if c.SASL.Mechanism != "" {
		i += 2
	}
	if i > 0 {
		line += " -X security.protocol=" + security[i]
	}
	if i&1 > 0 {
		line += " -X ssl.ca.location=CA.pem"
	}
	if i&2 > 0 {
		line += " -X sasl.mechanism=" + strings.ToUpper(c.SASL.Mechanism) + " -X sasl.username=NAME -X sasl.password=PASSWORD"
	}
	return console.Door{Protocol: "Kafka", Address: at, Does: "list the topics of your cluster, where Kafka clients connect: the node itself does not serve them", Try: line + " -L"}
}

func (n *Node) collectCluster(s *metrics.Samples) {
	h := n.clusterHealth()
	for _, state := range kafka.States {
		is := 0.0
		if state == h.State {
			is = 1
		}
		s.Gauge("cluster_state", "1 for how the Kafka cluster is to the node; 0 for every other state.", is, "state", string(state))
	}
	s.Gauge("cluster_waiting_partitions", "Partitions of which something has been repeated for seconds.", float64(h.Appends), "what", "appends")
	s.Gauge("cluster_waiting_partitions", "Partitions of which something has been repeated for seconds.", float64(h.Reads), "what", "reads")
	waits := 0.0
	if !h.Since.IsZero() {
		waits = time.Since(h.Since).Seconds()
	}
	s.Gauge("cluster_waiting_seconds", "How long the oldest of them has been.", waits)
	s.Gauge("cluster_queued_bytes", "Bytes that the cluster has not answered.", float64(h.Bytes))
	metrics.Counters(s, "cluster_errors", "Answers and failures after which a request to the cluster was repeated.", "error", n.cluster.Errors())
}
