package session

// Described is what a record of the sessions or retained topic is, for people.
type Described struct {
	What    string `json:"what"`
	Client  string `json:"client,omitempty"`
	Filter  string `json:"filter,omitempty"`
	Share   string `json:"share,omitempty"`
	Topic   string `json:"topic,omitempty"`
	Packet  uint16 `json:"packet,omitempty"`
	Removed bool   `json:"removed,omitempty"` // a tombstone
	Bytes   int    `json:"bytes"`             // of the value
}

var kindNames = map[kind]string{kindSession: "session", kindSub: "subscription", kindQueue: "queue", kindIn: "received at QoS 2", kindOut: "being delivered",
	kindGroup: "shared group", kindWill: "will", kindBegin: "checkpoint begins", kindDone: "checkpoint ends", kindRetained: "retained message",
	kindFrontier: "frontier"}

// Describe says what a record of the sessions or retained topic is; ok is false for bytes that are no key of ours.
func Describe(r StateRecord) (d Described, ok bool) {
	k, err := decodeKey(r.Key)
	if err != nil {
		return d, false
	}
	d = Described{What: kindNames[k.kind], Client: k.key.ClientID, Packet: k.id, Removed: r.Value == nil, Bytes: len(r.Value)}
	switch k.kind {
	case kindGroup:
		d.Client, d.Share, d.Filter = "", k.key.Principal, k.key.ClientID
	case kindSub:
		d.Filter = k.rest
	case kindRetained:
		d.Topic = k.rest
	}
	return d, true
}
