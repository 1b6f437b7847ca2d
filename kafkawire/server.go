// Package kafkawire serves the embedded log to any Kafka client: TCP in, Kafka's binary protocol, one broker that leads
// everything and coordinates every group.
//
// What is served is one table (see register): one file per API key, named by it, with the shape of its request, the versions
// it is served at and its handler. docs/kafka-compatibility.md says the same for people, and a test holds the two together.
//
// Each connection has two goroutines. The reader takes requests apart, hands record batches to the log without waiting for
// the disk, and answers everything else on the spot; the writer sends the responses in the order of the requests, and runs
// fetches when it is their turn. One more goroutine, the coordinator's, owns all consumer groups; transactions are under one lock, and one
// goroutine ends those that take too long. Server.Close ends them all.
//
// On disk is nothing but the topics __consumer_offsets and __transaction_state, through the log, in Kafka's formats.
//
// The package will never re-encode records: what a producer sent is what a consumer gets. It never allocates for what a
// request only claims to hold, and no bytes from outside can do worse than end their own connection.
package kafkawire

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/identity/scram"
	"github.com/millrace-io/millrace/internal/admission"
	"github.com/millrace-io/millrace/kafkawire/group"
)

// Engine is what the server needs of *engine.Engine.
type Engine interface {
	ClusterID() string
	TopicByName(name string) (eventlog.Topic, bool)
	TopicByID(id eventlog.TopicID) (eventlog.Topic, bool)
	BareTopic(name string) (eventlog.Topic, bool)
	BareTopicByID(id eventlog.TopicID) (eventlog.Topic, bool)
	ListTopics() []eventlog.Topic
	CreateTopic(ctx context.Context, spec eventlog.TopicSpec) (eventlog.Topic, error)
	ConfigureTopic(ctx context.Context, name string, set map[string]*string) error
	CreatePartitions(name string, count int32) error
	DeleteTopic(ctx context.Context, name string) error
	EffectiveConfig(name string) ([]engine.ConfigEntry, error)
	ConfigWith(set map[string]string) []engine.ConfigEntry

	NewProducerID() (int64, error)
	ProduceAs(p eventlog.Part, raw []byte, acks engine.Acks, how engine.Producing, done func(engine.Produced))
	EndTransaction(end engine.End, done func(error))
	OpenTransactions(ctx context.Context) ([]engine.OpenTransaction, error)
	Producers(ctx context.Context, p eventlog.Part) ([]engine.ProducerState, error)
	Room(p eventlog.Part) <-chan struct{}

	FetchRaw(p eventlog.Part, offset int64, maxBytes int, minOne bool) (engine.Fetched, error)
	FetchCommitted(p eventlog.Part, offset int64, maxBytes int, minOne bool) (engine.Fetched, error)
	FetchFile(p eventlog.Part, offset int64, least, most int, committed bool) (engine.Fetched, bool)
	ReadableBytes(p eventlog.Part, offset int64, limit int) int
	ReadableCommitted(p eventlog.Part, offset int64, limit int) int
	Watch(parts []eventlog.Part, f func(eventlog.Part)) (stop func())
	FindTime(p eventlog.Part, t int64) (engine.TimeOffset, error)
	FindCommittedTime(p eventlog.Part, t int64) (engine.TimeOffset, error)
	FindMaxTime(p eventlog.Part) (engine.TimeOffset, error)
	Starts(ctx context.Context, id eventlog.TopicID) ([]int64, error)
	Ends(ctx context.Context, id eventlog.TopicID) ([]int64, error)
	Highs(ctx context.Context, id eventlog.TopicID) ([]int64, error)
	PartSizes(id eventlog.TopicID) ([]int64, error)
	Volume() (free, total int64)
	Trim(ctx context.Context, pos eventlog.Position) error
	CheckConfig(set map[string]string) error
	DefaultConfig(name string) string
	DefaultPartitions() int32

	Append(b *eventlog.Batch, done func(eventlog.Outcome))
	AppendAtomic(batches []*eventlog.Batch, done func([]eventlog.Outcome))
	AppendAs(b *eventlog.Batch, producer int64, epoch int16, done func(eventlog.Outcome))
	Read(ctx context.Context, pos eventlog.Position, maxBytes int) ([]*eventlog.Batch, int64, error)
}

