package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// How j talks: alone on its connection, so that every packet is a segment of its own, as from a device.
const (
	wireTopic    = "fleet/truck-07/temperature"
	wireMessages = 50
	wirePings    = 10
	wirePause    = 100 * time.Millisecond // longer than a delayed ACK of TCP
	headerBytes  = 52                     // of a segment: IPv4 20, TCP 20, timestamps 12
)

// form is one way to say the same.
type form struct {
	name  string
	five  bool // MQTT 5.0
	alias bool // topic alias, both ways
}

var forms = []form{{"3.1.1", false, false}, {"5.0", true, false}, {"5.0, topic alias", true, true}}

// wire counts bytes, those of TCP and IP included, from what the kernel says of the generator's sockets.
func wire(b *bench) error {
	fmt.Println("| server | MQTT | publisher: bytes per message | of them MQTT | subscriber: bytes per message | of them MQTT | bytes per idle hour |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- |")
	for _, k := range b.compared(natsSynced) {
		rows := make([]string, len(forms))
		_, err := b.once(k, nil, func(s *server, _, _ func()) (result, error) {
			errs := make([]error, len(forms))
			var wg sync.WaitGroup
			for i, f := range forms {
				wg.Go(func() { rows[i], errs[i] = wireRow(s, f, fmt.Sprintf("wire-%d", i)) })
			}
			wg.Wait()
			for i, err := range errs {
				if err != nil { // a broker without MQTT 5
					rows[i] = fmt.Sprintf("| %s | %s | %v | | | | |", k.name, forms[i].name, err)
				}
			}
			return result{}, nil
		})
		if err != nil {
			rows = []string{b.gaveUp(k, err)}
		}
		for _, row := range rows {
			fmt.Println(row)
		}
	}
	return nil
}

// traffic is what went over a connection, both ways.
type traffic struct{ bytes, segments int64 }

func (t traffic) since(u traffic) traffic { return traffic{t.bytes - u.bytes, t.segments - u.segments} }

// wired counts bytes with the headers of segments.
func (t traffic) wired() int64 { return t.bytes + headerBytes*t.segments }

func wireRow(s *server, f form, id string) (string, error) {
	topic := f.topic(id)
	sub, err := f.dial(s.mqtt, id+"-sub")
	if err != nil {
		return "", err
	}
	defer sub.Close()
	if err := f.subscribe(sub, topic); err != nil {
		return "", err
	}
	pub, err := f.dial(s.mqtt, id+"-pub")
	if err != nil {
		return "", err
	}
	defer pub.Close()
	in, acks := bufio.NewReader(sub), bufio.NewReader(pub)
	var sent, got traffic
	for i := range wireMessages + 1 { // the first one sets the aliases
		if i == 1 {
			time.Sleep(wirePause)
			if sent, err = trafficOf(pub); err != nil {
				return "", err
			}
			if got, err = trafficOf(sub); err != nil {
				return "", err
			}
		}
		if err := f.exchange(pub, sub, acks, in, topic, i); err != nil {
			return "", err
		}
		time.Sleep(wirePause)
	}
	sentAll, err := trafficOf(pub)
	if err != nil {
		return "", err
	}
	gotAll, err := trafficOf(sub)
	if err != nil {
		return "", err
	}
	for range wirePings {
		if _, err := pub.Write([]byte{0xC0, 0}); err != nil {
			return "", err
		}
		if _, _, err := nextPacket(acks, make([]byte, 64)); err != nil {
			return "", err
		}
		time.Sleep(wirePause)
	}
	pinged, err := trafficOf(pub)
	if err != nil {
		return "", err
	}
	p, g, idle := sentAll.since(sent), gotAll.since(got), pinged.since(sentAll)
	per := func(n int64) float64 { return float64(n) / wireMessages }
	return fmt.Sprintf("| %s | %s | %.0f | %.0f | %.0f | %.0f | %d |", s.kind.name, f.name, per(p.wired()), per(p.bytes), per(g.wired()), per(g.bytes),
		idle.wired()*60/wirePings), nil
}

// topic is wireTopic, made the form's own without changing its length.
func (f form) topic(id string) string { return wireTopic[:len(wireTopic)-1] + id[len(id)-1:] }

// exchange sends one message and has it delivered and acknowledged both ways.
func (f form) exchange(pub, sub net.Conn, acks, in *bufio.Reader, topic string, i int) error {
	for _, c := range []net.Conn{pub, sub} {
		if err := c.SetDeadline(time.Now().Add(readTime)); err != nil {
			return err
		}
	}
	body := appendString(nil, topic)
	if f.alias && i > 0 {
		body = appendString(nil, "")
	}
	body = binary.BigEndian.AppendUint16(body, uint16(i)+1)
	if f.alias {
		body = append(body, 3, 0x23, 0, 1)
	} else if f.five {
		body = append(body, 0)
	}
	body = append(body, make([]byte, 100)...)
	if _, err := pub.Write(append(appendLen([]byte{0x32}, len(body)), body...)); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	head, got, err := nextPacket(in, buf)
	if err != nil || head>>4 != 3 || len(got) < 4 {
		return fmt.Errorf("no delivery: packet %#x, %w", head, err)
	}
	at := 2 + int(binary.BigEndian.Uint16(got))
	if _, err := sub.Write([]byte{0x40, 2, got[at], got[at+1]}); err != nil {
		return err
	}
	if head, _, err = nextPacket(acks, buf); err != nil || head != 0x40 {
		return fmt.Errorf("no PUBACK: packet %#x, %w", head, err)
	}
	return nil
}

// dial connects; with aliases the client takes ten.
func (f form) dial(addr, id string) (net.Conn, error) {
	if !f.five {
		return dial(addr, id, true)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	body := append(appendString(nil, "MQTT"), 5, 2, 0, 0)
	if f.alias {
		body = append(body, 3, 0x22, 0, 10)
	} else {
		body = append(body, 0)
	}
	body = appendString(body, id)
	head, ack, err := f.ask(c, append(appendLen([]byte{0x10}, len(body)), body...))
	if err != nil || head != 0x20 || len(ack) < 2 || ack[1] != 0 {
		c.Close()
		return nil, fmt.Errorf("no MQTT 5.0 (answer % x)", ack)
	}
	return c, nil
}

func (f form) subscribe(c net.Conn, filter string) error {
	if !f.five {
		return subscribe(c, filter, 1)
	}
	body := append(appendString([]byte{0, 1, 0}, filter), 1)
	head, ack, err := f.ask(c, append(appendLen([]byte{0x82}, len(body)), body...))
	if err != nil || head != 0x90 || len(ack) == 0 || ack[len(ack)-1] > 2 {
		return fmt.Errorf("SUBACK % x: %w", ack, err)
	}
	return nil
}

// ask sends a packet and reads the answer, and nothing behind it.
func (f form) ask(c net.Conn, p []byte) (head byte, body []byte, err error) {
	if err := c.SetDeadline(time.Now().Add(readTime)); err != nil {
		return 0, nil, err
	}
	if _, err := c.Write(p); err != nil {
		return 0, nil, err
	}
	return nextPacket(bufio.NewReader(oneByOne{c}), make([]byte, 4096))
}

// oneByOne reads byte by byte, so that nothing is taken that belongs to who reads next.
type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }
