package route

// What follows is for who decides on the rights of Kafka clients: a log topic is reached from MQTT, and reaches it.

// Sources are the MQTT filters whose messages are in a log topic, without the names of their levels.
func (t *Table) Sources(logTopic string) (filters []string) {
	for _, r := range t.routes {
		if r.topic >= 0 && t.topics[r.topic].name == logTopic {
			filters = append(filters, r.pattern.filter())
		}
	}
	return filters
}

// Reverse is where records reach MQTT that Kafka clients put into a log topic; false: nowhere. filter matches all topics there are to reach, and
// topicOf tells the one of a record with a key, or why there is none.
func (t *Table) Reverse(logTopic string) (filter string, topicOf func(key []byte) (string, error), ok bool) {
	for _, plan := range t.topics {
		if plan.name == logTopic && plan.reverse != nil {
			return plan.reverse.pattern.filter(), plan.reverse.topicOf, true
		}
	}
	return "", nil, false
}

// Sources is Table's.
func (s *Store) Sources(logTopic string) []string { return s.table.Sources(logTopic) }

// Reverse is Table's.
func (s *Store) Reverse(logTopic string) (filter string, topicOf func(key []byte) (string, error), ok bool) {
	return s.table.Reverse(logTopic)
}
