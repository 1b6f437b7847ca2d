package config

import "time"

// Groups are the consumer groups of Kafka clients of the embedded log.
type Groups struct {
	Session          Duration `yaml:"session"`   // consumer protocol: who sends no heartbeat for so long is out
	Heartbeat        Duration `yaml:"heartbeat"` // consumer protocol: how often members send one
	RebalanceDelay   Duration `yaml:"rebalance_delay"`
	OffsetsRetention Duration `yaml:"offsets_retention"` // after a group is empty
}

func defaultGroups() Groups {
	return Groups{Session: Duration(45 * time.Second), Heartbeat: Duration(5 * time.Second), OffsetsRetention: Duration(7 * 24 * time.Hour)}
}

func (ck *checker) groups(g *Groups) {
	if g.Session < Duration(time.Second) || g.Session > Duration(time.Hour) {
		ck.problem("log.groups.session", "not between 1s and 1h", "write a time span such as 45s")
	}
	if g.Heartbeat < Duration(100*time.Millisecond) || g.Heartbeat > g.Session/2 {
		ck.problem("log.groups.heartbeat", "not between 100ms and half of log.groups.session", "write a time span such as 5s")
	}
	if g.RebalanceDelay < 0 || g.RebalanceDelay > Duration(time.Minute) {
		ck.problem("log.groups.rebalance_delay", "not between 0 and 1m", "write a time span such as 3s, or 0")
	}
	if g.OffsetsRetention < Duration(time.Minute) {
		ck.problem("log.groups.offsets_retention", "less than a minute", "write a time span such as 7d")
	}
}
