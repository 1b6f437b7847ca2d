package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/internal/certs/certtest"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/registry"
)

const schemaRoutes = `routes:
- {mqtt: "warn/{v}", topic: warn, key: "{v}", schema: {subject: s-value, check: warn}}
- {mqtt: "dlq/{v}", topic: dlq, key: "{v}", schema: {subject: s-value, check: dlq}}
- {mqtt: "reject/{v}", topic: reject, key: "{v}", schema: {subject: s-value, check: reject}}
- {mqtt: "framed/{v}", topic: framed, key: "{v}", schema: {subject: s-value, check: reject, framing: confluent}}
- {mqtt: "pinned/{v}", topic: pinned, key: "{v}", schema: {subject: s-value, version: 1, check: reject}}
`

func withRegistry(t *testing.T, text string) *config.Config {
	c := testConfig(t, text)
	c.Listeners.Registry = []config.Registry{{Bind: "127.0.0.1:0"}}
	return c
}

// askRegistry sends a request to the node's registry.
func askRegistry(t *testing.T, n *Node, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+n.Address("schema registry")+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(b)
}

func (w *wire) post(topic, payload string, qos byte, id uint16) packet.Code {
	w.t.Helper()
	w.send(&packet.Publish{QoS: qos, PacketID: id, Topic: []byte(topic), Payload: []byte(payload)})
	code := w.answer(func(p packet.Packet) bool { a, ok := p.(*packet.Ack); return ok && a.PacketID == id }).(*packet.Ack).Code
	if qos == 2 && code < 0x80 {
		w.send(&packet.Ack{Kind: packet.PUBREL, PacketID: id})
		w.answer(func(p packet.Packet) bool { a, ok := p.(*packet.Ack); return ok && a.Kind == packet.PUBCOMP })
	}
	return code
}

