package route

// Place is where a message of an MQTT topic goes.
type Place struct {
	Route int    // index into Options.Routes; -1: the catch-all that is built in
	Topic string // log topic; "" for a `store: false` route
	Key   string // of its record
}

// Place tells where a message of client on an MQTT topic goes; false if no route takes it. It remembers topics, so that it is cheap.
// mqttTopic may alias a buffer; the Place does not, unless the key is the client id.
func (s *Store) Place(mqttTopic, client string) (Place, bool) {
	r := s.cache.get(mqttTopic, s.resolve)
	if r.route == nil {
		return Place{}, false
	}
	p := Place{Route: r.route.index, Topic: r.route.Topic, Key: client}
	if r.key != nil {
		p.Key = stringOf(r.key)
	}
	return p, true
}
