package app

import (
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// TestBackupOfNode backs a node up while devices publish, and starts another on what is restored: sessions, what waits for them, retained messages and
// groups' offsets are those of the cut, and what came later is not there.
func TestBackupOfNode(t *testing.T) {
	n := boot(t, testConfig(t, ""))
	away := packet.Connect{Version: packet.V311, ClientID: "away"}
	d := n.device(t, away).accepted()
	d.send(&packet.Subscribe{PacketID: 1, Filters: []packet.Filter{{Filter: "plan/#", QoS: 1}}})
	if _, ok := d.next().(*packet.Suback); !ok {
		t.Fatal("no SUBACK")
	}
	d.send(&packet.Disconnect{})
	for d.next() != nil {
	}
	id := uint16(0)
	pub := n.device(t, v5("pub")).accepted()
	publish := func(topic, payload string, retain bool) {
		t.Helper()
		id++
		pub.send(&packet.Publish{QoS: 1, PacketID: id, Topic: []byte(topic), Payload: []byte(payload), Retain: retain})
		if a, ok := pub.next().(*packet.Ack); !ok || a.Code >= 0x80 {
			t.Fatalf("%s: %+v", topic, a)
		}
	}
	publish("plan/1", "before", false)
	publish("cfg/a", "old", true)
	client := func(n *Node) *kadm.Client {
		t.Helper()
		cl, err := kgo.NewClient(kgo.SeedBrokers(n.Address("Kafka")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return kadm.NewClient(cl)
	}
	commit := func(at int64) {
		t.Helper()
		offsets := kadm.Offsets{}
		offsets.AddOffset("mqtt", 0, at, -1)
		if err := client(n).CommitAllOffsets(t.Context(), "readers", offsets); err != nil {
			t.Fatal(err)
		}
	}
	commit(1)
	stop := make(chan struct{})
	var load sync.WaitGroup
	noise := n.device(t, v5("noise")).accepted()
	load.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			noise.send(&packet.Publish{QoS: 1, PacketID: uint16(1 + i%60000), Topic: fmt.Appendf(nil, "noise/%d", i%50), Payload: []byte("x")})
			noise.next()
		}
	})
	dir := filepath.Join(t.TempDir(), "backup")
	source := func(since int64) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(n.backup(t.Context(), since, w)) }()
		return r, nil
	}
	for range 2 {
		if _, err := Backup(dir, BackupOptions{}, source); err != nil {
			t.Fatal(err)
		}
	}
	publish("plan/1", "after", false)
	publish("cfg/a", "new", true)
	commit(2)
	close(stop)
	load.Wait()

	c := testConfig(t, "")
	if _, err := Restore(t.Context(), dir, c.Log.Data, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), dir, c.Log.Data, RestoreOptions{}); err == nil {
		t.Error("restored over what is there")
	}
	r, err := CheckLog(t.Context(), c.Log.Data, "", nil)
	if err != nil || len(r.Damage) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	back := boot(t, c)
	d = back.device(t, away)
	if a, ok := d.next().(*packet.Connack); !ok || !a.SessionPresent {
		t.Fatalf("the session is not there: %+v", a)
	}
	if p, ok := d.next().(*packet.Publish); !ok || string(p.Payload) != "before" {
		t.Fatalf("the session gets %+v", p)
	}
	d.send(&packet.Subscribe{PacketID: 2, Filters: []packet.Filter{{Filter: "cfg/#"}}})
	for {
		if p, ok := d.next().(*packet.Publish); ok {
			if string(p.Topic) != "cfg/a" || string(p.Payload) != "old" {
				t.Fatalf("retained, or what came after the cut: %s=%s", p.Topic, p.Payload)
			}
			break
		}
	}
	offsets, err := client(back).FetchOffsets(t.Context(), "readers")
	if o, ok := offsets.Lookup("mqtt", 0); err != nil || !ok || o.At != 1 {
		t.Errorf("the group is at %+v, %v", o, err)
	}
}
