package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	replayed      = 1_000_000
	bulkRecords   = 1_000_000
	listedClients = 100_000
	besideWithin  = 2 * time.Minute
	besideWarm    = 5 * time.Second // of the others
)

// beside does what is much work for a node, and asks what others hear of it, who send 1,000 messages a second to one. No other broker of the
// comparison can replay; none has such a list.
func beside(b *bench) error {
	fmt.Println("| server | meanwhile | took s | others' p50 / p99 / longest ms before | meanwhile |")
	fmt.Println("| --- | --- | --- | --- | --- |")
	for _, k := range named(b.ours, b.kinds) {
		for _, work := range []burden{
			{"one client replays 1,000,000 messages of 100 B, QoS 1", publishHistory, replayHistory},
			{"a Kafka client writes 1 GB, records of 1,024 B, as fast as it can", func(*server) error { return nil }, writeBulk},
			{"the API lists 100,000 clients, 1,000 at a time", leaveClients, listClients},
		} {
			_, err := b.once(k, nil, func(s *server, _, _ func()) (result, error) {
				row, err := besideRow(s, work)
				fmt.Print(row)
				return result{}, err
			})
			if err != nil {
				fmt.Println(b.gaveUp(k, err))
			}
		}
	}
	return nil
}

// burden is what is done beside the others, and what that needs.
type burden struct {
	name        string
	prepare, do func(s *server) error
}

func besideRow(s *server, work burden) (row string, err error) {
	if err := work.prepare(s); err != nil {
		return "", err
	}
	others, err := startOthers(s.mqtt)
	if err != nil {
		return "", err
	}
	defer others.end()
	time.Sleep(time.Second)
	if _, err := others.measured(); err != nil { // their own beginning is not asked
		return "", err
	}
	time.Sleep(besideWarm)
	before, err := others.measured()
	if err != nil {
		return "", err
	}
	start := time.Now()
	if err := work.do(s); err != nil {
		return "", err
	}
	took := time.Since(start)
	meanwhile, err := others.measured()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("| %s | %s | %.2f | %v | %v |\n", s.kind.name, work.name, took.Seconds(), before, meanwhile), nil
}

func publishHistory(s *server) error {
	const pubs = 50
	_, err := fixed(s.mqtt, pubs, 64, replayed/pubs, noise(1, 100))
	return err
}

// replayHistory returns when all of it has come, in the order of its senders. What the others send meanwhile comes behind it.
func replayHistory(s *server) error {
	var total atomic.Int64
	sub, err := newSubscriber(s.mqtt, "replay", true, 0, &total)
	if err != nil {
		return err
	}
	if err := subscribe(sub.c, "$replay/earliest/"+everything, 1); err != nil {
		return err
	}
	go sub.run()
	defer sub.end()
	for until := time.Now().Add(besideWithin); total.Load() < replayed; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			return fmt.Errorf("%d of %d messages are replayed in %v", total.Load(), replayed, besideWithin)
		}
	}
	return nil
}

// writeBulk returns when all is acknowledged.
func writeBulk(s *server) error {
	ctx, cancel := context.WithTimeout(context.Background(), besideWithin)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("bulk"),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(1<<14))
	if err != nil {
		return err
	}
	defer cl.Close()
	m := newMessage("", 0, 1024)
	value := m.bytes[m.stamp:]
	var failed atomic.Pointer[error]
	for range bulkRecords {
		cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	if e := failed.Load(); e != nil {
		return *e
	}
	return nil
}

// leaveClients makes sessions that stay.
func leaveClients(s *server) error {
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < listedClients; i += 64 {
				c, err := dial(s.mqtt, fmt.Sprintf("device-%d", i), false)
				if err == nil {
					_, err = c.Write([]byte{0xE0, 0}) // DISCONNECT
					c.Close()
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// listClients turns over all pages.
func listClients(s *server) error {
	seen, cursor := 0, ""
	for first := true; first || cursor != ""; first = false {
		resp, err := http.Get("http://" + s.http + "/api/v1/mqtt/clients?limit=1000&client=device-*&cursor=" + url.QueryEscape(cursor))
		if err != nil {
			return err
		}
		var page struct {
			Clients []json.RawMessage
			Next    string
		}
		err = json.NewDecoder(resp.Body).Decode(&page)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("list clients: %s, %w", resp.Status, err)
		}
		seen += len(page.Clients)
		cursor = page.Next
	}
	if seen != listedClients {
		return fmt.Errorf("%d clients are listed, want %d", seen, listedClients)
	}
	return nil
}
