package app

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/policy"
)

// Everything is allowed to the boss; the trucks may do what they like below fleet/, until what is secret there is taken from them.
const (
	rulesBefore = `
default: deny
rules:
  - {who: boss, allow: all, topics: ["#", "$SYS/#"]}
  - {who: "truck-*", allow: all, topics: ["fleet/#"]}
`
	rulesAfter = rulesBefore + `  - {who: "truck-7", deny: all, topics: ["fleet/secret/#"]}` + "\n"
)

// court is a node whose clients have certificates, and whose policy is a file.
type court struct {
	t      *testing.T
	n      *Node
	keys   *keys
	file   string
	tls    map[string]*tls.Config // by account
	boss   *wire
	serial int
}

func newCourt(t *testing.T) *court {
	c := &court{t: t, keys: newKeys(t), file: filepath.Join(t.TempDir(), "policy.yaml"), tls: map[string]*tls.Config{}}
	c.write(rulesBefore)
	cfg := testConfig(t, "")
	cfg.Listeners.MQTT = []config.MQTT{c.keys.listener(true)}
	cfg.Policy = config.Policy{File: config.File(c.file)}
	c.n = boot(t, cfg)
	c.boss = c.connect("boss", "boss", nil)
	return c
}

func (c *court) write(text string) {
	c.t.Helper()
	if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// rule puts a policy in force.
func (c *court) rule(text string) {
	c.t.Helper()
	c.write(text)
	c.n.Reload()
}

// clientTLS is the account's; its sessions can be resumed.
func (c *court) clientTLS(account string) *tls.Config {
	if c.tls[account] == nil {
		pair := c.keys.ca.Client(account)
		c.tls[account] = c.keys.client(&pair)
		c.tls[account].ClientSessionCache = tls.NewLRUClientSessionCache(4)
	}
	return c.tls[account]
}

func (c *court) dial(account string) *wire {
	c.t.Helper()
	nc, err := tls.Dial("tcp", c.n.Address("MQTT"), c.clientTLS(account))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { nc.Close() })
	return &wire{t: c.t, nc: nc, dec: packet.Decoder{Version: packet.V5}}
}

// connect opens a session that outlives its connection.
func (c *court) connect(account, id string, will *packet.Will) *wire {
	c.t.Helper()
	w := c.dial(account)
	if a := w.hello(id, will); a == nil || a.Code != packet.Success {
		c.t.Fatalf("%s: %+v", account, a)
	}
	return w
}

// post has the boss publish, and waits until the log has it.
func (c *court) post(topic, payload string, qos byte, retain bool) {
	c.t.Helper()
	c.serial++
	id := uint16(c.serial)
	c.boss.send(&packet.Publish{QoS: qos, Retain: retain, PacketID: id, Topic: []byte(topic), Payload: []byte(payload)})
	c.boss.answer(func(p packet.Packet) bool {
		a, ok := p.(*packet.Ack)
		return ok && (a.Kind == packet.PUBACK || a.Kind == packet.PUBREC) && a.PacketID == id && !a.Code.Failed()
	})
	if qos == 2 {
		c.boss.send(&packet.Ack{Kind: packet.PUBREL, PacketID: id})
	}
}

// dropped is a counter.
func (c *court) dropped(reason string) int64 { return c.n.broker.Stats().Dropped[reason] }

// wire is a client of which the test says each packet.
type wire struct {
	t   *testing.T
	nc  net.Conn
	dec packet.Decoder
	in  []byte
}

func (w *wire) send(ps ...interface {
	Append([]byte, packet.Version) ([]byte, error)
}) {
	w.t.Helper()
	var b []byte
	for _, p := range ps {
		var err error
		if b, err = p.Append(b, packet.V5); err != nil {
			w.t.Fatal(err)
		}
	}
	w.nc.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if _, err := w.nc.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

// next is the next packet; nil: the connection is over.
func (w *wire) next() packet.Packet {
	w.t.Helper()
	w.nc.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		p, n, _, err := w.dec.Next(w.in)
		if err != nil {
			w.t.Fatal(err)
		}
		if n > 0 {
			w.in = w.in[n:]
			switch p := p.(type) {
			case *packet.Publish: // it is the decoder's
				own := *p
				own.Topic, own.Payload = slices.Clone(p.Topic), slices.Clone(p.Payload)
				return &own
			case *packet.Ack:
				own := *p
				return &own
			}
			return p
		}
		more := make([]byte, 16<<10)
		m, err := w.nc.Read(more)
		if w.in = append(w.in, more[:m]...); err != nil && m == 0 {
			return nil
		}
	}
}

