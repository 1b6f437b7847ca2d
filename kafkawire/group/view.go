package group

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"time"
)

// view is the topics that a group's members subscribe to, as they were at a time.
type view struct {
	until  time.Time                // when it is time for another look
	topics map[[16]byte]int32       // partitions
	wants  map[string]*subscription // by consumerMember.subscription
	hash   int64                    // changes when a topic of these comes, goes or grows
}

// subscription is the topics that members want who want the same.
type subscription struct{ ids [][16]byte } // sorted

func (s *subscription) has(id [16]byte) bool {
	_, ok := slices.BinarySearchFunc(s.ids, id, compareIDs)
	return ok
}

func compareIDs(a, b [16]byte) int { return slices.Compare(a[:], b[:]) }

// of is what a member wants.
func (v *view) of(m *consumerMember) *subscription {
	if s := v.wants[m.subscription]; s != nil {
		return s
	}
	return &subscription{}
}

// look finds the topics that the members want, as they are now.
func (s *step) look() *view {
	v := &view{until: s.g.now.Add(lookEvery), topics: map[[16]byte]int32{}, wants: map[string]*subscription{}}
	var all []Topic
	found := map[[16]byte]Topic{}
	s.each(func(m *consumerMember) {
		if v.wants[m.subscription] != nil {
			return
		}
		ids := map[[16]byte]bool{}
		want := func(t Topic) {
			ids[t.ID], found[t.ID], v.topics[t.ID] = true, t, t.Partitions
		}
		for _, name := range m.topics {
			if t, ok := s.g.cfg.Topics.Topic(name); ok {
				want(t)
			}
		}
		if m.regex != "" {
			if all == nil {
				all = s.g.cfg.Topics.All()
			}
			if re, err := compileTopics(m.regex); err == nil {
				v.until = v.until.Add(time.Duration(len(all)) * matchCost)
				for _, t := range all {
					if re.MatchString(t.Name) {
						want(t)
					}
				}
			}
		}
		v.wants[m.subscription] = &subscription{slices.SortedFunc(maps.Keys(ids), compareIDs)}
	})
	v.hash = hashOf(found)
	return v
}

func hashOf(topics map[[16]byte]Topic) int64 {
	h := fnv.New64a()
	for _, t := range slices.SortedFunc(maps.Values(topics), func(a, b Topic) int { return cmp.Compare(a.Name, b.Name) }) {
		h.Write([]byte(t.Name))
		h.Write(t.ID[:])
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(t.Partitions)))
	}
	return int64(h.Sum64())
}

// maxRegexSize bounds what an expression takes when compiled: a few characters may say "a thousand times a thousand times".
const maxRegexSize = 10_000

// compileTopics reads a subscription's expression, of RE2's syntax; it must match the whole name.
func compileTopics(expr string) (*regexp.Regexp, error) {
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("SubscribedTopicRegex is not a valid RE2 expression: %w", err)
	}
	if len(expr) > maxRegexSize || regexSize(tree) > maxRegexSize {
		return nil, fmt.Errorf("SubscribedTopicRegex of %d characters is too large when compiled", len(expr))
	}
	return regexp.Compile(`^(?:` + expr + `)$`)
}

// regexSize estimates the size of a compiled expression.
func regexSize(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		n += regexSize(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, maxRegexSize+1)
}