var _ Engine = (*engine.Engine)(nil)

// Options say how a server is built. Engine is required; any other zero field means its default.
type Options struct {
	Engine Engine
	Logger *slog.Logger     // discards
	Now    func() time.Time // time.Now
	// NewID makes a member id that nobody had before, beginning with prefix. Default: 16 random bytes.
	NewID func(prefix string) string

	NodeID       int32                              // 1
	LogDir       string                             // "log": where the log is, as DescribeLogDirs says it
	AutoCreate   bool                               // Metadata of an unknown topic makes it, when the client asks for that
	ShowInternal bool                               // let clients list and read the log's own topics
	Carries      func(topic string) bool            // devices wait for the topic's records: a transaction in it takes a minute at most
	Fixed        func(topic string) (reason string) // not "": the topic's partition count must not change, and why

	Rights Rights // nil: everything is allowed
	// Verifier is what a password file has for a SCRAM login; nil: there is none. stands tells that the name is in the file, and so
	// that nothing that a client has set counts for it.
	Verifier func(m scram.Mechanism, name string) (v *scram.Verifier, g identity.Grant, stands bool)

	MaxConnections   int // 4096
	MaxHalfOpen      int // half of MaxConnections: whose client is nobody yet, where a gate is
	MaxHalfOpenPerIP int // 256
	// Processors are those that TLS handshakes may have at once. Default: half of all, of the server's own
	Processors admission.Processors

	MaxRequestBytes int           // 100 MiB
	MaxFetchBytes   int           // 55 MiB: of records in one response, but for a first batch larger than that
	MaxBuffered     int64         // 256 MiB: of requests over 64 KiB being read or appended, in all connections
	MaxFetched      int64         // 256 MiB: of records over 64 KiB in responses on their way, in all connections
	MaxPartitions   int           // 20,000: of all topics together
	IdleTimeout     time.Duration // 10 minutes without a request
	StallTimeout    time.Duration // 30 s: without progress in a request, or in taking a response
	MaxFetchWait    time.Duration // 1 minute: bound on what a client may ask for

	MaxFetchSessions     int // 1000
	MaxSessionPartitions int // 250,000: of all fetch sessions together

	RebalanceDelay  time.Duration // 0: how long an empty group's first rebalance waits for more members
	MinSession      time.Duration // 6 s
	MaxSession      time.Duration // 30 minutes
	OffsetRetention time.Duration // 7 days after a group is empty
	MaxGroupMembers int           // 10,000

	MaxTransactionTimeout time.Duration // 1 h: what a producer may ask for, as Kafka's transaction.max.timeout.ms
	TransactionalIDExpiry time.Duration // 7 days: a transactional id that nobody used for so long is forgotten
	MaxTransactionalIDs   int           // 20,000

	ConsumerSession   time.Duration // 45 s: a member of the consumer protocol that sends no heartbeat for so long is out
	ConsumerHeartbeat time.Duration // 5 s: how often such a member is told to send one
	MaxGroups         int           // 20,000

	sendfile sendfile // for tests; nil: the system's
}

func (o *Options) setDefaults() {
	def(&o.Logger, slog.New(slog.DiscardHandler))
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NewID == nil {
		o.NewID = newID
	}
	if o.Carries == nil {
		o.Carries = func(string) bool { return false }
	}
	if o.Fixed == nil {
		o.Fixed = func(string) string { return "" }
	}
	def(&o.NodeID, 1)
	def(&o.LogDir, "log")
	def(&o.MaxConnections, 4096)
	def(&o.MaxHalfOpen, max(o.MaxConnections/2, 1))
	def(&o.MaxHalfOpenPerIP, 256)
	if o.Processors == nil {
		o.Processors = admission.NewProcessors(0)
	}
	def(&o.MaxRequestBytes, 100<<20)
	def(&o.MaxFetchBytes, 55<<20)
	def(&o.MaxBuffered, 256<<20)
	o.MaxBuffered = max(o.MaxBuffered, int64(o.MaxRequestBytes))
	def(&o.MaxFetched, 256<<20)
	o.MaxFetched = max(o.MaxFetched, int64(o.MaxFetchBytes))
	def(&o.MaxPartitions, 20_000)
	def(&o.IdleTimeout, 10*time.Minute)
	def(&o.StallTimeout, 30*time.Second)
	def(&o.MaxFetchWait, time.Minute)
	def(&o.MaxFetchSessions, 1000)
	def(&o.MaxSessionPartitions, 250_000)
	def(&o.MinSession, 6*time.Second)
	def(&o.MaxSession, 30*time.Minute)
	def(&o.OffsetRetention, 7*24*time.Hour)
	def(&o.MaxGroupMembers, 10_000)
	def(&o.MaxGroups, 20_000)
	def(&o.MaxTransactionTimeout, time.Hour)
	def(&o.TransactionalIDExpiry, 7*24*time.Hour)
	def(&o.MaxTransactionalIDs, 20_000)
	def(&o.ConsumerSession, 45*time.Second)
	def(&o.ConsumerHeartbeat, 5*time.Second)
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func newID(prefix string) string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand does not fail
	}
	return prefix[:min(len(prefix), 200)] + "-" + hex.EncodeToString(b[:])
}

