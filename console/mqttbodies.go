package console

// The bodies of the API's part about MQTT; see bodies.go.

// Clients is one page of the clients.
type Clients struct {
	Clients []Client `json:"clients" doc:"in the order that was asked for"`
	Total   int      `json:"total" doc:"how many there are, on all pages"`
	Next    string   `json:"next" doc:"cursor of the page after this one; empty: there is none"`
}

// Client is a session and its connection.
type Client struct {
	ID            string   `json:"client_id" doc:"as the client gave it, or the node did"`
	Principal     string   `json:"principal" doc:"the account: sessions of one client id under two accounts are two"`
	Connected     bool     `json:"connected" doc:"it has a connection"`
	Since         *float64 `json:"since" doc:"connected, or not connected, since; null: not known, the node has been restarted"`
	LastSeen      *float64 `json:"last_seen" doc:"when a packet of it came last, to a quarter of a second"`
	Address       string   `json:"address" doc:"host:port of the connection"`
	Listener      string   `json:"listener" doc:"that it came in by"`
	Transport     string   `json:"transport" doc:"tcp, tls, ws or wss"`
	Protocol      string   `json:"protocol" doc:"version of MQTT: 3.1, 3.1.1 or 5.0"`
	KeepAlive     int      `json:"keep_alive" doc:"in force, seconds; 0: none"`
	CleanStart    bool     `json:"clean_start" doc:"the connection began with a new session because it asked for one"`
	SessionExpiry int64    `json:"session_expiry" doc:"seconds that the session outlives its connection; 4294967295: for ever"`
	Expires       *float64 `json:"expires" doc:"when the session ends, if it stays away"`
	Subscriptions int      `json:"subscriptions" doc:"how many"`
	Queued        int64    `json:"queued" doc:"messages owed that are not on their way yet: places in the log"`
	QueuedAtMost  bool     `json:"queued_at_most" doc:"queued is an upper bound: the queue was so long that neighbouring places were joined"`
	Inflight      int      `json:"inflight" doc:"deliveries of QoS 1 and 2 that the client has not acknowledged"`
	Behind        bool     `json:"behind" doc:"it reads from the log, since more came than it took"`
	Lag           *float64 `json:"lag_ms" doc:"age of the oldest message queued; null: nothing is, or it was not looked at yet"`
	Waiting       int      `json:"waiting_bytes" doc:"bytes that the client has not taken from its connection yet"`
	Full          bool     `json:"full" doc:"as many bytes wait for it as may"`
	BytesIn       int64    `json:"bytes_in" doc:"of this connection"`
	BytesOut      int64    `json:"bytes_out" doc:"of this connection"`
	MessagesIn    int64    `json:"messages_in" doc:"publishes of this connection"`
	MessagesOut   int64    `json:"messages_out" doc:"deliveries on this connection, those that were repeated too"`
	Paused        string   `json:"paused" doc:"why the node does not read from it at the moment, the same word as in /metrics: log_has_no_room, message_rate, …; empty: it does"`
}

// ClientDetail is a client with its subscriptions and its history. Of a session that has ended only the history is left.
type ClientDetail struct {
	Client
	Exists bool           `json:"exists" doc:"there is a session; false: there was one, and this is what is remembered of it"`
	Will   string         `json:"will" doc:"topic of its will; empty: none"`
	List   []Subscription `json:"subscription_list" doc:"the first 1000, in order of their filters"`
	Events []Event        `json:"events" doc:"the last 20 things that happened to it, the oldest first"`
}

// Subscription is one of a client's.
type Subscription struct {
	Filter            string `json:"filter" doc:"as it was asked for"`
	QoS               int    `json:"qos" doc:"the highest that it is delivered with"`
	NoLocal           bool   `json:"no_local" doc:"not what it publishes itself"`
	RetainAsPublished bool   `json:"retain_as_published" doc:"deliveries keep the retain flag"`
	ID                uint32 `json:"id" doc:"subscription identifier; 0: none"`
	Pending           bool   `json:"pending" doc:"not durable yet: nothing is delivered for it"`
}

// Event is something that happened to a client.
type Event struct {
	At     float64 `json:"at" doc:"when; the latest, if it is several"`
	Kind   string  `json:"kind" doc:"connected, disconnected, taken_over, kicked, refused, session_expired, session_ended or slow"`
	Detail string  `json:"detail" doc:"from where, or why"`
	Count  int     `json:"count" doc:"how often, one after the other"`
}

