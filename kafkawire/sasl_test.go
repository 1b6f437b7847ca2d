package kafkawire

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	fsasl "github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	fscram "github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/identity/scram"
)

// users is who a test lets in: a gate, and a password file for SCRAM.
type users struct {
	mu        sync.Mutex
	passwords map[string]string
	tokens    map[string]string // whose
	verifiers map[string]map[scram.Mechanism]*scram.Verifier
	until     time.Time // of every grant
	fault     error     // of every judgement
	judged    int
	held      atomic.Bool // grants hold no more
}

func newUsers(t *testing.T) *users {
	u := &users{passwords: map[string]string{"anna": "correct horse", "bert": "battery staple"}, tokens: map[string]string{"token-of-anna": "anna"},
		verifiers: map[string]map[scram.Mechanism]*scram.Verifier{"anna": {}}}
	for _, m := range scram.Mechanisms {
		v, err := scram.New(nil, m, "correct horse")
		if err != nil {
			t.Fatal(err)
		}
		u.verifiers["anna"][m] = v
	}
	return u
}

func (u *users) grant(name string) identity.Grant {
	return identity.Grant{Name: name, Until: u.until, Holds: func() bool { return !u.held.Load() }}
}

func (u *users) judge(_ context.Context, c *identity.Claim, _ *tls.ConnectionState) (identity.Grant, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.judged++
	switch name := u.tokens[c.Password]; {
	case u.fault != nil:
		return identity.Grant{}, u.fault
	case name != "":
		return u.grant(name), nil
	case u.passwords[c.Username] == c.Password:
		return u.grant(c.Username), nil
	}
	return identity.Grant{}, identity.ErrRefused
}

func (u *users) verifier(m scram.Mechanism, name string) (*scram.Verifier, identity.Grant, bool) {
	v := u.verifiers[name][m]
	return v, u.grant(name), u.verifiers[name] != nil
}

func (u *users) gate() *Gate {
	return &Gate{Mechanisms: mechanisms[:], Judge: u.judge, Connected: func(context.Context, *tls.ConnectionState, string) (identity.Grant, error) {
		return identity.Grant{}, identity.ErrNotMine
	}}
}

// serveWith has the node answer at another address, and moves the node's there.
func (n *node) serveWith(o ListenerOptions) {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.addr = l.Addr().String()
	go n.srv.ServeWith(l, o)
}

func secured(t *testing.T, o Options) (*node, *users) {
	u := newUsers(t)
	o.Verifier = u.verifier
	n := start(t, o)
	n.serveWith(ListenerOptions{Gate: u.gate()})
	return n, u
}

func TestSASLWithFranz(t *testing.T) {
	n, _ := secured(t, Options{AutoCreate: true})
	for name, by := range map[string][2]fsasl.Mechanism{
		"PLAIN":         {plain.Auth{User: "anna", Pass: "correct horse"}.AsMechanism(), plain.Auth{User: "anna", Pass: "wrong"}.AsMechanism()},
		"SCRAM-SHA-256": {fscram.Auth{User: "anna", Pass: "correct horse"}.AsSha256Mechanism(), fscram.Auth{User: "anna", Pass: "wrong"}.AsSha256Mechanism()},
		"SCRAM-SHA-512": {fscram.Auth{User: "anna", Pass: "correct horse"}.AsSha512Mechanism(), fscram.Auth{User: "nobody", Pass: "correct horse"}.AsSha512Mechanism()},
		"OAUTHBEARER":   {oauth.Auth{Token: "token-of-anna"}.AsMechanism(), oauth.Auth{Token: "another"}.AsMechanism()},
	} {
		t.Run(name, func(t *testing.T) {
			topic := "t-" + name
			cl := n.franz(kgo.SASL(by[0]), kgo.ConsumeTopics(topic), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic(topic))
			if err := cl.ProduceSync(patience(t), kgo.StringRecord("hello")).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if rs := consume(t, cl, 1); string(rs[0].Value) != "hello" {
				t.Errorf("%+v", rs[0])
			}
			bad := n.franz(kgo.SASL(by[1]))
			if err := bad.Ping(patience(t)); err == nil {
				t.Error("somebody who is nobody came in")
			}
			got := n.srv.Stats().Logins[name]
			if got["accepted"] == 0 || got["refused"] == 0 {
				t.Errorf("counted: %v", got)
			}
		})
	}
}