// Server is a Kafka broker over an engine. Its methods are safe for concurrent use.
type Server struct {
	Options
	groups *coordinator
	acls   *acls
	txns   *transactions

	credentials *credentials
	unpacking   chan struct{}    // a place for each batch that is unpacked to look at its keys
	half        admission.Places // of those whose client is nobody yet
	saying      sparing

	sessions *fetchSessions
	buffers  *semaphore.Weighted // Options.MaxBuffered
	fetches  *semaphore.Weighted // Options.MaxFetched
	drain    chan struct{}       // closed when Close begins: nothing more is read, what was read is answered
	ctx      context.Context     // ends when Close has waited long enough for that
	cancel   context.CancelFunc
	stats    counters

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	closed    bool
	running   sync.WaitGroup // Serve calls and connections

	creating   sync.Mutex // one topic creation at a time, so that MaxPartitions holds
	oneReplica sync.Once  // has been told of

}

// New restores the consumer groups and the transactions from the log and returns a server that listens to nobody yet.
func New(o Options) (*Server, error) {
	o.setDefaults()
	s := &Server{
		Options:   o,
		sessions:  newFetchSessions(o.MaxFetchSessions, o.MaxSessionPartitions, o.Now),
		buffers:   semaphore.NewWeighted(o.MaxBuffered),
		fetches:   semaphore.NewWeighted(o.MaxFetched),
		listeners: map[net.Listener]struct{}{},
		conns:     map[*conn]struct{}{},
		drain:     make(chan struct{}),
		unpacking: make(chan struct{}, unpackers),
		half:      admission.Places{Most: o.MaxHalfOpen, OfOne: o.MaxHalfOpenPerIP},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	if s.acls, err = newACLs(s.ctx, &s.Options); err != nil {
		s.cancel()
		return nil, fmt.Errorf("read the ACLs: %w", err)
	}
	if s.credentials, err = newCredentials(s.ctx, &s.Options); err != nil {
		s.cancel()
		return nil, fmt.Errorf("read the SCRAM credentials: %w", err)
	}
	s.groups, err = newCoordinator(s.ctx, &s.Options, &group.Config{
		MinSession: o.MinSession, MaxSession: o.MaxSession, InitialDelay: o.RebalanceDelay, PendingTimeout: pendingTimeout,
		ConsumerSession: o.ConsumerSession, ConsumerHeartbeat: o.ConsumerHeartbeat,
		Retention: o.OffsetRetention, MaxMembers: o.MaxGroupMembers, MaxBytes: maxGroupBytes, MaxMetadata: maxOffsetMetadata, NewID: o.NewID,
		Topics: groupTopics{s},
	})
	if err != nil {
		s.cancel()
		return nil, fmt.Errorf("restore consumer groups: %w", err)
	}
	if s.txns, err = newTransactions(s.ctx, &s.Options, s.groups); err != nil {
		s.cancel()
		s.groups.wait()
		return nil, fmt.Errorf("restore transactions: %w", err)
	}
	return s, nil
}

// ErrServerClosed is what Serve returns after Close.
var ErrServerClosed = errors.New("kafka server closed")

// drainTime is how long Close waits for what was read to be answered. firstGrace is how long a client that just came may take
// to ask its first question: some take the end of such a connection for a broker that wants TLS, and give up.
const (
	drainTime  = 2 * time.Second
	firstGrace = 100 * time.Millisecond
)

// Close answers what was read, ends all connections and the groups' coordinator, and waits for their goroutines. The engine
// stays open.
func (s *Server) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
	if first {
		close(s.drain)
	}
	for c := range s.conns {
		c.stopReading()
	}
	s.mu.Unlock()
	timer := time.AfterFunc(drainTime, s.cancel)
	defer timer.Stop()
	s.running.Wait()
	s.cancel()
	s.groups.wait()
	s.txns.wait()
	return nil
}