// answer passes over packets up to the one that is meant.
func (w *wire) answer(is func(packet.Packet) bool) packet.Packet {
	w.t.Helper()
	for {
		p := w.next()
		if p == nil {
			w.t.Fatal("the connection is over, and the answer has not come")
		}
		if is(p) {
			return p
		}
	}
}

func (w *wire) hello(id string, will *packet.Will) *packet.Connack {
	w.t.Helper()
	p := &packet.Connect{Version: packet.V5, ClientID: id, Will: will}
	p.Props.Has, p.Props.SessionExpiry = packet.PSessionExpiry, 600
	w.send(p)
	a, _ := w.next().(*packet.Connack)
	return a
}

// subscribe returns the code of the answer.
func (w *wire) subscribe(filter string, qos byte) packet.Code {
	w.t.Helper()
	w.send(&packet.Subscribe{PacketID: 1000, Filters: []packet.Filter{{Filter: filter, QoS: qos}}})
	p := w.answer(func(p packet.Packet) bool { _, ok := p.(*packet.Suback); return ok })
	return p.(*packet.Suback).Codes[0]
}

// publish returns the code of the answer.
func (w *wire) publish(topic string, qos byte, id uint16) packet.Code {
	w.t.Helper()
	w.send(&packet.Publish{QoS: qos, PacketID: id, Topic: []byte(topic), Payload: []byte("of the truck")})
	p := w.answer(func(p packet.Packet) bool { a, ok := p.(*packet.Ack); return ok && a.PacketID == id })
	return p.(*packet.Ack).Code
}

// until acks what comes and returns it, up to the payload that ends it.
func (w *wire) until(last string) (payloads []string) {
	w.t.Helper()
	for {
		switch p := w.next().(type) {
		case nil:
			w.t.Fatalf("the connection is over after %q, and %q has not come", payloads, last)
		case *packet.Publish:
			switch p.QoS {
			case 1:
				w.send(&packet.Ack{Kind: packet.PUBACK, PacketID: p.PacketID})
			case 2:
				w.send(&packet.Ack{Kind: packet.PUBREC, PacketID: p.PacketID})
			}
			if string(p.Payload) == last {
				return payloads
			}
			payloads = append(payloads, string(p.Payload))
		case *packet.Ack:
			if p.Kind == packet.PUBREL {
				w.send(&packet.Ack{Kind: packet.PUBCOMP, PacketID: p.PacketID})
			}
		}
	}
}

// cut ends the connection without a word, and waits until the node has noticed.
func (w *wire) cut(n *Node) {
	w.t.Helper()
	before := n.broker.Stats().Connections
	w.nc.Close()
	eventually(w.t, "the connection is gone", func() bool { return n.broker.Stats().Connections < before })
}