// login makes one login by PLAIN and says how it was answered.
func (c *client) login(version int16, name, password string) (*kmsg.SASLAuthenticateResponse, error) {
	hs := kmsg.NewPtrSASLHandshakeRequest()
	hs.Mechanism = mechanismPlain
	if resp := do[*kmsg.SASLHandshakeResponse](c, 1, hs); resp.ErrorCode != 0 {
		return nil, kerr.ErrorForCode(resp.ErrorCode)
	}
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.SASLAuthBytes = []byte("\x00" + name + "\x00" + password)
	req.SetVersion(version)
	resp, err := c.tryDo(req)
	if err != nil {
		return nil, err
	}
	return resp.(*kmsg.SASLAuthenticateResponse), nil
}

// ended waits for the end of the connection.
func (c *client) ended() {
	c.t.Helper()
	if _, err := c.br.ReadByte(); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		c.t.Errorf("the connection goes on: %v", err)
	}
}

func TestNothingBeforeAuthentication(t *testing.T) {
	n, _ := secured(t, Options{})
	for _, a := range apis() {
		req := kmsg.RequestForKey(a.key)
		req.SetVersion(a.max)
		c := n.dial()
		resp, err := c.tryDo(req)
		if free := before(a.key); free != (err == nil) {
			t.Errorf("%s before authentication: %v %v", a.name, resp, err)
		}
	}
	if got := n.srv.Stats().Ended[endedUnauthenticated]; got < 20 {
		t.Errorf("%d connections counted", got)
	}
	c := n.dial()
	if resp, err := c.login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 || resp.SessionLifetimeMillis != 0 {
		t.Fatalf("%+v %v", resp, err)
	}
	if resp := do[*kmsg.MetadataResponse](c, 12, kmsg.NewPtrMetadataRequest()); resp.ErrorCode != 0 {
		t.Errorf("%+v", resp)
	}
}

// A client cannot tell whether a name exists: neither by PLAIN, nor by SCRAM, nor after a restart.
func TestUnknownNamesLookLikeWrongPasswords(t *testing.T) {
	n, u := secured(t, Options{})
	var seen []string
	for _, name := range []string{"anna", "nobody"} {
		resp, err := n.dial().login(2, name, "wrong")
		if err != nil || resp.ErrorCode != kerr.SaslAuthenticationFailed.Code {
			t.Fatalf("%+v %v", resp, err)
		}
		seen = append(seen, *resp.ErrorMessage)
	}
	if seen[0] != seen[1] {
		t.Errorf("%q", seen)
	}
	challenge := func(name string) (salt, iterations string) {
		c := n.dial()
		hs := kmsg.NewPtrSASLHandshakeRequest()
		hs.Mechanism = string(scram.SHA256)
		do[*kmsg.SASLHandshakeResponse](c, 1, hs)
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SASLAuthBytes = []byte("n,,n=" + name + ",r=abcdefghijkl")
		resp := do[*kmsg.SASLAuthenticateResponse](c, 2, req)
		fields := strings.Split(string(resp.SASLAuthBytes), ",")
		if resp.ErrorCode != 0 || len(fields) != 3 {
			t.Fatalf("%+v", resp)
		}
		return fields[1], fields[2]
	}
	known, ki := challenge("anna")
	unknown, ui := challenge("nobody")
	again, _ := challenge("nobody")
	other, _ := challenge("somebody")
	if len(known) != len(unknown) || ki != ui || unknown != again || unknown == other {
		t.Errorf("known %s %s, unknown %s %s, again %s, another %s", known, ki, unknown, ui, again, other)
	}
	n.restart()
	n.serveWith(ListenerOptions{Gate: u.gate()})
	if after, _ := challenge("nobody"); after != unknown {
		t.Errorf("after a restart: %s, before: %s", after, unknown)
	}
}

