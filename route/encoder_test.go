package route

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
)

// An encoder that remembers the last headers makes what one that remembers nothing makes, whatever came before.
func TestHeadersAreThoseOfTheMessage(t *testing.T) {
	var messages []session.Message
	for _, topic := range []string{"a/b", "a/c"} {
		for _, client := range []string{"one", "two", ""} {
			for qos := range byte(3) {
				for _, retain := range []bool{false, true} {
					m := session.Message{Topic: topic, Client: client, QoS: qos, Retain: retain}
					messages = append(messages, m)
					m.Props = &session.Props{ContentType: "text"}
					messages = append(messages, m)
					m.Props, m.Will = nil, 7
					messages = append(messages, m)
					m.Will, m.QoS2 = 0, session.Triple{Incarnation: 1, PacketID: 2, Use: 3}
					messages = append(messages, m)
				}
			}
		}
	}
	var e encoder
	for i := range messages {
		for j := range messages {
			for _, k := range []int{i, j, j} {
				var fresh encoder
				m := &messages[k]
				want := eventlog.AppendHeaders(nil, fresh.list(m.Topic, m))
				if got := e.encode(m.Topic, m); !bytes.Equal(got, want) {
					t.Fatalf("%s after %s: %q, want %q", fmt.Sprintf("%+v", *m), fmt.Sprintf("%+v", messages[i]), got, want)
				}
			}
		}
	}
}
