package group

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata with what happens now")

// The behaviour of a group is written down in testdata/*.txt: a line that begins a paragraph is a command, the indented lines
// below it are all that happened because of it: responses, and records for the log. Commands:
//
//	join <who> [v=9] [id=…] [instance=…] [session=10s] [rebalance=20s] [type=consumer] [protocols=range:metadata,…]
//	sync <who> id=… gen=… [instance=…] [assign=member:bytes,…] [protocol=…]
//	beat <who> id=… gen=… [instance=…]
//	leave <who> [v=5] [id=…] [instance=…]
//	pulse <who> id=… epoch=… [topics=a+b] [has=t:0+1;u:0] [instance=…] [rebalance=20s]: a heartbeat of the consumer protocol
//	commit <who> topic=… at=… [id=… gen=…] [v=8] [retention=…]
//	delete <who>          a DeleteGroups request
//	forget topic=…        the topic was deleted
//	show                  state, members, offsets
//	wait <duration>       time passes, timers fire
//	hold                  from here on records do not become durable …
//	durable, fail         … until now, or never
//	restart               a new group replays the log
//	config [delay=…]      before anything else
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("differs from %s:\n%s", file, firstDifference(string(want), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range w {
		if i >= len(g) || w[i] != g[i] {
			return fmt.Sprintf("line %d\nwant: %s\n got: %s", i+1, w[i], strings.Join(g[min(i, len(g)-1):min(i+3, len(g))], "\n      "))
		}
	}
	return "more lines: " + strings.Join(g[len(w):], "\n")
}

// stage plays one transcript.
type stage struct {
	t       *testing.T
	cfg     Config
	g       *Group
	now     time.Time
	ids     int
	log     []Record
	tickets []string // who holds which ticket
	hold    bool
	held    Output
	out     strings.Builder
}

func play(t *testing.T, script string) string {
	s := &stage{t: t, now: time.UnixMilli(1_000_000)}
	s.cfg = Config{
		MinSession: time.Second, MaxSession: 550 * time.Hour, PendingTimeout: 3 * time.Second, Retention: 7 * 24 * time.Hour,
		MaxMembers: 4, MaxBytes: 1000, MaxMetadata: 20,
		NewID: func(prefix string) string { s.ids++; return fmt.Sprintf("%s-%d", prefix, s.ids) },
	}
	s.cfg.Topics = topicTable{"t": {"t", [16]byte{1}, 4}, "u": {"u", [16]byte{2}, 1}}
	s.cfg.ConsumerSession, s.cfg.ConsumerHeartbeat = 45*time.Second, 5*time.Second
	s.g = New("g", &s.cfg)
	for _, line := range strings.Split(strings.TrimSuffix(script, "\n"), "\n") {
		if strings.HasPrefix(line, "  ") {
			continue
		}
		fmt.Fprintln(&s.out, line)
		if line != "" && !strings.HasPrefix(line, "#") {
			s.command(strings.Fields(line))
		}
	}
	return s.out.String()
}

func (s *stage) print(format string, args ...any) { fmt.Fprintf(&s.out, "  "+format+"\n", args...) }

// args are the command's words of the form key=value.
type args map[string]string

func (a args) get(key, otherwise string) string {
	if v, ok := a[key]; ok {
		return v
	}
	return otherwise
}

func (a args) ptr(key string) *string {
	if v, ok := a[key]; ok {
		return &v
	}
	return nil
}

func (s *stage) num(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *stage) duration(text string) time.Duration {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		return time.Duration(s.num(days)) * 24 * time.Hour
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *stage) command(words []string) {
	a, who := args{}, ""
	for _, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			a[k] = v
		} else {
			who = w
		}
	}
	c := Caller{Ticket: uint64(len(s.tickets)), ClientID: who, Host: "/host"}
	s.tickets = append(s.tickets, who)
	switch words[0] {
	case "config":
		s.cfg.InitialDelay = s.duration(a.get("delay", "0s"))
	case "join":
		s.done(s.g.Join(s.now, c, s.joinRequest(a)))
	case "sync":
		s.done(s.g.Sync(s.now, c, s.syncRequest(a)))
	case "beat":
		req := kmsg.NewPtrHeartbeatRequest()
		req.MemberID, req.Generation, req.InstanceID = a.get("id", ""), int32(s.num(a["gen"])), a.ptr("instance")
		s.done(s.g.Heartbeat(s.now, c, req))
	case "leave":
		req := kmsg.NewPtrLeaveGroupRequest()
		if req.Version = int16(s.num(a.get("v", "5"))); req.Version < 3 {
			req.MemberID = a.get("id", "")
		} else {
			req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: a.get("id", ""), InstanceID: a.ptr("instance")}}
		}
		s.done(s.g.Leave(s.now, c, req))
	case "pulse":
		s.done(s.g.ConsumerHeartbeat(s.now, c, s.pulseRequest(a)))
	case "commit":
		s.done(s.g.Commit(s.now, c, s.commitRequest(a), func(topic string, _ int32) *kerr.Error {
			if topic == "missing" {
				return kerr.UnknownTopicOrPartition
			}
			return nil
		}))
	case "delete":
		s.done(s.g.Delete(s.now, c))
	case "forget":
		s.done(s.g.Forget(s.now, func(topic string) bool { return topic == a["topic"] }))
	case "wait":
		s.wait(s.duration(who))
	case "show":
		s.show()
	case "hold":
		s.hold = true
	case "durable":
		s.settle(nil)
	case "fail":
		s.settle(kerr.CoordinatorNotAvailable)
	case "restart":
		s.restart()
	default:
		s.t.Fatalf("unknown command %q", words[0])
	}
}

