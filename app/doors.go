package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/internal/certs"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/transport"
)

type doorKind string

const (
	doorMQTT  doorKind = "MQTT"
	doorWS    doorKind = "WebSocket"
	doorKafka doorKind = "Kafka"
	doorHTTP  doorKind = "HTTP"

	doorRegistry doorKind = "schema registry"
)

// door is one listener.
type door struct {
	kind      doorKind
	path      string // in the configuration
	flag      string // that sets it
	listener  net.Listener
	advertise string
	mqtt      *config.MQTT  // of MQTT, WebSocket too
	kafka     *config.Kafka // of Kafka
	certs     *certs.Source // nil: no TLS
	registry  *config.Registry
}

// listen takes all addresses. Nobody is answered yet.
func (n *Node) listen(ctx context.Context) (err error) {
	l := &n.o.Config.Listeners
	for i := range l.MQTT {
		err = errors.Join(err, n.takeMQTT(door{kind: doorMQTT, path: fmt.Sprintf("listeners.mqtt[%d]", i), flag: "--mqtt-listen", mqtt: &l.MQTT[i]}))
	}
	for i := range l.WS {
		err = errors.Join(err, n.takeMQTT(door{kind: doorWS, path: fmt.Sprintf("listeners.ws[%d]", i), flag: "--ws-listen", mqtt: &l.WS[i]}))
	}
	if len(n.o.Config.Log.Kafka) == 0 {
		for i, k := range l.Kafka {
			err = errors.Join(err, n.takeKafka(door{kind: doorKafka, path: fmt.Sprintf("listeners.kafka[%d]", i), flag: "--kafka-listen",
				advertise: string(k.Advertise), kafka: &k}))
		}
	}
	if l.HTTP.Bind != "" {
		err = errors.Join(err, n.takeHTTP(door{kind: doorHTTP, path: "listeners.http", flag: "--http-listen"}))
	}
	for i := range l.Registry {
		path := fmt.Sprintf("listeners.registry[%d]", i)
		err = errors.Join(err, n.takeRegistry(door{kind: doorRegistry, path: path, flag: path + ".bind"}, &l.Registry[i]))
	}
	if err != nil {
		err = errors.Join(err, n.unlisten(ctx))
	}
	return err
}

// listenSparing listens without TCP's keep-alive of every 15 seconds, Go's default, which keeps the radio of a device awake that has
// nothing to say. MQTT has a keep-alive of its own; those who ask for none and vanish are found all the same, if later.
func listenSparing(network, address string) (net.Listener, error) {
	c := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Minute, Interval: time.Minute, Count: 3}}
	return c.Listen(context.Background(), network, address)
}

func (n *Node) take(d door, a config.Address) (err error) {
	if d.listener, err = n.o.Listen("tcp", string(a)); err != nil {
		return doorError(d, a, err)
	}
	n.doors = append(n.doors, d)
	return nil
}

// takeHTTP takes the address of the HTTP server, once its certificate is read.
func (n *Node) takeHTTP(d door) (err error) {
	h := &n.o.Config.Listeners.HTTP
	if h.TLS.Cert != "" {
		if d.certs, err = n.readTLS(&config.ListenerTLS{Cert: h.TLS.Cert, Key: h.TLS.Key}, false); err != nil {
			return fmt.Errorf("%s.tls: %w", d.path, err)
		}
	}
	return n.take(d, h.Bind)
}

// takeKafka takes the address of a listener for Kafka clients, once its certificate is read.
func (n *Node) takeKafka(d door) (err error) {
	k := d.kafka
	if k.TLS.Any() {
		if d.certs, err = n.readTLS(&k.TLS, k.CertificateOptional()); err != nil {
			return fmt.Errorf("%s.tls: %w", d.path, err)
		}
	}
	return n.take(d, k.Bind)
}

// takeMQTT takes the address of a listener for devices, once its certificate is read.
func (n *Node) takeMQTT(d door) (err error) {
	if d.mqtt.TLS.Any() {
		if d.certs, err = n.readTLS(&d.mqtt.TLS, d.mqtt.CertificateOptional()); err != nil {
			return fmt.Errorf("%s.tls: %w", d.path, err)
		}
	}
	a := d.mqtt.Address(d.kind == doorWS)
	if a.Unix() == "" {
		return n.take(d, a)
	}
	if d.listener, err = listenUnix(a.Unix(), fs.FileMode(d.mqtt.Mode)); err != nil {
		return fmt.Errorf("listen on %s (%s): %w", a, d.path, err)
	}
	n.doors = append(n.doors, d)
	return nil
}

// devicesDoors are those that devices come through.
func (n *Node) devicesDoors() []door { return append(n.doorsOf(doorMQTT), n.doorsOf(doorWS)...) }

