package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// operated is a node that an administrator looks after over HTTP.
type operated struct {
	*testing.T
	c     *config.Config
	n     *Node
	token string
}

func newOperated(t *testing.T) *operated {
	c := testConfig(t, "sys: {interval: 1s}")
	users := filepath.Join(t.TempDir(), "users")
	token := passwordFile(t, users)
	c.Listeners.HTTP.PasswordFile = config.File(users)
	return &operated{t, c, boot(t, c), token}
}

// call sends a request of the administrator's and reads the answer into a value.
func (o *operated) call(method, path string, body, into any) int {
	o.Helper()
	var b []byte
	if body != nil {
		b, _ = json.Marshal(body)
	}
	r, err := http.NewRequestWithContext(o.Context(), method, "http://"+o.n.Address("HTTP")+"/api/v1/mqtt/"+path, bytes.NewReader(b))
	if err != nil {
		o.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+o.token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		o.Fatal(err)
	}
	defer a.Body.Close()
	answer, err := io.ReadAll(a.Body)
	if err != nil {
		o.Fatal(err)
	}
	if into != nil && a.StatusCode < 300 {
		if err := json.Unmarshal(answer, into); err != nil {
			o.Fatalf("%s: %v: %s", path, err, answer)
		}
	}
	return a.StatusCode
}

func (o *operated) connect(id string, change ...func(*packet.Connect)) (*member, *packet.Connack) {
	o.Helper()
	nc, err := net.Dial("tcp", o.n.Address("MQTT"))
	if err != nil {
		o.Fatal(err)
	}
	p := packet.Connect{ClientID: id}
	p.Props.Has, p.Props.SessionExpiry = packet.PSessionExpiry, 1000
	for _, f := range change {
		f(&p)
	}
	return knock(o.T, nc, p)
}

func (m *member) say(p packet.Packet) {
	m.t.Helper()
	b, err := p.Append(nil, m.dec.Version)
	if err != nil {
		m.t.Fatal(err)
	}
	m.write(b)
}

// publish publishes at QoS 1 and waits for the receipt.
func (m *member) publish(id uint16, name, payload string) {
	m.t.Helper()
	m.say(&packet.Publish{QoS: 1, PacketID: id, Topic: []byte(name), Payload: []byte(payload)})
	if a, ok := m.next().(*packet.Ack); !ok || a.PacketID != id || a.Code.Failed() {
		m.t.Fatalf("publish: %+v", a)
	}
}

func (m *member) subscribe(filter string, qos byte) {
	m.t.Helper()
	m.say(&packet.Subscribe{PacketID: 1, Filters: []packet.Filter{{Filter: filter, QoS: qos}}})
	if a, ok := m.next().(*packet.Suback); !ok || a.Codes[0].Failed() {
		m.t.Fatalf("subscribe: %+v", a)
	}
}

