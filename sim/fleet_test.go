package sim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// watch runs a watcher until the test has what it wants, and returns how to end it.
func watch(t *testing.T, o WatchOptions) (stop func() ClientStats) {
	t.Helper()
	return watchFor(t, 30*time.Second, o)
}

func watchFor(t *testing.T, long time.Duration, o WatchOptions) (stop func() ClientStats) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	ready, ended := make(chan struct{}), make(chan struct{})
	o.Ready = func() { close(ready) }
	var stats ClientStats
	var err error
	go func() {
		defer close(ended)
		stats, err = Watch(ctx, o)
	}()
	select {
	case <-ready:
	case <-ended:
		t.Fatal(err)
	}
	return func() ClientStats {
		cancel()
		<-ended
		if err != nil {
			t.Error(err)
		}
		return stats
	}
}

// adds up: everything that was acknowledged came to the reader.
func addsUp(t *testing.T, r *Reader, sent int) {
	t.Helper()
	eventually(t, func() bool { rep := r.Report(); return rep.Missing == 0 })
	if rep := r.Report(); rep.Err() != nil || rep.Sent != sent || rep.Acked != sent || rep.Received != sent || rep.Duplicates != 0 {
		t.Fatal(&rep)
	}
}

func TestReplayAddsUp(t *testing.T) { replays(t, newTestBroker(t).dial) }

// replays plays the whole recording, and clones, through any broker at every QoS above 0, stamped and not.
func replays(t *testing.T, dial func(context.Context) (net.Conn, error)) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for qos := byte(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("%v QoS %d", v, qos), func(t *testing.T) {
				l := NewLedger()
				id := fmt.Sprintf("reader-%v-%d", v, qos)
				var e2e Histogram
				var mu sync.Mutex
				stamps := 0
				stop := watch(t, WatchOptions{Dial: dial, Connect: packet.Connect{Version: v, ClientID: id, CleanStart: true}, Filter: "/hfp/#",
					QoS: qos, Ledger: l, Latency: &e2e, OnMessage: func(p *packet.Publish) {
						if _, ok := ReadStamp(p); ok {
							mu.Lock()
							stamps++
							mu.Unlock()
						}
					}})
				reports := 0
				s, err := Replay(within(t), ReplayOptions{Speed: math.Inf(1), Vehicles: 9, FleetOptions: FleetOptions{
					Dial: dial, Connect: packet.Connect{Version: v, CleanStart: true}, QoS: qos, Ledger: l, Report: func(FleetStats) { reports++ }}})
				const sent = 1999 + 1036 + 513 // and two clones
				if err != nil || s.Sent != sent || s.Acked != sent || s.Refused != 0 || s.InFlight != 0 || reports == 0 {
					t.Fatalf("%+v, %v", s, err)
				}
				addsUp(t, l.Reader(id, "", 0), sent)
				stop()
				if want := map[packet.Version]int{packet.V311: 0, packet.V5: sent}[v]; stamps != want || e2e.Count() != uint64(want) {
					t.Errorf("%d stamps, %d latencies, want %d", stamps, e2e.Count(), want)
				}
			})
		}
	}
}

func TestLoadAddsUp(t *testing.T) { loads(t, newTestBroker(t).dial) }

func loads(t *testing.T, dial func(context.Context) (net.Conn, error)) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			l := NewLedger()
			id := "load-reader-" + v.String()
			stop := watch(t, WatchOptions{Dial: dial, Connect: packet.Connect{Version: v, ClientID: id, CleanStart: true}, Filter: "fleet/#",
				QoS: 2, Ledger: l})
			clients, each := 5, tier.N(2000)
			s, err := Load(within(t), LoadOptions{Clients: clients, Count: each, Size: 200, Topics: 3, Topic: "fleet/{n}/t{topic}",
				FleetOptions: FleetOptions{Dial: dial, Connect: packet.Connect{Version: v, CleanStart: true}, QoS: 1, Ledger: l}})
			if err != nil || int(s.Acked) != clients*each || int(s.Bytes) != 200*clients*each {
				t.Fatalf("%+v, %v", s, err)
			}
			addsUp(t, l.Reader(id, "", 0), clients*each)
			stop()
		})
	}
}