// letDevicesIn begins to accept MQTT.
func (n *Node) letDevicesIn() {
	for _, d := range n.devicesDoors() {
		n.accept(func() error { return ended(n.broker.Serve(d.listener, d.options()), broker.ErrClosed) })
	}
}

// options translates the configuration of a listener for devices.
func (d *door) options() broker.ListenerOptions {
	m, l := d.mqtt, &d.mqtt.Limits
	o := broker.ListenerOptions{
		Name: d.path, Lenient: m.Lenient, BoundClientIDs: m.BoundClientIDs(),
		Transport: transport.Options{TLS: d.certs, PlainOthers: m.ProxyOthers == "plain"},
		Limits: broker.Limits{
			Connections: l.Connections, HalfOpen: l.HalfOpen, HalfOpenPerIP: l.HalfOpenPerIP, HandshakeTimeout: time.Duration(l.HandshakeTimeout),
			PacketBytes: int(l.PacketBytes), ReceiveMaximum: uint16(l.ReceiveMaximum), KeepAlive: uint16(l.KeepAlive.Seconds()),
			InboundOfOne: int64(l.InboundBytes), OutboundOfOne: int64(l.OutboundBytes), Rates: rates(&l.Rates),
		},
	}
	for _, p := range m.ProxyProtocol {
		o.Transport.Proxies = append(o.Transport.Proxies, netip.Prefix(p))
	}
	if d.kind == doorWS {
		o.Transport.WebSocket = &transport.WebSocket{Path: m.URLPath(), Origins: m.Origins}
	}
	return o
}

// tryKafka is a line that uses a door for Kafka clients.
func (d *door) tryKafka() (does, line string) {
	line = "kcat -b " + d.listener.Addr().String()
	protocol := ""
	if d.certs != nil {
		protocol = "ssl"
		line += " -X ssl.ca.location=CA.pem"
		if d.certs.Mutual() {
			line += " -X ssl.certificate.location=CLIENT.pem -X ssl.key.location=CLIENT.key"
		}
	}
	if m := d.kafka.Mechanism(); m != "" {
		protocol = strings.Trim("sasl_"+cmp.Or(protocol, "plaintext"), "_")
		line += " -X sasl.mechanism=" + m + " -X sasl.username=NAME -X sasl.password=PASSWORD"
	}
	if protocol != "" {
		line += " -X security.protocol=" + protocol
	}
	return "list the topics, as any Kafka client does", line + " -L"
}

// tryMQTT is a line that uses a door for devices.
func (d *door) tryMQTT() (does, line string) {
	at := d.listener.Addr().String()
	host, port, _ := net.SplitHostPort(at)
	if d.kind == doorWS {
		scheme := "ws"
		if d.certs != nil {
			scheme = "wss"
		}
		return "connect from a page, with any MQTT client for browsers", fmt.Sprintf("mqtt.connect('%s://%s%s')", scheme, at, d.mqtt.URLPath())
	}
	where := fmt.Sprintf("-h %s -p %s", host, port)
	if _, unix := d.listener.(*unixListener); unix {
		where = "--unix " + at
	}
	if d.certs != nil {
		where += " --cafile CA.pem"
		if d.certs.Mutual() {
			where += " --cert CLIENT.pem --key CLIENT.key"
		}
	}
	if !d.mqtt.AllowAnonymous() && d.mqtt.SecretsShown() {
		where += " -u NAME -P PASSWORD"
	}
	return "watch every message, as any MQTT client does", "mosquitto_sub " + where + " -t '#' -v"
}

// doorError says why an address cannot be listened on, and what to do, in one line.
func doorError(d door, a config.Address, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s (%s) is taken by another program: stop it, or choose another address with %s", a, d.path, d.flag)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s (%s) needs a privilege to listen on: choose a port from 1024 on with %s", a, d.path, d.flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s (%s) is not an address of this machine: choose one with %s", a, d.path, d.flag)
	}
	return fmt.Errorf("listen on %s (%s): %w", a, d.path, err)
}

// unlisten closes what the servers have not closed.
func (n *Node) unlisten(context.Context) error {
	for _, d := range n.doors {
		d.listener.Close()
	}
	return nil
}

func (n *Node) doorsOf(kind doorKind) (ds []door) {
	for _, d := range n.doors {
		if d.kind == kind {
			ds = append(ds, d)
		}
	}
	return ds
}

// Address is the first address of a kind ("MQTT", "Kafka", "HTTP") that the node listens on, or "".
func (n *Node) Address(kind string) string {
	for _, d := range n.doorsOf(doorKind(kind)) {
		return d.listener.Addr().String()
	}
	return ""
}
