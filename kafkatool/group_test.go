package kafkatool

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func (b *bench) commit(group string, at map[int32]int64) {
	b.t.Helper()
	o := kadm.Offsets{}
	for p, n := range at {
		o.AddOffset("t", p, n, -1)
	}
	if err := b.c.adm.CommitAllOffsets(b.t.Context(), group, o); err != nil {
		b.t.Fatal(err)
	}
}

func TestLag(t *testing.T) {
	b := newBench(t)
	b.fill(0, 10)
	b.fill(1, 3)
	b.commit("g", map[int32]int64{0: 4, 1: 3})
	now := at(20)
	g, err := b.c.DescribeGroup(t.Context(), "g", now)
	if err != nil {
		t.Fatal(err)
	}
	// The first record that is not committed is the one of offset 4, sixteen seconds old.
	if g.Lag != 6 || g.Seconds == nil || *g.Seconds != 16 || g.State != empty || len(g.Members) != 0 || len(g.Lags) != 2 {
		t.Fatalf("%+v", g)
	}
	if l := g.Lags[0]; *l.Committed != 4 || l.End != 10 || l.Records != 6 || *l.Seconds != 16 || l.Lost != 0 {
		t.Errorf("%+v", l)
	}
	if l := g.Lags[1]; l.Records != 0 || *l.Seconds != 0 {
		t.Errorf("%+v", l)
	}
	// What was deleted before it was committed is lost, and no lag.
	o := kadm.Offsets{}
	o.AddOffset("t", 0, 7, -1)
	if _, err := b.c.adm.DeleteRecords(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	g, err = b.c.DescribeGroup(t.Context(), "g", now)
	if err != nil {
		t.Fatal(err)
	}
	if l := g.Lags[0]; l.Lost != 3 || l.Records != 3 || *l.Seconds != 13 {
		t.Errorf("%+v", l)
	}
	// A log that ends before what is committed is told.
	b.commit("ahead", map[int32]int64{1: 5})
	if g, err = b.c.DescribeGroup(t.Context(), "ahead", now); err != nil || g.Lags[0].Records != 0 || !strings.Contains(g.Lags[0].Error, "beyond the end") {
		t.Errorf("%+v %v", g, err)
	}
	if _, err := b.c.DescribeGroup(t.Context(), "nix", now); !errors.Is(err, ErrNoGroup) {
		t.Errorf("no group: %v", err)
	}
	list, err := b.c.Groups(t.Context())
	if err != nil || len(list) != 2 || list[0].Name != "ahead" || list[1].Name != "g" || list[1].State != empty {
		t.Errorf("%+v %v", list, err)
	}
}

func TestReset(t *testing.T) {
	b := newBench(t)
	b.fill(0, 10)
	b.fill(1, 3)
	b.commit("g", map[int32]int64{0: 4, 1: 2})
	plan := func(to Place, topics ...string) []int64 {
		t.Helper()
		moves, err := b.c.Plan(t.Context(), Reset{"g", topics, to})
		if err != nil {
			t.Fatal(err)
		}
		var n []int64
		for _, m := range moves {
			n = append(n, m.New)
		}
		return n
	}
	for _, c := range []struct {
		to     Place
		topics []string
		want   []int64
	}{
		{Place{Kind: Earliest}, nil, []int64{0, 0}},
		{Place{Kind: Latest}, nil, []int64{10, 3}},
		{Place{At, 5}, nil, []int64{5, 3}},
		{Place{Shift, -3}, nil, []int64{1, 0}},
		{Place{Shift, 2}, nil, []int64{6, 3}},
		{Place{Shift, 1 << 62}, nil, []int64{10, 3}},
		{Place{Since, at(2).UnixMilli()}, nil, []int64{2, 2}},
		{Place{Since, at(5).UnixMilli()}, nil, []int64{5, 3}},
		{Place{Kind: Earliest}, []string{"t:1"}, []int64{0}},
		{Place{Kind: Latest}, []string{"t"}, []int64{10, 3}},
	} {
		if got := plan(c.to, c.topics...); !slices.Equal(got, c.want) {
			t.Errorf("%+v %q: %v, want %v", c.to, c.topics, got, c.want)
		}
	}
	// A plan changes nothing; a commit does what it says.
	if at, err := b.c.committed(t.Context(), "g"); err != nil || at["t"][0] != 4 {
		t.Fatalf("after plans: %v %v", at, err)
	}
	moves, err := b.c.Plan(t.Context(), Reset{"g", []string{"t:0"}, Place{At, 7}})
	if err == nil {
		err = b.c.Commit(t.Context(), "g", moves)
	}
	at, err2 := b.c.committed(t.Context(), "g")
	if err != nil || err2 != nil || at["t"][0] != 7 || at["t"][1] != 2 {
		t.Errorf("%v %v %v", at, err, err2)
	}
	for _, bad := range []struct {
		r    Reset
		want error
	}{
		{Reset{"nix", nil, Place{}}, ErrNoGroup},
		{Reset{"g", []string{"nix"}, Place{}}, ErrNoTopic},
		{Reset{"g", []string{"t:9"}, Place{}}, ErrAsked},
		{Reset{"g", []string{"t:"}, Place{}}, ErrAsked},
		{Reset{"g", []string{"t", "t:1"}, Place{}}, ErrAsked},
		{Reset{"new", []string{"t"}, Place{Shift, 1}}, ErrAsked},
	} {
		if _, err := b.c.Plan(t.Context(), bad.r); !errors.Is(err, bad.want) {
			t.Errorf("%+v: %v", bad.r, err)
		}
	}
	// A group that is new can be put somewhere.
	if moves, err := b.c.Plan(t.Context(), Reset{"new", []string{"t"}, Place{Kind: Latest}}); err != nil || len(moves) != 2 || moves[0].Old != nil || moves[0].New != 10 {
		t.Errorf("%+v %v", moves, err)
	}
}

// A group with members is left alone, by the plan and, if somebody joins after it, by the commit.
func TestResetActive(t *testing.T) {
	b := newBench(t)
	b.fill(0, 3)
	b.commit("g", map[int32]int64{0: 1})
	r := Reset{"g", nil, Place{Kind: Earliest}}
	moves, err := b.c.Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	member := b.client(kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.DisableAutoCommit())
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err = b.c.Plan(t.Context(), r); err != nil || time.Now().After(deadline) {
			break
		}
	}
	if !errors.Is(err, ErrActive) {
		t.Errorf("a plan for an active group: %v", err)
	}
	if f := member.PollFetches(t.Context()); f.Err() != nil {
		t.Fatal(f.Err())
	}
	if err := b.c.Commit(t.Context(), "g", moves); !errors.Is(err, ErrActive) {
		t.Errorf("a commit under an active group: %v", err)
	}
	if g, err := b.c.DescribeGroup(t.Context(), "g", at(5)); err != nil || len(g.Members) != 1 || g.Lags[0].Member != g.Members[0].ID {
		t.Errorf("%+v %v", g, err)
	}
}

