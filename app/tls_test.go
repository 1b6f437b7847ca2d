package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/internal/certs/certtest"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// keys is a folder with what TLS listeners and their clients need.
type keys struct {
	t   *testing.T
	dir string
	ca  *certtest.CA
}

func newKeys(t *testing.T) *keys {
	k := &keys{t: t, dir: t.TempDir(), ca: certtest.NewCA(t, "fleet authority")}
	pair := k.ca.Server()
	k.write("ca.pem", k.ca.PEM)
	k.write("cert.pem", pair.Cert)
	k.write("key.pem", pair.Key)
	k.write("crl.pem", k.ca.CRL())
	return k
}

func (k *keys) path(name string) string { return filepath.Join(k.dir, name) }

func (k *keys) write(name string, b []byte) {
	k.t.Helper()
	if err := os.WriteFile(k.path(name), b, 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keys) listener(mutual bool) config.MQTT {
	m := config.MQTT{Bind: "127.0.0.1:0", TLS: config.ListenerTLS{Cert: config.File(k.path("cert.pem")), Key: config.File(k.path("key.pem"))}}
	if mutual {
		m.TLS.ClientCA, m.TLS.ClientCRL = config.File(k.path("ca.pem")), config.File(k.path("crl.pem"))
	}
	return m
}

func (k *keys) client(pair *certtest.Pair) *tls.Config {
	c := &tls.Config{RootCAs: k.ca.Pool(), ServerName: "localhost"}
	if pair != nil {
		c.Certificates = []tls.Certificate{pair.TLS}
	}
	return c
}

func (n *Node) addressAt(path string) string {
	for _, d := range n.doors {
		if d.path == path {
			return d.listener.Addr().String()
		}
	}
	return ""
}

// hello connects over nc and returns the answer to CONNECT.
func hello(t *testing.T, nc net.Conn, id string) (packet.Packet, error) {
	t.Helper()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	b, err := (&packet.Connect{Version: packet.V5, CleanStart: true, ClientID: id}).Append(nil, packet.V5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(b); err != nil {
		return nil, err
	}
	var dec packet.Decoder
	dec.Version = packet.V5
	var in []byte
	for {
		if p, n, _, err := dec.Next(in); err != nil || n > 0 {
			return p, err
		}
		more := make([]byte, 1000)
		m, err := nc.Read(more)
		if in = append(in, more[:m]...); err != nil {
			return nil, err
		}
	}
}

// A node takes over changed files while clients are connected, refuses broken ones, and says so where operators look.
func TestTLSFilesChange(t *testing.T) {
	k := newKeys(t)
	c := testConfig(t, "")
	c.Listeners.MQTT = append(c.Listeners.MQTT, k.listener(true))
	n := boot(t, c)
	device, lost := k.ca.Client("truck-7"), k.ca.Client("lost")
	dial := func(p *certtest.Pair) *tls.Conn {
		t.Helper()
		nc, err := tls.Dial("tcp", n.addressAt("listeners.mqtt[1]"), k.client(p))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return nc
	}
	stays, goes := dial(&device), dial(&lost)
	for _, nc := range []*tls.Conn{stays, goes} {
		if p, err := hello(t, nc, "a"+fmt.Sprint(nc == goes)); err != nil || p.(*packet.Connack).Code != packet.Success {
			t.Fatal(p, err)
		}
	}
	pair := k.ca.Issue(func(c *x509.Certificate) {
		c.DNSNames, c.NotAfter = []string{"localhost"}, time.Now().Add(20*24*time.Hour)
	})
	k.write("cert.pem", pair.Cert) // half of what is to come
	n.Reload()
	if _, s := fetch(t, n, "/readyz"); !strings.Contains(s, "listeners.mqtt[1].tls: changed TLS files are not used") {
		t.Errorf("/readyz does not warn: %s", s)
	}
	k.write("key.pem", pair.Key)
	k.write("crl.pem", k.ca.CRL(lost.Leaf))
	n.Reload()
	if _, s := fetch(t, n, "/readyz"); strings.Contains(s, "listeners.mqtt[1]") {
		t.Errorf("/readyz warns: %s", s)
	}
	if got := dial(&device).ConnectionState().PeerCertificates[0]; !got.Equal(pair.Leaf) {
		t.Error("the new certificate is not served")
	}
	_, metrics := fetch(t, n, "/metrics")
	for _, want := range []string{`millrace_tls_reloads_total{listener="listeners.mqtt[1]",result="used"} 1`,
		`millrace_tls_reloads_total{listener="listeners.mqtt[1]",result="refused"} 1`,
		`millrace_tls_certificate_expires_seconds{listener="listeners.mqtt[1]"} 1.72`, `millrace_mqtt_listener_connections{listener="listeners.mqtt[1]",transport="tls"}`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics does not say %s", want)
		}
	}
	goes.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, goes); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a client that was revoked stays")
	}
	stays.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := stays.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that was there before is gone: %v", err)
	}
}

