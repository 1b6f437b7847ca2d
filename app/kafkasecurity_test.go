package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/certs/certtest"
)

// vault is a node whose Kafka clients have to say who they are, in every way there is, and what they then may do.
type vault struct {
	*porch
	keys   *keys
	signer *signer
	token  string // of loader
	policy string
}

const vaultPolicy = `
rules:
  - {who: reader,  allow: read,  log_topics: [orders], consumer_groups: ["reader-*"]}
  - {who: etl,     allow: write, log_topics: [orders, commands], transactional_ids: ["etl-*"]}
  - {who: etl,     allow: read,  log_topics: [orders]}
  - {who: etl,     allow: publish, topics: [fleet/truck-7/cmd]}
  - {who: chief,   allow: all,   log_topics: ["*"], consumer_groups: ["*"]}
  - {who: chief,   allow: all,   topics: ["#"]}
  - {who: loader,  allow: all,   log_topics: ["*"]}
  - {who: loader,  deny: subscribe, topics: [fleet/secret/cmd]}
  - {who: root,    allow: manage, cluster: true}
`

func newVault(t *testing.T, change ...func(*config.Kafka)) *vault {
	v := &vault{porch: newPorch(t), keys: newKeys(t), signer: newSigner(t, "k1")}
	v.token = v.porch.token("loader")
	v.edit(func(f *identity.File) error {
		return errors.Join(f.SetSCRAM(nil, "etl", identity.Device, "correct horse"), f.SetPassword(nil, "root", identity.Admin, "battery staple"))
	})
	v.write("keys.json", keySet(v.signer))
	v.policy = v.file("policy.yaml")
	v.write("policy.yaml", []byte(vaultPolicy))
	c := testConfig(t, "routes:\n  - {mqtt: \"fleet/{vehicle}/cmd\", topic: commands, key: \"{vehicle}\", direction: both}\n")
	c.Auth = v.passwords()
	c.Auth.JWT = fromFile(v.porch)
	c.Auth.JWT.NameClaim, c.Auth.JWT.Refresh = "sub", config.Default().Auth.JWT.Refresh
	c.Policy = config.Policy{File: config.File(v.policy)}
	c.Listeners.Kafka[0].TLS = v.keys.listener(true).TLS
	c.Listeners.Kafka[0].Auth = []string{"cert", "scram", "token", "jwt", "password"}
	for _, f := range change {
		f(&c.Listeners.Kafka[0])
	}
	v.n = boot(t, c)
	return v
}

// as is a client that shows a certificate, or logs in.
func (v *vault) as(pair *certtest.Pair, by sasl.Mechanism, opts ...kgo.Opt) *kgo.Client {
	v.Helper()
	opts = append(opts, kgo.SeedBrokers(v.n.Address("Kafka")), kgo.DialTLSConfig(v.keys.client(pair)), kgo.MetadataMinAge(20*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }), kgo.FetchMaxWait(200*time.Millisecond), kgo.DisableIdempotentWrite())
	if by != nil {
		opts = append(opts, kgo.SASL(by))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		v.Fatal(err)
	}
	v.Cleanup(cl.CloseAllowingRebalance)
	return cl
}

func (v *vault) certificate(name string) *certtest.Pair {
	pair := v.keys.ca.Client(name)
	return &pair
}

func (v *vault) write1(cl *kgo.Client, topic, key string) error {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), 20*time.Second)
	defer cancel()
	return cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte("v")}).FirstErr()
}

// read1 is what the first answer to reading a topic is.
func (v *vault) read1(cl *kgo.Client) (n int, err error) {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), 20*time.Second)
	defer cancel()
	for {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return 0, err
		}
		if n := fs.NumRecords(); n > 0 {
			return n, nil
		}
	}
}

func (v *vault) forbidden(what string, err error) {
	v.Helper()
	if !errors.Is(err, kerr.TopicAuthorizationFailed) {
		v.Errorf("%s: %v", what, err)
	}
}

func (v *vault) allowed(what string, err error) {
	v.Helper()
	if err != nil {
		v.Errorf("%s: %v", what, err)
	}
}

var etl = scram.Auth{User: "etl", Pass: "correct horse"}

