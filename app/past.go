package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/mqtt/session"
)

// Past is a message that was in the log when somebody asked for it.
type Past struct {
	Client   string // that published it
	Topic    string
	Payload  []byte // valid during the call
	property map[string]string
}

// Property is the value of a user property, "" if there is none of that name.
func (p *Past) Property(name string) string { return p.property[name] }

// Past calls each with the last messages of devices in every partition, at most count records of each, in its order; the partitions come
// one after the other. It is for who goes on where the log ends.
func (n *Node) Past(ctx context.Context, count int64, each func(m *Past)) error {
	starts, ends, err := n.store.Data(ctx)
	if err != nil {
		return fmt.Errorf("read the past: %w", err)
	}
	for part, end := range ends {
		if err := n.pastOf(ctx, part, max(starts[part], end-count), end, each); err != nil {
			return fmt.Errorf("read the past: %w", err)
		}
	}
	return nil
}

func (n *Node) pastOf(ctx context.Context, part session.Part, from, end int64, each func(m *Past)) error {
	const chunk = 1 << 20
	for from < end {
		b, err := n.store.Read(ctx, session.Position{Part: part, Offset: from}, chunk)
		var gap *session.GapError
		if errors.As(err, &gap) {
			from = max(gap.Next, from+1)
			continue
		}
		if err != nil {
			return err
		}
		for i := range b.Msgs {
			m := &b.Msgs[i]
			if m.Offset < from || m.Offset >= end || m.Client == "" {
				continue
			}
			p := Past{Client: m.Client, Topic: m.Topic, Payload: m.Payload}
			if m.Props != nil {
				p.property = make(map[string]string, len(m.Props.User))
				for _, u := range m.Props.User {
					p.property[u.Name] = u.Value
				}
			}
			each(&p)
		}
		if b.Next <= from {
			return nil // nothing more can be read
		}
		from = b.Next
	}
	return nil
}