func TestReauthentication(t *testing.T) {
	t.Parallel()
	n, u := secured(t, Options{})
	gate := u.gate()
	gate.Session = 1500 * time.Millisecond
	n.serveWith(ListenerOptions{Gate: gate})
	c, other, idle := n.dial(), n.dial(), n.dial()
	for _, cl := range []*client{c, other, idle} {
		resp, err := cl.login(2, "anna", "correct horse")
		if err != nil || resp.ErrorCode != 0 || resp.SessionLifetimeMillis <= 0 || resp.SessionLifetimeMillis > 1500 {
			t.Fatalf("%+v %v", resp, err)
		}
		if resp := do[*kmsg.MetadataResponse](cl, 12, kmsg.NewPtrMetadataRequest()); resp.ErrorCode != 0 {
			t.Fatal(resp)
		}
	}
	// Nobody becomes somebody else.
	if resp, err := other.login(1, "bert", "battery staple"); err != nil || resp.ErrorCode != kerr.SaslAuthenticationFailed.Code {
		t.Errorf("another account on the same connection: %+v %v", resp, err)
	}
	other.ended()
	// Who authenticates again goes on, who does not is ended.
	for begin := time.Now(); time.Since(begin) < 3*time.Second; {
		if resp, err := c.login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 {
			t.Fatalf("again: %+v %v", resp, err)
		}
		if resp := do[*kmsg.MetadataResponse](c, 12, kmsg.NewPtrMetadataRequest()); resp.ErrorCode != 0 {
			t.Fatal(resp)
		}
		time.Sleep(200 * time.Millisecond)
	}
	idle.ended()
	if got := n.srv.Stats().Ended[endedExpired]; got != 1 {
		t.Errorf("%d sessions counted that were over", got)
	}
}

// franz-go authenticates again by itself, and nothing is lost over it.
func TestReauthenticationWithFranz(t *testing.T) {
	t.Parallel()
	n, u := secured(t, Options{AutoCreate: true})
	gate := u.gate()
	gate.Session = 1100 * time.Millisecond
	n.serveWith(ListenerOptions{Gate: gate})
	cl := n.franz(kgo.SASL(plain.Auth{User: "anna", Pass: "correct horse"}.AsMechanism()), kgo.DefaultProduceTopic("t"), kgo.AllowAutoTopicCreation())
	for begin := time.Now(); time.Since(begin) < 3*time.Second; {
		if err := cl.ProduceSync(patience(t), kgo.StringRecord("x")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if got := n.srv.Stats().Logins[mechanismPlain]["accepted"]; got < 3 {
		t.Errorf("%d logins", got)
	}
}

// Before Kafka 1.0 the messages of a login stood in no requests.
func TestBareSASL(t *testing.T) {
	n, _ := secured(t, Options{})
	try := func(message string) ([]byte, *client) {
		c := n.dial()
		hs := kmsg.NewPtrSASLHandshakeRequest()
		hs.Mechanism = mechanismPlain
		if resp := do[*kmsg.SASLHandshakeResponse](c, 0, hs); resp.ErrorCode != 0 {
			t.Fatal(resp)
		}
		c.nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...))
		var size [4]byte
		if _, err := io.ReadFull(c.br, size[:]); err != nil {
			return nil, c
		}
		answer := make([]byte, binary.BigEndian.Uint32(size[:]))
		io.ReadFull(c.br, answer)
		return answer, c
	}
	answer, c := try("\x00anna\x00correct horse")
	if answer == nil || len(answer) != 0 {
		t.Fatalf("answered %q", answer)
	}
	if resp := do[*kmsg.MetadataResponse](c, 8, kmsg.NewPtrMetadataRequest()); len(resp.Brokers) != 1 {
		t.Errorf("%+v", resp)
	}
	if answer, _ := try("\x00anna\x00wrong"); answer != nil {
		t.Errorf("a wrong password was answered %q", answer)
	}
}

