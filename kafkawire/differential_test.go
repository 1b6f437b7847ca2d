package kafkawire

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
)

type comparison struct {
	name  string
	steps int
	begin func(*differ) func()
}

// scripts are what both sides are asked: so many random steps of each, by a function that begin makes with what it needs to know.
var scripts = []comparison{
	{"the log", 150, logScript},
	{"topics", 120, topicsScript},
	{"fetch sessions", 80, sessionsScript},
	{"configs", 60, configsScript},
	{"ACLs", 60, aclsScript},
	{"credentials", 30, credentialsScript},
	{"idempotent producers", 80, idempotentScript},
	{"transactions", 80, transactionsScript},
	{"consumer groups", 30, consumerScript},
}

// The same requests, in the same order, to an independent implementation of the protocol: the answers must agree. Where both
// are right and differ, the difference is in the table of differences, and in the documentation.
func TestAgreesWithKfake(t *testing.T) {
	seen := map[string]int{}
	for i := range uint64(tier.N(60)) {
		for _, s := range scripts {
			if d := againstKfake(t, tier.Seed()+i, nil, s, seen); d.difference != "" {
				t.Errorf("%s: %s", s.name, d.difference)
			}
		}
	}
	checkSeen(t, kfakes, seen)
}

func againstKfake(t *testing.T, seed uint64, alter func(kmsg.Response), s comparison, seen map[string]int) *differ {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(0), kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "6000"}))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	n := startOn(t, Options{Rights: all{}}, nil)
	defer n.stop()
	d := newDiffer(t, seed, n, fake.ListenAddrs()[0])
	d.alter, d.seen = alter, seen
	d.run(s.steps, s.begin)
	return d
}

// all is a policy by which all may do all.
type all struct{ everything }

func (all) Publishing(string, string) (bool, func([]byte) bool) { return true, nil }

// The same against one broker of Apache Kafka, which is the protocol (make test-all starts it).
func TestRealKafkaAgrees(t *testing.T) {
	addr := os.Getenv("MILLRACE_KAFKA_ONE")
	if addr == "" {
		t.Skip("MILLRACE_KAFKA_ONE IS NOT SET: it is the address of a cluster of one broker (make test-all sets it)")
	}
	seen, first := map[string]int{}, tier.Seed()
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			for seed := first; seed < first+uint64(tier.N(100)); seed++ {
				if difference := againstKafka(t, addr, seed, s, seen); difference != "" {
					t.Error(difference)
				}
			}
		})
	}
	checkSeen(t, kafkas, seen)
}

func againstKafka(t *testing.T, addr string, seed uint64, s comparison, seen map[string]int) (difference string) {
	t.Helper()
	n := startOn(t, Options{Rights: all{}}, nil)
	defer n.stop()
	d := newDiffer(t, seed, n, addr)
	d.name, d.seen = fmt.Sprintf("s%d-%x-", seed, time.Now().UnixNano()), seen
	d.kafka()
	d.run(s.steps, s.begin)
	d.cleanUp()
	return d.difference
}

// differ asks both.
type differ struct {
	t            *testing.T
	seed         uint64
	rng          *rand.Rand
	ours, theirs *client
	alter        func(ours kmsg.Response) // nil, or a difference that a test plants
	difference   string                   // the first one there was; it is the end of the script
	ended        bool                     // the script was gone through
	script       []string
	name         string                               // before the names of all topics and groups
	settle       func(topic string, partitions int32) // nil, or waits until a topic has so many partitions there, for what changes it only soon
	ids          [2]map[any]string                    // what stands for ids, which each side makes as it likes
	seen         map[string]int                       // how often each known difference was there
}

func newDiffer(t *testing.T, seed uint64, n *node, theirs string) *differ {
	d := &differ{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 3)), ours: n.dial(), theirs: dialTo(t, theirs), seen: map[string]int{}}
	for _, c := range []*client{d.ours, d.theirs} {
		c.nc.SetDeadline(time.Now().Add(5 * time.Minute))
	}
	d.ids = [2]map[any]string{{}, {}}
	t.Cleanup(func() {
		if t.Failed() && d.difference == "" && !d.ended {
			t.Logf("seed %d ended after %q", d.seed, d.script[max(0, len(d.script)-12):])
		}
	})
	return d
}

// run takes so many steps, or as many as there are to the first difference.
func (d *differ) run(steps int, begin func(*differ) func()) {
	step := begin(d)
	for range steps {
		if d.difference == "" {
			step()
		}
	}
	d.ended = true
}

// real tells that it is Apache Kafka that is asked.
func (d *differ) real() bool { return d.settle != nil }

// skipped is the answer to what the other side is known not to have: neither is asked.
const skipped = "skipped"

// ask sends what build makes for each side, and compares what digest makes of the answers. It returns ours.
func (d *differ) ask(what string, build func(side int) kmsg.Request, digest func(side int, r kmsg.Response) string) string {
	d.t.Helper()
	return d.compare(what, build, digest, 0)
}

// read is ask for what changes nothing, and where the other side may not have got round yet to what was changed before.
func (d *differ) read(what string, build func(side int) kmsg.Request, digest func(side int, r kmsg.Response) string) string {
	d.t.Helper()
	if !d.real() {
		return d.compare(what, build, digest, 0)
	}
	return d.compare(what, build, digest, 5*time.Second)
}