func dialNode(t *testing.T, n *Node) *wire {
	t.Helper()
	nc, err := net.Dial("tcp", n.Address("MQTT"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &wire{t: t, nc: nc, dec: packet.Decoder{Version: packet.V5}}
}

// letters counts the records of a topic.
func letters(t *testing.T, n *Node, topic string) (count int) {
	t.Helper()
	to, err := n.log.Topic(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for i := range to.Partitions {
		pos := eventlog.Position{Part: eventlog.Part{Topic: to.ID, Index: i}}
		batches, _, err := n.log.Read(t.Context(), pos, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			count += b.Len()
		}
	}
	return count
}

// From the device to the answer: what is not of the schema goes where its route says, and everything adds up.
func TestSchemasOfRoutes(t *testing.T) {
	c := withRegistry(t, schemaRoutes)
	n := boot(t, c)
	w := dialNode(t, n)
	if a := w.hello("truck", nil); a == nil || a.Code != packet.Success {
		t.Fatalf("%+v", a)
	}
	if w.subscribe("#", 1) >= 0x80 {
		t.Fatal("cannot subscribe")
	}
	expect(t, strings.Join(n.warnings(), "\n"), `routes[2].schema (reject/{v}): no payload is valid (check: reject): the registry has no subject "s-value"`)
	if code := w.post("reject/a", `{"speed":1}`, 1, 1); code != packet.PayloadFormatInvalid {
		t.Errorf("before there is a schema: %v", code)
	}
	closed := `{\"type\":\"object\",\"properties\":{\"speed\":{\"type\":\"number\"}%s},\"additionalProperties\":false}`
	if status, body := askRegistry(t, n, "POST", "/subjects/s-value/versions", `{"schemaType":"JSON","schema":"`+fmt.Sprintf(closed, "")+`"}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	good, bad := `{"speed":1}`, `{"speed":"fast"}`
	framed := "\x00\x00\x00\x00\x01"
	for i, p := range []struct {
		topic, payload string
		qos            byte
		want           packet.Code
	}{
		{"warn/a", good, 1, 0}, {"warn/a", bad, 1, 0}, {"dlq/a", good, 1, 0}, {"dlq/a", bad, 1, 0}, {"dlq/a", bad, 2, 0}, {"reject/a", good, 1, 0},
		{"reject/a", bad, 1, packet.PayloadFormatInvalid}, {"reject/a", bad, 2, packet.PayloadFormatInvalid}, {"reject/a", good, 2, 0}, {"framed/a", framed + good, 1, 0},
		{"framed/a", framed + bad, 1, packet.PayloadFormatInvalid}, {"framed/a", good, 1, packet.PayloadFormatInvalid}, {"framed/a", "\x00\x00\x00\x00\x07" + good, 1, packet.PayloadFormatInvalid},
		{"free/a", bad, 1, 0},
	} {
		if got := w.post(p.topic, p.payload, p.qos, uint16(10+i)); got&0x80 != p.want&0x80 || p.want != 0 && got != p.want {
			t.Errorf("%s %q at QoS %d: %v", p.topic, p.payload, p.qos, got)
		}
	}

	// A version that is registered counts at once, but not where another is pinned.
	wider := fmt.Sprintf(closed, `,\"fuel\":{\"type\":\"number\"}`)
	if status, body := askRegistry(t, n, "POST", "/subjects/s-value/versions", `{"schemaType":"JSON","schema":"`+wider+`"}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if code := w.post("reject/a", `{"fuel":1}`, 1, 100); code >= 0x80 {
		t.Errorf("of the new version: %v", code)
	}
	if code := w.post("pinned/a", `{"fuel":1}`, 1, 101); code != packet.PayloadFormatInvalid {
		t.Errorf("of the new version, pinned to the old one: %v", code)
	}
	w.post("free/a", "last", 1, 102)

	// A client before 5.0 is disconnected: it knows no other answer.
	old := dialNode(t, n)
	old.nc.Write([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01o"))
	old.nc.Write([]byte("\x32\x0d\x00\x08reject/a\x00\x01x"))
	old.nc.SetReadDeadline(time.Now().Add(30 * time.Second))
	if b, err := io.ReadAll(old.nc); err != nil || string(b) != "\x20\x02\x00\x00" {
		t.Errorf("%q, %v", b, err)
	}

	if got := letters(t, n, "dlq.dlq"); got != 2 {
		t.Errorf("%d dead letters", got)
	}
	v := verifyNode(t, n)
	for topic, want := range map[string]struct {
		published, found uint64
		refused          map[string]uint64
	}{
		"warn": {2, 2, nil}, "dlq": {1, 1, map[string]uint64{"dead_lettered": 2}}, "reject": {3, 3, map[string]uint64{"invalid_payload": 4}},
		"framed": {1, 1, map[string]uint64{"invalid_payload": 3}}, "pinned": {0, 0, map[string]uint64{"invalid_payload": 1}},
	} {
		got := v.totals[topic]
		if got.Published != want.published || got.Found != want.found || fmt.Sprint(got.Refused) != fmt.Sprint(want.refused) {
			t.Errorf("%s: %+v", topic, got)
		}
	}
	census, moved := n.settled()
	if st := logStation(&census, moved); *st.Unaccounted != 0 || census.dead != 2 {
		t.Errorf("%d messages are nowhere: %+v", *st.Unaccounted, st)
	}
	if v.Wrong > 0 {
		t.Errorf("%+v", v.Summary)
	}
	_, metrics := fetch(t, n, "/metrics")
	expect(t, metrics, `millrace_payloads_handled_total{action="dead_lettered"} 2`, `millrace_payloads_invalid_total{reason="no_schema",route="reject/{v}",subject="s-value"} 1`)

	// What was registered is there after a restart.
	halt(t, n)
	n = boot(t, c)
	if _, body := askRegistry(t, n, "GET", "/subjects/s-value/versions", ""); body != "[1,2]" {
		t.Error(body)
	}
}

func TestRegistryWithoutListener(t *testing.T) {
	c := testConfig(t, schemaRoutes)
	expect(t, startError(t, c), "_schemas, which is not there: write listeners: {registry:")
	c.Listeners.Registry = []config.Registry{{Bind: "127.0.0.1:0"}}
	halt(t, boot(t, c))
	c.Listeners.Registry = nil
	n := boot(t, c)
	if n.Address("schema registry") != "" {
		t.Error("a registry without a listener listens")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := n.schemas.registry.SetLevel(ctx, "", "FULL"); err == nil {
		t.Error("a registry without a listener writes")
	}
}

// Who gets in at the registry, by certificate or token, is judged at each request, and so is what they may do.
func TestRegistryLoginsAndRights(t *testing.T) {
	k := newKeys(t)
	passwords := k.path("passwords")
	token := passwordFile(t, passwords)
	c := testConfig(t, "policy: {rules: [{who: builder, allow: all, schema_subjects: [team-*]}, {who: scraper, allow: read, schema_subjects: ['*']}, {who: scraper, deny: all, schema_subjects: [team-secret]}]}")
	c.Auth.Passwords = config.File(passwords)
	m := k.listener(true)
	c.Listeners.Registry = []config.Registry{{Bind: "127.0.0.1:0", TLS: m.TLS, Auth: []string{"cert", "token"}}}
	n := boot(t, c)
	builder := k.ca.Client("builder")
	client := func(p *certtest.Pair) *http.Client {
		tr := &http.Transport{TLSClientConfig: k.client(p)}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	own, others := client(&builder), client(nil)
	do := func(c *http.Client, token, method, path, body string, want int) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+n.Address("schema registry")+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		a, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		b, _ := io.ReadAll(a.Body)
		if a.StatusCode != want {
			t.Errorf("%s %s: %d %s, want %d", method, path, a.StatusCode, b, want)
		}
	}
	const schema = `{"schema":"\"int\""}`
	for _, s := range []string{"team-a", "team-secret"} {
		do(own, "", "POST", "/subjects/"+s+"/versions", schema, 200)
	}
	do(own, "", "POST", "/subjects/other/versions", schema, 403)
	do(own, "", "PUT", "/config", `{"compatibility":"NONE"}`, 403)
	do(own, "", "PUT", "/config/team-a", `{"compatibility":"NONE"}`, 200)
	do(others, "", "GET", "/subjects", "", 401)
	do(others, "mlr_wrong", "GET", "/subjects", "", 401)
	do(others, token, "GET", "/subjects/team-a/versions", "", 200)
	do(others, token, "GET", "/subjects/team-secret/versions", "", 403)
	do(others, token, "GET", "/schemas/ids/1", "", 200) // of team-a, too
	do(others, token, "POST", "/subjects/team-a/versions", schema, 403)
	do(others, token, "DELETE", "/subjects/team-a", "", 403)

	k.write("crl.pem", k.ca.CRL(builder.Leaf))
	n.Reload()
	do(own, "", "GET", "/subjects", "", 401) // on the connection that was open
}

// Registries on a Kafka cluster share its schemas: each decides on what the other has written. What is on the cluster is what Confluent's
// registry would have written. (The cluster is kfake, in this process.)
func TestRegistryOnAKafkaCluster(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	c := withRegistry(t, "log: {kafka: ["+cluster.ListenAddrs()[0]+`]}
routes: [{mqtt: "dlq/{v}", topic: dlq, key: "{v}", partitions: 1, schema: {subject: s, check: dlq}}]`)
	c.Log.Data = ""
	n := boot(t, c)
	d, err := kafka.Open(t.Context(), kafka.Options{Seeds: cluster.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	other, err := registry.Open(t.Context(), registry.Options{Log: eventlog.New(d), Now: func() int64 { return time.Now().UnixMilli() }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	defer other.Close()
	const a, b = true, false
	register := func(here bool, subject, schema, want string) {
		t.Helper()
		_, body := 0, ""
		if here {
			_, body = askRegistry(t, n, "POST", "/subjects/"+subject+"/versions", `{"schema":"`+strings.ReplaceAll(schema, `"`, `\"`)+`"}`)
		} else if id, err := other.Register(t.Context(), subject, &registry.Schema{Text: schema}); err != nil {
			t.Error(err)
		} else {
			body = fmt.Sprintf(`{"id":%d}`, id)
		}
		if body != want {
			t.Errorf("%s, want %s", body, want)
		}
	}
	register(a, "s", `"int"`, `{"id":1}`)
	register(b, "s", `"int"`, `{"id":1}`)
	register(b, "s", `"long"`, `{"id":2}`)
	register(a, "s", `"long"`, `{"id":2}`)
	register(a, "s", `"string"`, `{"error_code":409,"message":"Schema being registered is incompatible with an earlier schema for subject \"s\", details: [{errorType:'TYPE_MISMATCH', description:'reader type string is not compatible with writer type long', path:'/'} {oldSchemaVersion: 2} {compatibility: 'BACKWARD'}]"}`)
	register(a, "t", `"string"`, `{"id":3}`)
	register(b, "t", `"bytes"`, `{"id":4}`)

	w := dialNode(t, n)
	w.hello("truck", nil)
	for id, payload := range []string{1: "\x02", 2: "\x80"} {
		if id > 0 && w.post("dlq/a", payload, 1, uint16(id)) >= 0x80 {
			t.Errorf("%q is refused", payload)
		}
	}
	if got := letters(t, n, "dlq.dlq"); got != 1 {
		t.Errorf("%d dead letters", got)
	}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("_schemas"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []string
	for len(got) < 4 && ctx.Err() == nil {
		for _, r := range consumer.PollFetches(ctx).Records() {
			if len(r.Value) > 0 {
				got = append(got, string(r.Key)+" "+string(r.Value))
			}
		}
	}
	if want := `{"keytype":"SCHEMA","subject":"s","version":1,"magic":1} {"subject":"s","version":1,"id":1,"schema":"\"int\"","deleted":false}`; len(got) == 0 || got[0] != want {
		t.Errorf("the cluster has\n%s, want\n%s", strings.Join(got, "\n"), want)
	}
}
