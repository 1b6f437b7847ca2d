package kafkawire

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Thousands of ACLs in one request are answered one by one: those for which there is room are made, and filters that name one each take them
// all away.
func TestManyACLsAtOnce(t *testing.T) {
	const most = 6000 // more than fit into one batch
	r := &fakeRights{}
	n, u := securedNode(t, r)
	n.srv.acls.most = most
	r.allow("anna", opAlter, cluster, clusterName)
	r.allow("anna", opDescribe, cluster, clusterName)
	anna := func() *client {
		c := n.dial()
		if resp, err := c.login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 {
			t.Fatal(resp, err)
		}
		return c
	}
	create := kmsg.NewPtrCreateACLsRequest()
	one := kmsg.NewCreateACLsRequestCreation()
	one.ResourceType, one.ResourcePatternType, one.Principal, one.Host = topicKind, kmsg.ACLResourcePatternTypeLiteral, "User:bert", "*"
	one.Operation, one.PermissionType = opRead, kmsg.ACLPermissionTypeAllow
	for i := range most + 2 {
		one.ResourceName = fmt.Sprintf("a-topic-with-a-name-of-its-own-%d", i)
		create.Creations = append(create.Creations, one)
	}
	create.Creations[10] = create.Creations[9]
	create.Creations[20].ResourceName = ""
	c := anna()
	made, over := do[*kmsg.CreateACLsResponse](c, 3, create), 0
	for i, r := range made.Results {
		switch {
		case i == 20 && r.ErrorCode != kerr.InvalidRequest.Code:
			t.Errorf("one without a name: %+v", r)
		case r.ErrorCode == kerr.PolicyViolation.Code:
			over++
		case i != 20 && r.ErrorCode != 0:
			t.Fatalf("%d: %+v", i, r)
		}
	}
	if got := len(n.srv.acls.set.Load().All()); got != most || over != 0 {
		t.Errorf("%d ACLs are there, %d were too many", got, over)
	}
	create.Creations = append(create.Creations[:3:3], one)
	create.Creations[3].ResourceName = "one-more"
	if made = do[*kmsg.CreateACLsResponse](c, 3, create); made.Results[0].ErrorCode != 0 || made.Results[3].ErrorCode != kerr.PolicyViolation.Code {
		t.Errorf("what is there, and one too many: %+v", made.Results)
	}
	n.restart()
	n.serveWith(ListenerOptions{Gate: u.gate()})
	if got := len(n.srv.acls.set.Load().All()); got != most {
		t.Fatalf("%d ACLs are there after a restart", got)
	}
	remove := kmsg.NewPtrDeleteACLsRequest()
	filter := kmsg.NewDeleteACLsRequestFilter()
	filter.ResourceType, filter.ResourcePatternType, filter.Operation, filter.PermissionType = topicKind, kmsg.ACLResourcePatternTypeLiteral, opRead, kmsg.ACLPermissionTypeAllow
	filter.Principal, filter.Host = kmsg.StringPtr("User:bert"), kmsg.StringPtr("*")
	for i := range most {
		filter.ResourceName = kmsg.StringPtr(fmt.Sprintf("a-topic-with-a-name-of-its-own-%d", i))
		remove.Filters = append(remove.Filters, filter)
	}
	c = anna()
	for i, r := range do[*kmsg.DeleteACLsResponse](c, 3, remove).Results {
		if i != 10 && i != 20 && (r.ErrorCode != 0 || len(r.MatchingACLs) != 1) {
			t.Fatalf("%d: %+v", i, r)
		}
	}
	if got := len(n.srv.acls.set.Load().All()); got != 2 {
		t.Errorf("%d ACLs are left, want 2", got)
	}
	// Filters that have to be compared with everything are bounded, one by one.
	filter.ResourceName, filter.Principal = nil, nil
	remove.Filters = nil
	for range maxComparisons + 5 {
		remove.Filters = append(remove.Filters, filter)
	}
	removed := do[*kmsg.DeleteACLsResponse](c, 3, remove)
	if first, last := removed.Results[0], removed.Results[maxComparisons]; len(first.MatchingACLs) != 2 || last.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("%+v, then %+v", first, last)
	}
	if got := len(n.srv.acls.set.Load().All()); got != 0 {
		t.Errorf("%d ACLs are left", got)
	}
}
