package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// device is a client of MQTT 5.0, as plain as it can be.
type device struct {
	t   *testing.T
	nc  net.Conn
	dec packet.Decoder
	buf []byte
}

// dialDevice connects, and returns what the CONNECT was answered with.
func dialDevice(t *testing.T, address, id string) (*device, packet.Code) {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	d := &device{t: t, nc: nc, dec: packet.Decoder{Version: packet.V5}}
	c := &packet.Connect{Version: packet.V5, ClientID: id}
	c.Props.Has, c.Props.SessionExpiry = packet.PSessionExpiry, 1000
	d.send(c)
	return d, d.next().(*packet.Connack).Code
}

func (d *device) send(p packet.Packet) {
	d.t.Helper()
	b, err := p.Append(nil, packet.V5)
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.nc.Write(b); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) next() packet.Packet {
	d.t.Helper()
	d.nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		p, n, _, err := d.dec.Next(d.buf)
		if err != nil {
			d.t.Fatal(err)
		}
		if n > 0 {
			d.buf = d.buf[n:]
			return p
		}
		more := make([]byte, 4096)
		m, err := d.nc.Read(more)
		if err != nil {
			d.t.Fatal(err)
		}
		d.buf = append(d.buf, more[:m]...)
	}
}

// operated is a node with a password file, and the files of an administrator's and a viewer's token.
func operated(t *testing.T) (mqtt, http, admin, viewer string) {
	t.Helper()
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	token := func(name, role string) string {
		c := expect(t, exitOK, "", "", "passwd", users, name, "--token", "--role", role, "-o", "json")
		var made map[string]string
		if err := json.Unmarshal([]byte(c.out.String()), &made); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(made["token"]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file:" + file
	}
	admin, viewer = token("ops", "admin"), token("wall", "viewer")
	file := filepath.Join(dir, "millrace.yaml")
	text := fmt.Sprintf("listeners: {mqtt: [{bind: 127.0.0.1:0}], kafka: [], http: {bind: 127.0.0.1:0, password_file: %s}}\nlog: {data: %s}\nsys: {interval: 1s}\n", users, filepath.Join(dir, "data"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	node := start(t, nil, "serve", "--config", file)
	t.Cleanup(func() {
		node.cancel()
		node.wait()
	})
	return node.until(`protocol=MQTT address=(127\.0\.0\.1:\d+)`)[1], node.until(`protocol=HTTP address=(127\.0\.0\.1:\d+)`)[1], admin, viewer
}

func TestMQTTCommands(t *testing.T) {
	mqtt, http, admin, viewer := operated(t)
	as := func(token string) func(code int, out, err string, args ...string) *command {
		return func(code int, out, err string, args ...string) *command {
			t.Helper()
			return expect(t, code, out, err, append(append([]string{"mqtt"}, args...), "--http", http, "--token", token)...)
		}
	}
	ops, wall := as(admin), as(viewer)
	truck, code := dialDevice(t, mqtt, "truck/7")
	if code != packet.Success {
		t.Fatal(code)
	}
	truck.send(&packet.Subscribe{PacketID: 1, Filters: []packet.Filter{{Filter: "cmd/+", QoS: 1}, {Filter: "$share/g/work", QoS: 1}}})
	truck.next()
	truck.send(&packet.Publish{QoS: 1, PacketID: 2, Topic: []byte("fleet/7"), Payload: []byte("12345"), Retain: true})
	truck.next()

	wall(exitOK, "truck/7", "", "clients")
	wall(exitOK, "truck/7", "", "clients", "truck*", "--connected", "--sort", "bytes_in")
	if c := wall(exitOK, "CLIENT", "", "clients", "--offline"); strings.Contains(c.out.String(), "truck") {
		t.Errorf("%s", &c.out)
	}
	c := wall(exitOK, "", "", "clients", "-o", "json")
	var list console.Clients
	if err := json.Unmarshal([]byte(c.out.String()), &list); err != nil || list.Total != 1 || list.Clients[0].ID != "truck/7" || list.Clients[0].Subscriptions != 2 || list.Clients[0].SessionExpiry != 1000 {
		t.Errorf("%v %s", err, &c.out)
	}
	wall(exitOK, "cmd/+", "", "client", "truck/7")
	wall(exitOK, "connected", "", "client", "truck/7", "--principal", "anonymous")
	wall(exitFailed, "", "no session", "client", "nobody")
	wall(exitOK, "truck/7", "", "subscriptions", "cmd/x")
	wall(exitOK, "$share/g/work", "", "subscriptions", "work")
	wall(exitFailed, "", "not the name of one topic", "subscriptions", "cmd/#")
	wall(exitOK, "fleet/7", "", "topics", "fleet/#", "--interval", "0s")
	wall(exitOK, "fleet/7", "", "retained")
	wall(exitOK, "work", "", "groups")
	wall(exitOK, "CLIENT", "", "slow", "--offline")
	wall(exitOK, "WHO", "", "bans")
	wall(exitOK, "none is sent away", "", "drain", "--status")

	// Nothing changes for who is no administrator.
	expect(t, exitFailed, "", "--token file:PATH", "mqtt", "kick", "truck/7", "--http", http)
	for _, args := range [][]string{{"kick", "truck/7"}, {"end-session", "truck/7"}, {"ban", "--client", "truck/7"}, {"unban", "--client", "x"}, {"drain"}, {"drain", "--undo"}, {"trace", "--client", "truck/7"}} {
		wall(exitFailed, "", "the role viewer", args...)
	}
	expect(t, exitUsage, "", "--token", "mqtt", "clients", "--http", http, "--token", "mr_secret")
	expect(t, exitUsage, "", "NOPE is not set", "mqtt", "clients", "--http", http, "--token", "env:NOPE")
	expect(t, exitUsage, "", "one of the flags", "mqtt", "ban", "--http", http)

	file := filepath.Join(t.TempDir(), "trace.ndjson")
	trace := start(t, nil, "mqtt", "trace", "--client", "truck/7", "--payload", "3", "--file", file, "--http", http, "--token", admin)
	traced := func() string { b, _ := os.ReadFile(file); return string(b) }
	for end := time.Now().Add(20 * time.Second); !strings.Contains(traced(), "PINGREQ") && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		truck.send(&packet.Ping{Kind: packet.PINGREQ})
		truck.next()
	}
	truck.send(&packet.Publish{QoS: 1, PacketID: 3, Topic: []byte("cmd/self"), Payload: []byte("abcdef")})
	for n := 0; n < 2; n++ { // PUBACK and the delivery
		truck.next()
	}
	ops(exitOK, "truck/7 was disconnected", "", "kick", "truck/7", "--reason", "quota_exceeded")
	if d, ok := truck.next().(*packet.Disconnect); !ok || d.Code != packet.QuotaExceeded {
		t.Errorf("%+v", d)
	}
	truck.nc.Close()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(traced(), "CLOSED") && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
	}
	trace.cancel()
	if code := trace.wait(); code != exitOK {
		t.Errorf("trace: %d %s", code, &trace.err)
	}
	for _, want := range []string{`"packet":"PUBLISH"`, `"payload":"abc"`, `"topic":"cmd/self"`, `"direction":"out"`, `"packet":"CLOSED"`, `kicked`} {
		if !strings.Contains(traced(), want) {
			t.Errorf("%s is not in the trace:\n%s", want, traced())
		}
	}
	wall(exitOK, "kicked", "", "client", "truck/7")

	ops(exitOK, "client truck/7 is banned until 2", "", "ban", "--client", "truck/7", "--for", "1h", "--reason", "floods\x1b[31m")
	if c := wall(exitOK, "client truck/7", "", "bans"); strings.Contains(c.out.String(), "\x1b") || !strings.Contains(c.out.String(), "ops") {
		t.Errorf("%q", c.out.String())
	}
	if _, code := dialDevice(t, mqtt, "truck/7"); code != packet.Banned {
		t.Errorf("banned: %v", code)
	}
	ops(exitOK, "lifted", "", "unban", "--client", "truck/7")
	ops(exitFailed, "", "no such ban", "unban", "--client", "truck/7")

	for _, id := range []string{"..", ".", "/", "-", "a b%"} {
		dialDevice(t, mqtt, id)
		ops(exitOK, " was disconnected", "", "kick", id)
	}
	sender, _ := dialDevice(t, mqtt, "sender")
	for id := range uint16(3) {
		sender.send(&packet.Publish{QoS: 1, PacketID: id + 1, Topic: []byte("cmd/1"), Payload: []byte("x")})
		sender.next()
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if c := start(t, nil, "mqtt", "slow", "--offline", "--http", http, "--token", viewer); c.wait() == exitOK && strings.Contains(c.out.String(), "truck/7") {
			break
		}
	}
	ops(exitOK, "deliveries were given up", "", "end-session", "truck/7")
	wall(exitOK, "has ended", "", "client", "truck/7")

	ops(exitOK, "all are gone", "", "drain", "--server", "other.example:8883", "--rate", "0", "--wait")
	if d, ok := sender.next().(*packet.Disconnect); !ok || d.Code != packet.UseAnotherServer || d.Props.ServerReference != "other.example:8883" {
		t.Errorf("%+v", d)
	}
	ops(exitOK, "let in again", "", "drain", "--undo")
	if _, code := dialDevice(t, mqtt, "back"); code != packet.Success {
		t.Errorf("let in again: %v", code)
	}
}

// What devices say reaches a terminal as text: no control character, no text that runs backwards, no line that is not ours.
func TestMQTTTablesAreSafe(t *testing.T) {
	evil := "x\x1b[2J\x07\r\n\tadmin\u202egnp\u0085\ufffd\x00"
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var body any
		client := console.Client{ID: evil, Principal: evil, Connected: true, Address: evil, Protocol: evil, Listener: evil, Transport: evil, Paused: evil}
		switch strings.TrimPrefix(r.URL.Path, "/api/v1/mqtt/") {
		case "clients", "slow":
			body = console.Clients{Clients: []console.Client{client}, Total: 2, Next: evil}
		case "clients/x":
			body = console.ClientDetail{Client: client, Exists: true, Will: evil, List: []console.Subscription{{Filter: evil}}, Events: []console.Event{{Kind: evil, Detail: evil}}}
		case "clients/x/kick":
			body = console.Kicked{Client: evil}
		case "clients/x/session":
			body = console.SessionEnded{Client: evil}
		case "subscriptions":
			body = console.Subscribers{Subscribers: []console.Subscriber{{ID: evil, Principal: evil, Filters: []string{evil}}, {Group: evil, Filters: []string{evil}}}}
		case "topics":
			body = console.TopicMetrics{Topics: []console.TopicCount{{Topic: evil}}}
		case "retained":
			body = console.RetainedMessages{Retained: []console.RetainedMessage{{Topic: evil}}, Next: evil}
		case "groups":
			body = console.SharedGroups{Groups: []console.SharedGroup{{Name: evil, Filter: evil}}}
		case "bans":
			if body = (console.Bans{Bans: []console.Ban{{Client: evil, By: evil, Reason: evil}, {Principal: evil}, {Network: evil}}}); r.Method == http.MethodPost {
				body = console.Ban{Client: evil}
			}
		case "drain":
			body = console.Drain{Active: true, Server: evil}
		case "trace":
			enc := json.NewEncoder(w)
			enc.Encode(console.TraceEvent{Client: evil, Packet: evil, Topic: evil, Filters: []string{evil}, Reason: evil, Payload: &evil, Base64: &evil})
			body = console.TraceEvent{End: evil}
		default:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(404)
			body = console.Problem{Title: evil, Detail: evil}
		}
		json.NewEncoder(w).Encode(body)
	}))
	defer node.Close()
	for _, args := range [][]string{{"clients"}, {"client", "x"}, {"client", "y"}, {"slow"}, {"subscriptions", "x"}, {"topics"}, {"retained"}, {"groups"}, {"kick", "x"}, {"end-session", "x"},
		{"bans"}, {"ban", "--client", "x"}, {"drain"}, {"drain", "--status"}, {"trace", "--client", "x"}} {
		for _, output := range []string{"text", "json"} {
			c := start(t, nil, append(append([]string{"mqtt"}, args...), "--http", node.URL, "-o", output)...)
			c.wait()
			said := c.out.String() + c.err.String()
			if i := strings.IndexFunc(said, func(r rune) bool { return r != '\n' && !unicode.IsGraphic(r) }); i >= 0 && (output == "text" || said[i] < ' ') {
				t.Errorf("%v %s: %q", args, output, said)
			}
			if strings.Contains(said, "\nadmin") || !strings.Contains(said, "admin") {
				t.Errorf("%v %s: a device has written a line, or nothing is shown: %s", args, output, said)
			}
			if output == "json" && c.wait() == exitOK && !json.Valid(bytes.Split([]byte(c.out.String()), []byte("\n}\n"))[0]) && args[0] != "trace" {
				if !json.Valid([]byte(c.out.String())) {
					t.Errorf("%v: no JSON: %s", args, &c.out)
				}
			}
		}
	}
}

// Whoever answers may be anybody.
func TestMQTTBelievesOnlyANode(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(418)
		fmt.Fprint(w, "\x1b[31mhello")
	}))
	defer other.Close()
	expect(t, exitFailed, "", "is no node of Millrace", "mqtt", "clients", "--http", other.URL)
	expect(t, exitFailed, "", "no node answers", "mqtt", "clients", "--http", "127.0.0.1:1")
	expect(t, exitUsage, "", "text or json", "mqtt", "clients", "-o", "yaml")
	expect(t, exitOK, "trace", "", "mqtt")
}

func TestSpansAndSizes(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0ms", 5 * time.Millisecond: "5ms", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 47 * time.Hour: "47h00m", 49 * time.Hour: "2d01h"} {
		if got := span(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1 << 60: "1048576.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	for s, want := range map[string]string{"": `""`, "truck 7": "truck 7", "é漢": "é漢", "a\tb": `"a\tb"`, "a\u202eb": `"a\u202eb"`, "a\xffb": `"a\xffb"`} {
		if got := plain(s); got != want {
			t.Errorf("%q: %s", s, got)
		}
	}
}
