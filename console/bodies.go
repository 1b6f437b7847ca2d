package console

// The bodies of the API. The json tags are its names, the doc tags its documentation (openapi.go); times are milliseconds since 1970 on
// the node's clock, and what may be unknown is null.

// Status is whether the node does its work, and where its doors are.
type Status struct {
	Ready    bool     `json:"ready" doc:"the node does its work"`
	Version  string   `json:"version" doc:"which build this is"`
	Now      float64  `json:"now" doc:"the node's clock"`
	Started  float64  `json:"started" doc:"when the node started; totals count from here"`
	Checks   []Check  `json:"checks" doc:"the conditions of readiness"`
	Warnings []string `json:"warnings" doc:"what is weaker than the default because somebody asked for it"`
	Doors    []Door   `json:"doors" doc:"where the node listens"`
	User     string   `json:"user" doc:"who asks; empty if nobody has to say"`
	Login    bool     `json:"login" doc:"the node has a password file, so there is a login to end"`
}

// Check is one condition of readiness.
type Check struct {
	Name   string `json:"name" doc:"running, log or sessions"`
	OK     bool   `json:"ok" doc:"the condition holds"`
	Detail string `json:"detail" doc:"why not, or what it is"`
}

// Door is one address of the node.
type Door struct {
	Protocol string `json:"protocol" doc:"MQTT, Kafka or HTTP"`
	Address  string `json:"address" doc:"host:port"`
	Does     string `json:"does" doc:"what the line does, in words"`
	Try      string `json:"try" doc:"a line to paste into a terminal"`
}

// Devices is one page of the device list.
type Devices struct {
	Devices []Device `json:"devices" doc:"in the order that was asked for"`
	Total   int      `json:"total" doc:"how many match, on all pages"`
	Next    string   `json:"next" doc:"cursor of the page after this one; empty: there is none"`
}

// Device is the last known state of a device.
type Device struct {
	ID       string   `json:"id" doc:"the device's name: its record's key, or what the route's field says"`
	Slot     uint32   `json:"slot" doc:"its number in the live channel's frames"`
	Source   int      `json:"source" doc:"the route it was last heard on, as in the live channel's hello"`
	Topic    string   `json:"topic" doc:"the MQTT topic of its last message"`
	Lat      *float64 `json:"lat" doc:"degrees WGS 84"`
	Lon      *float64 `json:"lon" doc:"degrees WGS 84"`
	Speed    *float64 `json:"speed" doc:"m/s"`
	Heading  *float64 `json:"heading" doc:"degrees clockwise from north"`
	LastSeen float64  `json:"last_seen" doc:"when the node received its last message"`
	Sent     *float64 `json:"sent" doc:"when the device sent that message, by its own clock"`
	Latency  *float64 `json:"latency_ms" doc:"from sending to receiving, corrected by the clock's skew"`
	Skew     *float64 `json:"clock_skew_ms" doc:"how far the device's clock is ahead of the node's, as estimated"`
	Messages uint64   `json:"messages" doc:"heard from it since the view began"`
	Stale    bool     `json:"stale" doc:"nothing was heard for a minute"`
}

// DeviceDetail is a device with its recent track.
type DeviceDetail struct {
	Device
	Sequence  *uint64 `json:"sequence" doc:"the number of its last message, if it counts them"`
	Missing   uint64  `json:"missing" doc:"numbers that were never seen"`
	Repeated  uint64  `json:"repeated" doc:"numbers that were seen again"`
	Reordered uint64  `json:"reordered" doc:"numbers that came after a later one"`
	Track     []Fix   `json:"track" doc:"its recent positions, oldest first"`
}

// Fix is one position of a track: when, where.
type Fix struct {
	At  float64 `json:"at" doc:"when the node received it"`
	Lat float64 `json:"lat" doc:"degrees WGS 84"`
	Lon float64 `json:"lon" doc:"degrees WGS 84"`
}

// Pipeline is the strip: what each stage has counted since the node started, and how late it is.
type Pipeline struct {
	Now     float64 `json:"now" doc:"the node's clock"`
	Started float64 `json:"started" doc:"totals count from here"`
	Stages  []Stage `json:"stages" doc:"devices, broker, log, console, browser: in the order in which a message passes them"`
	Skew    Skew    `json:"clock_skew" doc:"how far the devices' clocks are off; the latencies are corrected by it"`
	Hub     Hub     `json:"hub" doc:"the live channel"`
}

