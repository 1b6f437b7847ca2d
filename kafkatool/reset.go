package kafkatool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Reset says where a group is to go on.
type Reset struct {
	Group  string
	Topics []string // NAME, or NAME:0,2 for some partitions; none: all in which the group has an offset
	To     Place
}

// Move is what a reset does in a partition.
type Move struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Old       *int64 `json:"old"` // nil: nothing was committed
	New       int64  `json:"new"`
	Note      string `json:"note,omitempty"`
}

// Plan says what a reset would do, and does nothing. A group that is not there yet can be put somewhere, in topics that are named.
func (c *Cluster) Plan(ctx context.Context, r Reset) ([]Move, error) {
	m, err := c.members(ctx, r.Group)
	switch {
	case errors.Is(err, ErrNoGroup) && len(r.Topics) > 0:
	case err != nil:
		return nil, err
	case m.State != empty:
		return nil, fmt.Errorf("%w: %q is %s and has %s, who would commit over it: stop them, and try again", ErrActive, r.Group, Clean(m.State), several(len(m.Members), "member"))
	}
	at, err := c.committed(ctx, r.Group)
	if err != nil {
		return nil, err
	}
	which, err := wanted(r.Topics, at)
	if err != nil {
		return nil, err
	}
	topics := slices.Sorted(maps.Keys(which))
	if len(topics) == 0 {
		return nil, fmt.Errorf("%w: group %q has committed nothing; name topics", ErrAsked, r.Group)
	}
	for _, t := range topics {
		if _, err := c.topic(ctx, t); err != nil {
			return nil, err
		}
	}
	all, err := c.spans(ctx, false, topics...)
	if err != nil {
		return nil, err
	}
	if r.To.Kind == Since {
		if err := c.since(ctx, r.To.Value, all); err != nil {
			return nil, err
		}
	}
	var moves []Move
	for _, t := range topics {
		parts := which[t]
		if parts == nil {
			parts = slices.Sorted(maps.Keys(all[t]))
		}
		for _, p := range parts {
			s, there := all[t][p]
			if !there {
				return nil, fmt.Errorf("%w: %q has no partition %d", ErrAsked, t, p)
			}
			mv := Move{Topic: t, Partition: p}
			if o, ok := at[t][p]; ok {
				mv.Old = &o
			}
			if err := mv.put(r.To, s); err != nil {
				return nil, err
			}
			moves = append(moves, mv)
		}
	}
	return moves, nil
}

// put finds the new offset.
func (mv *Move) put(to Place, s span) error {
	switch to.Kind {
	case Earliest:
		mv.New = s.start
	case Latest:
		mv.New = s.end
	case Since:
		mv.New, mv.Note = s.settle(s.since)
	case At:
		mv.New, mv.Note = s.settle(to.Value)
	case Shift:
		if mv.Old == nil {
			return fmt.Errorf("%w: nothing is committed in %q [%d] that could be shifted", ErrAsked, mv.Topic, mv.Partition)
		}
		at := *mv.Old + to.Value
		if to.Value > 0 && at < *mv.Old {
			at = s.end + 1
		}
		mv.New, mv.Note = s.settle(at)
	case Tail:
		mv.New = max(s.start, s.end-to.Value)
	}
	return nil
}

// wanted reads which partitions are meant; nil: all of a topic.
func wanted(topics []string, at map[string]map[int32]int64) (map[string][]int32, error) {
	which := map[string][]int32{}
	for _, t := range topics {
		name, list, some := strings.Cut(t, ":")
		if _, twice := which[name]; twice {
			return nil, fmt.Errorf("%w: the topic %q is named twice; write %s:0,1", ErrAsked, name, name)
		}
		which[name] = nil
		for s := range strings.SplitSeq(list, ",") {
			if !some {
				break
			}
			n, err := strconv.ParseInt(s, 10, 32)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("%w: --topic %q: write NAME, or NAME:0,2", ErrAsked, t)
			}
			if !slices.Contains(which[name], int32(n)) {
				which[name] = append(which[name], int32(n))
			}
		}
	}
	if len(topics) == 0 {
		for t, ps := range at {
			which[t] = slices.Sorted(maps.Keys(ps))
		}
	}
	return which, nil
}

// Commit does what was planned.
func (c *Cluster) Commit(ctx context.Context, group string, moves []Move) error {
	offsets := kadm.Offsets{}
	for _, m := range moves {
		offsets.AddOffset(m.Topic, m.Partition, m.New, -1)
	}
	res, err := c.adm.CommitOffsets(ctx, group, offsets)
	if err != nil {
		return fmt.Errorf("commit for group %q: %w", group, tidy(err))
	}
	for _, r := range res.Sorted() {
		if errors.Is(r.Err, kerr.UnknownMemberID) || errors.Is(r.Err, kerr.IllegalGeneration) || errors.Is(r.Err, kerr.StaleMemberEpoch) {
			return fmt.Errorf("%w: somebody has joined %q meanwhile; stop the members, and try again", ErrActive, group)
		}
		if r.Err != nil {
			return fmt.Errorf("commit for group %q in %q [%d]: %w", group, r.Topic, r.Partition, tidy(r.Err))
		}
	}
	return nil
}