// A right that is taken away is gone, whatever state its client is in: rights that outlive their grant are class 8 of the bugs that brokers have had.
func TestClass08RightsOutliveTheirGrant(t *testing.T) {
	const secret, open = "fleet/secret/1", "fleet/open"
	none := func(t *testing.T, got []string) {
		t.Helper()
		if len(got) > 0 {
			t.Errorf("it came, although the right was gone: %q", got)
		}
	}
	for name, test := range map[string]func(t *testing.T, c *court){
		"live": func(t *testing.T, c *court) {
			truck := c.connect("truck-7", "truck-7", nil)
			truck.subscribe("fleet/#", 1)
			c.post(secret, "before", 1, false)
			truck.until("before")
			c.rule(rulesAfter)
			c.post(secret, "after", 1, false)
			c.post(open, "end", 1, false)
			none(t, truck.until("end"))
			for qos := byte(1); qos <= 2; qos++ {
				if code := truck.publish(secret, qos, uint16(qos)); code != packet.NotAuthorized {
					t.Errorf("a publish at QoS %d is answered %v", qos, code)
				}
			}
			if code := truck.subscribe("fleet/secret/+", 1); code != packet.NotAuthorized {
				t.Errorf("SUBSCRIBE is answered %v", code)
			}
			if n := c.dropped("not_authorized"); n != 1 {
				t.Errorf("%d deliveries are counted as denied", n)
			}
			c.rule(rulesBefore) // the subscription has stayed
			c.post(secret, "again", 1, false)
			none(t, truck.until("again"))
		},
		"live, the only rule that allowed it is gone": func(t *testing.T, c *court) {
			truck := c.connect("truck-7", "truck-7", nil)
			truck.subscribe("fleet/#", 2)
			c.rule(strings.Replace(rulesBefore, `topics: ["fleet/#"]`, `topics: ["fleet/open"]`, 1))
			c.post(secret, "after", 2, false)
			c.post(secret, "after", 1, true)
			c.post(open, "end", 1, false)
			none(t, truck.until("end"))
			if code := truck.subscribe("fleet/#", 2); code != packet.NotAuthorized {
				t.Errorf("SUBSCRIBE is answered %v", code)
			}
			c.rule(rulesBefore) // that refusal has left the subscription as it was
			c.post(secret, "again", 2, false)
			none(t, truck.until("again"))
		},
		"offline with a queue": func(t *testing.T, c *court) {
			truck := c.connect("truck-7", "truck-7", nil)
			truck.subscribe("fleet/#", 1)
			truck.cut(c.n)
			c.post(secret, "queued", 1, false)
			c.rule(rulesAfter)
			c.post(secret, "queued", 1, false)
			c.post(open, "end", 1, false)
			none(t, c.connect("truck-7", "truck-7", nil).until("end"))
			if n := c.dropped("not_authorized"); n != 2 {
				t.Errorf("%d deliveries are counted as denied", n)
			}
		},
		"retained": func(t *testing.T, c *court) {
			truck := c.connect("truck-7", "truck-7", nil)
			if code := truck.publish(secret, 1, 1); code.Failed() {
				t.Fatal(code)
			}
			c.post(secret, "kept", 1, true)
			c.rule(rulesAfter)
			if code := truck.subscribe("fleet/#", 1); code != 1 { // of a wider filter what is denied is withheld
				t.Fatal(code)
			}
			c.post(open, "end", 1, false)
			none(t, truck.until("end"))
			other := c.connect("truck-8", "truck-8", nil) // what is retained stays, for those who may have it
			other.subscribe("fleet/secret/#", 1)
			none(t, other.until("kept"))
		},
		"holding a will": func(t *testing.T, c *court) {
			will := &packet.Will{Topic: secret, Payload: []byte("last will"), QoS: 1}
			c.boss.subscribe("fleet/#", 1)
			truck := c.connect("truck-7", "truck-7", will)
			c.rule(rulesAfter)
			truck.cut(c.n)
			eventually(t, "the will is decided on", func() bool { return c.dropped("will_not_authorized") == 1 })
			c.boss.send(&packet.Publish{QoS: 1, PacketID: 1, Topic: []byte(open), Payload: []byte("end")})
			none(t, c.boss.until("end"))
			if a := c.dial("truck-7").hello("other", will); a == nil || a.Code != packet.NotAuthorized {
				t.Errorf("a will without a right is answered %+v", a)
			}
		},
		"half-way through QoS 2, to the client": func(t *testing.T, c *court) {
			truck := c.connect("truck-7", "truck-7", nil)
			truck.subscribe("fleet/#", 2)
			c.post(secret, "half-way", 2, false)
			p := truck.answer(func(p packet.Packet) bool { _, ok := p.(*packet.Publish); return ok }).(*packet.Publish)
			truck.cut(c.n)
			c.rule(rulesAfter)
			truck = c.connect("truck-7", "truck-7", nil)
			rel := truck.next()
			if a, ok := rel.(*packet.Ack); !ok || a.Kind != packet.PUBREL || a.PacketID != p.PacketID {
				t.Errorf("the client is not freed of its id, but told %+v", rel)
			}
			truck.send(&packet.Ack{Kind: packet.PUBCOMP, PacketID: p.PacketID})
			c.post(open, "end", 1, false)
			none(t, truck.until("end"))
		},
		"half-way through QoS 2, from the client": func(t *testing.T, c *court) {
			c.boss.subscribe("fleet/#", 1)
			truck := c.connect("truck-7", "truck-7", nil)
			if code := truck.publish(secret, 2, 7); code.Failed() {
				t.Fatal(code)
			}
			truck.cut(c.n)
			c.rule(rulesAfter)
			truck = c.connect("truck-7", "truck-7", nil)
			truck.send(&packet.Publish{QoS: 2, Dup: true, PacketID: 7, Topic: []byte(secret), Payload: []byte("of the truck")})
			if a, ok := truck.next().(*packet.Ack); !ok || a.Code.Failed() { // what it has a receipt for, it has
				t.Errorf("the message that is in the log is answered %+v", a)
			}
			truck.send(&packet.Ack{Kind: packet.PUBREL, PacketID: 7})
			if a, ok := truck.next().(*packet.Ack); !ok || a.Kind != packet.PUBCOMP || a.Code.Failed() {
				t.Errorf("PUBREL is answered %+v", a)
			}
			if code := truck.publish(secret, 2, 8); code != packet.NotAuthorized {
				t.Errorf("a new message is answered %v", code)
			}
			c.boss.send(&packet.Publish{QoS: 1, PacketID: 1, Topic: []byte(open), Payload: []byte("end")})
			if got := c.boss.until("end"); len(got) != 1 {
				t.Errorf("the message has come %d times", len(got))
			}
		},
		"in flight at QoS 1": func(t *testing.T, c *court) {
			truck := c.connect("truck-7", "truck-7", nil)
			truck.subscribe("fleet/#", 1)
			c.post(secret, "not acked", 1, false)
			truck.answer(func(p packet.Packet) bool { _, ok := p.(*packet.Publish); return ok })
			truck.cut(c.n)
			c.rule(rulesAfter)
			c.post(open, "end", 1, false)
			none(t, c.connect("truck-7", "truck-7", nil).until("end"))
		},
		"in a share group": func(t *testing.T, c *court) {
			const shared = "$share/g/fleet/#"
			seven, eight := c.connect("truck-7", "truck-7", nil), c.connect("truck-8", "truck-8", nil)
			if code := seven.subscribe(shared, 1); code.Failed() {
				t.Fatal(code)
			}
			eight.subscribe(shared, 1)
			for i := range 2 { // one for each
				c.post(secret, fmt.Sprint("leased ", i), 1, false)
			}
			mine := seven.answer(func(p packet.Packet) bool { _, ok := p.(*packet.Publish); return ok }).(*packet.Publish)
			seven.cut(c.n) // and so it is for the others
			c.rule(rulesAfter)
			seven = c.connect("truck-7", "truck-7", nil)
			if code := seven.subscribe("$share/h/fleet/secret/#", 1); code != packet.NotAuthorized {
				t.Errorf("SUBSCRIBE is answered %v", code)
			}
			for i := range 4 {
				c.post(secret, fmt.Sprint("secret ", i), 1, false)
			}
			c.post("fleet/open/both", "end of eight", 1, false) // goes to one of the two; the other one gets the next
			c.post("fleet/open/both", "end of eight", 1, false)
			none(t, seven.until("end of eight"))
			got := eight.until("end of eight")
			slices.Sort(got)
			want := []string{"leased 0", "leased 1", "secret 0", "secret 1", "secret 2", "secret 3"}
			if !slices.Equal(got, want) {
				t.Errorf("the member that may got %q, want %q (%q was with the other one)", got, want, mine.Payload)
			}
		},
		"a share group's queue": func(t *testing.T, c *court) {
			const shared = "$share/g/fleet/#"
			seven, eight := c.connect("truck-7", "truck-7", nil), c.connect("truck-8", "truck-8", nil)
			seven.subscribe(shared, 1)
			eight.subscribe(shared, 1)
			seven.cut(c.n)
			eight.cut(c.n)
			c.post(secret, "queued", 1, false)
			c.rule(rulesAfter)
			seven = c.connect("truck-7", "truck-7", nil)
			seven.subscribe("fleet/open", 1)
			c.post(open, "end", 1, false)
			none(t, seven.until("end"))
			eight = c.connect("truck-8", "truck-8", nil)
			none(t, eight.until("queued"))
		},
		"replayed": func(t *testing.T, c *court) {
			c.post(secret, "history", 1, false)
			c.post(open, "end", 1, false)
			c.rule(rulesAfter)
			truck := c.connect("truck-7", "truck-7", nil)
			if code := truck.subscribe("$replay/earliest/fleet/secret/#", 1); code != packet.NotAuthorized {
				t.Errorf("SUBSCRIBE is answered %v", code)
			}
			if code := truck.subscribe("$replay/earliest/fleet/#", 1); code.Failed() {
				t.Fatal(code)
			}
			none(t, truck.until("end"))
		},
		"resumed by a TLS ticket": func(t *testing.T, c *court) {
			truck := c.connect("truck-7", "truck-7", nil)
			truck.subscribe("fleet/#", 1)
			truck.cut(c.n)
			c.post(secret, "queued", 1, false)
			c.rule(rulesAfter)
			truck = c.connect("truck-7", "truck-7", nil)
			if !truck.nc.(*tls.Conn).ConnectionState().DidResume {
				t.Fatal("the TLS session was not resumed: the test is about nothing")
			}
			c.post(open, "end", 1, false)
			none(t, truck.until("end"))
			if code := truck.publish(secret, 1, 1); code != packet.NotAuthorized {
				t.Errorf("a publish is answered %v", code)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { test(t, newCourt(t)) })
	}
}

// A policy file that is wrong, or is not there, does not come into force: not at the start, where the node does not run without one, and
// not later, where what was in force stays.
func TestPolicyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := func() *config.Config {
		c := testConfig(t, "")
		c.Policy = config.Policy{File: config.File(file)}
		return c
	}
	if why := startError(t, cfg()); !strings.Contains(why, "policy.file: cannot be read") {
		t.Errorf("without the file: %s", why)
	}
	for text, want := range map[string]string{
		"": "without a policy everything is allowed",
		"default: deny\nrules:\n- {who: a, allow: all, topics: ['a/#/b']}":   file + ":3: policy.rules[0].topics[0]",
		"default: deny\nrules:\n- {who: 'group:g', allow: all, topics: [a]}": file + ":3: policy.rules[0].who: there is no group",
	} {
		write(text)
		if why := startError(t, cfg()); !strings.Contains(why, want) {
			t.Errorf("%q: %s, want %q", text, why, want)
		}
	}
	write("rules: [{who: anonymous, allow: all, topics: ['a/#']}]")
	n := boot(t, cfg())
	allowed := func(topic string) bool {
		t.Helper()
		nc, err := net.Dial("tcp", n.Address("MQTT"))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		w := &wire{t: t, nc: nc, dec: packet.Decoder{Version: packet.V5}}
		w.hello("c", nil)
		return !w.publish(topic, 1, 1).Failed()
	}
	metric := func() string { _, body := fetch(t, n, "/metrics"); return body }
	if !allowed("a/1") || allowed("b/1") {
		t.Error("the policy at the start is not in force")
	}
	write("rules: [{who: anonymous, allow: all, topics: ['b/#/']}]")
	n.Reload()
	if !allowed("a/1") || allowed("b/1") || !strings.Contains(metric(), "millrace_policy_file_in_force 0") {
		t.Error("a broken file has changed something, or is not told")
	}
	if ws := strings.Join(n.Status().Warnings, "\n"); !strings.Contains(ws, "not in force") {
		t.Errorf("the warnings are %s", ws)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	n.Reload()
	if !allowed("a/1") || allowed("b/1") {
		t.Error("a file that is gone has changed something")
	}
	write("rules: [{who: anonymous, allow: all, topics: ['b/#']}]")
	n.Reload()
	if allowed("a/1") || !allowed("b/1") {
		t.Error("the changed policy is not in force")
	}
	body := metric()
	for _, want := range []string{"millrace_policy_file_in_force 1", "millrace_policy_reloads_total 1", `millrace_mqtt_authz_total{action="publish",result="denied"} 4`,
		`millrace_mqtt_authz_total{action="receive",result="denied"} 0`, "millrace_mqtt_authz_unusable_names_total 0"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics does not say %s", want)
		}
	}
	write("rules: [{who: anonymous, allow: all, topics: ['a/#', 'b/#']}]")
	eventually(t, "the file is looked at by itself", func() bool { return n.rights.reloads.Load() == 2 })
}

