package kafkawire

import "github.com/twmb/franz-go/pkg/kmsg"

// ApiVersions: key 18, versions 0–4.
//
// The table, as a client sees it. A version we do not know is answered in version 0 with UNSUPPORTED_VERSION and what we do
// know of ApiVersions (KIP-511). No features: transaction.version above all, because there are no transactions.
func init() {
	registerStart(int16(kmsg.ApiVersions), 0, 4, "s:3+ s:3+", startAPIVersions)
}

const unsupportedVersion = 35

func startAPIVersions(c *conn, r *request) (*reply, error) {
	defer r.release()
	resp := kmsg.NewPtrApiVersionsResponse()
	if r.version < r.api.min || r.version > r.api.max {
		r.version, resp.ErrorCode = 0, unsupportedVersion
		resp.ApiKeys = append(resp.ApiKeys, advertise(r.api))
		return r.answer(resp), nil
	}
	for _, a := range apis() {
		resp.ApiKeys = append(resp.ApiKeys, advertise(a))
	}
	return r.answer(resp), nil
}

func advertise(a *api) kmsg.ApiVersionsResponseApiKey {
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.advertisedMin, a.max
	return k
}
