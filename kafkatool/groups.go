package kafkatool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Group is one of a list.
type Group struct {
	Name        string `json:"name"`
	State       string `json:"state"`
	Type        string `json:"type"` // classic, consumer, share…; "" of clusters that do not tell
	Protocol    string `json:"protocol"`
	Coordinator int32  `json:"coordinator"`
}

// GroupDetail is a group as it is described: who is in it, and how far it lags.
type GroupDetail struct {
	Name        string   `json:"name"`
	State       string   `json:"state"`
	Type        string   `json:"type"` // classic, or consumer
	Assignor    string   `json:"assignor,omitempty"`
	Coordinator int32    `json:"coordinator"`
	Members     []Member `json:"members"`
	Lags        []Lag    `json:"partitions"`
	Lag         int64    `json:"lag"`         // of all partitions
	Seconds     *float64 `json:"lag_seconds"` // of the one that is furthest behind; nil: nothing is known
}

// Member is one of a group.
type Member struct {
	ID         string  `json:"id"`
	Instance   *string `json:"instance,omitempty"`
	Client     string  `json:"client"`
	Host       string  `json:"host"`
	Protocol   string  `json:"protocol"`   // classic or consumer: a group on its way from one to the other has members of both
	Partitions int     `json:"partitions"` // it has so many
}

// Lag is how far a group is behind in a partition.
type Lag struct {
	Topic     string   `json:"topic"`
	Partition int32    `json:"partition"`
	Committed *int64   `json:"committed"` // nil: nothing is committed
	Start     int64    `json:"start"`
	End       int64    `json:"end"`
	Records   int64    `json:"lag"`
	Seconds   *float64 `json:"lag_seconds"` // how old the first record is that is not committed; 0 without lag; nil: not known
	Lost      int64    `json:"lost"`        // offsets that were deleted before they were committed
	Member    string   `json:"member,omitempty"`
	Error     string   `json:"error,omitempty"`
}

// Groups lists the groups.
func (c *Cluster) Groups(ctx context.Context) ([]Group, error) {
	list := []Group{}
	var failed error
	for _, shard := range c.cl.RequestSharded(ctx, kmsg.NewPtrListGroupsRequest()) {
		if shard.Err != nil {
			failed = cmp.Or(failed, shard.Err)
			continue
		}
		resp := shard.Resp.(*kmsg.ListGroupsResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			failed = cmp.Or(failed, err)
		}
		for _, g := range resp.Groups {
			list = append(list, Group{g.Group, g.GroupState, g.GroupType, g.ProtocolType, shard.Meta.NodeID})
		}
	}
	if failed != nil {
		return nil, fmt.Errorf("ask for the groups: %w", tidy(failed))
	}
	slices.SortFunc(list, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// membership is what a group says of itself, whichever protocol it uses.
type membership struct {
	GroupDetail
	owns map[string]map[int32]string // topic, partition: member
}

// members asks a group's coordinator who is in it.
func (c *Cluster) members(ctx context.Context, group string) (*membership, error) {
	m := &membership{GroupDetail: GroupDetail{Name: group, Members: []Member{}, Lags: []Lag{}}, owns: map[string]map[int32]string{}}
	add := func(one Member, s kadm.TopicsSet) {
		for topic, ps := range s {
			if m.owns[topic] == nil {
				m.owns[topic] = map[int32]string{}
			}
			for p := range ps {
				m.owns[topic][p] = one.ID
			}
			one.Partitions += len(ps)
		}
		m.Members = append(m.Members, one)
	}
	all, err := c.adm.DescribeGroups(ctx, group)
	g, there := all[group]
	if err == nil && there && g.Err == nil && g.State != dead {
		m.State, m.Type, m.Assignor, m.Coordinator = g.State, "classic", g.Protocol, g.Coordinator.NodeID
		for _, one := range g.Members {
			of := kadm.DescribedGroup{Members: []kadm.DescribedGroupMember{one}}
			add(Member{ID: one.MemberID, Instance: one.InstanceID, Client: one.ClientID, Host: one.ClientHost, Protocol: "classic"}, of.AssignedPartitions())
		}
		return m, nil
	}
	if err == nil && there {
		err = g.Err
	}
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("describe group %q: %w", group, tidy(err))
	}
	// It may be of the new protocol, if the cluster has that.
	newer, err := c.adm.DescribeConsumerGroups(ctx, group)
	n, there := newer[group]
	if err != nil || !there || n.Err != nil || n.State == dead {
		return nil, fmt.Errorf("%w: %q", ErrNoGroup, group)
	}
	m.State, m.Type, m.Assignor, m.Coordinator = n.State, "consumer", n.AssignorName, n.Coordinator.NodeID
	for _, one := range n.Members {
		of := kadm.DescribedConsumerGroup{Members: []kadm.ConsumerGroupMember{one}}
		protocol := "consumer"
		if one.MemberType == 0 {
			protocol = "classic"
		}
		add(Member{ID: one.MemberID, Instance: one.InstanceID, Client: one.ClientID, Host: one.ClientHost, Protocol: protocol}, of.AssignedPartitions())
	}
	return m, nil
}

// DeleteGroup deletes a group with all its offsets. Whoever comes next begins anew.
func (c *Cluster) DeleteGroup(ctx context.Context, group string) error {
	m, err := c.members(ctx, group)
	if err != nil {
		return err
	}
	if len(m.Members) == 0 {
		if r, err := c.adm.DeleteGroup(ctx, group); err != nil {
			return fmt.Errorf("delete group %q: %w", group, tidy(err))
		} else if r.Err == nil {
			return nil
		} else if !errors.Is(r.Err, kerr.NonEmptyGroup) {
			return fmt.Errorf("delete group %q: %w", group, r.Err)
		}
	}
	return fmt.Errorf("%w: %q is %s and has %s: stop them, and try again", ErrActive, group, Clean(m.State), several(len(m.Members), "member"))
}

// several is a number of things.
func several(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprint(n, " ", thing)
}

// States of a group.
const (
	dead  = "Dead"
	empty = "Empty"
)

// committed are a group's offsets.
func (c *Cluster) committed(ctx context.Context, group string) (map[string]map[int32]int64, error) {
	all, err := c.adm.FetchOffsets(ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("ask for the offsets of group %q: %w", group, tidy(err))
	}
	at := map[string]map[int32]int64{}
	for _, o := range all.Sorted() {
		if o.Err != nil {
			return nil, fmt.Errorf("ask for the offset of group %q in %q [%d]: %w", group, o.Topic, o.Partition, o.Err)
		}
		if o.At < 0 {
			continue
		}
		if at[o.Topic] == nil {
			at[o.Topic] = map[int32]int64{}
		}
		at[o.Topic][o.Partition] = o.At
	}
	return at, nil
}

// DescribeGroup tells who is in a group, and how far behind it is at the time now.
func (c *Cluster) DescribeGroup(ctx context.Context, group string, now time.Time) (*GroupDetail, error) {
	m, err := c.members(ctx, group)
	if err != nil {
		return nil, err
	}
	at, err := c.committed(ctx, group)
	if err != nil {
		return nil, err
	}
	topics := map[string]bool{}
	for t := range at {
		topics[t] = true
	}
	for t := range m.owns {
		topics[t] = true
	}
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		m.Lags = append(m.Lags, c.lags(ctx, topic, at[topic], m.owns[topic], now)...)
	}
	behind := false
	for _, l := range m.Lags {
		m.Lag += l.Records
		behind = behind || l.Seconds == nil
		if l.Seconds != nil && (m.Seconds == nil || *l.Seconds > *m.Seconds) {
			m.Seconds = l.Seconds
		}
	}
	if behind && m.Seconds != nil && *m.Seconds == 0 {
		m.Seconds = nil // the one that lags is the one of which it is not known
	}
	return &m.GroupDetail, nil
}

