package registry

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/identity"
)

// byTable knows some names with their passwords, and tokens.
type byTable map[string]string

func (b byTable) Judge(_ context.Context, c *identity.Claim) (identity.Grant, error) {
	switch {
	case c.Password == "":
		return identity.Grant{}, identity.ErrNotMine
	case c.Username != "" && b[c.Username] == c.Password:
		return identity.Grant{Name: c.Username}, nil
	case c.Username == "" && strings.HasPrefix(c.Password, "token-"):
		return identity.Grant{Name: strings.TrimPrefix(c.Password, "token-")}, nil
	}
	return identity.Grant{}, identity.ErrRefused
}

const (
	anna = "Basic YW5uYTpzZWNyZXQ="     // anna:secret
	bert = "Basic YmVydDpzZWNyZXQ="     // bert:secret
	evil = "Basic YW5uYTp3cm9uZw=="     // anna:wrong
	carl = "Bearer token-carl"          // a token
	none = "Basic bm9ib2R5OnNlY3JldA==" // somebody unknown
)

func TestLogins(t *testing.T) {
	w := serve(t, open(t, newLog(t)), func(o *ServerOptions, d *Door) {
		d.Chain.Add(identity.LinkPassword, byTable{"anna": "secret", "bert": "secret"})
		o.Allowed = func(account string, to Right, subject string) bool {
			switch account {
			case "anna":
				return true
			case "bert":
				return to == Read && strings.HasPrefix(subject, "public-")
			}
			return false
		}
	})
	w.want("GET", "/subjects", nil, 401, `{"error_code":40101,…`)
	w.want("GET", "/subjects", nil, 401, `{"error_code":40101,…`, "Authorization", none)
	for _, s := range []string{"public-a", "private-a"} {
		w.want("POST", "/subjects/"+s+"/versions", of(`{"type":"fixed","name":"f`+s[:3]+`","size":1}`), 200, `{"id":…`, "Authorization", anna)
	}
	w.want("GET", "/subjects", nil, 200, `["private-a","public-a"]`, "Authorization", anna)
	w.want("GET", "/subjects", nil, 200, `["public-a"]`, "Authorization", bert)
	w.want("GET", "/subjects", nil, 200, `[]`, "Authorization", carl)
	denied := `{"error_code":40301,"message":"User is denied operation …`
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		want         string
	}{
		{"GET", "/subjects/public-a/versions", nil, 200, `[1]`},
		{"GET", "/subjects/private-a/versions", nil, 403, denied},
		{"GET", "/subjects/private-a/versions/1", nil, 403, denied},
		{"GET", "/subjects/private-a/versions/1/schema", nil, 403, denied},
		{"GET", "/subjects/private-a/versions/1/referencedby", nil, 403, denied},
		{"GET", "/schemas/ids/1", nil, 200, `{"schema":…`},
		{"GET", "/schemas/ids/2", nil, 404, `{"error_code":40403,…`}, // whether there is one is no business of theirs either
		{"GET", "/schemas/ids/2/schema", nil, 404, `{"error_code":40403,…`},
		{"GET", "/schemas/ids/2/subjects", nil, 404, `{"error_code":40403,…`},
		{"GET", "/schemas/ids/2/versions", nil, 404, `{"error_code":40403,…`},
		{"GET", "/schemas", nil, 200, `[{"subject":"public-a",…`},
		{"POST", "/subjects/private-a", of(intSchema), 403, denied},
		{"POST", "/subjects/public-a/versions", of(intSchema), 403, denied},
		{"POST", "/compatibility/subjects/private-a/versions/latest", of(intSchema), 403, denied},
		{"POST", "/compatibility/subjects/public-a/versions/latest", of(intSchema, "references", []Reference{{"x", "private-a", 1}}), 403, denied},
		{"DELETE", "/subjects/public-a", nil, 403, denied},
		{"DELETE", "/subjects/public-a/versions/1", nil, 403, denied},
		{"GET", "/config", nil, 200, `{"compatibilityLevel":"BACKWARD"}`},
		{"PUT", "/config", `{"compatibility":"NONE"}`, 403, denied},
		{"PUT", "/config/public-a", `{"compatibility":"NONE"}`, 403, denied},
		{"DELETE", "/config/public-a", nil, 403, denied},
		{"GET", "/config/private-a", nil, 403, denied},
		{"GET", "/mode/private-a", nil, 403, denied},
		{"PUT", "/mode", `{"mode":"READONLY"}`, 403, denied},
		{"PUT", "/mode/public-a", `{"mode":"READONLY"}`, 403, denied},
		{"DELETE", "/mode/public-a", nil, 403, denied},
	} {
		w.want(c.method, c.path, c.body, c.status, c.want, "Authorization", bert)
	}
	for range maxGuesses {
		w.ask("GET", "/subjects", nil, "Authorization", evil)
	}
	w.want("GET", "/subjects", nil, 429, `{"error_code":429,…`, "Authorization", anna) // from there, nobody tries on
}

// A page in a browser, which has nothing to show, gets nothing.
func TestPagesOfOthers(t *testing.T) {
	w := serve(t, open(t, newLog(t)), func(o *ServerOptions, d *Door) {
		o.Hosts = []string{"registry.example"}
		d.Chain.Add(identity.LinkPassword, byTable{"anna": "secret"})
		d.Chain.Add(identity.LinkAnonymous, identity.ByNothing{})
	})
	w.want("GET", "/subjects", nil, 200, `[]`)
	w.want("GET", "/subjects", nil, 200, `[]`, "Host", "localhost:8081")
	w.want("GET", "/subjects", nil, 200, `[]`, "Host", "Registry.example")
	w.want("GET", "/subjects", nil, 421, `{"error_code":421,…`, "Host", "evil.example")
	w.want("GET", "/subjects", nil, 421, `{"error_code":421,…`, "Origin", "http://evil.example")
	w.want("GET", "/subjects", nil, 421, `{"error_code":421,…`, "Sec-Fetch-Site", "cross-site")
	w.want("GET", "/subjects", nil, 200, `[]`, "Host", "evil.example", "Authorization", anna)
}

func TestServerBounds(t *testing.T) {
	w := serve(t, open(t, newLog(t)), func(o *ServerOptions, d *Door) {
		o.MaxConnections = 4
		d.Chain.Add(identity.LinkAnonymous, identity.Everybody{})
	})
	w.want("POST", "/subjects/s/versions", of(strings.Repeat("a", maxBody)), 413, `{"error_code":413,…`)
	w.want("POST", "/subjects/s/versions", of(strings.Repeat("[", 1<<20)), 422, `{"error_code":42201,…`)
	w.want("POST", "/subjects/"+strings.Repeat("s", 2000)+"/versions", of(intSchema), 422, `{"error_code":42208,…`)
	http.DefaultClient.CloseIdleConnections()
	address := strings.TrimPrefix(w.url, "http://")
	var open []net.Conn
	for range 10 {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		open = append(open, nc)
	}
	ended := 0
	for _, nc := range open {
		nc.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := nc.Read(make([]byte, 1)); err != nil && !isTimeout(err) {
			ended++
		}
	}
	if ended < 8 {
		t.Errorf("%d of 10 connections of one address were closed, where 2 are possible", ended)
	}
}

func isTimeout(err error) bool {
	t, ok := err.(net.Error)
	return ok && t.Timeout()
}