func (d *differ) compare(what string, build func(side int) kmsg.Request, digest func(side int, r kmsg.Response) string, patience time.Duration) string {
	d.t.Helper()
	if d.isSkipped(what) {
		return skipped
	}
	var answers [2]string
	for side, c := range []*client{d.ours, d.theirs} {
		req := build(side)
		resp := c.receive(req, c.send(req))
		if side == 0 && d.alter != nil {
			d.alter(resp)
		}
		answers[side] = digest(side, resp)
	}
	for deadline := time.Now().Add(patience); answers[0] != answers[1] && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if d.isKnown(what, answers[0], answers[1]) && time.Until(deadline) < patience-time.Second {
			break
		}
		req := build(1)
		answers[1] = digest(1, d.theirs.receive(req, d.theirs.send(req)))
	}
	d.agree(what, answers[0], answers[1])
	return answers[0]
}

// agree takes note of a difference that is not a known one.
func (d *differ) agree(what, ours, theirs string) {
	d.script = append(d.script, fmt.Sprintf("%s -> %s", what, ours))
	if ours != theirs && d.difference == "" && !d.known(what, ours, theirs) {
		d.difference = fmt.Sprintf("seed %d, after %q:\n%s\nours:   %s\ntheirs: %s", d.seed, d.script[max(0, len(d.script)-8):], what, ours, theirs)
	}
}

// both is ask where the digest is the same whose answer it is.
func (d *differ) both(what string, build func(side int) kmsg.Request, digest func(kmsg.Response) string) string {
	d.t.Helper()
	return d.ask(what, build, func(_ int, r kmsg.Response) string { return digest(r) })
}

// patiently asks until the answer is another than that what went before is not finished.
func (d *differ) patiently(what string, build func(side int) kmsg.Request, digest func(side int, r kmsg.Response) string) string {
	d.t.Helper()
	concurrent := fmt.Sprint(kerr.ConcurrentTransactions.Code)
	return d.ask(what, build, func(side int, r kmsg.Response) string {
		answer := digest(side, r)
		c := []*client{d.ours, d.theirs}[side]
		for deadline := time.Now().Add(20 * time.Second); answer == concurrent && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
			req := build(side)
			answer = digest(side, c.receive(req, c.send(req)))
		}
		return answer
	})
}

func versioned[R kmsg.Request](req R, version int16) R {
	req.SetVersion(version)
	return req
}

// one picks.
func one[T any](d *differ, of ...T) T { return of[d.rng.IntN(len(of))] }

// chance is true once in n times.
func (d *differ) chance(n int) bool { return d.rng.IntN(n) == 0 }

func (d *differ) topic() string { return fmt.Sprint(d.name, "t", d.rng.IntN(3)) }

func (d *differ) group() string { return d.name + "g" }

// learn has an id of one side stand for something in what is compared.
func (d *differ) learn(side int, id any, means string) { d.ids[side][id] = means }

// all is a digest of everything in an answer but texts, times taken, and the fields that are named.
func (d *differ) all(but ...string) func(int, kmsg.Response) string {
	return func(side int, r kmsg.Response) string { return d.dump(side, reflect.ValueOf(r), but) }
}

// producerID is a key of what a differ has learned.
type producerID int64

// anonymous is records whose producers are told apart by what the differ knows of them, not by their ids.
func (d *differ) anonymous(side int, records []byte) []byte {
	records = slices.Clone(records)
	for rest := records; len(rest) > 0; {
		b, err := eventlog.CheckBatch(rest)
		if err != nil {
			d.t.Fatal(err)
		}
		if means := d.ids[side][producerID(b.ProducerID())]; means != "" {
			b.SetProducer(int64(means[len(means)-1]), b.ProducerEpoch(), b.BaseSequence())
			b.Reseal()
		}
		rest = rest[len(b):]
	}
	return records
}

var namesOfThings = []string{"ErrorCode", "Topic", "TopicID", "Partition", "Partitions", "Group", "GroupID"}

// dump writes a value without what is zero; the order in lists of names, numbers and what has fields does not count.
func (d *differ) dump(side int, v reflect.Value, but []string) string {
	if v.CanInterface() && v.Type().Comparable() {
		if means, ok := d.ids[side][v.Interface()]; ok {
			return means
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return "null"
		}
		return d.dump(side, v.Elem(), but)
	case reflect.Struct:
		code, fields := v.FieldByName("ErrorCode"), []string{}
		failed := !d.real() && code.IsValid() && !code.IsZero() // kfake leaves the rest at zero then, or not
		for i := range v.NumField() {
			name, f := v.Type().Field(i).Name, v.Field(i)
			if wrong := code.IsValid() && !code.IsZero(); name == "ProducerID" && !wrong && !slices.Contains(but, name) { // 0 is one
				if means, ok := d.ids[side][producerID(f.Int())]; ok {
					fields = append(fields, name+":"+means)
					continue
				}
			}
			if name == "RecordBatches" {
				f = reflect.ValueOf(d.anonymous(side, f.Bytes()))
			}
			if slices.Contains([]string{"Version", "ThrottleMillis", "ErrorMessage", "UnknownTags"}, name) || slices.Contains(but, name) || f.IsZero() ||
				f.Kind() == reflect.Slice && f.Len() == 0 || failed && !slices.Contains(namesOfThings, name) {
				continue
			}
			fields = append(fields, name+":"+d.dump(side, f, but))
		}
		return "{" + strings.Join(fields, " ") + "}"
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return fmt.Sprintf("%q", v.Bytes())
		}
		var items []string
		for i := range v.Len() {
			items = append(items, d.dump(side, v.Index(i), but))
		}
		if kind := v.Type().Elem().Kind(); kind == reflect.Struct || kind == reflect.String || kind == reflect.Int32 {
			slices.Sort(items)
		}
		return "[" + strings.Join(items, " ") + "]"
	}
	return strings.ReplaceAll(fmt.Sprint(v.Interface()), d.name, "")
}
