package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// SaslAuthenticate: key 36, versions 0–2. From 1 on clients are told when the session ends, and authenticate again before it does
// (KIP-368), as who they were. Who is refused is told that and nothing else, after a moment, and the connection ends. Where nobody
// could judge, it ends without an answer, and clients come again.
func init() {
	registerStart(int16(kmsg.SASLAuthenticate), 0, 2, "b", startSASLAuthenticate)
}

func startSASLAuthenticate(c *conn, r *request) (*reply, error) {
	defer r.release()
	var req kmsg.SASLAuthenticateRequest
	req.SetVersion(r.version)
	if err := req.ReadFrom(r.body); err != nil {
		return nil, err
	}
	c.open.Wait()
	resp := kmsg.NewPtrSASLAuthenticateResponse()
	if c.sasl == nil || c.sasl.bare {
		refuse(kerr.IllegalSaslState, "SaslHandshake comes first").set(&resp.ErrorCode, &resp.ErrorMessage)
		return r.answer(resp), ended(endedRefused, "SaslAuthenticate without SaslHandshake")
	}
	delay := false
	end := c.login(req.SASLAuthBytes, func(answer []byte, refused bool) {
		if resp.SASLAuthBytes = answer; answer == nil {
			resp.SASLAuthBytes = []byte{}
		}
		if delay = refused; refused {
			refuse(kerr.SaslAuthenticationFailed, "authentication failed: unknown name, or wrong password or token").set(&resp.ErrorCode, &resp.ErrorMessage)
			return
		}
		if c.sasl == nil {
			resp.SessionLifetimeMillis = c.lifetime()
		}
	})
	if end != nil && end != errRefused {
		return nil, end
	}
	if delay {
		return c.later(r.answer(resp)), end
	}
	return r.answer(resp), end
}
