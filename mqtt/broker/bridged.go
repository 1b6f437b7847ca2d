package broker

import (
	"strings"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// bridged gives a bridge of version 3.1 or 3.1.1 the subscription options that it needs and cannot ask for: what it has published
// itself does not come back, and retained messages keep their flag.
func bridged(p *packet.Subscribe) {
	for i := range p.Filters {
		f := &p.Filters[i]
		f.NoLocal, f.RetainAsPublished = !strings.HasPrefix(f.Filter, "$share/"), true
	}
}

// AdmitsRetained tells whether there is room for one more retained message, for who publishes past a connection.
func (b *Broker) AdmitsRetained(topic string, payload int) bool {
	return b.owner.Load().core.Retained().Admits(topic, payload)
}
