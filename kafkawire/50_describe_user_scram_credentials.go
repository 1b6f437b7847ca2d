package kafkawire

import (
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/identity/scram"
)

// DescribeUserScramCredentials: key 50, version 0. Mechanisms and iterations of the credentials that clients have set; those of the
// password file are told by `millrace passwd --list`.
func init() {
	register(0, 0, "[ s ]", describeUserSCRAMCredentials)
}

const credentialsNeedPolicy = "without a policy nobody can be told to administer credentials: write one with {who: …, allow: manage, cluster: true}"

// mechanismNumbers are the protocol's.
var mechanismNumbers = map[scram.Mechanism]int8{scram.SHA256: 1, scram.SHA512: 2}

func describeUserSCRAMCredentials(c *conn, req *kmsg.DescribeUserSCRAMCredentialsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeUserSCRAMCredentialsResponse()
	if refusal := c.mayAdminister(kmsg.ACLOperationDescribe, credentialsNeedPolicy); refusal != nil {
		refusal.set(&resp.ErrorCode, &resp.ErrorMessage)
		return resp
	}
	have := c.s.credentials.list()
	times := map[string]int{}
	var names []string
	for _, u := range req.Users {
		if times[u.Name]++; times[u.Name] == 1 {
			names = append(names, u.Name)
		}
	}
	if len(req.Users) == 0 {
		names = slices.Sorted(maps.Keys(have))
	}
	for _, name := range names {
		r := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
		r.User = name
		switch {
		case times[name] > 1:
			refuse(kerr.DuplicateResource, fmt.Sprintf("%q stands in the request more than once", name)).set(&r.ErrorCode, &r.ErrorMessage)
		case len(have[name]) == 0:
			refuse(kerr.ResourceNotFound, fmt.Sprintf("%q has no credential that a client has set", name)).set(&r.ErrorCode, &r.ErrorMessage)
		}
		for _, v := range have[name] {
			if r.ErrorCode == 0 {
				i := kmsg.NewDescribeUserSCRAMCredentialsResponseResultCredentialInfo()
				i.Mechanism, i.Iterations = mechanismNumbers[v.Mechanism], int32(v.Iterations)
				r.CredentialInfos = append(r.CredentialInfos, i)
			}
		}
		resp.Results = append(resp.Results, r)
	}
	return resp
}