// Kafka clients are the same accounts as MQTT's, however they show it, and one policy speaks of both.
func TestKafkaAccountsAndRights(t *testing.T) {
	v := newVault(t)
	chief := v.as(v.certificate("chief"), nil)
	if _, err := kadm.NewClient(chief).CreateTopics(t.Context(), 1, 1, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	writer := v.as(nil, etl.AsSha512Mechanism())
	v.allowed("etl writes orders", v.write1(writer, "orders", "1"))
	v.allowed("etl writes orders, by SCRAM-SHA-256", v.write1(v.as(nil, etl.AsSha256Mechanism()), "orders", "1"))
	v.allowed("etl by PLAIN", v.write1(v.as(nil, plain.Auth{User: "etl", Pass: "correct horse"}.AsMechanism()), "orders", "1"))
	v.allowed("chief by JWT", v.write1(v.as(nil, oauth.Auth{Token: string(v.signer.token("chief", time.Now().Add(time.Hour)))}.AsMechanism()), "orders", "1"))
	v.allowed("loader by token", v.write1(v.as(nil, plain.Auth{User: "loader", Pass: v.token}.AsMechanism()), "orders", "1"))
	// SASL says more than a certificate: who logs in is whom that says.
	v.forbidden("reader, who logged in as etl, writes elsewhere", v.write1(v.as(v.certificate("chief"), etl.AsSha512Mechanism()), "fleet", "1"))

	// What a record's key leads to on MQTT decides.
	v.allowed("etl commands truck-7", v.write1(writer, "commands", "truck-7"))
	v.forbidden("etl commands truck-8", v.write1(writer, "commands", "truck-8"))
	v.forbidden("etl writes what leads nowhere", v.write1(writer, "commands", "a/b"))
	v.allowed("chief commands all", v.write1(chief, "commands", "truck-8"))

	reader := v.as(v.certificate("reader"), nil, kgo.ConsumeTopics("orders"))
	if n, err := v.read1(reader); err != nil || n == 0 {
		t.Errorf("reader reads: %d %v", n, err)
	}
	v.forbidden("reader writes", v.write1(reader, "orders", "1"))
	_, err := v.read1(v.as(nil, etl.AsSha512Mechanism(), kgo.ConsumeTopics("commands")))
	v.forbidden("etl reads what it may only write", err)
	// Who is denied a part of what MQTT brings into a topic does not get it by reading the topic.
	_, err = v.read1(v.as(nil, plain.Auth{User: "loader", Pass: v.token}.AsMechanism(), kgo.ConsumeTopics("commands")))
	v.forbidden("loader reads commands, some of which it is denied", err)

	// The list of topics has what may be seen.
	meta, err := kadm.NewClient(v.as(v.certificate("reader"), nil)).ListTopics(t.Context())
	if err != nil || len(meta) != 1 || !meta.Has("orders") {
		t.Errorf("reader sees %v, %v", meta.Names(), err)
	}
	if err := v.as(nil, plain.Auth{User: "etl", Pass: "wrong"}.AsMechanism()).Ping(t.Context()); err == nil {
		t.Error("a wrong password is let in")
	}
	if err := v.as(nil, nil).Ping(t.Context()); err == nil {
		t.Error("somebody who shows nothing is let in")
	}
	_, text := fetch(t, v.n, "/metrics")
	for _, want := range []string{`millrace_kafka_auth_total{mechanism="SCRAM-SHA-512",result="accepted"}`, `millrace_kafka_turned_away_total{reason="unauthenticated"}`,
		`millrace_kafka_authz_denied_total{operation="publish_to_mqtt"}`, "millrace_kafka_acls 0"} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics does not say %s", want)
		}
	}
}

