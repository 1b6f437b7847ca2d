package app

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/millrace-io/millrace/metrics"
)

// collect gives the counters of the parts that are there. It is called at each scrape, while the node starts and stops too.
func (n *Node) collect(s *metrics.Samples) {
	ready := 0.0
	if n.Status().Ready {
		ready = 1
	}
	s.Gauge("ready", "1 while the node does its work.", ready)
	if n.phase.Load() != nil {
		return // the parts are being built or taken down
	}
	n.collectBroker(s)
	n.collectPolicy(s)
	n.collectAuth(s)
	n.collectTLS(s)
	n.collectRoutes(s)
	n.collectFleet(s)
	n.collectLatency(s)
	n.collectConsole(s)
	n.collectBridges(s)
	n.collectRegistry(s)
	if n.engine != nil {
		n.collectEngine(s)
	}
	if n.kafka != nil {
		n.collectKafka(s)
	}
	if n.cluster != nil {
		n.collectCluster(s)
		n.collectSpill(s)
	}
}

func (n *Node) collectBroker(s *metrics.Samples) {
	b := n.broker.Stats()
	s.Gauge("mqtt_connections", "MQTT connections.", float64(b.Connections))
	s.Gauge("mqtt_connections_limit", "MQTT connections that the node takes at most.", float64(n.budget.mqtt))
	s.Gauge("mqtt_half_open_connections", "MQTT connections that have not sent CONNECT.", float64(b.HalfOpen))
	s.Gauge("mqtt_parked_connections", "MQTT connections that are idle, and have no goroutine until something comes.", float64(b.Parked))
	for _, l := range n.broker.Listeners() {
		s.Gauge("mqtt_listener_connections", "MQTT connections of a listener.", float64(l.Connections), "listener", l.Name, "transport", l.Transport)
		s.Gauge("mqtt_listener_half_open_connections", "MQTT connections of a listener that have not sent CONNECT.", float64(l.HalfOpen), "listener", l.Name, "transport", l.Transport)
	}
	s.Counter("mqtt_accepted", "TCP connections accepted for MQTT.", float64(b.Accepted))
	s.Counter("mqtt_connects", "CONNECTs answered with success.", float64(b.Connects))
	metrics.Counters(s, "mqtt_turned_away", "Connections turned away before a session.", "reason", b.Turned)
	metrics.Counters(s, "mqtt_disconnects", "Connections that ended.", "reason", b.Ended)
	for q := range 3 {
		qos := strconv.Itoa(q)
		s.Counter("messages", "Messages received from and delivered to MQTT clients.", float64(b.Received[q]), "dir", "in", "qos", qos)
		s.Counter("messages", "Messages received from and delivered to MQTT clients.", float64(b.Delivered[q]), "dir", "out", "qos", qos)
	}
	s.Counter("bytes", "Bytes read from and written to MQTT clients.", float64(b.ReceivedIn), "dir", "in")
	s.Counter("bytes", "Bytes read from and written to MQTT clients.", float64(b.SentOut), "dir", "out")
	s.Counter("mqtt_packets", "MQTT packets of every type, read from and written to clients.", float64(b.PacketsIn), "dir", "in")
	s.Counter("mqtt_packets", "MQTT packets of every type, read from and written to clients.", float64(b.PacketsOut), "dir", "out")
	s.Counter("mqtt_sessions_expired", "Sessions that ended because their client stayed away too long.", float64(b.Expired))
	s.Counter("mqtt_receipts", "QoS 1 and 2 publishes acknowledged as durable.", float64(b.Acked))
	s.Counter("mqtt_unreceipted", "QoS 1 and 2 publishes of `store: false` routes, acknowledged without a receipt.", float64(b.Unreceipted))
	metrics.Counters(s, "mqtt_panics", "Panics survived, by where; each is a bug.", "where", b.Panics)
	metrics.Counters(s, "refused", "Publishes refused.", "reason", b.Refused)
	metrics.Counters(s, "dropped", "Messages dropped or skipped on their way to a client.", "reason", b.Dropped)
	for _, why := range slices.Sorted(maps.Keys(b.PausedNow)) {
		s.Gauge("mqtt_paused_connections", "Connections that are not read now.", float64(b.PausedNow[why]), "reason", why)
	}
	metrics.Counters(s, "mqtt_pauses", "Times that a connection was not read for a while.", "reason", b.Pauses)
	for _, why := range slices.Sorted(maps.Keys(b.PausedFor)) {
		s.Counter("mqtt_paused_seconds", "Time that connections were not read, added up.", b.PausedFor[why].Seconds(), "reason", why)
	}
	metrics.Counters(s, "mqtt_flapping", "Take-over loops, bans because of flapping, and what of it was not counted.", "what", b.Flapping)
	s.Gauge("mqtt_bans", "Bans in force.", float64(len(n.broker.Bans())))
	s.Gauge("mqtt_inbound_waiting_bytes", "Bytes of publishes that the log has not answered.", float64(b.InboundWait))
	s.Gauge("mqtt_will_bytes", "Bytes of all wills.", float64(b.Session.WillBytes))
	s.Gauge("mqtt_outbound_waiting_bytes", "Bytes that wait for slow subscribers.", float64(b.OutboundWait))
	s.Counter("mqtt_outbound_stalls", "Writes that had to wait for a client.", float64(b.Stalls))
	s.Gauge("mqtt_sessions", "Sessions, connected or not.", float64(b.Session.Sessions))
	s.Gauge("mqtt_sessions_connected", "Sessions with a connection.", float64(b.Session.Connected))
	s.Gauge("mqtt_sessions_behind", "Connected sessions that read from the log instead of live.", float64(b.Session.Behind))
	s.Gauge("mqtt_subscriptions", "Subscriptions.", float64(b.Session.Subscriptions))
	s.Gauge("mqtt_shared_groups", "Groups of shared subscriptions.", float64(b.Session.Groups))
	s.Gauge("mqtt_shared_queued", "Messages that wait for a member of their group to have room.", float64(b.Session.GroupQueue))
	s.Counter("mqtt_subscriptions_refused", "Subscriptions refused because there were as many as there may be.", float64(b.Session.SubsRefused))
	s.Gauge("mqtt_replays", "Replays of history to subscribers, under way.", float64(b.Session.Replays))
	over := &b.Session.ReplaysRefused
	metrics.Counters(s, "mqtt_replays_refused", "Replays refused because there were as many as there may be, by whose limit it was.", "reason",
		map[string]int64{"session": over.Session, "account": over.Account, "node": over.Node})
	s.Gauge("mqtt_retained", "Topics with a retained message.", float64(b.Session.Retained))
	s.Gauge("mqtt_retained_bytes", "Bytes of the names and payloads of retained messages.", float64(b.Session.RetainedBytes))
	l := &n.o.Config.Limits
	s.Gauge("mqtt_sessions_limit", "Sessions that the node takes at most.", float64(l.Sessions))
	s.Gauge("mqtt_subscriptions_limit", "Subscriptions that the node takes at most.", float64(l.AllSubs))
	s.Gauge("mqtt_replays_limit", "Replays that the node runs at once at most.", float64(l.AllReplays))
	s.Gauge("mqtt_retained_limit", "Topics with a retained message that the node takes at most.", float64(l.Retained))
	s.Gauge("mqtt_retained_limit_bytes", "Bytes of names and payloads of retained messages that the node takes at most.", float64(l.RetainedBytes))
	s.Gauge("mqtt_inflight", "Deliveries not yet acknowledged.", float64(b.Session.Inflight))
	s.Gauge("mqtt_queue_bytes", "Memory of the sessions' sets of positions.", float64(b.Session.QueueBytes))
}

