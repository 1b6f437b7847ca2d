package conformance

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
)

// goods are packets of every type that a client may send, each as long as it can sensibly be.
func goods(v byte, prefix string) map[string][]byte {
	t := prefix + "/t"
	ps := [][]byte{prop(propUser, str("name"), str("value"))}
	explained := func(first byte) []byte {
		if v < v5 {
			return ack(first>>4, 1)
		}
		return pkt(first, u16(1), u8(0), props(prop(propReasonString, str("why")), ps[0]))
	}
	h := hello{id: prefix, user: "user", pass: "pass", will: &will{topic: t, payload: "gone", qos: 1, props: append(ps, prop(propWillDelay, u32(1)), prop(propCorrelation, str("c")))},
		props: append(ps, prop(propReceiveMaximum, u16(9)), prop(propTopicAliasMax, u16(3)))}
	m := message{topic: t, payload: "payload", id: 1, props: append(ps, prop(propTopicAlias, u16(1)), prop(propMessageExpiry, u32(1)), prop(propResponseTopic, str("r")))}
	one, two := m, m
	one.qos, two.qos = 1, 2
	all := map[string][]byte{
		"CONNECT": h.bytes(v), "PUBLISH at QoS 0": m.bytes(v), "PUBLISH at QoS 1": one.bytes(v), "PUBLISH at QoS 2": two.bytes(v),
		"PUBACK": explained(tPuback << 4), "PUBREC": explained(tPubrec << 4), "PUBREL": explained(tPubrel<<4 | 2), "PUBCOMP": explained(tPubcomp << 4),
		"SUBSCRIBE":   subscribe(v, 1, append(ps, prop(propSubscriptionID, varint(300))), filter{t, 1}, filter{"+/" + t + "/#", 2}, filter{"$share/g/" + t, 0}),
		"UNSUBSCRIBE": unsubscribe(v, 1, t, "a/+"), "PINGREQ": pkt(tPingreq << 4), "DISCONNECT": pkt(tDisconnect << 4),
	}
	if v == v5 {
		all["DISCONNECT"] = pkt(tDisconnect<<4, u8(4), props(prop(propReasonString, str("why")), ps[0]))
		all["AUTH"] = pkt(tAuth<<4, u8(0x18), props(prop(propAuthMethod, str("method")), prop(propAuthData, str("data")), ps[0]))
	}
	return all
}

// spoil yields every way to cut a packet short, with and without saying so, and packets that differ in one byte.
func spoil(good []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		_, width := size(good)
		for n := range good {
			if !yield(good[:n]) || n > width && !yield(pkt(good[0], good[1+width:n])) {
				return
			}
			changes := []byte{good[n] ^ 1<<(n%8)}
			if tier.Soak() {
				for bit := range 8 {
					changes = append(changes, good[n]^1<<bit)
				}
				changes = append(changes, 0, good[n]+1, good[n]-1)
			}
			for _, change := range changes {
				bad := slices.Clone(good)
				bad[n] = change
				if !yield(bad) {
					return
				}
			}
		}
	}
}

// size reads the remaining length of a packet.
func size(b []byte) (n, width int) {
	for i, c := range b[1:] {
		n |= int(c&0x7F) << (7 * i)
		if c < 0x80 {
			return n, i + 1
		}
	}
	return n, len(b) - 1
}

// Whatever a client sends, the node goes on, its answers are well-formed, and the connection comes to its end with the client's.
func TestHostileClients(t *testing.T) {
	if *broker != "" {
		t.Skip("another broker is being checked")
	}
	t.Parallel()
	addr := boot(t, "").addr
	var wg sync.WaitGroup
	defer wg.Wait()
	tickets := make(chan struct{}, 8)
	levels := []byte{v5, v311}
	if tier.Soak() {
		levels = append(levels, v31)
	}
	for _, v := range levels {
		for name, good := range goods(v, "cfh"+session) {
			n := 0
			for bad := range spoil(good) {
				n++
				prefix := fmt.Sprintf("cfh%s-%d", session, n)
				tickets <- struct{}{}
				wg.Go(func() {
					defer func() { <-tickets }()
					if err := endure(addr, v, name == "CONNECT", prefix, bad); err != nil {
						t.Errorf("version %d, a spoilt %s, % x: %v", v, name, bad, err)
					}
				})
			}
			if n < 2*len(good) {
				t.Errorf("%s was spoilt in %d ways only", name, n)
			}
		}
	}
	wg.Wait()
	e := &env{TB: t, addr: addr, v: v5, prefix: "cfhz" + session, strict: true, patience: patience}
	c := e.subscriber(e.topic("t"), 2)
	c.must(message{topic: e.topic("t"), payload: "still here", qos: 2})
	c.want("still here")
}

// endure sends bad bytes, and the end of the stream, and reads what comes of it.
func endure(addr string, v byte, isConnect bool, prefix string, bad []byte) error {
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	if !isConnect {
		bad = cat((&hello{id: prefix}).bytes(v), bad)
	}
	if _, err := nc.Write(bad); err != nil {
		return nil // it was cut off before it had said everything
	}
	nc.(*net.TCPConn).CloseWrite()
	return drained(nc, v, isConnect)
}

// drained reads to the end, and decodes all that comes.
func drained(nc net.Conn, v byte, anyVersion bool) error {
	r := bufio.NewReader(nc)
	for {
		b, err := readRaw(r)
		switch {
		case err == nil:
		case closed(err):
			return nil
		default:
			return err
		}
		if _, err := decode(b, v); err != nil {
			if anyVersion && b[0]>>4 == tConnack { // a version that is spoilt may be another one
				for _, other := range []byte{v5, v311, v31} {
					if _, again := decode(b, other); again == nil {
						err = nil
					}
				}
			}
			if err != nil {
				return err
			}
		}
	}
}