// What lets somebody in, and what they may do, can be taken away: then it is gone from connections that are open.
func TestKafkaRightsTakenAway(t *testing.T) {
	v := newVault(t)
	chief := v.as(v.certificate("chief"), nil)
	if _, err := kadm.NewClient(chief).CreateTopics(t.Context(), 1, 1, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	writer := v.as(nil, etl.AsSha512Mechanism())
	v.allowed("etl writes orders", v.write1(writer, "orders", "1"))
	v.write("policy.yaml", []byte(strings.Replace(vaultPolicy, "[orders, commands]", "[commands]", 1)))
	v.n.Reload()
	v.forbidden("etl writes orders, after its right went", v.write1(writer, "orders", "1"))
	v.write("policy.yaml", []byte(vaultPolicy))
	v.n.Reload()
	v.allowed("etl writes orders again", v.write1(writer, "orders", "1"))

	ended := func() uint64 { return v.n.kafka.Stats().Ended["credential_revoked"] }
	goes := func(what string, before uint64) {
		t.Helper()
		eventually(t, what, func() bool { return ended() > before })
	}
	before := ended()
	v.edit(func(f *identity.File) error { return f.SetSCRAM(nil, "etl", identity.Device, "another horse") })
	v.n.Reload()
	goes("the connections of a password that was changed end", before)
	if err := v.as(nil, etl.AsSha512Mechanism()).Ping(t.Context()); err == nil {
		t.Error("the old password is let in")
	}

	pair := v.certificate("reader")
	byCert := v.as(pair, nil)
	v.allowed("reader", byCert.Ping(t.Context()))
	before = ended()
	v.keys.write("crl.pem", v.keys.ca.CRL(pair.TLS.Leaf))
	v.n.Reload()
	goes("the connections of a certificate that is revoked end", before)

	v.allowed("chief", chief.Ping(t.Context()))
	before = ended()
	if err := (operator{v.n, v.n.broker}).Ban(console.Ban{Principal: "chief"}); err != nil {
		t.Fatal(err)
	}
	goes("the connections of somebody who is banned end", before)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := v.as(v.certificate("chief"), nil).Ping(ctx); err == nil {
		t.Error("somebody who is banned is let in")
	}
}

// Who is banned is out, and stays out, whichever way they come in.
func TestKafkaBans(t *testing.T) {
	v := newVault(t)
	root := kadm.NewClient(v.as(nil, plain.Auth{User: "root", Pass: "battery staple"}.AsMechanism()))
	set, err := root.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: "guest", Mechanism: kadm.ScramSha256, Iterations: 8192, Password: "a long password"}})
	if err != nil || set.Error() != nil {
		t.Fatal(err, set)
	}
	pair := v.certificate("reader")
	for name, in := range map[string]func() *kgo.Client{
		"etl": func() *kgo.Client { return v.as(nil, etl.AsSha512Mechanism()) },
		"guest": func() *kgo.Client {
			return v.as(nil, scram.Auth{User: "guest", Pass: "a long password"}.AsSha256Mechanism())
		},
		"loader": func() *kgo.Client { return v.as(nil, plain.Auth{User: "loader", Pass: v.token}.AsMechanism()) },
		"reader": func() *kgo.Client { return v.as(pair, nil) },
		"root":   func() *kgo.Client { return v.as(nil, plain.Auth{User: "root", Pass: "battery staple"}.AsMechanism()) },
	} {
		v.allowed(name, in().Ping(t.Context()))
		before := v.n.kafka.Stats().Ended["credential_revoked"]
		if err := (operator{v.n, v.n.broker}).Ban(console.Ban{Principal: name}); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" is put out", func() bool { return v.n.kafka.Stats().Ended["credential_revoked"] > before })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := in().Ping(ctx); err == nil {
			t.Errorf("%s is banned, and let in", name)
		}
		cancel()
	}
}

// Who manages the cluster stands in the policy: they make ACLs and credentials, and those hold.
func TestKafkaAdministrator(t *testing.T) {
	v := newVault(t)
	root := kadm.NewClient(v.as(nil, plain.Auth{User: "root", Pass: "battery staple"}.AsMechanism()))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	set, err := root.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "guest", Mechanism: kadm.ScramSha512, Iterations: 8192, Password: "a long password"}})
	if err != nil || set.Error() != nil {
		t.Fatal(err, set)
	}
	guest := v.as(nil, scram.Auth{User: "guest", Pass: "a long password"}.AsSha512Mechanism())
	v.allowed("guest comes in", guest.Ping(ctx))
	acls, err := root.CreateACLs(ctx, kadm.NewACLs().Allow("User:guest").AllowHosts().Topics("made-").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpAll))
	if err != nil || acls[0].Err != nil {
		t.Fatal(err, acls)
	}
	if made, err := kadm.NewClient(guest).CreateTopics(ctx, 1, 1, nil, "made-1", "other"); err != nil || made["made-1"].Err != nil || !errors.Is(made["other"].Err, kerr.TopicAuthorizationFailed) {
		t.Errorf("%v %+v", err, made)
	}
	v.allowed("guest writes", v.write1(guest, "made-1", ""))
	if acls, err := kadm.NewClient(guest).CreateACLs(ctx, kadm.NewACLs().Allow("User:guest").AllowHosts().Topics("*").Operations(kadm.OpAll)); err == nil && acls[0].Err == nil {
		t.Error("guest makes ACLs")
	}
}