// Stage is one station of a message's way.
type Stage struct {
	Name        string   `json:"name" doc:"devices, broker, log, console or browser"`
	Total       int64    `json:"total" doc:"messages since the node started; for browser: frames drawn"`
	Rate        float64  `json:"rate" doc:"per second, over the last ten"`
	Samples     int64    `json:"samples" doc:"messages of the last minute that the quantiles are of"`
	P50         *float64 `json:"p50_ms" doc:"median of the time since the device sent, over the last minute"`
	P99         *float64 `json:"p99_ms" doc:"99th percentile of the same"`
	Joined      []Reason `json:"joined" doc:"what came in here and not through the stage before"`
	Left        []Reason `json:"left" doc:"what did not come on from the stage before, by reason"`
	Unaccounted *int64   `json:"unaccounted" doc:"the stage before + joined - left - total: 0 means that it adds up. Null: nothing to compare with"`
}

// Reason is a number of messages and what became of them.
type Reason struct {
	Reason string `json:"reason" doc:"a word, the same as in /metrics where there is one"`
	Kind   string `json:"kind" doc:"refused, in_flight, unlogged, expired, dropped, repeated or other"`
	Count  int64  `json:"count" doc:"messages since the node started; of in_flight: now"`
}

// Skew sums up the devices' clocks.
type Skew struct {
	Devices int      `json:"devices" doc:"devices whose skew is known"`
	P50     *float64 `json:"p50_ms" doc:"median of the amount"`
	Max     *float64 `json:"max_ms" doc:"the largest amount"`
}

// Hub is what the live channel has done.
type Hub struct {
	Pages     int64 `json:"pages" doc:"browser pages connected now"`
	Frames    int64 `json:"frames" doc:"frames sent"`
	Coalesced int64 `json:"coalesced" doc:"frames that slow pages missed; the next one began anew"`
	Bytes     int64 `json:"bytes" doc:"bytes of the frames and texts sent"`
}

// Topics lists the log's topics.
type Topics struct {
	Topics []Topic `json:"topics" doc:"in order of name, internal ones left out"`
	Next   string  `json:"next" doc:"cursor of the page after this one; empty: there is none"`
}

// Topic is one topic of the log.
type Topic struct {
	Name       string   `json:"name" doc:"as Kafka clients know it"`
	Partitions int      `json:"partitions" doc:"how many"`
	Records    int64    `json:"records" doc:"between the start and the end of its partitions; compaction may have taken some of them"`
	Bytes      *int64   `json:"bytes" doc:"on disk; null on a Kafka cluster"`
	First      *float64 `json:"first" doc:"timestamp of the oldest record; null: empty, or there are too many topics to look"`
	Last       *float64 `json:"last" doc:"timestamp of the newest record; null: empty, or there are too many topics to look"`
}

// Record is one event of a topic's tail.
type Record struct {
	Partition int32             `json:"partition" doc:"of the topic"`
	Offset    int64             `json:"offset" doc:"in the partition"`
	Time      int64             `json:"time" doc:"the record's timestamp"`
	Key       string            `json:"key" doc:"as text; bytes that are none are replaced"`
	Headers   map[string]string `json:"headers" doc:"as text, at most 16 of them"`
	Size      int               `json:"size" doc:"bytes of the value"`
	Value     *string           `json:"value" doc:"the first 1024 bytes of the value, if they are text; null: they are not, or there is no value"`
	Base64    *string           `json:"base64" doc:"the same, if they are not text"`
	Truncated bool              `json:"truncated" doc:"there is more of the value than is shown"`
}

// Skipped says that the tail left out records, because they came faster than it may give.
type Skipped struct {
	Count int64 `json:"skipped" doc:"records left out since the event before"`
}

// Login is the body of POST /api/v1/login.
type Login struct {
	Name     string `json:"name" doc:"as in the password file"`
	Password string `json:"password" doc:"the password"`
}

// LoggedIn is its answer.
type LoggedIn struct {
	User    string  `json:"user" doc:"who is logged in"`
	Role    string  `json:"role" doc:"what that one may do"`
	Expires float64 `json:"expires" doc:"when the session ends at the latest"`
}

// Problem is the body of every error: RFC 9457, application/problem+json.
type Problem struct {
	Title  string `json:"title" doc:"the kind of error, in words"`
	Status int    `json:"status" doc:"the HTTP status"`
	Detail string `json:"detail" doc:"what is wrong with this request, and what to do"`
	Login  bool   `json:"login,omitempty" doc:"true: a login is what is missing"`

	retry int // seconds, for Retry-After; 0: none
}