func TestWrongSASL(t *testing.T) {
	n, u := secured(t, Options{})
	auth := kmsg.NewPtrSASLAuthenticateRequest()
	auth.SASLAuthBytes = []byte("\x00anna\x00correct horse")
	c := n.dial()
	if resp := do[*kmsg.SASLAuthenticateResponse](c, 2, auth); resp.ErrorCode != kerr.IllegalSaslState.Code {
		t.Errorf("without a handshake: %+v", resp)
	}
	c.ended()
	c = n.dial()
	hs := kmsg.NewPtrSASLHandshakeRequest()
	hs.Mechanism = "GSSAPI"
	if resp := do[*kmsg.SASLHandshakeResponse](c, 1, hs); resp.ErrorCode != kerr.UnsupportedSaslMechanism.Code || !slices.Equal(resp.SupportedMechanisms, mechanisms[:]) {
		t.Errorf("a mechanism that is not taken: %+v", resp)
	}
	c.ended()
	// Where nobody can judge there is no answer: clients take that for an outage and come again.
	u.mu.Lock()
	u.fault = identity.ErrBusy
	u.mu.Unlock()
	if resp, err := n.dial().login(2, "anna", "correct horse"); err == nil {
		t.Errorf("answered %+v", resp)
	}
	if got := n.srv.Stats().Logins[mechanismPlain]["busy"]; got != 1 {
		t.Errorf("%d counted", got)
	}
	// Without a gate there is no SASL.
	open := start(t, Options{}).dial()
	if resp := do[*kmsg.SASLHandshakeResponse](open, 1, hs); resp.ErrorCode != kerr.IllegalSaslState.Code {
		t.Errorf("%+v", resp)
	}
}

// PLAIN has a word for acting as somebody else; nobody does.
func TestPlainActsForNobodyElse(t *testing.T) {
	n, _ := secured(t, Options{})
	for as, code := range map[string]int16{"": 0, "anna": 0, "bert": kerr.SaslAuthenticationFailed.Code} {
		c := n.dial()
		hs := kmsg.NewPtrSASLHandshakeRequest()
		hs.Mechanism = mechanismPlain
		do[*kmsg.SASLHandshakeResponse](c, 1, hs)
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SASLAuthBytes = []byte(as + "\x00anna\x00correct horse")
		if resp := do[*kmsg.SASLAuthenticateResponse](c, 2, req); resp.ErrorCode != code {
			t.Errorf("anna as %q: error %d, want %d", as, resp.ErrorCode, code)
		}
	}
}

func TestRevokedCredential(t *testing.T) {
	n, u := secured(t, Options{})
	c := n.dial()
	if resp, err := c.login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 {
		t.Fatal(resp, err)
	}
	n.srv.Recheck()
	do[*kmsg.MetadataResponse](c, 12, kmsg.NewPtrMetadataRequest())
	u.held.Store(true)
	n.srv.Recheck()
	c.ended()
	if got := n.srv.Stats().Ended[endedRevoked]; got != 1 {
		t.Errorf("%d counted", got)
	}
}

// One address cannot take all the places of those that are nobody yet, and who logs in gives theirs back.
func TestHalfOpen(t *testing.T) {
	n, _ := secured(t, Options{MaxHalfOpenPerIP: 3})
	c := []*client{n.dial(), n.dial(), n.dial()}
	for _, cl := range c {
		do[*kmsg.ApiVersionsResponse](cl, 3, kmsg.NewPtrApiVersionsRequest())
	}
	n.dial().ended()
	if resp, err := c[0].login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 {
		t.Fatal(resp, err)
	}
	do[*kmsg.ApiVersionsResponse](n.dial(), 3, kmsg.NewPtrApiVersionsRequest())
	if s := n.srv.Stats(); s.HalfOpen != 3 || s.Ended[endedHalfOpen] != 1 {
		t.Errorf("%d half open, %d ended", s.HalfOpen, s.Ended[endedHalfOpen])
	}
}

