// Command sarama is the script of kafkawire's TestForeignClients by sarama: sarama BOOTSTRAP TOPIC CODEC,…
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

var codecs = map[string]sarama.CompressionCodec{
	"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent, c.Net.MaxOpenRequests = true, 1
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.Group.Session.Timeout, c.Consumer.Group.Rebalance.Timeout = time.Minute, time.Minute
	return c
}

type run struct {
	at    []string
	topic string
}

func (r run) produce(codec string, values ...string) {
	c := config()
	c.Producer.Compression = codecs[codec]
	p, err := sarama.NewSyncProducer(r.at, c)
	must(err)
	var batch []*sarama.ProducerMessage
	for _, v := range values {
		batch = append(batch, &sarama.ProducerMessage{Topic: r.topic, Key: sarama.StringEncoder(v), Value: sarama.StringEncoder(v + " " + strings.Repeat("x", 100))})
	}
	must(p.SendMessages(batch))
	must(p.Close())
}

// reader prints what a group is given, and is done after so many records.
type reader struct {
	word string
	left chan struct{} // one for each record that is to come
	done func()
}

func (*reader) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*reader) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (r *reader) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			fmt.Println(r.word, strings.Fields(string(m.Value))[0])
			s.MarkMessage(m, "")
			select {
			case <-r.left:
			default:
				log.Fatalf("%s: more came than there is", r.word)
			}
			if len(r.left) == 0 { // once: with one request at a time each commit waits for a fetch
				s.Commit()
				r.done()
				return nil
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (r run) consume(word string, count int, group, of string, level sarama.IsolationLevel) {
	c := config()
	c.Consumer.IsolationLevel = level
	g, err := sarama.NewConsumerGroup(r.at, group, c)
	must(err)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	h := &reader{word: word, left: make(chan struct{}, count), done: cancel}
	for range count {
		h.left <- struct{}{}
	}
	for len(h.left) > 0 {
		must(ctx.Err())
		if err := g.Consume(ctx, []string{of}, h); err != nil && len(h.left) > 0 {
			log.Fatalf("%s: %v", word, err)
		}
	}
	must(g.Close())
}

func (r run) transact() {
	c := config()
	c.Producer.Transaction.ID = r.topic
	c.Producer.Partitioner = sarama.NewManualPartitioner
	p, err := sarama.NewSyncProducer(r.at, c)
	must(err)
	for _, word := range []string{"aborted", "committed"} {
		must(p.BeginTxn())
		for i := range 5 {
			_, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: r.topic + "-out", Value: sarama.StringEncoder(fmt.Sprint(word, "-", i))})
			must(err)
		}
		if word == "aborted" {
			must(p.AbortTxn())
			continue
		}
		moved := map[string][]*sarama.PartitionOffsetMetadata{r.topic: {{Partition: 0, Offset: 7, LeaderEpoch: -1}}}
		must(p.AddOffsetsToTxn(moved, r.topic+"-moved"))
		must(p.CommitTxn())
	}
	must(p.Close())
}

func main() {
	r := run{at: []string{os.Args[1]}, topic: os.Args[2]}
	info, _ := debug.ReadBuildInfo()
	for _, d := range info.Deps {
		if d.Path == "github.com/IBM/sarama" {
			fmt.Println("version", strings.TrimPrefix(d.Version, "v"))
		}
	}
	all := strings.Split(os.Args[3], ",")
	for _, codec := range all {
		var values []string
		for i := range 20 {
			values = append(values, fmt.Sprint(codec, "-", i))
		}
		r.produce(codec, values...)
	}
	r.consume("read", 20*len(all), r.topic, r.topic, sarama.ReadUncommitted)
	r.produce("none", "again-0")
	r.consume("again", 1, r.topic, r.topic, sarama.ReadUncommitted)
	r.transact()
	r.consume("committed", 5, r.topic+"-reader", r.topic+"-out", sarama.ReadCommitted)
}