// A kick is a DISCONNECT with its code and leaves the session; an ended session is gone, for a restarted node too.
func TestKickAndEndSession(t *testing.T) {
	o := newOperated(t)
	m, _ := o.connect("truck/7")
	m.subscribe("jobs/#", 1)
	if code := o.call("POST", "clients/truck%2F7/kick", console.Kick{Reason: "server_busy"}, nil); code != 200 {
		t.Fatalf("kick: %d", code)
	}
	if d, ok := m.next().(*packet.Disconnect); !ok || d.Code != packet.ServerBusy {
		t.Errorf("%+v", d)
	}
	if p := m.next(); p != nil {
		t.Errorf("the connection goes on with %v", p)
	}
	if code := o.call("POST", "clients/truck%2F7/kick", nil, nil); code != 404 {
		t.Errorf("kick of who is away: %d", code)
	}
	if code := o.call("POST", "clients/truck%2F7/kick", console.Kick{Reason: "boredom"}, nil); code != 400 {
		t.Errorf("kick for no reason there is: %d", code)
	}
	sender, _ := o.connect("sender")
	for id := range uint16(5) {
		sender.publish(id+1, "jobs/1", "x")
	}
	var c console.ClientDetail
	eventually(t, "five wait for it", func() bool { return o.call("GET", "clients/truck%2F7", nil, &c) == 200 && c.Queued == 5 })
	if c.Connected || c.Subscriptions != 1 || c.List[0].Filter != "jobs/#" || c.Since == nil || c.Expires == nil || c.Events[len(c.Events)-1].Kind != "kicked" {
		t.Errorf("%+v", c)
	}
	var ended console.SessionEnded
	if code := o.call("DELETE", "clients/truck%2F7/session", nil, &ended); code != 200 || ended.Discarded != 5 {
		t.Errorf("%d %+v", code, ended)
	}
	if code := o.call("DELETE", "clients/truck%2F7/session", nil, nil); code != 404 {
		t.Errorf("a second time: %d", code)
	}
	halt(t, o.n)
	o.n = boot(t, o.c)
	if code := o.call("GET", "clients/truck%2F7", nil, nil); code != 404 {
		t.Errorf("after a restart: %d", code)
	}
	m, ack := o.connect("truck/7")
	if ack.SessionPresent {
		t.Error("after a restart the session is there again")
	}
	m.stays("nothing waits")
	if _, ack = o.connect("sender"); !ack.SessionPresent {
		t.Error("the other session is not")
	}
}

// Without a password file nobody may change anything, on this machine neither, and everybody may look.
func TestNobodyAdministersWithoutAPasswordFile(t *testing.T) {
	o := &operated{T: t, c: testConfig(t, "")}
	o.n = boot(t, o.c)
	o.connect("a")
	for path, method := range map[string]string{"clients/a/kick": "POST", "clients/a/session": "DELETE", "bans": "POST", "drain": "POST", "trace?client=a": "GET"} {
		if code := o.call(method, path, nil, nil); code != 403 {
			t.Errorf("%s %s: %d", method, path, code)
		}
	}
	var list console.Clients
	if code := o.call("GET", "clients", nil, &list); code != 200 || list.Total != 1 || !list.Clients[0].Connected {
		t.Errorf("%d %+v", code, list)
	}
}