// TestForeignKcatSASL runs kcat, that is librdkafka, with each mechanism over TLS.
func TestForeignKcatSASL(t *testing.T) {
	v := newVault(t)
	cl := clientsOf(t, v.n)
	if _, err := kadm.NewClient(v.as(v.certificate("chief"), nil)).CreateTopics(t.Context(), 1, 1, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		args := []string{"-X", "security.protocol=sasl_ssl", "-X", "ssl.ca.location=" + v.keys.path("ca.pem"), "-X", "sasl.mechanism=" + mechanism,
			"-X", "sasl.username=etl", "-X", "sasl.password=correct horse"}
		cl.kcat("one\n", append(args, "-P", "-t", "orders", "-z", "snappy")...)
		if got := cl.kcat("", append(args, "-C", "-t", "orders", "-e", "-f", "%s ")...); !strings.Contains(got, "one") {
			t.Errorf("kcat by %s read %q", mechanism, got)
		}
		accepted := v.n.kafka.Stats().Logins[mechanism]["accepted"]
		if accepted == 0 {
			t.Errorf("%s was not used", mechanism)
		}
	}
}

// TestJavaToolsSASL runs Apache Kafka's own tools over TLS, with SCRAM and as an administrator.
func TestJavaToolsSASL(t *testing.T) {
	lib, java := os.Getenv("MILLRACE_KAFKA_LIB"), ""
	if lib != "" {
		java = tool(t, "java")
	} else {
		t.Skip("MILLRACE_KAFKA_LIB IS NOT SET: it is the folder of Apache Kafka's jars (make test-all sets it)")
	}
	v := newVault(t, func(k *config.Kafka) { k.Session = config.Duration(10 * time.Second) })
	if _, err := kadm.NewClient(v.as(v.certificate("chief"), nil)).CreateTopics(t.Context(), 1, 1, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	properties := func(name, module, mechanism, user, password string) string {
		text := "security.protocol=SASL_SSL\nssl.truststore.type=PEM\nssl.truststore.location=" + v.keys.path("ca.pem") + "\nsasl.mechanism=" + mechanism +
			"\nsasl.jaas.config=org.apache.kafka.common.security." + module + " required username=\"" + user + "\" password=\"" + password + "\";\n"
		v.write(name, []byte(text))
		return v.file(name)
	}
	byEtl := properties("etl.properties", "scram.ScramLoginModule", "SCRAM-SHA-512", "etl", "correct horse")
	byRoot := properties("root.properties", "plain.PlainLoginModule", "PLAIN", "root", "battery staple")
	feed := func(in io.Reader, class string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, java, append([]string{"-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", lib + "/*", class}, args...)...)
		cmd.Stdin, cmd.Env = in, os.Environ()
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", class, err, out)
		}
		return string(out)
	}
	run := func(in, class string, args ...string) string {
		t.Helper()
		return feed(strings.NewReader(in), class, args...)
	}
	at := v.n.Address("Kafka")
	run("one\ntwo\n", "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", at, "--topic", "orders", "--command-config", byEtl)
	run("", "org.apache.kafka.tools.AclCommand", "--bootstrap-server", at, "--command-config", byRoot, "--add", "--allow-principal", "User:etl", "--operation", "Read", "--group", "etl-g", "--resource-pattern-type", "prefixed")
	if got := run("", "org.apache.kafka.tools.AclCommand", "--bootstrap-server", at, "--command-config", byRoot, "--list"); !strings.Contains(got, "etl-g") || !strings.Contains(got, "User:etl") {
		t.Errorf("kafka-acls lists %s", got)
	}
	if got := run("", "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", at, "--topic", "orders", "--group", "etl-g", "--from-beginning",
		"--max-messages", "2", "--timeout-ms", "60000", "--command-config", byEtl); !strings.Contains(got, "one") || !strings.Contains(got, "two") {
		t.Errorf("read %s", got)
	}
	// A producer that lives longer than a session logs in again on its connections (KIP-368), and nothing is lost over it.
	before := v.n.kafka.Stats()
	in, line := io.Pipe()
	go func() {
		defer line.Close()
		for i := range 24 {
			fmt.Fprintf(line, "slow-%d\n", i)
			time.Sleep(time.Second)
		}
	}()
	feed(in, "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", at, "--topic", "orders", "--command-config", byEtl)
	after := v.n.kafka.Stats()
	logins := after.Logins["SCRAM-SHA-512"]["accepted"] - before.Logins["SCRAM-SHA-512"]["accepted"]
	if connections := after.Accepted - before.Accepted; logins <= connections { // each connection begins with one
		t.Errorf("%d logins on %d connections: nobody has logged in again", logins, connections)
	}
	if refused := after.Logins["SCRAM-SHA-512"]["refused"]; refused > 0 {
		t.Errorf("%d logins were refused", refused)
	}
	if got := run("", "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", at, "--topic", "orders", "--from-beginning", "--group", "etl-g2",
		"--max-messages", "26", "--timeout-ms", "60000", "--command-config", byEtl); !strings.Contains(got, "slow-23") {
		t.Errorf("read %s", got)
	}
}