func (s *stage) joinRequest(a args) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version = int16(s.num(a.get("v", "9")))
	req.MemberID, req.InstanceID = a.get("id", ""), a.ptr("instance")
	req.SessionTimeoutMillis = int32(s.duration(a.get("session", "10s")).Milliseconds())
	req.RebalanceTimeoutMillis = int32(s.duration(a.get("rebalance", "20s")).Milliseconds())
	req.ProtocolType = a.get("type", "consumer")
	for _, p := range list(a.get("protocols", "range:meta")) {
		name, meta, _ := strings.Cut(p, ":")
		req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: s.subscription(meta)})
	}
	return req
}

// subscription is a member's metadata: topics/a+b is a consumer's subscription, topics/a+b/t:0+1 that of one that has partitions;
// anything else is itself.
func (s *stage) subscription(meta string) []byte {
	topics, ok := strings.CutPrefix(meta, "topics/")
	if !ok {
		return []byte(meta)
	}
	topics, has, cooperative := strings.Cut(topics, "/")
	m := kmsg.NewConsumerMemberMetadata()
	if m.Topics = strings.Split(topics, "+"); cooperative {
		m.Version = 1
		for _, t := range s.partitions(has) {
			m.OwnedPartitions = append(m.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition(t))
		}
	}
	return m.AppendTo(nil)
}

// partitions are written t:0+1;u:0.
func (s *stage) partitions(text string) (out []kmsg.ConsumerMemberAssignmentTopic) {
	for _, t := range strings.FieldsFunc(text, func(r rune) bool { return r == ';' }) {
		name, indexes, _ := strings.Cut(t, ":")
		topic := kmsg.ConsumerMemberAssignmentTopic{Topic: name}
		for _, i := range strings.Split(indexes, "+") {
			topic.Partitions = append(topic.Partitions, int32(s.num(i)))
		}
		out = append(out, topic)
	}
	return out
}

// assigned is what a leader assigns: has/t:0+1 is a consumer's partitions, anything else is itself.
func (s *stage) assigned(text string) []byte {
	has, ok := strings.CutPrefix(text, "has/")
	if !ok {
		return []byte(text)
	}
	a := kmsg.NewConsumerMemberAssignment()
	a.Topics = s.partitions(has)
	return a.AppendTo(nil)
}