// Kick is the body of POST …/kick, which may be left out.
type Kick struct {
	Reason string `json:"reason,omitempty" doc:"what a client of MQTT 5.0 is told: administrative_action (default), not_authorized, server_busy, quota_exceeded, use_another_server or server_moved"`
}

// Kicked is its answer.
type Kicked struct {
	Client    string `json:"client_id" doc:"whose connection was ended"`
	Principal string `json:"principal" doc:"under which account"`
	Reason    string `json:"reason" doc:"what it was told"`
}

// SessionEnded is the answer of DELETE …/session.
type SessionEnded struct {
	Client    string `json:"client_id" doc:"whose session was ended"`
	Principal string `json:"principal" doc:"under which account"`
	Discarded int64  `json:"discarded" doc:"deliveries that were given up: queued, or not acknowledged"`
}

// Subscribers is who would get a message on a topic.
type Subscribers struct {
	Topic       string       `json:"topic" doc:"that was asked about"`
	Subscribers []Subscriber `json:"subscribers" doc:"the first of them, those with the oldest sessions first"`
	Total       int          `json:"total" doc:"how many there are"`
}

// Subscriber is one of them.
type Subscriber struct {
	ID        string   `json:"client_id" doc:"of the session; empty: a group"`
	Principal string   `json:"principal" doc:"its account"`
	Group     string   `json:"group" doc:"$share/NAME/FILTER, of which one member would get the message; empty: a session"`
	Connected bool     `json:"connected" doc:"it has a connection; of a group: a member has"`
	QoS       int      `json:"qos" doc:"the highest that it would get the message with"`
	Filters   []string `json:"filters" doc:"of its subscriptions, those that match"`
	Denied    bool     `json:"denied" doc:"the policy keeps the message from it"`
}

// TopicMetrics is what comes on which topic.
type TopicMetrics struct {
	Since   float64      `json:"since" doc:"the counts begin here"`
	Topics  []TopicCount `json:"topics" doc:"in the order that was asked for"`
	Total   int          `json:"total" doc:"topics that match and are known one by one"`
	Matched TopicCount   `json:"matched" doc:"the sum of those"`
	Others  TopicCount   `json:"others" doc:"the sum of topics that are not known one by one any more, whether they match or not: beyond 64,000, those with fewest messages are forgotten"`
}

// TopicCount is what came on one topic, or several.
type TopicCount struct {
	Topic    string   `json:"topic" doc:"its name; empty: a sum"`
	Messages int64    `json:"messages" doc:"of any QoS"`
	Bytes    int64    `json:"bytes" doc:"of their payloads"`
	Last     float64  `json:"last" doc:"when the latest came; 0: none has"`
	Rate     *float64 `json:"messages_per_second" doc:"over the interval; null: not asked for"`
	ByteRate *float64 `json:"bytes_per_second" doc:"over the interval; null: not asked for"`
}

// RetainedMessages is a page of them.
type RetainedMessages struct {
	Retained []RetainedMessage `json:"retained" doc:"in order of topic"`
	Next     string            `json:"next" doc:"cursor of the page after this one; empty: there is none"`
}

// RetainedMessage is one, without its payload.
type RetainedMessage struct {
	Topic   string   `json:"topic" doc:"of the message"`
	Bytes   int      `json:"bytes" doc:"of topic and payload"`
	QoS     int      `json:"qos" doc:"that it was published with"`
	Time    float64  `json:"time" doc:"when it was received"`
	Expires *float64 `json:"expires" doc:"when it is removed; null: never"`
}

// SharedGroups lists the groups of shared subscriptions.
type SharedGroups struct {
	Groups []SharedGroup `json:"groups" doc:"in order of name and filter"`
	Total  int           `json:"total" doc:"how many there are"`
}

// SharedGroup is one group.
type SharedGroup struct {
	Name     string        `json:"name" doc:"share name"`
	Filter   string        `json:"filter" doc:"what it shares"`
	Queued   int64         `json:"queued" doc:"messages that wait for a member"`
	Inflight int           `json:"inflight" doc:"messages that members have and have not acknowledged"`
	Size     int           `json:"size" doc:"how many members there are"`
	Members  []GroupMember `json:"members" doc:"the first 100"`
}

