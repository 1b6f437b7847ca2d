package kafkawire

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// SaslHandshake: key 17, versions 0–1. After version 0 the messages of the login come without requests around them, as before
// Kafka 1.0. Old librdkafka wants to see version 0 before it believes in SASL.
func init() {
	registerStart(int16(kmsg.SASLHandshake), 0, 1, "s", startSASLHandshake)
}

func startSASLHandshake(c *conn, r *request) (*reply, error) {
	defer r.release()
	var req kmsg.SASLHandshakeRequest
	req.SetVersion(r.version)
	if err := req.ReadFrom(r.body); err != nil {
		return nil, err
	}
	c.open.Wait()
	resp := kmsg.NewPtrSASLHandshakeResponse()
	g := c.listener.Gate
	switch {
	case g == nil || len(g.Mechanisms) == 0:
		resp.ErrorCode = kerr.IllegalSaslState.Code
		return r.answer(resp), nil
	case c.sasl != nil:
		resp.ErrorCode = kerr.IllegalSaslState.Code
		return r.answer(resp), ended(endedRefused, "a handshake within a login")
	}
	resp.SupportedMechanisms = g.Mechanisms
	if !slices.Contains(g.Mechanisms, req.Mechanism) {
		resp.ErrorCode = kerr.UnsupportedSaslMechanism.Code
		return r.answer(resp), ended(endedRefused, "the mechanism %.40q is not taken here", req.Mechanism)
	}
	c.sasl = &sasl{c: c, mechanism: req.Mechanism, bare: r.version == 0}
	return r.answer(resp), nil
}