func (s *stage) pulseRequest(a args) *kmsg.ConsumerGroupHeartbeatRequest {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.MemberEpoch = 1, "g", a["id"], a.ptr("instance"), int32(s.num(a["epoch"]))
	if req.MemberEpoch == joinEpoch {
		req.RebalanceTimeoutMillis = int32(s.duration(a.get("rebalance", "20s")).Milliseconds())
		req.SubscribedTopicNames = strings.Split(a["topics"], "+")
	}
	if has, ok := a["has"]; ok || req.MemberEpoch == joinEpoch {
		req.Topics = byID(s.cfg.Topics, s.partitions(has))
	}
	if code, text := CheckConsumerHeartbeat(req); code != nil {
		s.t.Fatal(text)
	}
	return req
}

// shown are partitions as they are written.
func (s *stage) shown(parts Partitions) string {
	var out []string
	for _, id := range parts.sorted() {
		out = append(out, fmt.Sprintf("%s:%s", s.cfg.Topics.TopicName(id), strings.ReplaceAll(strings.Trim(fmt.Sprint(parts[id]), "[]"), " ", "+")))
	}
	return cmp.Or(strings.Join(out, ";"), "nothing")
}

// shownAssignment is a classic member's assignment; one of a consumer's as partitions.
func (s *stage) shownAssignment(b []byte) string {
	if len(b) == 0 || b[0] != 0 {
		return fmt.Sprintf("%q", b)
	}
	named, _, err := readAssignment(b)
	s.must(err)
	parts := Partitions{}
	for _, t := range byID(s.cfg.Topics, named) {
		parts[t.TopicID] = t.Partitions
	}
	return s.shown(parts)
}

func (s *stage) syncRequest(a args) *kmsg.SyncGroupRequest {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.MemberID, req.Generation, req.InstanceID = 5, a.get("id", ""), int32(s.num(a["gen"])), a.ptr("instance")
	req.Protocol = a.ptr("protocol")
	for _, p := range list(a.get("assign", "")) {
		id, bytes, _ := strings.Cut(p, ":")
		req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: s.assigned(bytes)})
	}
	return req
}

func (s *stage) commitRequest(a args) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.MemberID, req.Generation = int16(s.num(a.get("v", "8"))), a.get("id", ""), int32(s.num(a.get("gen", "-1")))
	req.InstanceID, req.RetentionTimeMillis = a.ptr("instance"), -1
	if r, ok := a["retention"]; ok {
		req.RetentionTimeMillis = s.duration(r).Milliseconds()
	}
	req.Topics = []kmsg.OffsetCommitRequestTopic{{
		Topic:      a["topic"],
		Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: int64(s.num(a["at"])), Metadata: a.ptr("metadata")}},
	}}
	return req
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// done does what an output wants.
func (s *stage) done(out Output) {
	for _, r := range out.Records {
		s.printRecord(r)
	}
	if len(out.Records) == 0 {
		for _, r := range out.Replies {
			s.printReply(r)
		}
		return
	}
	s.held.Merge(out)
	if !s.hold {
		s.settle(nil)
	}
}

func (s *stage) settle(err *kerr.Error) {
	out := s.held
	s.held, s.hold = Output{}, false
	if err == nil {
		s.log = append(s.log, out.Records...)
	}
	s.done(s.g.Durable(s.now, out, err))
}

func (s *stage) wait(d time.Duration) {
	end := s.now.Add(d)
	for {
		next := s.g.Deadline()
		if next.IsZero() || next.After(end) {
			break
		}
		if next.After(s.now) {
			s.now = next
		}
		before := s.out.Len()
		s.done(s.g.Tick(s.now))
		if s.out.Len() > before {
			s.print("(%v before the end of the wait)", end.Sub(s.now).Round(time.Millisecond))
		}
	}
	s.now = end
}