// GroupMember is a session in a group.
type GroupMember struct {
	ID        string `json:"client_id" doc:"of the session"`
	Principal string `json:"principal" doc:"its account"`
	Connected bool   `json:"connected" doc:"it has a connection"`
	QoS       int    `json:"qos" doc:"the highest that it gets messages with"`
	Inflight  int    `json:"inflight" doc:"messages that it has and has not acknowledged"`
}

// Bans lists who is banned.
type Bans struct {
	Bans []Ban `json:"bans" doc:"the latest first"`
}

// Ban keeps one client id, account or network out.
type Ban struct {
	Client    string   `json:"client,omitempty" doc:"client id, under whatever account"`
	Principal string   `json:"principal,omitempty" doc:"account"`
	Network   string   `json:"network,omitempty" doc:"addresses: 192.0.2.0/24"`
	Since     float64  `json:"since" doc:"when it began"`
	Until     *float64 `json:"until" doc:"when it ends by itself; null: when it is lifted"`
	Reason    string   `json:"reason" doc:"for operators; the client does not hear it"`
	By        string   `json:"by" doc:"who banned it"`
}

// NewBan is the body of POST …/bans: exactly one of client, principal and network.
type NewBan struct {
	Client    string `json:"client,omitempty" doc:"client id, under whatever account"`
	Principal string `json:"principal,omitempty" doc:"account"`
	Network   string `json:"network,omitempty" doc:"an address, or addresses: 192.0.2.0/24"`
	For       string `json:"for,omitempty" doc:"how long: 30m, 24h; default: until it is lifted"`
	Reason    string `json:"reason,omitempty" doc:"for operators"`
}

// NewDrain is the body of POST …/drain, which may be left out.
type NewDrain struct {
	Server string `json:"server,omitempty" doc:"host:port that clients of MQTT 5.0 are told to use instead"`
	Rate   int    `json:"rate,omitempty" doc:"clients a second; default 500; 0: all at once"`
}

// Drain is how far the sending away of clients is.
type Drain struct {
	Active  bool     `json:"active" doc:"clients are sent away, or have been, and none is let in"`
	Running bool     `json:"running" doc:"some are still there"`
	Server  string   `json:"server" doc:"that they are told to use; empty: none"`
	Since   *float64 `json:"since" doc:"when it began"`
	Total   int      `json:"total" doc:"clients there were when it began"`
	Told    int      `json:"told" doc:"clients that were sent away"`
	Cut     int      `json:"cut" doc:"of them, those that did not go by themselves"`
	Left    int      `json:"left" doc:"clients that are still there"`
}

// TraceEvent is one line of a trace: a packet, the end of a connection, or what the trace says of itself.
type TraceEvent struct {
	At        float64  `json:"at" doc:"when"`
	Client    string   `json:"client_id,omitempty" doc:"whose connection it is"`
	Principal string   `json:"principal,omitempty" doc:"its account; none before it is authenticated"`
	Direction string   `json:"direction,omitempty" doc:"in: from the client, out: to it"`
	Packet    string   `json:"packet,omitempty" doc:"PUBLISH, SUBSCRIBE, …; CLOSED: the end of the connection"`
	Topic     string   `json:"topic,omitempty" doc:"of a PUBLISH, or of the will in a CONNECT"`
	Filters   []string `json:"filters,omitempty" doc:"of a SUBSCRIBE or UNSUBSCRIBE, the first 20"`
	QoS       int      `json:"qos,omitempty" doc:"of a PUBLISH; the highest of a SUBSCRIBE"`
	Retain    bool     `json:"retain,omitempty" doc:"flag of a PUBLISH"`
	Dup       bool     `json:"dup,omitempty" doc:"flag of a PUBLISH"`
	ID        int      `json:"packet_id,omitempty" doc:"packet identifier"`
	Size      int      `json:"size,omitempty" doc:"bytes of the payload"`
	Reason    string   `json:"reason,omitempty" doc:"the code of an answer, or why a message was refused or dropped, or a connection ended"`
	Payload   *string  `json:"payload,omitempty" doc:"the payload's first bytes, if they are text and were asked for"`
	Base64    *string  `json:"base64,omitempty" doc:"the same, if they are not text"`
	Dropped   int64    `json:"dropped,omitempty" doc:"events that are left out here, because they came faster than they were read"`
	End       string   `json:"end,omitempty" doc:"the trace is over, and why"`
}