// Who did not say who they are is the same account to all.
func TestAnonymousIsOneWord(t *testing.T) {
	if broker.Anonymous.Name != policy.Anonymous || identity.Anonymous != policy.Anonymous {
		t.Errorf("%q, %q and %q", broker.Anonymous.Name, identity.Anonymous, policy.Anonymous)
	}
}

func TestWarnsWithoutPolicy(t *testing.T) {
	c := config.Default()
	if ws := Warnings(c); len(ws) != 0 {
		t.Errorf("on loopback: %q", ws)
	}
	c.Listeners.MQTT[0].Bind = ":1883"
	c.Listeners.WS = []config.MQTT{{}}
	if ws := Warnings(c); len(ws) != 1 || !strings.Contains(ws[0], "listeners.mqtt[0]") {
		t.Errorf("other machines reach it: %q", ws)
	}
	c.Policy.Default = "deny"
	if ws := Warnings(c); len(ws) != 0 {
		t.Errorf("with a policy: %q", ws)
	}
	c.Policy.Rules = []config.Rule{{Who: "*", Allow: "all", Topics: []string{"fleet/${client}/#"}}}
	if ws := Warnings(c); len(ws) != 1 || !strings.Contains(ws[0], "client_id: bound") {
		t.Errorf("with a policy that goes by client ids: %q", ws)
	}
	c.Listeners.MQTT[0].ClientID = "bound"
	if ws := Warnings(c); len(ws) != 0 {
		t.Errorf("with client ids that are bound: %q", ws)
	}
}
