// Command segmentio is the script of kafkawire's TestForeignClients by segmentio's kafka-go: segmentio BOOTSTRAP TOPIC CODEC,…
// It can ask for transactions and cannot write in one: that part is left out.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
)

var codecs = map[string]kafka.Compression{"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

var ctx, cancel = context.WithTimeout(context.Background(), 4*time.Minute)

func produce(at, topic, codec string, values ...string) {
	w := &kafka.Writer{Addr: kafka.TCP(at), Topic: topic, RequiredAcks: kafka.RequireAll, Compression: codecs[codec], BatchTimeout: 20 * time.Millisecond}
	var batch []kafka.Message
	for _, v := range values {
		batch = append(batch, kafka.Message{Key: []byte(v), Value: []byte(v + " " + strings.Repeat("x", 100))})
	}
	must(w.WriteMessages(ctx, batch...))
	must(w.Close())
}

func consume(at, word string, count int, topic string) {
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{at}, GroupID: topic, Topic: topic, MaxWait: 100 * time.Millisecond, StartOffset: kafka.FirstOffset,
		SessionTimeout: time.Minute, RebalanceTimeout: time.Minute,
	})
	for range count {
		m, err := r.FetchMessage(ctx)
		must(err)
		fmt.Println(word, strings.Fields(string(m.Value))[0])
		must(r.CommitMessages(ctx, m))
	}
	must(r.Close())
}

func main() {
	defer cancel()
	at, topic, all := os.Args[1], os.Args[2], strings.Split(os.Args[3], ",")
	info, _ := debug.ReadBuildInfo()
	for _, d := range info.Deps {
		if d.Path == "github.com/segmentio/kafka-go" {
			fmt.Println("version", strings.TrimPrefix(d.Version, "v"))
		}
	}
	for _, codec := range all {
		var values []string
		for i := range 20 {
			values = append(values, fmt.Sprint(codec, "-", i))
		}
		produce(at, topic, codec, values...)
	}
	consume(at, "read", 20*len(all), topic)
	produce(at, topic, "none", "again-0")
	consume(at, "again", 1, topic)
}
