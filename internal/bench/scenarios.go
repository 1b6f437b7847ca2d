package main

// scenario is one of the loads, with the table it prints.
type scenario struct {
	letter, title string
	run           func(*bench) error
}

// The first ones, up to o, are what `make bench-mqtt` runs.
var scenarios = []scenario{
	{"a", "QoS 0 fan-in: 50 publishers → 1 wildcard subscriber, at most 256 undelivered per publisher, 100 B", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return fanIn(s.mqtt, 50, 256, 100, 0, b.pace, begin, end)
		}, b.compared(natsSynced))
	}},
	{"b", "QoS 1 fan-in: 50 publishers → 1 QoS 1 subscriber, at most 64 undelivered per publisher, 100 B", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return fanIn(s.mqtt, 50, 64, 100, 1, b.pace, begin, end)
		}, b.compared())
	}},
	{"c", "QoS 1 publish: 100 publishers, 64 unacknowledged each, 100 B (PUBACKs)", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return closed(s.mqtt, true, 100, 64, noise(1, 100), b.pace, begin, end)
		}, b.compared())
	}},
	{"d", "QoS 0 fan-out: 1 publisher → 100 subscribers, at most 256 messages not delivered to all, 100 B (deliveries)", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return fanOut(s.mqtt, 100, 256, 100, b.pace, begin, end)
		}, b.compared(natsSynced))
	}},
	{"e", "QoS 2 publish: 100 publishers, 64 unfinished each, 100 B (PUBCOMPs)", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return closed(s.mqtt, true, 100, 64, noise(2, 100), b.pace, begin, end)
		}, b.compared(natsSynced))
	}},
	{"f", "open loop: 10,000 msg/s from 1,000 connections, QoS 1 → 1 subscriber, 100 B; latency from when each was due", func(b *bench) error {
		kinds := b.compared(natsSynced)
		if len(b.ours) == 1 {
			slower := millrace("millrace, 5 ms more per fdatasync", b.bin, "", "--test-datasync-delay", "5ms")
			kinds = append(kinds, named([]kind{slower}, b.kinds)...)
		}
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return openLoop(s.mqtt, 1000, 10_000, 100, b.pace, begin, end)
		}, kinds)
	}},
	{"g", "15,000 idle connections, plain and mutual TLS", idle},
	{"h", "100,000 QoS 1 messages queue for a persistent session that is away, and drain when it returns", queued},
	{"i", "kill -9 under load (100 publishers, QoS 1) with a persistent session that is away, and a restart", killed},
	{"j", "bytes on the wire: QoS 1, 100 B, topic of 26 bytes, one message at a time; per message, and per idle hour with a ping a minute", wire},
	{"m", "memory: a QoS 1 subscriber that never reads, while 1 M messages are published (50 publishers)", stuck},
	{"n", "shared subscription: 50 publishers → 4 members of one group, QoS 1, at most 64 undelivered per publisher, 100 B (deliveries; their order is not looked at)", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return shared(s.mqtt, 50, 4, 64, 100, b.pace, begin, end)
		}, b.compared(natsSynced, "nats")) // which has none
	}},
	{"o", "others' latency: 20 publishers send 1,000 msg/s, QoS 1, to one subscriber (a process of their own), while a node has much to do", beside},
	{"q", "QoS 2 publish, as e, with persistent sessions (PUBCOMPs)", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return closed(s.mqtt, false, 100, 64, noise(2, 100), b.pace, begin, end)
		}, b.compared(natsSynced))
	}},
	{"r", "10,000 persistent clients lose their connections at once and come back, while 20 others send 1,000 msg/s, QoS 1, to one", reconnect},
	{"p", "p99 across checkpoints: 10,000 msg/s over 1,000 partitions, a checkpoint every second", checkpoint},
	{"s", "disk: log bytes per 100 B message; 100 publishers, 64 unacknowledged each", disk},
	{"k", "Kafka: one idempotent producer, then one consumer, 16 partitions (MB/s of values, server CPU s per GB)", kafka},
}

// onCluster are those that `make bench-kafka` runs, on a Kafka cluster that is there.
var onCluster = []scenario{
	{"t", "devices (50, QoS 1) → Millrace → cluster beside a plain franz-go producer, acks=all, 3 replicas: peaks, and at half the producer's", besideProducer},
	{"u", "devices (50, QoS 1, 100 B) → cluster: Millrace beside Mosquitto with a bridge", besideBridge},
	{"v", "all brokers hang for a minute under 20,000 msg/s offered (200 devices, QoS 1, 100 B, at most 512 unacknowledged each)", hung},
}

func (b *bench) compare(load loader, kinds []kind) error {
	all, errs := b.each(kinds, load)
	b.table(kinds, all, errs)
	return nil
}
