package kafkawire

import "github.com/twmb/franz-go/pkg/kmsg"

// ApiVersions: key 18, versions 0–4.
//
// The table, as a client sees it. A version we do not know is answered in version 0 with UNSUPPORTED_VERSION and what we do
// know of ApiVersions (KIP-511). Features are final at the highest level there is: group.version 1 is the consumer protocol,
// transaction.version 2 that transactions give their producers new epochs (KIP-890).
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
	if r.version >= 3 {
		advertiseFeatures(r.version, resp)
	}
	return r.answer(resp), nil
}

// features are what Kafka's clients look for besides versions, with the level that is served.
var features = []struct {
	name  string
	level int16
}{
	{"group.version", 1},
	{"transaction.version", 2},
}

func advertiseFeatures(version int16, resp *kmsg.ApiVersionsResponse) {
	resp.FinalizedFeaturesEpoch = 1
	for _, f := range features {
		supported := kmsg.NewApiVersionsResponseSupportedFeature()
		supported.Name, supported.MaxVersion = f.name, f.level
		if version < 4 { // whose readers cannot take a level 0
			supported.MinVersion = 1
		}
		resp.SupportedFeatures = append(resp.SupportedFeatures, supported)
		final := kmsg.NewApiVersionsResponseFinalizedFeature()
		final.Name, final.MinVersionLevel, final.MaxVersionLevel = f.name, f.level, f.level
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, final)
	}
}

func advertise(a *api) kmsg.ApiVersionsResponseApiKey {
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.advertisedMin, a.max
	return k
}
