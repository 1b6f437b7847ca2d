package app

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/kafkatool"
)

// secured is the cluster as who runs it sees it: it has an authorizer, and the user millrace may what the test says.
type secured struct {
	t      *testing.T
	adm    *kadm.Client
	prefix string
}

func onSecured(t *testing.T) *secured {
	t.Helper()
	seeds := os.Getenv("MILLRACE_KAFKA")
	if seeds == "" || os.Getenv("MILLRACE_KAFKA_SECURE") == "" {
		t.Skip("MILLRACE_KAFKA_SECURE is not set: no Kafka cluster with TLS, SASL and ACLs (make test-all starts one; or KAFKA_SECURE=1 scripts/kafka up)")
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(seeds, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	s := &secured{t: t, adm: kadm.NewClient(cl), prefix: fmt.Sprintf("secure-%d-", time.Now().UnixMilli())}
	sweep(t, seeds, eventlog.InternalPrefix)
	sweep(t, seeds, "mqtt")
	t.Cleanup(func() { sweep(t, seeds, s.prefix); sweep(t, seeds, "mqtt"); s.revokeAll() })
	s.revokeAll()
	return s
}

// rights is what docs/on-kafka.md says that the node's principal must be allowed.
func (s *secured) rights() []*kadm.ACLBuilder {
	all := []kadm.ACLOperation{kadm.OpRead, kadm.OpWrite, kadm.OpCreate, kadm.OpDescribe, kadm.OpDescribeConfigs, kadm.OpAlterConfigs}
	of := func() *kadm.ACLBuilder { return kadm.NewACLs().Allow("User:millrace").AllowHosts("*") }
	return []*kadm.ACLBuilder{
		of().Topics(s.prefix, "mqtt", eventlog.InternalPrefix).ResourcePatternType(kadm.ACLPatternPrefixed).Operations(all...),
		of().TransactionalIDs(eventlog.InternalPrefix).ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpWrite, kadm.OpDescribe),
		of().Clusters().ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpDescribe),
	}
}

func (s *secured) grant(what ...*kadm.ACLBuilder) {
	s.t.Helper()
	for _, b := range what {
		made, err := s.adm.CreateACLs(s.t.Context(), b)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, m := range made {
			if m.Err != nil {
				s.t.Fatalf("%+v: %v", m, m.Err)
			}
		}
	}
}

func (s *secured) revokeAll() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, _ = s.adm.DeleteACLs(ctx, kadm.NewACLs().Allow("User:millrace").AllowHosts("*").AnyResource().ResourcePatternType(kadm.ACLPatternAny).Operations())
	_, _ = s.adm.AlterUserSCRAMs(ctx, []kadm.DeleteSCRAM{{User: "millrace", Mechanism: kadm.ScramSha256}, {User: "millrace", Mechanism: kadm.ScramSha512}}, nil)
}

func (s *secured) scram(password string) {
	s.t.Helper()
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		made, err := s.adm.AlterUserSCRAMs(s.t.Context(), nil, []kadm.UpsertSCRAM{{User: "millrace", Mechanism: m, Iterations: 4096, Password: password}})
		if err != nil || made.Error() != nil {
			s.t.Fatal(err, made.Error())
		}
	}
}

// unsigned is a token without a signature, which the brokers of scripts/kafka believe.
func unsigned(lasts time.Duration) string {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	now := time.Now()
	return part(`{"alg":"none"}`) + "." + part(fmt.Sprintf(`{"sub":"millrace","iat":%d,"exp":%d}`, now.Unix(), now.Add(lasts).Unix())) + "."
}

// configs are a configuration for each way of getting in.
func (s *secured) configs() map[string]string {
	s.t.Helper()
	dir, tls := s.t.TempDir(), os.Getenv("MILLRACE_KAFKA_TLS")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
		return path
	}
	log := func(seeds, tlsMore, sasl string) string {
		return fmt.Sprintf("log: {kafka: [%s], tls: {ca: %s%s}%s}\n", strings.ReplaceAll(os.Getenv(seeds), ",", ", "), filepath.Join(tls, "ca.pem"), tlsMore, sasl)
	}
	password := func(mechanism, file string) string {
		return log("MILLRACE_KAFKA_SECURE", "", fmt.Sprintf(", sasl: {mechanism: %s, username: millrace, password: \"file:%s\"}", mechanism, file))
	}
	return map[string]string{
		"plain":         password("plain", write("plain", "plain-secret")),
		"scram-sha-256": password("scram-sha-256", write("scram", "scram-secret")),
		"scram-sha-512": password("scram-sha-512", write("scram", "scram-secret")),
		"oauthbearer":   log("MILLRACE_KAFKA_SECURE", "", fmt.Sprintf(", sasl: {mechanism: oauthbearer, token: \"file:%s\"}", write("token", unsigned(time.Hour)))),
		"mutual tls":    log("MILLRACE_KAFKA_MUTUAL", fmt.Sprintf(", cert: %s, key: %s", filepath.Join(tls, "millrace.pem"), filepath.Join(tls, "millrace.key")), ""),
	}
}

