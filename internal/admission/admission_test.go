package admission

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestClient(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:7", true},
		{"[2001:db8::1]:1", "[2001:db8::2]:9", true},
		{"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false},
		{"[fe80::1%eth0]:1", "[fe80::1]:1", true},
		{"[::1]:1", "[::2]:1", false},
		{"@", "/run/socket", true},
	} {
		if got := Client(c.a) == Client(c.b); got != c.same {
			t.Errorf("%s and %s are one client: %v", c.a, c.b, got)
		}
	}
}

func TestPlaces(t *testing.T) {
	p := Places{Most: 4, OfOne: 2}
	a, b := Client("192.0.2.1:1"), Client("[2001:db8::1]:1")
	enter := func(of string, want bool) {
		t.Helper()
		if p.Enter(Client(of)) != want {
			t.Errorf("%s: let in %v", of, !want)
		}
	}
	enter("192.0.2.1:1", true)
	enter("192.0.2.1:2", true)
	enter("192.0.2.1:3", false)
	enter("[2001:db8::1]:1", true)
	enter("[2001:db8::2]:1", true)
	enter("198.51.100.1:1", false)
	p.Leave(a)
	enter("198.51.100.1:1", true)
	p.Leave(b)
	p.Leave(b)
	p.Leave(a)
	p.Leave(Client("198.51.100.1:1"))
	if p.Taken() != 0 || len(p.of) != 0 {
		t.Errorf("%d %v are left", p.taken, p.of)
	}
}

func TestLimit(t *testing.T) {
	raw := listen(t)
	l := Limit(raw, 4) // two of one client
	accepted := make(chan net.Conn, 8)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- nc
		}
	}()
	dial(t, raw)
	dial(t, raw)
	first, second := <-accepted, <-accepted
	third := dial(t, raw)
	if _, err := third.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && err == nil {
		t.Fatalf("one too many: %v", err)
	}
	if _, tcp := first.(*Conn).NetConn().(*net.TCPConn); !tcp {
		t.Errorf("below it is %T", first.(*Conn).NetConn())
	}
	first.Close()
	first.Close() // twice is once
	dial(t, raw)
	<-accepted
	if _, err := dial(t, raw).Read(make([]byte, 1)); err == nil {
		t.Error("closing twice has made two places")
	}
	second.Close()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return nc
}