// A trace of a node has the packets of its client and nobody else's.
func TestTraceOverHTTP(t *testing.T) {
	o := newOperated(t)
	other, _ := o.connect("other")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "GET", "http://"+o.n.Address("HTTP")+"/api/v1/mqtt/trace?payload=4&client="+url.QueryEscape("a b"), nil)
	r.Header.Set("Authorization", "Bearer "+o.token)
	a, err := http.DefaultClient.Do(r)
	if err != nil || a.StatusCode != 200 {
		t.Fatalf("%v %v", a, err)
	}
	defer a.Body.Close()
	m, _ := o.connect("a b")
	m.subscribe("t", 0)
	other.publish(1, "t", "one\n{\"x\":1}")
	m.next()
	other.publish(2, "u", "two")
	m.publish(1, "u", "three")
	m.say(&packet.Disconnect{})
	var seen []string
	lines := bufio.NewScanner(a.Body)
	for lines.Scan() {
		var e console.TraceEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%v: %s", err, lines.Bytes())
		}
		if e.Client != "a b" || e.At == 0 {
			t.Errorf("%s", lines.Bytes())
		}
		text := e.Direction + " " + e.Packet + " " + e.Topic
		if e.Payload != nil {
			text += "=" + *e.Payload
		}
		if seen = append(seen, strings.TrimSpace(text)); e.Packet == "CLOSED" {
			break
		}
	}
	want := "in CONNECT;out CONNACK;in SUBSCRIBE;out SUBACK;out PUBLISH t=one;in PUBLISH u=thre;out PUBACK;in DISCONNECT;in CLOSED"
	if got := strings.Join(seen, ";"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// scraped sums up a metric over its labels, of which some may be given.
func (o *operated) scraped(name string, labels ...string) int64 {
	o.Helper()
	code, text := ask(o.T, http.DefaultClient, "http://"+o.n.Address("HTTP")+"/metrics", o.token)
	if code != 200 {
		o.Fatalf("/metrics: %d", code)
	}
	sum := 0.0
	for _, m := range regexp.MustCompile(`(?m)^millrace_`+name+`(\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(text, -1) {
		ok := true
		for _, l := range labels {
			ok = ok && strings.Contains(m[1], l)
		}
		if v, err := strconv.ParseFloat(m[2], 64); err == nil && ok {
			sum += v
		}
	}
	return int64(sum)
}

// What $SYS says is what /metrics says.
func TestSysIsMetrics(t *testing.T) {
	o := newOperated(t)
	m, _ := o.connect("a")
	m.subscribe("x/#", 1)
	for id := range uint16(10) {
		m.publish(id+1, "y", "payload")
	}
	m.say(&packet.Publish{Topic: []byte("r"), Payload: []byte("x"), Retain: true})
	away, _ := o.connect("b")
	away.say(&packet.Disconnect{})
	same := map[string]func() int64{
		"clients/connected":         func() int64 { return o.scraped("mqtt_sessions_connected") },
		"clients/total":             func() int64 { return o.scraped("mqtt_sessions") },
		"clients/expired":           func() int64 { return o.scraped("mqtt_sessions_expired_total") },
		"messages/received":         func() int64 { return o.scraped("mqtt_packets_total", `dir="in"`) },
		"messages/sent":             func() int64 { return o.scraped("mqtt_packets_total", `dir="out"`) },
		"publish/messages/received": func() int64 { return o.scraped("messages_total", `dir="in"`) },
		"publish/messages/sent":     func() int64 { return o.scraped("messages_total", `dir="out"`) },
		"publish/messages/dropped":  func() int64 { return o.scraped("dropped_total") },
		"bytes/received":            func() int64 { return o.scraped("bytes_total", `dir="in"`) },
		"bytes/sent":                func() int64 { return o.scraped("bytes_total", `dir="out"`) },
		"subscriptions/count":       func() int64 { return o.scraped("mqtt_subscriptions") },
		"retained messages/count":   func() int64 { return o.scraped("mqtt_retained") },
	}
	differ := ""
	eventually(t, "they agree", func() bool {
		if differ = ""; o.n.broker.Sys()["$SYS/broker/retained messages/count"] != "1" || o.n.broker.Sys()["$SYS/broker/clients/disconnected"] != "1" {
			return false
		}
		for name, want := range same {
			if got := o.n.broker.Sys()["$SYS/broker/"+name]; got != strconv.FormatInt(want(), 10) {
				differ += fmt.Sprintf("%s is %q, not %d; ", name, got, want())
			}
		}
		return differ == ""
	})
	if t.Failed() {
		t.Error(differ)
	}
	// 11 publishes, and 1 CONNECT, 1 SUBSCRIBE; and one CONNECT and DISCONNECT: every packet is one.
	if got := o.scraped("mqtt_packets_total", `dir="in"`); got != 11+2+2 {
		t.Errorf("%d packets came", got)
	}
	// Who subscribes sees them, and they are nowhere in the log.
	s, _ := o.connect("s")
	s.subscribe("$SYS/broker/#", 1)
	p, ok := s.next().(*packet.Publish)
	if !ok || !p.Retain || p.QoS != 0 || !strings.HasPrefix(string(p.Topic), "$SYS/broker/") {
		t.Errorf("%+v", p)
	}
	if code, body := ask(t, http.DefaultClient, "http://"+o.n.Address("HTTP")+"/api/v1/topics", o.token); code != 200 || strings.Contains(body, "SYS") {
		t.Errorf("%d %s", code, body)
	}
}
