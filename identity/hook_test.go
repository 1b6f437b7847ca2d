package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// service is what a hook asks.
type service struct {
	answer atomic.Pointer[string]
	fail   atomic.Pointer[error]
	took   time.Duration
	asked  atomic.Int64
	now    atomic.Int64 // questions under way
	most   atomic.Int64
	last   atomic.Pointer[question]
}

func (s *service) says(answer string) { s.answer.Store(&answer) }

func (s *service) post(ctx context.Context, b []byte) ([]byte, error) {
	s.asked.Add(1)
	for n := s.now.Add(1); ; {
		if most := s.most.Load(); n <= most || s.most.CompareAndSwap(most, n) {
			break
		}
	}
	defer s.now.Add(-1)
	var q question
	if err := json.Unmarshal(b, &q); err != nil {
		return nil, err
	}
	s.last.Store(&q)
	select {
	case <-time.After(s.took):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := s.fail.Load(); err != nil {
		return nil, *err
	}
	return []byte(*s.answer.Load()), nil
}

func TestHookAnswers(t *testing.T) {
	var s service
	l := NewHook(HookOptions{Post: s.post, Now: func() time.Time { return noon }})
	full := Claim{ClientID: "c", Username: "u", Password: "p", Certificate: Certificate{Name: "crt"}, Peer: "192.0.2.1:1234", Listener: "listeners.mqtt[0]"}
	for _, c := range []struct {
		name, answer string
		claim        Claim
		account      string
		err          error // nil: any that is neither ErrRefused nor ErrNotMine, if there is no account
	}{
		{"allow", `{"result":"allow"}`, full, "u", nil},
		{"allow somebody", `{"result":"allow","principal":"x"}`, full, "x", nil},
		{"allow, without a user name", `{"result":"allow"}`, Claim{ClientID: "c", Certificate: Certificate{Name: "crt"}}, "crt", nil},
		{"allow, by the client id", `{"result":"allow"}`, Claim{ClientID: "c"}, "c", nil},
		{"allow for a time", fmt.Sprintf(`{"result":"allow","expire_at":%d}`, noon.Unix()+60), full, "u", nil},
		{"what EMQX's hooks say", `{"result":"allow","is_superuser":false,"client_attrs":{"a":"b"}}`, full, "u", nil},
		{"deny", `{"result":"deny"}`, full, "", ErrRefused},
		{"ignore", `{"result":"ignore"}`, full, "", ErrNotMine},
		{"allowed until a minute ago", fmt.Sprintf(`{"result":"allow","expire_at":%d}`, noon.Unix()-60), full, "", ErrRefused},
		{"what is no UTF-8", `{"result":"allow"}`, Claim{ClientID: "c", Password: "\xff"}, "", ErrRefused},
		{"nothing", ``, full, "", nil},
		{"an empty object", `{}`, full, "", nil},
		{"another word", `{"result":"Allow"}`, full, "", nil},
		{"true", `true`, full, "", nil},
		{"null", `null`, full, "", nil},
		{"a list", `[{"result":"allow"}]`, full, "", nil},
		{"two answers", `{"result":"allow"}{"result":"deny"}`, full, "", nil},
		{"a page", `<html>allow</html>`, full, "", nil},
		{"half an answer", `{"result":"allow"`, full, "", nil},
		{"an expiry in words", `{"result":"allow","expire_at":"soon"}`, full, "", nil},
		{"an expiry at the end of time", `{"result":"allow","expire_at":9223372036854775807}`, full, "", nil},
		{"an expiry of 0", `{"result":"allow","expire_at":0}`, full, "", nil},
	} {
		s.says(c.answer)
		g, err := l.Judge(t.Context(), &c.claim)
		switch {
		case c.account != "":
			if err != nil || g.Name != c.account {
				t.Errorf("%s: %+v %v", c.name, g, err)
			}
		case c.err != nil:
			if !errors.Is(err, c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
		case err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrNotMine) || errors.Is(err, ErrBusy):
			t.Errorf("%s: %+v %v", c.name, g, err)
		}
		if c.name == "allow for a time" && !g.Until.Equal(noon.Add(time.Minute)) {
			t.Errorf("until %v", g.Until)
		}
	}
	s.says(`{"result":"deny"}`)
	l.Judge(t.Context(), &full)
	if q := *s.last.Load(); q != (question{"c", "u", "p", "192.0.2.1:1234", "listeners.mqtt[0]", "crt"}) {
		t.Errorf("asked %+v", q)
	}
	down := errors.New("connection refused")
	s.fail.Store(&down)
	if _, err := l.Judge(t.Context(), &full); !errors.Is(err, down) || errors.Is(err, ErrRefused) || errors.Is(err, ErrNotMine) {
		t.Errorf("a hook that is down: %v", err)
	}
}

// A yes is remembered for its time, a no for a short one, each for exactly what was shown; an error is not.
func TestHookRemembers(t *testing.T) {
	var s service
	now := noon
	l := NewHook(HookOptions{Post: s.post, Allowed: time.Minute, Denied: 5 * time.Second, Now: func() time.Time { return now }})
	ask := func(c Claim, fresh bool, want error) {
		t.Helper()
		before := s.asked.Load()
		_, err := l.Judge(t.Context(), &c)
		if (want == nil) != (err == nil) || !errors.Is(err, want) || (s.asked.Load() > before) != fresh {
			t.Errorf("%+v: %v, asked %v", c, err, s.asked.Load() > before)
		}
	}
	base := Claim{ClientID: "c", Username: "u", Password: "p", Peer: "192.0.2.1:1", Listener: "l"}
	s.says(`{"result":"allow"}`)
	ask(base, true, nil)
	s.says(`{"result":"deny"}`)
	ask(base, false, nil)
	same := base
	same.Peer = "192.0.2.1:2" // another port
	ask(same, false, nil)
	for _, change := range map[string]func(*Claim){
		"client": func(c *Claim) { c.ClientID = "d" }, "user": func(c *Claim) { c.Username = "v" }, "password": func(c *Claim) { c.Password = "q" },
		"peer": func(c *Claim) { c.Peer = "192.0.2.2:1" }, "listener": func(c *Claim) { c.Listener = "m" }, "certificate": func(c *Claim) { c.Certificate.Name = "n" },
		"shifted": func(c *Claim) { c.Username, c.Password = "up", "" },
	} {
		other := base
		change(&other)
		ask(other, true, ErrRefused)
		ask(other, false, ErrRefused)
	}
	now = now.Add(5 * time.Second)
	other := base
	other.Password = "q"
	s.says(`{"result":"ignore"}`)
	ask(other, true, ErrNotMine)
	ask(other, false, ErrNotMine)
	now = now.Add(55 * time.Second)
	ask(base, true, ErrNotMine)
	now = now.Add(time.Minute)
	s.says(fmt.Sprintf(`{"result":"allow","expire_at":%d}`, now.Unix()+10))
	ask(base, true, nil)
	now = now.Add(9 * time.Second)
	ask(base, false, nil)
	now = now.Add(time.Second) // not beyond the answer's own end
	ask(base, true, ErrRefused)
	now = now.Add(time.Hour)
	down := errors.New("down")
	s.fail.Store(&down)
	ask(base, true, down)
	ask(base, true, down)
}

// A hook that is slow costs so many questions and so many that wait; the others are told at once, and all are told in time.
func TestHookBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := service{took: time.Hour}
		s.says(`{"result":"allow"}`)
		l := NewHook(HookOptions{Post: s.post, Timeout: 2 * time.Second, Concurrency: 4, Waiting: 10})
		type end struct {
			err   error
			after time.Duration
		}
		ends := make(chan end, 30)
		began := time.Now()
		for i := range 30 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				_, err := l.Judge(ctx, &Claim{ClientID: fmt.Sprint(i)})
				ends <- end{err, time.Since(began)}
			}()
		}
		busy, late := 0, 0
		for range 30 {
			e := <-ends
			switch {
			case errors.Is(e.err, ErrBusy) && e.after == 0:
				busy++
			case errors.Is(e.err, context.DeadlineExceeded) && !errors.Is(e.err, ErrRefused) && e.after <= 10*time.Second:
				late++
			default:
				t.Errorf("%v after %v", e.err, e.after)
			}
		}
		if busy != 20 || late != 10 || s.most.Load() != 4 {
			t.Errorf("%d busy, %d late, %d questions at once", busy, late, s.most.Load())
		}
		if len(l.asking) != 0 || len(l.waiting) != 0 {
			t.Error("a place was not given back")
		}
	})
}

func FuzzHookAnswer(f *testing.F) {
	for _, s := range []string{`{"result":"allow"}`, `{"result":"deny"}`, `{"result":"ignore","principal":"x"}`, `{"result":"allow","expire_at":1e3}`, `{}`, `null`, strings.Repeat("[", 100)} {
		f.Add([]byte(s))
	}
	l := NewHook(HookOptions{Now: func() time.Time { return noon }})
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := l.read(b, &Claim{ClientID: "c"})
		if err == nil && g.Name == "" || err != nil && g.Name != "" {
			t.Fatalf("%q: %+v %v", b, g, err)
		}
	})
}
