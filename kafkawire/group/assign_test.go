package group

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// world of the assignors: members by the topics they want.
func subscribersOf(wants map[string][]byte) (members []subscriber) {
	for _, id := range slices.Sorted(maps.Keys(wants)) {
		s := &subscription{}
		for _, t := range wants[id] {
			s.ids = append(s.ids, [16]byte{t})
		}
		slices.SortFunc(s.ids, compareIDs)
		members = append(members, subscriber{id: id, topics: s})
	}
	return members
}

func show(a map[string]Partitions) string {
	out := ""
	for _, id := range slices.Sorted(maps.Keys(a)) {
		out += id + ":"
		for _, t := range a[id].sorted() {
			out += fmt.Sprintf(" %d%v", t[0], a[id][t])
		}
		out += "; "
	}
	return out
}

func TestAssignors(t *testing.T) {
	topics := func(parts ...int32) map[[16]byte]int32 {
		out := map[[16]byte]int32{}
		for i, n := range parts {
			out[[16]byte{byte(i + 1)}] = n
		}
		return out
	}
	for _, tc := range []struct {
		name, assignor string
		wants          map[string][]byte
		topics         map[[16]byte]int32
		before         map[string]Partitions
		want           string
	}{
		{"ranges", rangeAssignor, map[string][]byte{"a": {1, 2}, "b": {1, 2}}, topics(3, 3), nil, "a: 1[0 1] 2[0 1]; b: 1[2] 2[2]; "},
		{"ranges, more members than partitions", rangeAssignor, map[string][]byte{"a": {1}, "b": {1}, "c": {1}}, topics(2), nil, "a: 1[0]; b: 1[1]; c:; "},
		{"uniform", uniformAssignor, map[string][]byte{"a": {1, 2}, "b": {1, 2}}, topics(3, 3), nil, "a: 1[0 2] 2[1]; b: 1[1] 2[0 2]; "},
		{"uniform, one comes", uniformAssignor, map[string][]byte{"a": {1}, "b": {1}, "c": {1}}, topics(6),
			map[string]Partitions{"a": {{1}: {0, 1, 2}}, "b": {{1}: {3, 4, 5}}}, "a: 1[0 1]; b: 1[3 4]; c: 1[2 5]; "},
		{"uniform, one goes", uniformAssignor, map[string][]byte{"a": {1}, "b": {1}}, topics(6),
			map[string]Partitions{"a": {{1}: {0, 1}}, "b": {{1}: {2, 3}}, "c": {{1}: {4, 5}}}, "a: 1[0 1 4]; b: 1[2 3 5]; "},
		{"uniform, who wants less gets its share of it", uniformAssignor, map[string][]byte{"a": {1, 2}, "b": {1}}, topics(2, 4),
			map[string]Partitions{"a": {{1}: {0, 1}, {2}: {0, 1, 2, 3}}}, "a: 2[0 1 2 3]; b: 1[0 1]; "},
		{"a topic that is gone", uniformAssignor, map[string][]byte{"a": {1}}, topics(1), map[string]Partitions{"a": {{1}: {0, 1}, {9}: {0}}}, "a: 1[0]; "},
	} {
		if got := show(runAssignor(tc.assignor, subscribersOf(tc.wants), tc.topics, tc.before)); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// Whatever is wanted: everything is assigned once, to who wants it; no partition could move to make the loads more equal; and
// nothing moves where nothing changes.
func TestAssignorsRandom(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		topics, wants := map[[16]byte]int32{}, map[string][]byte{}
		for i := range 1 + rng.IntN(5) {
			topics[[16]byte{byte(i)}] = rng.Int32N(12)
		}
		alike := rng.IntN(2) == 0
		var all []byte
		for t := range topics {
			all = append(all, t[0])
		}
		for i := range 1 + rng.IntN(8) {
			want := all
			if !alike {
				want = all[:1+rng.IntN(len(all))]
			}
			wants[fmt.Sprint("m", i)] = want
		}
		var before map[string]Partitions
		for round := range 3 {
			name := []string{uniformAssignor, uniformAssignor, rangeAssignor}[round]
			members := subscribersOf(wants)
			got := runAssignor(name, members, topics, before)
			if why := misassigned(members, topics, got); why != "" {
				t.Fatalf("seed %d, %s: %s: %s", seed, name, why, show(got))
			}
			if name == rangeAssignor {
				break
			}
			if why := uneven(members, got); why != "" {
				t.Fatalf("seed %d: %s: %s", seed, why, show(got))
			}
			if before != nil && show(got) != show(before) {
				t.Fatalf("seed %d: nothing changed, and %s became %s", seed, show(before), show(got))
			}
			before = got
		}
	}
}

// A group as large as may be is assigned in a time that others can wait for.
func TestAssignLargeGroup(t *testing.T) {
	topics, want := map[[16]byte]int32{}, &subscription{}
	for i := range 2000 {
		id := [16]byte{byte(i >> 8), byte(i)}
		topics[id] = 10
		want.ids = append(want.ids, id)
	}
	var members []subscriber
	for i := range 5000 {
		members = append(members, subscriber{id: fmt.Sprintf("m%05d", i), topics: want})
	}
	began := time.Now()
	before := runAssignor(uniformAssignor, members, topics, nil)
	runAssignor(uniformAssignor, members[1:], topics, before)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("two assignments of 20,000 partitions to 5,000 members take %v", took)
	} else {
		t.Logf("%v", took)
	}
}

func TestSubscriptionExpressions(t *testing.T) {
	for expr, want := range map[string]bool{
		"a.*": true, "(a|b){1,3}": true, "": true, "[": false, "(?=a)b": false, "((a{100}){100}){100}": false, `\pL{500}`: false,
	} {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Group, req.MemberID, req.RebalanceTimeoutMillis, req.SubscribedTopicRegex = "g", "m", 1, &expr
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		if code, text := CheckConsumerHeartbeat(req); (code == nil) != want {
			t.Errorf("%q: %v %s", expr, code, text)
		}
	}
	re, err := compileTopics("a|b")
	if err != nil || re.MatchString("ab") || !re.MatchString("b") {
		t.Error("an expression must match the whole name")
	}
}
