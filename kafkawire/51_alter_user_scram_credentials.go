package kafkawire

import (
	"cmp"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/identity/scram"
)

// AlterUserScramCredentials: key 51, version 0. Answered when the change is durable; a credential that is changed or taken away ends the
// connections that it has let in. A name that stands in the password file is changed there.
func init() {
	register(0, 0, "[ s i8 ] [ s i8 i32 b b ]", alterUserSCRAMCredentials)
}

func alterUserSCRAMCredentials(c *conn, req *kmsg.AlterUserSCRAMCredentialsRequest) kmsg.Response {
	resp := kmsg.NewPtrAlterUserSCRAMCredentialsResponse()
	wanted := map[string][]change{}
	wrong := map[string]*refusal{}
	var names []string
	note := func(name string, ch change, refusal *refusal) {
		if _, there := wanted[name]; !there && wrong[name] == nil {
			names = append(names, name)
		}
		if _, again := wanted[name]; again { // of another mechanism too: Kafka's rule
			refusal = refuse(kerr.DuplicateResource, "the user stands in the request more than once")
		}
		if wanted[name] = append(wanted[name], ch); refusal != nil && wrong[name] == nil {
			wrong[name] = refusal
		}
	}
	for _, d := range req.Deletions {
		m, refusal := mechanismOf(d.Mechanism)
		if refusal == nil && !c.s.credentials.has(credential{Name: d.Name, Mechanism: m}) {
			refusal = refuse(kerr.ResourceNotFound, noCredential)
		}
		note(d.Name, change{of: credential{Name: d.Name, Mechanism: m}}, refusal)
	}
	for _, u := range req.Upsertions {
		m, refusal := mechanismOf(u.Mechanism)
		ch := change{of: credential{Name: u.Name, Mechanism: m}}
		if refusal == nil {
			var err error
			if ch.v, err = scram.FromSalted(m, u.Salt, int(u.Iterations), u.SaltedPassword); err != nil {
				refusal = refuse(kerr.UnacceptableCredential, err.Error())
			} else {
				refusal = c.s.credentials.settable(u.Name)
			}
		}
		note(u.Name, ch, refusal)
	}
	barred, changed := c.mayAdminister(kmsg.ACLOperationAlter, credentialsNeedPolicy), 0
	for _, name := range names {
		r := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		r.User = name
		refusal := cmp.Or(barred, wrong[name])
		if refusal == nil {
			refusal = c.s.credentials.set(c.ctx, c.account(), wanted[name])
		}
		if refusal.set(&r.ErrorCode, &r.ErrorMessage); refusal == nil {
			changed++
			c.s.Logger.Info("kafka: SCRAM credentials changed", "name", name, "by", c.account())
		}
		resp.Results = append(resp.Results, r)
	}
	if changed > 0 {
		c.s.recheckBut(c)
		time.AfterFunc(failureDelay, c.recheck) // who changed their own hear the answer first
	}
	return resp
}

func mechanismOf(number int8) (scram.Mechanism, *refusal) {
	for m, n := range mechanismNumbers {
		if n == number {
			return m, nil
		}
	}
	return "", refuse(kerr.UnsupportedSaslMechanism, "the mechanism is SCRAM-SHA-256 (1) or SCRAM-SHA-512 (2)")
}