func (s *stage) restart() {
	s.g = New("g", &s.cfg)
	for _, r := range s.log {
		if name, ok := NameOf(r.Key); !ok || name != "g" {
			s.t.Fatalf("record of group %q", name)
		}
		if err := s.g.Replay(r); err != nil {
			s.t.Fatal(err)
		}
	}
	s.g.Restored(s.now)
	s.show()
}

func (s *stage) show() {
	if s.g.Forgettable() {
		s.print("no such group")
		return
	}
	if d, ok := s.g.ConsumerDescribe(); ok {
		s.showConsumers(d)
		return
	}
	d := s.g.Describe()
	s.print("%s, generation %d, type %q, leader %q", d.State, s.g.generation, d.ProtocolType, s.g.leader)
	for _, m := range d.Members {
		instance := ""
		if m.InstanceID != nil {
			instance = " instance " + *m.InstanceID
		}
		s.print("member %s%s: assigned %s", m.MemberID, instance, s.shownAssignment(m.MemberAssignment))
	}
	s.showOffsets()
}

func (s *stage) showConsumers(d kmsg.ConsumerGroupDescribeResponseGroup) {
	s.print("%s, epoch %d, target of %d", d.State, d.Epoch, d.AssignmentEpoch)
	for _, m := range d.Members {
		instance, kind := "", "consumer"
		if m.InstanceID != nil {
			instance = " instance " + *m.InstanceID
		}
		if m.MemberType == memberTypeClassic {
			kind = "classic"
		}
		c := s.g.consumer.members[m.MemberID]
		s.print("%s member %s%s: epoch %d, has %s, gives up %s, target %s", kind, m.MemberID, instance, m.MemberEpoch,
			s.shown(c.assigned.partitions()), s.shown(c.revoke.partitions()), s.shown(s.g.consumer.target[m.MemberID]))
	}
	s.showOffsets()
}

func (s *stage) showOffsets() {
	var offsets []string
	s.g.Offsets(func(topic string, p int32, o Offset) {
		offsets = append(offsets, fmt.Sprintf("%s/%d at %d", topic, p, o.At))
	})
	sort.Strings(offsets)
	for _, o := range offsets {
		s.print("offset %s", o)
	}
}

func (s *stage) printReply(r Reply) {
	who := s.tickets[r.Ticket]
	switch resp := r.Response.(type) {
	case *kmsg.JoinGroupResponse:
		if resp.ErrorCode != 0 {
			s.print("%s: join: %s, id %q", who, errorName(resp.ErrorCode), resp.MemberID)
			return
		}
		var members []string
		for _, m := range resp.Members {
			members = append(members, fmt.Sprintf("%s(%s)", m.MemberID, readable(m.ProtocolMetadata)))
		}
		skip := ""
		if resp.SkipAssignment {
			skip = ", skip assignment"
		}
		s.print("%s: joined as %s, generation %d, %s, leader %s, members %v%s", who, resp.MemberID, resp.Generation, *resp.Protocol, resp.LeaderID, members, skip)
	case *kmsg.SyncGroupResponse:
		if resp.ErrorCode != 0 {
			s.print("%s: sync: %s", who, errorName(resp.ErrorCode))
			return
		}
		s.print("%s: synced, assigned %s", who, s.shownAssignment(resp.MemberAssignment))
	case *kmsg.ConsumerGroupHeartbeatResponse:
		if resp.ErrorCode != 0 {
			text := "no text"
			if resp.ErrorMessage != nil {
				text = *resp.ErrorMessage
			}
			s.print("%s: %s, %s", who, errorName(resp.ErrorCode), text)
			return
		}
		has := "what it had"
		if resp.Assignment != nil {
			parts := Partitions{}
			for _, t := range resp.Assignment.Topics {
				parts[t.TopicID] = t.Partitions
			}
			has = s.shown(parts)
		}
		s.print("%s: epoch %d, has %s", who, resp.MemberEpoch, has)
	case *kmsg.HeartbeatResponse:
		s.print("%s: heartbeat: %s", who, errorName(resp.ErrorCode))
	case *kmsg.LeaveGroupResponse:
		code := resp.ErrorCode
		for _, m := range resp.Members {
			code = m.ErrorCode
		}
		s.print("%s: leave: %s", who, errorName(code))
	case *kmsg.OffsetCommitResponse:
		s.print("%s: commit: %s", who, errorName(resp.Topics[0].Partitions[0].ErrorCode))
	case *kmsg.DeleteGroupsResponse:
		s.print("%s: delete: %s", who, errorName(resp.Groups[0].ErrorCode))
	default:
		s.t.Fatalf("unexpected %T", resp)
	}
}

