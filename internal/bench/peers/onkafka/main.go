// Command onkafka is what internal/bench measures Millrace on a Kafka cluster beside: a plain producer of the same records, and a bridge from an
// MQTT broker as users write it. It also makes the topic, and tells what came to it.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	brokers = flag.String("brokers", "", "host:port, with commas")
	topic   = flag.String("topic", "bench", "")
	size    = flag.Int("size", 100, "produce: bytes of a value")
	rate    = flag.Float64("rate", 0, "produce: records per second; 0: as many as it takes")
	keys    = flag.Int("keys", 50, "produce: how many keys")
	warm    = flag.Duration("warm", time.Second, "produce: before it counts")
	window  = flag.Duration("window", 5*time.Second, "produce: how long it counts")
	from    = flag.String("mqtt", "", "bridge: host:port")
	acked   = flag.String("acked", "", "count: what each publisher was acknowledged, with commas")
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("produce, bridge, topic, ends, or count")
	}
	what := os.Args[1]
	_ = flag.CommandLine.Parse(os.Args[2:])
	opts := []kgo.Opt{kgo.SeedBrokers(strings.Split(*brokers, ",")...), kgo.DefaultProduceTopic(*topic)}
	switch what {
	case "count":
		opts = append(opts, kgo.ConsumeTopics(*topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	case "produce": // acks=all and idempotence are the client's defaults. The least latency, and the bytes that Millrace sends
		opts = append(opts, kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(1<<20))
	case "bridge": // with the client's linger of 10 ms, as Millrace's
		opts = append(opts, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(1<<20))
	}
	cl, err := kgo.NewClient(opts...)
	check(err)
	defer cl.Close()
	switch what {
	case "produce":
		produce(cl)
	case "bridge":
		bridge(cl)
	case "topic":
		min := "2"
		_, err := kadm.NewClient(cl).CreateTopic(context.Background(), 8, 3, map[string]*string{"min.insync.replicas": &min}, *topic)
		check(err)
	case "count":
		count(cl)
	case "ends":
		ends, err := kadm.NewClient(cl).ListCommittedOffsets(context.Background(), *topic)
		check(err)
		sum := int64(0)
		ends.Each(func(o kadm.ListedOffset) { sum += o.Offset })
		_ = json.NewEncoder(os.Stdout).Encode(sum)
	}
}

// record has what Millrace's records have: a key, and headers.
func record(key string, value []byte) *kgo.Record {
	return &kgo.Record{Key: []byte(key), Value: value, Headers: []kgo.RecordHeader{
		{Key: "mqtt.topic", Value: []byte("bench/" + key + "/data")}, {Key: "mqtt.qos", Value: []byte("1")}, {Key: "mqtt.client", Value: []byte("pub-" + key)}}}
}

// produce sends records at a rate, or as fast as they are taken, and prints what it saw in the window.
func produce(cl *kgo.Client) {
	for i := range *keys { // the topic is new: every leader is found first
		check(cl.ProduceSync(context.Background(), record(strconv.Itoa(i), nil)).FirstErr())
	}
	var done, begun atomic.Int64
	var mu sync.Mutex
	var lat []time.Duration
	room := make(chan struct{}, 6400) // as many as 100 MQTT clients have under way, 64 each
	counting := time.Now().Add(*warm)
	end := counting.Add(*window)
	var before, after syscall.Rusage
	time.AfterFunc(*warm, func() {
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
		begun.Store(done.Load())
		fmt.Println("begin")
	})
	noise := make([]byte, *size)
	x := uint32(*size)*2654435761 + 1
	for i := range noise { // incompressible, as what the devices send
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		noise[i] = byte(x)
	}
	start := time.Now()
	for n := 0; ; n++ {
		due := time.Now()
		if *rate > 0 {
			due = start.Add(time.Duration(float64(n) / *rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
			}
		} else {
			room <- struct{}{}
		}
		if time.Now().After(end) {
			break
		}
		cl.Produce(context.Background(), record(strconv.Itoa(n%*keys), slices.Clone(noise)), func(_ *kgo.Record, err error) {
			check(err)
			if *rate == 0 {
				<-room
			}
			now := time.Now()
			if done.Add(1); now.After(counting) && now.Before(end) {
				mu.Lock()
				lat = append(lat, now.Sub(due))
				mu.Unlock()
			}
		})
	}
	counted := done.Load() - begun.Load()
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	fmt.Println("end")
	check(cl.Flush(context.Background()))
	mu.Lock()
	if len(lat) == 0 {
		log.Fatal("nothing was acknowledged in the window")
	}
	slices.Sort(lat)
	seconds := func(u syscall.Rusage) float64 {
		return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"count": counted, "cpu": seconds(after) - seconds(before),
		"p50": lat[len(lat)/2], "p99": lat[len(lat)*99/100]})
}

// bridge subscribes at QoS 1 with a persistent session, and acknowledges a message when the cluster has it.
func bridge(cl *kgo.Client) {
	o := mqtt.NewClientOptions().AddBroker("tcp://" + *from).SetClientID("bridge").SetCleanSession(false).SetAutoAckDisabled(true).
		SetOrderMatters(true).SetConnectRetry(true).SetConnectRetryInterval(100 * time.Millisecond).SetMaxReconnectInterval(100 * time.Millisecond)
	handle := func(_ mqtt.Client, m mqtt.Message) {
		key := strings.Split(m.Topic(), "/")[1]
		cl.Produce(context.Background(), record(key, m.Payload()), func(_ *kgo.Record, err error) {
			check(err)
			m.Ack()
		})
	}
	o.SetDefaultPublishHandler(handle)
	o.SetOnConnectHandler(func(c mqtt.Client) {
		t := c.Subscribe("bench/+/data", 1, handle)
		t.Wait()
		check(t.Error())
		fmt.Println("subscribed")
	})
	t := mqtt.NewClient(o).Connect()
	t.Wait()
	check(t.Error())
	select {}
}

// count reads the topic to its end, and says how much of what was acknowledged is not there.
func count(cl *kgo.Client) {
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(context.Background(), *topic)
	check(err)
	at := map[int32]int64{}
	seen := map[uint64]int{}
	total := 0
	for idle := 0; idle < 4; {
		ready := true
		ends.Each(func(o kadm.ListedOffset) { ready = ready && at[o.Partition] >= o.Offset })
		if ready {
			break
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		recs := cl.PollFetches(ctx).Records()
		cancel()
		if len(recs) == 0 {
			idle++ // the end of a partition may be a marker
			continue
		}
		idle = 0
		for _, r := range recs {
			at[r.Partition] = r.Offset + 1
			if total++; len(r.Value) >= 16 {
				seen[uint64(binary.BigEndian.Uint32(r.Value[8:]))<<32|uint64(binary.BigEndian.Uint32(r.Value[12:]))]++
			}
		}
	}
	lost := 0
	for pub, text := range strings.Split(*acked, ",") {
		n, _ := strconv.Atoi(text)
		for seq := 1; seq <= n; seq++ {
			if seen[uint64(pub)<<32|uint64(seq)] == 0 {
				lost++
			}
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"records": total, "distinct": len(seen), "lost": lost})
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