// SCRAM credentials are set by an administrator, survive a restart, and end who they let in when they go.
func TestSCRAMCredentials(t *testing.T) {
	r := &fakeRights{}
	n, u := secured(t, Options{Rights: r})
	r.allow("anna", kmsg.ACLOperationAlter, kmsg.ACLResourceTypeCluster, clusterName)
	r.allow("anna", kmsg.ACLOperationDescribe, kmsg.ACLResourceTypeCluster, clusterName)
	admin := kadm.NewClient(n.franz(kgo.SASL(plain.Auth{User: "anna", Pass: "correct horse"}.AsMechanism())))
	upsert := func(name string) error {
		got, err := admin.AlterUserSCRAMs(patience(t), nil, []kadm.UpsertSCRAM{{User: name, Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "a long password"}})
		if err != nil {
			return err
		}
		return got.Error()
	}
	if err := upsert("etl"); err != nil {
		t.Fatal(err)
	}
	if err := upsert("anna"); !errors.Is(err, kerr.UnacceptableCredential) {
		t.Errorf("a name of the file: %v", err)
	}
	if err := upsert("a/b"); !errors.Is(err, kerr.UnacceptableCredential) {
		t.Errorf("a name that cannot be an account: %v", err)
	}
	n.restart()
	n.serveWith(ListenerOptions{Gate: u.gate()})
	admin = kadm.NewClient(n.franz(kgo.SASL(plain.Auth{User: "anna", Pass: "correct horse"}.AsMechanism())))
	list, err := admin.DescribeUserSCRAMs(patience(t))
	if err != nil || len(list) != 1 || list["etl"].CredInfos[0].Iterations != 4096 {
		t.Fatalf("%+v %v", list, err)
	}
	etl := n.franz(kgo.SASL(fscram.Auth{User: "etl", Pass: "a long password"}.AsSha256Mechanism()))
	if err := etl.Ping(patience(t)); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(n.raw(t, scramTopic), []byte("a long password")) {
		t.Error("the password is on disk")
	}
	gone, err := admin.AlterUserSCRAMs(patience(t), []kadm.DeleteSCRAM{{User: "etl", Mechanism: kadm.ScramSha256}}, nil)
	if err != nil || gone.Error() != nil {
		t.Fatal(gone, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := etl.Ping(ctx); err == nil {
		t.Error("a credential that is gone lets in")
	}
	if got := n.srv.Stats().Ended[endedRevoked]; got == 0 {
		t.Error("the connection of a credential that went goes on")
	}
	// Who may not, may not; and without a policy nobody may.
	bert := kadm.NewClient(n.franz(kgo.SASL(plain.Auth{User: "bert", Pass: "battery staple"}.AsMechanism())))
	if _, err := bert.AlterUserSCRAMs(patience(t), nil, []kadm.UpsertSCRAM{{User: "x", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "a long password"}}); err == nil {
		t.Log("asked") // the answer is per name
	}
	if len(n.srv.credentials.list()) != 0 {
		t.Errorf("%v", n.srv.credentials.list())
	}
}

// raw is all that the log holds of a topic's first partition.
func (n *node) raw(t *testing.T, topic string) (all []byte) {
	t.Helper()
	of, ok := n.eng.TopicByName(topic)
	if !ok {
		t.Fatalf("no topic %s", topic)
	}
	for _, b := range n.stored(of, 0) {
		all = append(all, b...)
	}
	return all
}

func FuzzSASLMessages(f *testing.F) {
	f.Add([]byte("\x00anna\x00correct horse"))
	f.Add([]byte("n,a=anna,\x01auth=Bearer token\x01k=v\x01\x01"))
	f.Add([]byte("n,,\x01auth=Bearer \x01\x01"))
	f.Add([]byte("n,,n=anna,r=abcdefgh"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if name, password, err := parsePlain(b); err == nil && (strings.ContainsRune(name+password, 0) || password == "") {
			t.Errorf("%q: %q %q", b, name, password)
		}
		if _, token, err := parseOAuth(b); err == nil && (token == "" || strings.ContainsRune(token, 1)) {
			t.Errorf("%q: %q", b, token)
		}
	})
}
