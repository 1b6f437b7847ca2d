package group

import "github.com/twmb/franz-go/pkg/kmsg"

// Describe is the group's part of a DescribeGroups response.
func (g *Group) Describe() kmsg.DescribeGroupsResponseGroup {
	rg := kmsg.NewDescribeGroupsResponseGroup()
	rg.Group, rg.State, rg.ProtocolType = g.name, g.state.String(), g.protocolType
	if g.state == Stable && g.protocol != nil {
		rg.Protocol = *g.protocol
	}
	g.each(func(m *member) {
		rm := kmsg.NewDescribeGroupsResponseGroupMember()
		rm.MemberID, rm.InstanceID, rm.ClientID, rm.ClientHost = m.id, m.instance, m.clientID, m.host
		if g.state == Stable {
			rm.ProtocolMetadata, rm.MemberAssignment = m.metadata(rg.Protocol), m.assignment
		}
		rg.Members = append(rg.Members, rm)
	})
	return rg
}