// lags are those of the partitions of a topic of which a group has an offset or a member.
func (c *Cluster) lags(ctx context.Context, topic string, at map[int32]int64, owner map[int32]string, now time.Time) []Lag {
	var list []Lag
	parts := map[int32]bool{}
	for p := range at {
		parts[p] = true
	}
	for p := range owner {
		parts[p] = true
	}
	d, err := c.topic(ctx, topic)
	var spans map[int32]span
	if err == nil {
		var all map[string]map[int32]span
		all, err = c.spans(ctx, false, topic)
		spans = all[topic]
	}
	var late []*cursor
	for _, p := range slices.Sorted(maps.Keys(parts)) {
		l := Lag{Topic: topic, Partition: p, Member: owner[p]}
		if o, ok := at[p]; ok {
			l.Committed = &o
		}
		s, known := spans[p]
		switch {
		case err != nil:
			l.Error = err.Error()
		case !known:
			l.Error = "there is no such partition"
		default:
			l.fill(s)
			if l.Records > 0 {
				late = append(late, &cursor{topic: topic, id: d.ID, partition: p, next: l.End - l.Records})
			}
		}
		list = append(list, l)
	}
	first := c.firstTimes(ctx, d, late)
	for i := range list {
		if ms, ok := first[list[i].Partition]; ok {
			s := max(0, float64(millis(now)-ms)/1000)
			list[i].Seconds = &s
		}
	}
	return list
}

// fill computes what an offset means in a partition.
func (l *Lag) fill(s span) {
	l.Start, l.End = s.start, s.end
	from := s.start
	if l.Committed != nil {
		from = min(max(s.start, *l.Committed), s.end)
		l.Lost = max(0, s.start-*l.Committed)
		if *l.Committed > s.end {
			l.Error = "it is committed beyond the end: the topic was made again, or records are lost"
		}
	}
	l.Records = s.end - from
	if l.Records == 0 {
		l.Seconds = new(float64)
	}
}

// firstTimes are the times of the first records at cursors of a topic. What cannot be read is not there.
func (c *Cluster) firstTimes(ctx context.Context, d kadm.TopicDetail, cursors []*cursor) map[int32]int64 {
	found := map[int32]int64{}
	led := map[int32][]*cursor{}
	for _, cu := range cursors {
		if p, ok := d.Partitions[cu.partition]; ok && p.Leader >= 0 {
			led[p.Leader] = append(led[p.Leader], cu)
		}
	}
	// A broker answers with a batch of its first partition in any case, so each answer settles at least one.
	h := how{bytes: partitionBytes, partBytes: 1, uncommitted: true, control: true}
	for leader, rest := range led {
		for tries := 0; len(rest) > 0 && tries <= len(cursors); tries++ {
			answer, err := c.fetch(ctx, leader, rest, h)
			if err != nil {
				break
			}
			var more []*cursor
			for _, cu := range rest {
				g := cu.take(answer, h)
				if len(g.records) > 0 && g.records[0].Attrs.TimestampType() != untimed {
					found[cu.partition] = g.records[0].Timestamp.UnixMilli()
				} else if g.err == nil {
					cu.next = g.next
					more = append(more, cu)
				}
			}
			rest = more
		}
	}
	return found
}