func (s *Server) draining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}

// isInternal tells the log's own topics from the user's.
func isInternal(topic string) bool {
	return topic == offsetsTopic || topic == stateTopic || strings.HasPrefix(topic, eventlog.InternalPrefix)
}

// visible says whether clients may know of a topic.
func (s *Server) visible(topic string) bool { return s.ShowInternal || !isInternal(topic) }

// topic finds a topic that clients may know of, without its configs.
func (s *Server) topic(name string) (eventlog.Topic, bool) {
	if !s.visible(name) {
		return eventlog.Topic{}, false
	}
	return s.Engine.BareTopic(name)
}

// topicByID is topic by id.
func (s *Server) topicByID(id [16]byte) (eventlog.Topic, bool) {
	t, ok := s.Engine.BareTopicByID(id)
	return t, ok && s.visible(t.Name)
}

// counters are the server's, see Stats.
type counters struct {
	accepted, refused, panics atomic.Uint64
	badRequests, unsupported  atomic.Uint64
	bytesIn, bytesOut         atomic.Uint64
	fromFiles                 atomic.Uint64 // of bytesOut
	produceErrors, stalled    atomic.Uint64
	ended                     [len(endings)]atomic.Uint64
	logins                    [len(mechanisms)][len(saslResults)]atomic.Uint64
	denials                   [len(operationNames)]atomic.Uint64
	requests                  [maxKey + 1]atomic.Uint64
}

// Stats is a snapshot of the server's counters.
type Stats struct {
	Connections       int
	Accepted, Refused uint64            // connections; refused: over MaxConnections
	Requests          map[string]uint64 // by API name
	BadRequests       uint64            // connections ended because of bytes that are no request
	Unsupported       uint64            // connections ended because of an API or version that is not served
	Stalled           uint64            // connections ended because nothing moved for too long
	Panics            uint64            // connections ended by a bug of ours
	ProduceErrors     uint64            // batches refused
	BytesIn, BytesOut uint64
	FromFiles         uint64                       // of BytesOut: those of records that did not pass through memory
	HalfOpen          int                          // connections whose client is nobody yet
	Ended             map[string]uint64            // connections ended, by what was wrong with who their client was
	Logins            map[string]map[string]uint64 // by SASL, by mechanism and result
	Denied            map[string]uint64            // questions answered with no, by what was to be done
	ACLs              int
	Groups            int
	TransactionalIDs  int       // known
	OpenTransactions  int       // and not ended yet
	OldestTransaction time.Time // of those; zero: none

	FetchSessions, FetchSessionPartitions int
	FetchSessionsEvicted                  uint64 // sessions that others took the place of
}

// Stats returns the counters as they are.
func (s *Server) Stats() Stats {
	c := &s.stats
	out := Stats{
		Accepted: c.accepted.Load(), Refused: c.refused.Load(), BadRequests: c.badRequests.Load(),
		Unsupported: c.unsupported.Load(), Stalled: c.stalled.Load(), Panics: c.panics.Load(),
		ProduceErrors: c.produceErrors.Load(), BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
		Requests: map[string]uint64{}, Groups: int(s.groups.count.Load()),
	}
	for _, a := range apis() {
		out.Requests[a.name] = c.requests[a.key].Load()
	}
	out.TransactionalIDs, out.OpenTransactions, out.OldestTransaction = s.txns.counts()
	out.FromFiles = c.fromFiles.Load()
	out.addSecurity(s)
	out.FetchSessions, out.FetchSessionPartitions, out.FetchSessionsEvicted = s.sessions.stats()
	s.mu.Lock()
	out.Connections, out.HalfOpen = len(s.conns), s.half.Taken()
	s.mu.Unlock()
	return out
}