// A group with members is not deleted; one without goes with its offsets. Whose protocol a member speaks is told.
func TestDeleteGroup(t *testing.T) {
	b := newBench(t)
	b.fill(0, 1)
	cl := b.client(kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if cl.PollFetches(t.Context()).NumRecords() == 0 {
		t.Fatal("nothing is read")
	}
	if err := cl.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	g, err := b.c.DescribeGroup(t.Context(), "g", time.Now())
	if err != nil || len(g.Members) != 1 || g.Members[0].Protocol != "classic" || g.Members[0].Partitions == 0 {
		t.Errorf("%+v, %v", g, err)
	}
	if err := b.c.DeleteGroup(t.Context(), "g"); !errors.Is(err, ErrActive) {
		t.Errorf("with a member: %v", err)
	}
	cl.Close()
	if err := b.c.DeleteGroup(t.Context(), "g"); err != nil {
		t.Errorf("without members: %v", err)
	}
	if err := b.c.DeleteGroup(t.Context(), "g"); !errors.Is(err, ErrNoGroup) {
		t.Errorf("a second time: %v", err)
	}
}

func TestTopics(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	if made, err := b.c.Create(ctx, NewTopic{Name: "n", Partitions: 3, Replicas: 1, Configs: map[string]string{"retention.ms": "1000"}}, false, false); err != nil || !made {
		t.Fatal(made, err)
	}
	if _, err := b.c.Create(ctx, NewTopic{Name: "n"}, false, false); err == nil || !strings.Contains(err.Error(), "TOPIC_ALREADY_EXISTS") {
		t.Errorf("twice: %v", err)
	}
	if made, err := b.c.Create(ctx, NewTopic{Name: "n"}, true, false); err != nil || made {
		t.Errorf("twice, and it will do: %v %v", made, err)
	}
	if _, err := b.c.Create(ctx, NewTopic{Name: "a/b\x1b[2J"}, false, false); !errors.Is(err, ErrAsked) || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("a bad name: %v", err)
	}
	if _, err := b.c.Create(ctx, NewTopic{Name: "dry"}, false, true); err != nil {
		t.Error(err)
	}
	d, err := b.c.Describe(ctx, "n")
	if err != nil || len(d.Partitions) != 3 || d.Unknown != "" || !slices.ContainsFunc(d.Configs, func(c Config) bool { return c.Name == "retention.ms" && *c.Value == "1000" && c.Set }) {
		t.Errorf("%+v %v", d, err)
	}
	for _, dry := range []bool{true, false} {
		changes, err := b.c.Alter(ctx, "n", Altering{Set: map[string]string{"retention.ms": "2000"}, Partitions: 4}, dry)
		if err != nil || len(changes) != 2 || *changes[0].Old != "1000" || *changes[0].New != "2000" || *changes[1].Old != "3" {
			t.Errorf("dry %v: %+v %v", dry, changes, err)
		}
	}
	if d, err = b.c.Describe(ctx, "n"); err != nil || len(d.Partitions) != 4 {
		t.Errorf("%+v %v", d, err)
	}
	if changes, err := b.c.Alter(ctx, "n", Altering{Partitions: 4}, false); err != nil || len(changes) != 0 {
		t.Errorf("as it is: %+v %v", changes, err)
	}
	if _, err := b.c.Alter(ctx, "n", Altering{Partitions: 2}, true); !errors.Is(err, ErrAsked) {
		t.Errorf("fewer partitions: %v", err)
	}
	b.fill(0, 2)
	list, err := b.c.Topics(ctx, false)
	if err != nil || len(list) != 2 || list[1].Name != "t" || *list[1].Records != 2 || list[1].Partitions != 2 {
		t.Errorf("%+v %v", list, err)
	}
	if err := b.c.Delete(ctx, "n"); err != nil {
		t.Error(err)
	}
	if err := b.c.Delete(ctx, "n"); !errors.Is(err, ErrNoTopic) {
		t.Errorf("twice: %v", err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(freshness) {
		if _, err = b.c.Describe(ctx, "n"); errors.Is(err, ErrNoTopic) || time.Now().After(deadline) {
			break
		}
	}
	if !errors.Is(err, ErrNoTopic) {
		t.Error(err)
	}
}