func (n *Node) collectRoutes(s *metrics.Samples) {
	r := n.store.Stats()
	s.Counter("routed", "Messages that became records.", float64(r.Appended))
	s.Counter("unlogged", "Messages of `store: false` routes.", float64(r.Unlogged))
	s.Counter("foreign_records", "Records of Kafka clients passed to MQTT.", float64(r.Foreign))
	metrics.Counters(s, "append_refused", "Messages that the routes or the log refused.", "reason", r.Refused)
	metrics.Counters(s, "records_skipped", "Records that MQTT has no use for.", "reason", r.Skipped)
	metrics.Counters(s, "dead_letters", "Records that could not reach their MQTT topic.", "result", r.DeadLetters)
}

func (n *Node) collectEngine(s *metrics.Samples) {
	e := n.engine.Stats()
	s.Counter("log_commits", "Commits made durable.", float64(e.Commits))
	s.Counter("log_commit_bytes", "Bytes of commits.", float64(e.CommitBytes))
	s.Counter("log_batches", "Batches made durable.", float64(e.Batches))
	s.Counter("log_records", "Records made durable.", float64(e.Records))
	buckets, sum := map[float64]uint64{}, uint64(0)
	for i, c := range e.Sync.Counts {
		if sum += c; i < len(e.Sync.Counts)-1 {
			buckets[(64 * time.Microsecond << i).Seconds()] = sum
		}
	}
	s.Histogram("log_fsync_seconds", "Time of a commit's fdatasync.", buckets, sum, e.Sync.Sum.Seconds())
	s.Gauge("log_size_bytes", "Bytes of all topics.", float64(e.LogBytes))
	s.Gauge("log_size_limit_bytes", "Bytes that all topics may have.", float64(e.MaxLogBytes))
	s.Gauge("log_queued_bytes", "Bytes that wait for a commit.", float64(e.QueuedBytes))
	s.Gauge("log_unapplied_bytes", "Committed bytes not yet in segments.", float64(e.UnappliedBytes))
	s.Gauge("log_ring_bytes", "Bytes held in memory for tails.", float64(e.RingBytes))
	s.Gauge("log_wal_bytes", "Size of the write-ahead log's files.", float64(e.WALBytes))
	s.Counter("log_checkpoints", "Checkpoints.", float64(e.Checkpoints))
	s.Gauge("log_recovery_seconds", "Time the last start spent on recovery.", e.RecoveryTime.Seconds())
	s.Gauge("log_topics", "Topics.", float64(e.Topics))
	s.Gauge("log_partitions", "Partitions.", float64(e.Partitions))
	s.Gauge("log_open_files", "Open segment files.", float64(e.OpenFiles))
	s.Gauge("log_quarantined", "Runs of offsets that cannot be read because the segment is damaged; /readyz names them.", float64(e.Quarantined))
	s.Counter("log_damaged_records", "Offsets that readers of the live log passed over because the segment is damaged there.", float64(e.DamagedRecords))
	s.Counter("log_scrubbed_bytes", "Bytes of segments read in the background to verify them.", float64(e.ScrubbedBytes))
	s.Counter("log_scrub_passes", "Times that all segments were verified.", float64(e.ScrubPasses))
	metrics.Counters(s, "log_refused", "Appends refused.", "reason", e.Refused)
	healthy := 1.0
	if n.engine.Health() != nil {
		healthy = 0
	}
	s.Gauge("log_healthy", "1 while the log takes appends.", healthy)
}

