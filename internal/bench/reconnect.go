package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What loses its connection, and what meanwhile goes on.
const (
	stormClients  = 10_000
	stormPatience = 60 * time.Second // of a client with one attempt: connection, TLS, CONNACK
	stormBackOff  = 30 * time.Second // the most a client waits between two; each wait is random, from 0 up
	stormWithin   = 5 * time.Minute
	stormWarm     = 5 * time.Second // of the others
)

// reconnect has very many persistent clients lose their connections at the same moment, in two ways: their network goes (the others'
// does not), or the server is killed and started again. They come back at once, and then with jittered back-off.
func reconnect(b *bench) error {
	fmt.Println("| server | transport | what happened | all back after s | half / 99 % after s | failed attempts | server CPU s | others' p50 / p99 / longest ms before | meanwhile |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, secure := range []*authority{nil, b.secure} {
		for _, k := range b.stormKinds(secure) {
			for _, killed := range []bool{false, true} {
				_, err := b.once(k, nil, func(s *server, _, _ func()) (result, error) {
					row, err := stormRow(s, secure, killed)
					fmt.Print(row)
					return result{}, err
				})
				if err != nil {
					return fmt.Errorf("%s: %w", k.name, err)
				}
			}
		}
	}
	return nil
}

// stormKinds are Mosquitto and Millrace; over TLS Millrace with an accept limit, too. They have a plain listener for the others beside the one of
// the storm.
func (b *bench) stormKinds(secure *authority) (kinds []kind) {
	for _, k := range b.compared(natsSynced, "nats", "mochi") {
		switch {
		case secure == nil:
			kinds = append(kinds, k)
		case k.name == "mosquitto":
			kinds = append(kinds, twoDoors(k, func(s *server) string {
				_, port, _ := net.SplitHostPort(s.kafka)
				return "listener " + port + " 127.0.0.1\nallow_anonymous true\ncafile " + secure.ca + "\ncertfile " + secure.cert + "\nkeyfile " + secure.key + "\nrequire_certificate true\n"
			}))
		default:
			kinds = append(kinds, millraceTLS(k.name, b.bin, secure, ""), millraceTLS(k.name+", rates.connects: 300/s", b.bin, secure, ", limits: {rates: {connects: 300/s}}"))
		}
	}
	return kinds
}

// twoDoors is a kind whose configuration file gets a second listener, at the address that Kafka has with Millrace.
func twoDoors(k kind, more func(s *server) string) kind {
	return kind{name: k.name, command: func(s *server) (string, []string, error) {
		path, args, err := k.command(s)
		if err != nil {
			return "", nil, err
		}
		file := args[len(args)-1]
		b, err := os.ReadFile(file)
		if err != nil {
			return "", nil, err
		}
		return path, args, os.WriteFile(file, append(b, more(s)...), 0o600)
	}}
}

func millraceTLS(name, path string, secure *authority, more string) kind {
	return kind{name: name, command: func(s *server) (string, []string, error) {
		conf := fmt.Sprintf("listeners:\n  kafka: []\n  mqtt:\n    - {bind: %q}\n    - {bind: %q, tls: {cert: %s, key: %s, client_ca: %s}%s}\n",
			s.mqtt, s.kafka, secure.cert, secure.key, secure.ca, more)
		file, err := s.write("millrace.yaml", conf)
		return path, []string{"serve", "--data", "data", "--http-listen", s.http, "--config", file}, err
	}}
}