// What a broker does wrong to acknowledged messages shows in the ledger of a whole run.
func TestRunHasTeeth(t *testing.T) {
	nth := func(p *packet.Publish, n uint64) bool { s, _ := ReadStamp(p); return s.Sequence == n }
	var held *packet.Publish
	for name, c := range map[string]struct {
		fault func(p *packet.Publish) []*packet.Publish
		want  func(r Report) bool
	}{
		"drops one": {func(p *packet.Publish) []*packet.Publish {
			if nth(p, 50) {
				return nil
			}
			return []*packet.Publish{p}
		}, func(r Report) bool { return r.Missing == 2 }}, // one of each client
		"doubles one": {func(p *packet.Publish) []*packet.Publish {
			if nth(p, 50) {
				return []*packet.Publish{p, p}
			}
			return []*packet.Publish{p}
		}, func(r Report) bool { return r.Twice == 2 }},
		"swaps two": {func(p *packet.Publish) []*packet.Publish {
			if s, _ := ReadStamp(p); s.Device == "load-0" && s.Sequence == 50 {
				held = p
				return nil
			} else if s.Device == "load-0" && s.Sequence == 51 {
				return []*packet.Publish{p, held}
			}
			return []*packet.Publish{p}
		}, func(r Report) bool { return r.Reordered == 1 && r.Missing == 0 }},
		"alters one": {func(p *packet.Publish) []*packet.Publish {
			if nth(p, 50) {
				p.Payload[len(p.Payload)-1] ^= 1
			}
			return []*packet.Publish{p}
		}, func(r Report) bool { return r.Altered == 2 && r.Missing == 2 }},
		"makes one up": {func(p *packet.Publish) []*packet.Publish {
			if nth(p, 100) {
				s, _ := ReadStamp(p)
				s.Sequence = 101
				q := client.Clone(p)
				q.Payload = appendPayloadStamp(nil, &s)
				return []*packet.Publish{p, q}
			}
			return []*packet.Publish{p}
		}, func(r Report) bool { return r.Phantoms == 2 }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestBroker(t)
			b.fault = c.fault
			l := NewLedger()
			stop := watch(t, WatchOptions{Dial: b.dial, Connect: packet.Connect{ClientID: "r", CleanStart: true}, Filter: "load/#", QoS: 2, Ledger: l})
			if _, err := Load(within(t), LoadOptions{Clients: 2, Count: 100, Size: 50, FleetOptions: FleetOptions{Dial: b.dial, QoS: 2, Ledger: l}}); err != nil {
				t.Fatal(err)
			}
			r := l.Reader("r", "", 0)
			eventually(t, func() bool { return c.want(r.Report()) })
			stop()
			if rep := r.Report(); rep.Err() == nil || !c.want(rep) {
				t.Fatal(&rep)
			}
		})
	}
}

// Connections that are cut again and again lose nothing that was acknowledged, and nothing comes twice at QoS 2.
func TestCutConnections(t *testing.T) {
	b := newTestBroker(t)
	l := NewLedger()
	stop := watch(t, WatchOptions{Dial: b.dial, Connect: packet.Connect{ClientID: "r"}, Filter: "load/#", QoS: 2, Ledger: l})
	done := make(chan struct{})
	var cutter sync.WaitGroup
	cutter.Go(func() {
		for cuts := 0; cuts < 8; cuts++ {
			for before := answered(l); answered(l) < before+30; {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
			}
			b.cut()
		}
	})
	const clients, each = 3, 300
	s, err := Load(within(t), LoadOptions{Clients: clients, Count: each, FleetOptions: FleetOptions{Dial: b.dial, QoS: 2, Ledger: l, Window: 8}})
	close(done)
	cutter.Wait()
	if err != nil || s.Acked != clients*each || s.Connects < clients+1 {
		t.Fatalf("%+v, %v", s, err)
	}
	addsUp(t, l.Reader("r", "", 0), clients*each)
	if stats := stop(); stats.Connects < 2 || stats.Lost != 0 {
		t.Fatalf("%+v", stats)
	}
}

func answered(l *Ledger) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.messages {
		if l.messages[i].state == acked {
			n++
		}
	}
	return n
}

