package broker

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/millrace-io/millrace/internal/admission"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// Options are what a broker is made of. Only Store is required.
type Options struct {
	Store   Store
	Logger  *slog.Logger     // default: none
	Now     func() time.Time // stamps messages and drives sessions; default time.Now
	Rand    io.Reader        // for the client ids we assign; default crypto/rand
	Limits  Limits
	Session session.Options
	// Processors are those that handshakes may have at once, on all listeners. Default: half of all, of the broker's own
	Processors admission.Processors

	SysInterval time.Duration // between two rounds of the $SYS topics; 0: there are none
	Version     string        // that they name

	// Authenticate decides who a CONNECT comes from. It may take its time, within ctx; it is called by the connection's own
	// goroutine. Default: who has shown a certificate is whom it names, everybody else is Anonymous.
	Authenticate func(ctx context.Context, c *packet.Connect, info ConnInfo) (Principal, packet.Code)
	// Authorizer decides what a session may do. Default: everything.
	Authorizer Authorizer
	Flapping   Flapping
	// Bans are those of an earlier run. OnBan is told of each ban that begins (true), and of each that ends, lifted or expired. It is
	// called in order, and must not block.
	Bans  []Ban
	OnBan func(ban Ban, begins bool)
}

// ConnInfo is what is known of a connection before its CONNECT is looked at.
type ConnInfo struct {
	Remote, Local net.Addr             // as a listed proxy says, if there is one
	TLS           *tls.ConnectionState // nil: none. What it says of a client's certificate is verified
	Identity      string               // the name in that certificate; "": none was shown
	Listener      string               // its name
	Transport     string               // tcp, tls, ws, wss
}

// Action is what a session wants to do with a topic or a filter.
type Action uint8

const (
	// Publish to a topic, now or by a will.
	Publish Action = iota
	// Subscribe to a filter.
	Subscribe
	// Receive a message on a topic; asked at every delivery.
	Receive
)

// Authorizer decides. It is asked on the hot path by many goroutines, and must not block. What it has said holds until
// Broker.PolicyChanged.
type Authorizer interface {
	Allowed(k session.Key, a Action, topicOrFilter string) bool
}

// Limits bound what one client, one address and all of them can cost. Zero fields take the defaults named.
type Limits struct {
	// HandshakeTimeout is how long a client may take for TLS, WebSocket and the like, our own waiting for a processor not counted;
	// default 10 s. ConnectTimeout follows it.
	HandshakeTimeout time.Duration
	HalfOpen         int // connections of one listener that have not sent CONNECT; default 16,384

	ConnectTimeout time.Duration // from accept to a whole CONNECT; default 5 s
	AuthTimeout    time.Duration // for Options.Authenticate; default 10 s
	AcceptTimeout  time.Duration // for the session to be there (a restart replays first); default 60 s
	ConnectBytes   int           // largest CONNECT; default 16 KiB
	HalfOpenPerIP  int           // connections of one address (IPv6: of one /64) that have not sent CONNECT; default 4,096: a carrier's NAT
	Connections    int           // in all; 0: as many as there are descriptors
	PacketBytes    int           // largest packet of a client; default 1,000,000, what a log topic takes less headers
	ReceiveMaximum uint16        // QoS 1 and 2 publishes of one 5.0 client under way at once; default 1,024
	TopicAliases   uint16        // per connection, each way; default 32
	AliasBytes     int           // of the topics behind them, per connection; default 64 KiB
	// KeepAlive is the longest keep-alive in seconds; 0: as the client asks. It is enforced on 3.1.1 too, where the client cannot
	// be told.
	KeepAlive     uint16
	ClientIDBytes int           // default 256
	InboundBytes  int           // of one client's publishes that the log has not answered: beyond it the client is not read; default 4 MiB
	InboundTotal  int64         // of all clients; default 128 MiB
	InboundOfOne  int64         // of one listener's clients; default: no bound of its own
	OutboundBytes int           // waiting for one slow subscriber: beyond it a session reads on from the log, and QoS 0 is dropped; default 2 MiB
	OutboundTotal int64         // waiting for all of them; default 256 MiB
	AnswersTotal  int64         // of our answers that clients do not take, but for 16 KiB of each; default 64 MiB
	OutboundOfOne int64         // waiting for those of one listener; default: no bound of its own
	WriteTimeout  time.Duration // a client that takes nothing for so long is cut off; default 60 s
	UnloggedBytes int64         // messages of `store: false` routes on their way to the owner; default 16 MiB
	Readers       int           // reads of the log for lagging sessions at once; default 4
	Bans          int           // in the list; default 10,000

	// ParkAfter is how long a connection is idle before its goroutine ends until something comes, where the platform can do that
	// (Linux) and nothing stands between socket and MQTT; default 5 s. Less than a quarter of a second: at once; less than 0: never.
	ParkAfter time.Duration

	Rates Rates // default: none
}