// readable is a member's metadata, shortened to its size if it is a consumer's subscription.
func readable(metadata []byte) string {
	if bytes.IndexByte(metadata, 0) >= 0 {
		return fmt.Sprintf("%d bytes", len(metadata))
	}
	return string(metadata)
}

func errorName(code int16) string {
	if code == 0 {
		return "ok"
	}
	return kerr.TypedErrorForCode(code).Message
}

// printRecord reads a record with the codec alone, as any tool would.
func (s *stage) printRecord(r Record) {
	switch r.Key[1] {
	case offsetKeyVersion:
		var k kmsg.OffsetCommitKey
		v := kmsg.NewOffsetCommitValue()
		s.must(k.ReadFrom(r.Key))
		if r.Value == nil {
			s.print("log: offset %s/%d removed", k.Topic, k.Partition)
			return
		}
		s.must(v.ReadFrom(r.Value))
		s.print("log: offset %s/%d at %d", k.Topic, k.Partition, v.Offset)
	case metadataKeyVersion:
		if r.Value == nil {
			s.print("log: group removed")
			return
		}
		v := kmsg.NewGroupMetadataValue()
		s.must(v.ReadFrom(r.Value))
		var members []string
		for _, m := range v.Members {
			members = append(members, fmt.Sprintf("%s:%s", m.MemberID, strings.Trim(s.shownAssignment(m.Assignment), `"`)))
		}
		s.print("log: group, generation %d, members %v", v.Generation, members)
	default:
		kind, _, member, ok := readConsumerKey(r.Key)
		if !ok {
			s.t.Fatalf("a record of an unknown kind: %x", r.Key)
		}
		what := map[int16]string{
			groupEpochKey: "epoch", partitionsKey: "partitions", memberKey: "member", targetEpochKey: "target's epoch",
			targetMemberKey: "target of", currentKey: "what it has:",
		}[kind]
		if member != "" {
			what += " " + member
		}
		if r.Value == nil {
			what += " removed"
		}
		s.print("log: %s", what)
	}
}

func (s *stage) must(err error) {
	if err != nil {
		s.t.Fatal(err)
	}
}

// A record of every kind, cut off anywhere or with a byte damaged, is refused or replayed, never worse.
func TestReplayOfDamagedRecords(t *testing.T) {
	cfg := Config{NewID: func(p string) string { return p }, MaxMembers: 4, MaxBytes: 1000, MinSession: 1, MaxSession: time.Hour}
	g := New("g", &cfg)
	req := kmsg.NewPtrJoinGroupRequest()
	req.SessionTimeoutMillis, req.ProtocolType, req.Protocols = 1000, "consumer", []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte("meta")}}
	g.Join(time.Now(), Caller{ClientID: "c"}, req)
	offset := Offset{At: 5, Metadata: "m", Committed: time.Now()}
	for _, r := range []Record{g.metadataRecord(map[string][]byte{"c": []byte("all")}), offsetRecord("g", "t", 3, &offset)} {
		if err := New("g", &cfg).Replay(r); err != nil {
			t.Fatal(err)
		}
		for i := range r.Value {
			New("g", &cfg).Replay(Record{r.Key, r.Value[:i]})
			damaged := slices.Clone(r.Value)
			damaged[i] ^= 0xff
			New("g", &cfg).Replay(Record{r.Key, damaged})
		}
		for i := range r.Key {
			NameOf(r.Key[:i])
			New("g", &cfg).Replay(Record{r.Key[:i], r.Value})
		}
	}
}