// stormRow is one storm.
func stormRow(s *server, secure *authority, killed bool) (row string, err error) {
	address, transport, what := s.mqtt, "TCP", "network cut"
	if secure != nil {
		address, transport = s.kafka, "mutual TLS"
	}
	if killed {
		what = "kill -9, restart"
	}
	others, err := startOthers(s.mqtt)
	if err != nil {
		return "", err
	}
	defer others.end()
	herd := make([]*stormer, stormClients)
	if err := gather(herd, address, secure); err != nil {
		return "", err
	}
	defer func() {
		for _, c := range herd {
			c.close()
		}
	}()
	if _, err := others.measured(); err != nil { // what the gathering did to them is not asked
		return "", err
	}
	time.Sleep(stormWarm)
	before, err := others.measured()
	if err != nil {
		return "", err
	}
	cpu := s.cpu()
	if killed {
		s.kill()
		if err := s.spawn(); err != nil { // returns when it listens
			return "", err
		}
		cpu = 0
		for _, c := range herd {
			c.close()
		}
	} else {
		for _, c := range herd {
			c.cut()
		}
	}
	took, failed, err := comeBackAll(herd)
	used := s.cpu() - cpu
	if err != nil {
		return "", err
	}
	meanwhile, err := others.measured()
	if err != nil {
		return "", err
	}
	away := turnedAway(s)
	at := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() }
	return fmt.Sprintf("| %s | %s | %s | %.1f | %.1f / %.1f | %d%s | %.1f | %v | %v |\n", s.kind.name, transport, what, at(1), at(0.5), at(0.99), failed, away,
		used.Seconds(), before, meanwhile), nil
}

// turnedAway is how many connections Millrace has turned away, by its own count, and why; "": none, or the server does not say.
func turnedAway(s *server) (why string) {
	resp, err := http.Get("http://" + s.http + "/metrics")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), `millrace_mqtt_turned_away_total{reason="`); ok {
			reason, n, _ := strings.Cut(rest, `"} `)
			why += ", " + reason + " " + n
		}
	}
	return strings.Replace(why, ", ", ": ", 1)
}

// stormer is a client that has lost its connection.
type stormer struct {
	address, id string
	secure      *authority
	c           net.Conn
}

// gather connects the herd, and has each client subscribe to a topic of its own.
func gather(herd []*stormer, address string, secure *authority) error {
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < len(herd); i += 64 {
				herd[i] = &stormer{address: address, id: fmt.Sprintf("storm-%d", i), secure: secure}
				err := herd[i].connect()
				if err == nil {
					err = subscribe(herd[i].c, herd[i].id+"/commands", 1)
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

// connect is one attempt.
func (s *stormer) connect() error {
	end := time.Now().Add(stormPatience)
	c, err := (&net.Dialer{Deadline: end}).Dial("tcp", s.address)
	if err != nil {
		return err
	}
	if s.secure != nil {
		c = tls.Client(c, s.secure.client)
	}
	if err := c.SetDeadline(end); err != nil {
		return err
	}
	if err := hello(c, s.id, false); err != nil {
		return err
	}
	s.c = c
	return c.SetDeadline(time.Time{})
}

func (s *stormer) close() {
	if s != nil && s.c != nil {
		s.c.Close()
	}
}

// cut is the end of the network: the socket is reset.
func (s *stormer) cut() {
	raw := s.c
	if t, ok := raw.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if t, ok := raw.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	raw.Close()
}

// comeBack tries until it is back: at once, then after a random part of 1 s, 2 s, 4 s … up to stormBackOff.
func (s *stormer) comeBack(until time.Time, failed *atomic.Int64) error {
	for wait := time.Second; ; wait = min(2*wait, stormBackOff) {
		err := s.connect()
		if err == nil {
			return nil
		}
		failed.Add(1)
		if time.Now().After(until) {
			return fmt.Errorf("not back within %v: %w", stormWithin, err)
		}
		time.Sleep(rand.N(wait))
	}
}

// comeBackAll brings the whole herd back at once. It returns how long each took, sorted.
func comeBackAll(herd []*stormer) (took []time.Duration, failed int64, err error) {
	var wg sync.WaitGroup
	var failures atomic.Int64
	took, errs := make([]time.Duration, len(herd)), make([]error, len(herd))
	began := time.Now()
	for i, c := range herd {
		wg.Go(func() {
			errs[i] = c.comeBack(began.Add(stormWithin), &failures)
			took[i] = time.Since(began)
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took, failures.Load(), errors.Join(errs...)
}