// A second run goes on with the sequences of the first.
func TestRunsFollowEachOther(t *testing.T) {
	b := newTestBroker(t)
	l := NewLedger()
	stop := watch(t, WatchOptions{Dial: b.dial, Connect: packet.Connect{ClientID: "r"}, Filter: "load/#", QoS: 1, Ledger: l})
	for range 3 {
		if _, err := Load(within(t), LoadOptions{Count: 20, FleetOptions: FleetOptions{Dial: b.dial, QoS: 1, Ledger: l}}); err != nil {
			t.Fatal(err)
		}
	}
	addsUp(t, l.Reader("r", "", 0), 60)
	stop()
}

func TestNobodyThere(t *testing.T) {
	dial := func(context.Context) (net.Conn, error) { return nil, errors.New("no route") }
	if _, err := Load(within(t), LoadOptions{FleetOptions: FleetOptions{Dial: dial}}); err == nil || !strings.Contains(err.Error(), "no route") {
		t.Fatal(err)
	}
	if _, err := Watch(within(t), WatchOptions{Dial: dial, Filter: "#"}); err == nil || !strings.Contains(err.Error(), "no route") {
		t.Fatal(err)
	}
	if _, err := Replay(within(t), ReplayOptions{Speed: -1, FleetOptions: FleetOptions{Dial: dial}}); err == nil {
		t.Fatal("a negative speed")
	}
}

func TestWrongPassword(t *testing.T) {
	b := newTestBroker(t)
	b.refuse = "bad-1"
	_, err := Load(within(t), LoadOptions{Clients: 3, Prefix: "bad-", FleetOptions: FleetOptions{Dial: b.dial, QoS: 1}})
	var r *Refused
	if !errors.As(err, &r) || r.Code != packet.BadUsernameOrPassword {
		t.Fatal(err)
	}
}

// Schedules, on a clock of their own: the rate is kept whatever the server does, and latency counts from when a message was due.
func TestScheduleAndLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stall := 2 * time.Second
		dial := func(context.Context) (net.Conn, error) {
			server, client := net.Pipe()
			go func() { // acknowledges at once, but for one stall at the tenth message
				defer server.Close()
				l := &packetReader{conn: server, dec: packet.Decoder{Server: true}}
				for n := 0; ; {
					p, err := l.next()
					if err != nil {
						return
					}
					var answer packet.Packet
					switch p := p.(type) {
					case *packet.Connect:
						answer = &packet.Connack{}
					case *packet.Publish:
						if n++; n == 10 {
							time.Sleep(stall)
						}
						answer = &packet.Ack{Kind: packet.PUBACK, PacketID: p.PacketID}
					default:
						return
					}
					wire, _ := answer.Append(nil, packet.V5)
					server.Write(wire)
				}
			}()
			return client, nil
		}
		start := time.Now()
		s, err := Load(t.Context(), LoadOptions{Rate: 10, Count: 50, FleetOptions: FleetOptions{Dial: dial, QoS: 1, Window: 1}})
		if err != nil || s.Acked != 50 {
			t.Fatalf("%+v, %v", s, err)
		}
		if d := time.Since(start); d < 4900*time.Millisecond || d > 5100*time.Millisecond {
			t.Errorf("50 messages at 10 per second took %v", d)
		}
		// The messages due in the stall wait 1.9 s, 1.8 s, … : 20 of 50 do.
		if p50, p70, top := s.Ack.Quantile(0.5), s.Ack.Quantile(0.7), s.Ack.Max(); p50 > time.Millisecond || p70 < 400*time.Millisecond || top != stall {
			t.Errorf("p50 %v, p70 %v, max %v", p50, p70, top)
		}
		if late := s.Late.Max(); late < 1800*time.Millisecond {
			t.Errorf("late by %v at most", late)
		}
		start = time.Now()
		s, err = Replay(t.Context(), ReplayOptions{Speed: 60, Vehicles: 1, FleetOptions: FleetOptions{Dial: dial, QoS: 0}})
		if err != nil || s.Sent != 1036 {
			t.Fatalf("%+v, %v", s, err)
		}
		vehicles, _ := embedded()
		want := vehicles[0].events[1035].at / 60
		if d := time.Since(start); d < want || d > want+time.Second {
			t.Errorf("took %v, want %v", d, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		s, err = Replay(ctx, ReplayOptions{Vehicles: 1, Loop: true, Now: true, FleetOptions: FleetOptions{Dial: dial}})
		if err != nil || s.Elapsed < time.Hour || s.Sent < 3000 || s.Sent > 4000 {
			t.Errorf("an hour in a loop: %+v, %v", s, err)
		}
	})
}
