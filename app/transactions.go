package app

import (
	"fmt"
	"time"
)

// carries tells of a topic of the embedded log whether devices wait for its records. A transaction of a Kafka client holds back
// whatever comes after it in its partitions.
func (n *Node) carries(topic string) bool { return n.store.Fixed(topic) != "" }

// transactionWarnings names the transactions that are open for long, and who has them.
func (n *Node) transactionWarnings() (ws []string) {
	if n.kafka == nil {
		return nil
	}
	for _, h := range n.kafka.HeldTransactions() {
		ws = append(ws, fmt.Sprintf("transaction of %q (producer %d) is open since %s in %d partitions, topic %q among them: nobody who reads only what is "+
			"committed reads what comes after it, until its producer or its timeout ends it", h.TransactionalID, h.ProducerID,
			h.Since.UTC().Format(time.RFC3339), h.Partitions, h.Topic))
	}
	return ws
}