func (n *Node) collectKafka(s *metrics.Samples) {
	k := n.kafka.Stats()
	n.collectKafkaSecurity(s, &k)
	s.Gauge("kafka_connections", "Kafka connections.", float64(k.Connections))
	s.Counter("kafka_accepted", "Kafka connections accepted.", float64(k.Accepted))
	s.Counter("kafka_refused_connections", "Kafka connections refused.", float64(k.Refused))
	s.Counter("kafka_bytes", "Bytes read from and written to Kafka clients.", float64(k.BytesIn), "dir", "in")
	s.Counter("kafka_bytes", "Bytes read from and written to Kafka clients.", float64(k.BytesOut), "dir", "out")
	s.Counter("kafka_produce_errors", "Batches refused.", float64(k.ProduceErrors))
	s.Gauge("kafka_transactional_ids", "Transactional ids that are remembered.", float64(k.TransactionalIDs))
	s.Gauge("kafka_open_transactions", "Transactions that have not ended yet.", float64(k.OpenTransactions))
	oldest := 0.0
	if !k.OldestTransaction.IsZero() {
		oldest = n.o.Now().Sub(k.OldestTransaction).Seconds()
	}
	s.Gauge("kafka_oldest_transaction_seconds", "How long the oldest open transaction has held back what comes after it; /readyz names its producer.", oldest)
	s.Counter("kafka_bad_requests", "Connections ended because of bytes that are no request.", float64(k.BadRequests))
	s.Counter("kafka_unsupported_requests", "Connections ended because of an API or version that is not served.", float64(k.Unsupported))
	s.Counter("kafka_stalled_connections", "Connections ended because nothing moved for too long.", float64(k.Stalled))
	s.Gauge("kafka_groups", "Consumer groups.", float64(k.Groups))
	s.Gauge("kafka_fetch_sessions", "Fetch sessions of Kafka clients.", float64(k.FetchSessions))
	s.Gauge("kafka_fetch_session_partitions", "Partitions in fetch sessions.", float64(k.FetchSessionPartitions))
	s.Counter("kafka_fetch_sessions_evicted", "Fetch sessions that went for others: above the bounds, their clients fetch in full.", float64(k.FetchSessionsEvicted))
	metrics.Counters(s, "kafka_requests", "Requests.", "api", k.Requests)
}