func (s *secured) parse(text string) *config.Config {
	s.t.Helper()
	c := testConfig(s.t, text+"routes:\n  - {mqtt: \"load/#\", topic: "+s.prefix+"load, partitions: 3}\n")
	c.Log.Data = ""
	return c
}

// TestRealKafkaLogin: node, doctor and tools get into a cluster with TLS and an authorizer in every way there is, with the rights that the
// documentation names and no more.
func TestRealKafkaLogin(t *testing.T) {
	s := onSecured(t)
	s.scram("scram-secret")
	s.grant(s.rights()...)
	for name, text := range s.configs() {
		t.Run(name, func(t *testing.T) {
			s := &secured{t, s.adm, s.prefix}
			c := s.parse(text)
			report, err := Doctor(deadlineOf(t, time.Minute), c, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range report.Findings {
				if f.Severity == kafka.Broken {
					t.Errorf("the doctor finds %+v", f)
				}
			}
			n := boot(t, c)
			f := &faulty{T: t}
			f.runs(n)
			l := startLoad(t, f.address, 100)
			l.more(30)
			l.finish()
			k, err := Tools(deadlineOf(t, time.Minute), c)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			given := false
			w := kafkatool.Writing{Topic: s.prefix + "load", Partition: 0, Codec: "none", MaxBytes: 1 << 20, Confirm: 30 * time.Second, Note: t.Logf}
			if done, err := k.Produce(deadlineOf(t, time.Minute), w, func(context.Context) (kafkatool.Message, error) {
				if given {
					return kafkatool.Message{}, io.EOF
				}
				given = true
				return kafkatool.Message{Value: []byte("by " + name)}, nil
			}); err != nil || done.Delivered != 1 {
				t.Errorf("produce: %+v %v", done, err)
			}
			if got := consumed(t, k, kafkatool.Reading{Topic: s.prefix + "load", Partition: -1}); !slices.Contains(got, "by "+name) || len(got) < 60 {
				t.Errorf("consume: %d records", len(got))
			}
			if _, err := k.Describe(deadlineOf(t, time.Minute), s.prefix+"load"); err != nil {
				t.Errorf("topic: %v", err)
			}
			if _, err := k.Groups(deadlineOf(t, time.Minute)); err != nil {
				t.Errorf("group: %v", err)
			}
		})
	}
}

// TestRealKafkaRevoked: a right, and then the user itself, are taken away under load. Nobody is acknowledged or sent away, the state says what
// it is, and when they are given back everything goes on.
func TestRealKafkaRevoked(t *testing.T) {
	s := onSecured(t)
	s.scram("scram-secret")
	s.grant(s.rights()...)
	f := &faulty{T: t}
	f.runs(bootTuned(t, s.parse(s.configs()["scram-sha-512"]), func(o *kafka.Options) { o.RoomBytes, o.Patience = floodRoom, time.Second }))
	f.load = startLoad(t, f.address, 100)
	write := kadm.NewACLs().Allow("User:millrace").AllowHosts("*").Topics(s.prefix, "mqtt", eventlog.InternalPrefix).ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpWrite)
	f.survive(clusterFault{"a right is taken away", []kafka.State{kafka.Denied},
		func(*faulty) {
			if _, err := s.adm.DeleteACLs(t.Context(), write); err != nil {
				t.Fatal(err)
			}
		},
		func(*faulty) { s.grant(write) }})
	f.survive(clusterFault{"the user is deleted", []kafka.State{kafka.Denied},
		func(*faulty) {
			if _, err := s.adm.AlterUserSCRAMs(t.Context(), []kadm.DeleteSCRAM{{User: "millrace", Mechanism: kadm.ScramSha512}}, nil); err != nil {
				t.Fatal(err)
			}
		},
		func(*faulty) { s.scram("scram-secret") }})
	f.load.finish()
}