// Wrong files are found before anything is begun, and named.
func TestTLSFilesWrong(t *testing.T) {
	k := newKeys(t)
	k.write("key.pem", k.ca.Server().Key)
	c := testConfig(t, "")
	c.Listeners.WS = []config.MQTT{k.listener(false)}
	log, _ := testLogger(t)
	if _, err := Start(t.Context(), Options{Config: c, Logger: log}); err == nil || !strings.Contains(err.Error(), "listeners.ws[0].tls: "+k.path("cert.pem")) {
		t.Errorf("%v", err)
	}
	c.Listeners.WS[0].TLS.Cert = "/nowhere/cert.pem"
	if _, err := Start(t.Context(), Options{Config: c, Logger: log}); err == nil || !strings.Contains(err.Error(), "read /nowhere/cert.pem") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(c.Log.Data); err == nil {
		t.Error("the data folder was made all the same")
	}
}

func TestUnixSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Unix sockets have no permissions there")
	}
	path := filepath.Join(t.TempDir(), "s")
	c := testConfig(t, "")
	c.Listeners.MQTT = []config.MQTT{{Bind: config.Address("unix:" + path), Mode: 0o660}}
	log, _ := testLogger(t)
	n, err := Start(t.Context(), Options{Config: c, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", info, err)
	}
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if p, err := hello(t, nc, "a"); err != nil || p.(*packet.Connack).Code != packet.Success {
		t.Error(p, err)
	}
	other := testConfig(t, "")
	other.Listeners.MQTT = c.Listeners.MQTT
	if _, err := Start(t.Context(), Options{Config: other, Logger: log}); err == nil || !strings.Contains(err.Error(), "another program listens there") {
		t.Errorf("a socket in use: %v", err)
	}
	halt(t, n)
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left behind")
	}
	// A program that died leaves its socket behind.
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	boot(t, other)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := testConfig(t, "")
	third.Listeners.MQTT = []config.MQTT{{Bind: config.Address("unix:" + file)}}
	if _, err := Start(t.Context(), Options{Config: third, Logger: log}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file in the way is gone")
	}
}

// TestForeignMosquittoTLS runs mosquitto_pub and mosquitto_sub over TLS, with and without certificates of their own, and on a Unix socket.
func TestForeignMosquittoTLS(t *testing.T) {
	k := newKeys(t)
	device, foreign := k.ca.Client("truck-7"), certtest.NewCA(t, "another").Client("truck-7")
	k.write("client.pem", device.Cert)
	k.write("client.key", device.Key)
	k.write("foreign.pem", foreign.Cert)
	k.write("foreign.key", foreign.Key)
	c := testConfig(t, "")
	c.Listeners.MQTT = append(c.Listeners.MQTT, k.listener(false), k.listener(true), config.MQTT{Bind: config.Address("unix:" + k.path("s"))})
	n := boot(t, c)
	at := func(door int, args ...string) (client, []string) {
		address := n.addressAt(fmt.Sprintf("listeners.mqtt[%d]", door))
		host, port, _ := net.SplitHostPort(address)
		return client{t: t, host: host, port: port}, args
	}
	ca := []string{"--cafile", k.path("ca.pem")}
	mutual := append(ca, "--cert", k.path("client.pem"), "--key", k.path("client.key"))
	for name, door := range map[string]struct {
		i    int
		args []string
	}{"tls": {1, ca}, "mutual": {2, mutual}} {
		for _, v := range versions {
			cl, args := at(door.i, append(door.args, "-V", v, "-q", "1", "-t", name+"/"+v)...)
			s := cl.sub(append(args, "-C", "20")...)
			lines, want := "", []string(nil)
			for i := range 20 {
				lines += fmt.Sprintf("message %d\n", i)
				want = append(want, fmt.Sprintf("%s/%s|1|0|message %d", name, v, i))
			}
			cl.run(lines, tool(t, "mosquitto_pub"), append([]string{"-h", cl.host, "-p", cl.port, "-l"}, args...)...)
			s.expect(want...)
			s.stop()
		}
	}
	for reason, args := range map[string][]string{
		"client_certificate_missing":           ca,
		"client_certificate_unknown_authority": append(ca, "--cert", k.path("foreign.pem"), "--key", k.path("foreign.key")),
	} {
		cl, args := at(2, append(args, "-t", "x", "-m", "y", "-q", "1")...)
		if out, err := command(t, append([]string{tool(t, "mosquitto_pub"), "-h", cl.host, "-p", cl.port}, args...)...); err == nil {
			t.Errorf("%s: let in: %s", reason, out)
		}
		eventually(t, reason, func() bool { return n.broker.Stats().Turned[reason] > 0 })
	}
	cl, _ := at(3)
	cl.run("", tool(t, "mosquitto_pub"), "--unix", k.path("s"), "-t", "x", "-m", "over a Unix socket", "-q", "1")
}