// parkAfter is a variable for tests that are to run with connections parked at once.
var parkAfter = 5 * time.Second

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Processors == nil {
		o.Processors = admission.NewProcessors(0)
	}
	l := &o.Limits
	def(&l.HandshakeTimeout, 10*time.Second)
	def(&l.HalfOpen, 16384)
	def(&l.ConnectTimeout, 5*time.Second)
	def(&l.AuthTimeout, 10*time.Second)
	def(&l.AcceptTimeout, 60*time.Second)
	def(&l.ConnectBytes, 16<<10)
	def(&l.HalfOpenPerIP, 4096)
	def(&l.PacketBytes, 1_000_000)
	def(&l.ReceiveMaximum, 1024)
	def(&l.TopicAliases, 32)
	def(&l.AliasBytes, 64<<10)
	def(&l.ClientIDBytes, 256)
	def(&l.InboundBytes, 4<<20)
	def(&l.InboundTotal, 128<<20)
	def(&l.OutboundBytes, 2<<20)
	def(&l.OutboundTotal, 256<<20)
	def(&l.AnswersTotal, 64<<20)
	def(&l.WriteTimeout, 60*time.Second)
	def(&l.UnloggedBytes, 16<<20)
	def(&l.Readers, 4)
	def(&l.Bans, 10_000)
	def(&l.ParkAfter, parkAfter)
	return o
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// allowed asks the authorizer, if there is one.
func (o *Options) allowed(k session.Key, a Action, topic string) bool {
	return o.Authorizer == nil || o.Authorizer.Allowed(k, a, topic)
}

// ListenerOptions are what may differ between listeners.
type ListenerOptions struct {
	Name string // for counters and logs
	// Transport is what stands between the socket and MQTT.
	Transport transport.Options
	// RefuseAnonymous refuses whoever shows no certificate, where Options.Authenticate does not decide.
	RefuseAnonymous bool
	// BoundClientIDs refuses client ids that are not the account's name, nor begin with it and a colon. Anonymous has what id it likes.
	BoundClientIDs bool
	// Limits that differ from Options.Limits: Connections and HalfOpen (of this listener alone), HandshakeTimeout, ConnectTimeout,
	// HalfOpenPerIP, PacketBytes, ReceiveMaximum, KeepAlive, the rates, InboundOfOne and OutboundOfOne. Others are not looked at.
	Limits Limits
	// Lenient lets a 5.0 client exceed our Receive Maximum, which some libraries do; it is counted. Otherwise it is
	// disconnected with 0x93, as the standard wants.
	Lenient bool
}

// limits are the listener's, over the broker's.
func (o *ListenerOptions) limits(l Limits) Limits {
	over(&l.HandshakeTimeout, o.Limits.HandshakeTimeout)
	over(&l.ConnectTimeout, o.Limits.ConnectTimeout)
	over(&l.HalfOpen, o.Limits.HalfOpen)
	over(&l.HalfOpenPerIP, o.Limits.HalfOpenPerIP)
	over(&l.PacketBytes, o.Limits.PacketBytes)
	over(&l.ReceiveMaximum, o.Limits.ReceiveMaximum)
	over(&l.KeepAlive, o.Limits.KeepAlive)
	over(&l.Rates.Messages, o.Limits.Rates.Messages)
	over(&l.Rates.Bytes, o.Limits.Rates.Bytes)
	over(&l.Rates.Connects, o.Limits.Rates.Connects)
	over(&l.Rates.ConnectsPerIP, o.Limits.Rates.ConnectsPerIP)
	l.Connections, l.InboundOfOne, l.OutboundOfOne = o.Limits.Connections, o.Limits.InboundOfOne, o.Limits.OutboundOfOne
	return l
}

func over[T comparable](v *T, by T) {
	var zero T
	if by != zero {
		*v = by
	}
}
