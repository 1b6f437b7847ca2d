// Command natslog is the producers that internal/bench measures NATS JetStream by: each record published with an acknowledgement, to one of several
// streams by its key, on files. It makes the streams, and counts what came to them; a stream is what comes nearest to a partition.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	address   = flag.String("address", "", "host:port")
	size      = flag.Int("size", 100, "bytes of a value")
	producers = flag.Int("producers", 1, "")
	streams   = flag.Int("streams", 1, "")
	pending   = flag.Int("pending", 1024, "records of all producers that are not acknowledged")
	keys      = flag.Int("keys", 10_000, "how many devices")
	warm      = flag.Duration("warm", time.Second, "before it counts")
	window    = flag.Duration("window", 2*time.Second, "how long it counts")
)

func main() {
	flag.Parse()
	ctx := context.Background()
	admin := connect()
	for i := range *streams {
		_, err := admin.CreateStream(ctx, jetstream.StreamConfig{Name: name(i), Subjects: []string{name(i) + ".>"}, Storage: jetstream.FileStorage})
		check(err)
	}
	var acked, failed atomic.Int64
	var stop atomic.Bool
	var all sync.WaitGroup
	value := make([]byte, *size)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range value {
		value[i] = byte(rng.Uint32())
	}
	for i := range *producers {
		js := connect()
		all.Go(func() { produce(js, rand.New(rand.NewPCG(uint64(i), 3)), value, &acked, &failed, &stop) })
	}
	time.Sleep(*warm)
	fmt.Println("begin")
	from, start := acked.Load(), time.Now()
	time.Sleep(*window)
	count, elapsed := acked.Load()-from, time.Since(start)
	fmt.Println("end")
	stop.Store(true)
	all.Wait()
	stored := uint64(0)
	for i := range *streams {
		s, err := admin.Stream(ctx, name(i))
		check(err)
		stored += s.CachedInfo().State.Msgs
		check(admin.DeleteStream(ctx, name(i)))
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"Count": count, "Elapsed": elapsed, "Acked": acked.Load(), "Failed": failed.Load(), "Stored": stored}))
}

func name(stream int) string { return fmt.Sprintf("bench%d", stream) }

func connect() jetstream.JetStream {
	nc, err := nats.Connect(*address)
	check(err)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1<<20))
	check(err)
	return js
}

// produce publishes as fast as the window of what is not acknowledged lets it.
func produce(js jetstream.JetStream, rng *rand.Rand, value []byte, acked, failed *atomic.Int64, stop *atomic.Bool) {
	underWay := make(chan jetstream.PubAckFuture, max(1, *pending / *producers))
	over := make(chan struct{})
	go func() {
		defer close(over)
		for f := range underWay {
			select {
			case <-f.Ok():
				acked.Add(1)
			case err := <-f.Err():
				log.Print(err)
				failed.Add(1)
			}
		}
	}()
	for !stop.Load() {
		device := rng.IntN(*keys)
		f, err := js.PublishMsgAsync(&nats.Msg{Subject: fmt.Sprintf("%s.device-%05d", name(device%*streams), device), Data: value})
		check(err)
		underWay <- f
	}
	close(underWay)
	<-over
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