// command runs a program that may fail.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// TestForeignOpenssl follows docs/tls.md to the letter: its commands make an authority, a node and a device, and revoke the device.
func TestForeignOpenssl(t *testing.T) {
	tool(t, "openssl")
	b, err := os.ReadFile("../docs/tls.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(b), "```")
	if len(blocks) != 5 {
		t.Fatalf("docs/tls.md has %d parts", len(blocks))
	}
	dir := t.TempDir()
	run := func(script string) {
		t.Helper()
		if out, err := command(t, tool(t, "bash"), "-c", "set -e; cd "+dir+"\n"+strings.TrimPrefix(script, "sh\n")); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	run(blocks[1])
	c := testConfig(t, "")
	file := func(name string) config.File { return config.File(filepath.Join(dir, name)) }
	c.Listeners.MQTT[0].TLS = config.ListenerTLS{Cert: file("server.pem"), Key: file("server.key"), ClientCA: file("ca.pem"), ClientCRL: file("crl.pem")}
	n := boot(t, c)
	_, port, _ := net.SplitHostPort(n.Address("MQTT"))
	pub := []string{tool(t, "mosquitto_pub"), "--cafile", filepath.Join(dir, "ca.pem"), "--cert", filepath.Join(dir, "truck-7.pem"), "--key", filepath.Join(dir, "truck-7.key"),
		"-h", "localhost", "-p", port, "-t", "x", "-m", "y", "-q", "1"}
	if out, err := command(t, pub...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run(blocks[3])
	n.Reload()
	if out, err := command(t, pub...); err == nil {
		t.Errorf("the revoked device is let in: %s", out)
	}
	eventually(t, "the reason is counted", func() bool { return n.broker.Stats().Turned["client_certificate_revoked"] == 1 })
}

// TestKafkaTLS: Kafka clients come in with a certificate, and not without; a new server certificate is served to whoever comes next.
func TestKafkaTLS(t *testing.T) {
	k := newKeys(t)
	c := testConfig(t, "")
	c.Listeners.Kafka[0].TLS = k.listener(true).TLS
	n := boot(t, c)
	pair := k.ca.Client("reader")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	exchange := func(value string) {
		t.Helper()
		cl, err := kgo.NewClient(kgo.SeedBrokers(n.Address("Kafka")), kgo.DialTLSConfig(k.client(&pair)), kgo.ConsumeTopics("t"), kgo.AllowAutoTopicCreation())
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		for read := false; !read; { // what was written before is read, too, and of several partitions at once in no order
			fs := cl.PollFetches(ctx)
			if err := fs.Err(); err != nil {
				t.Fatal(err)
			}
			fs.EachRecord(func(r *kgo.Record) { read = read || string(r.Value) == value })
		}
	}
	exchange(strings.Repeat("large", 40_000))
	fresh := k.ca.Server()
	k.write("cert.pem", fresh.Cert)
	k.write("key.pem", fresh.Key)
	n.Reload()
	exchange("after the change")
	nc, err := tls.Dial("tcp", n.Address("Kafka"), k.client(nil))
	if err == nil {
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		_, err = nc.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client without a certificate is let in: %v", err)
	}
}

// TestForeignKcatTLS runs kcat, that is librdkafka, over mutual TLS.
func TestForeignKcatTLS(t *testing.T) {
	k := newKeys(t)
	device := k.ca.Client("reader")
	k.write("client.pem", device.Cert)
	k.write("client.key", device.Key)
	c := testConfig(t, "")
	c.Listeners.Kafka[0].TLS = k.listener(true).TLS
	cl := clientsOf(t, boot(t, c))
	tlsArgs := []string{"-X", "security.protocol=ssl", "-X", "ssl.ca.location=" + k.path("ca.pem"),
		"-X", "ssl.certificate.location=" + k.path("client.pem"), "-X", "ssl.key.location=" + k.path("client.key")}
	cl.kcat("one\ntwo\n", append(tlsArgs, "-P", "-t", "t")...)
	if got := cl.kcat("", append(tlsArgs, "-C", "-t", "t", "-e", "-f", "%s ")...); !strings.Contains(got, "one") || !strings.Contains(got, "two") {
		t.Errorf("kcat read %q", got)
	}
}
