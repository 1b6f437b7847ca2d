package kafkawire

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/tier"
)

// whose a difference is.
const (
	kafkas = "Apache Kafka"
	kfakes = "kfake"
)

// difference is a known one: a row of the table "Compared with Apache Kafka" in docs/kafka-compatibility.md.
type difference struct {
	from  string
	where string                         // what is asked
	what  string                         // and why
	step  string                         // how the step begins, as a regular expression
	is    func(ours, theirs string) bool // nil: they do not have it, neither side is asked
}

// lessZstd: they send records that the client cannot read, and we an error, or what comes before them.
func lessZstd(ours, theirs string) bool {
	_, before, _ := strings.Cut(strings.TrimRight(ours, `"]}`), "RecordBatches:")
	_, all, has := strings.Cut(theirs, "RecordBatches:")
	return has && (strings.Contains(ours, "ErrorCode:76") || before != "" && len(before) < len(all) && strings.HasPrefix(all, before))
}

var differences = []difference{
	{kafkas, "OffsetCommit", "whether there is such a partition Kafka asks before it asks the group, we after it: one error instead of another where both are", "commit ",
		func(ours, theirs string) bool {
			return theirs == "3" && slices.Contains([]string{"22", "25", "27", "35", "69", "113"}, ours)
		}},
	{kafkas, "Produce", "of a batch that it had already Kafka answers with its greatest time as if it were the time of the append, which it is not", `(sequence |producer . to .*: (the same|an older one))`,
		func(ours, theirs string) bool {
			return strings.HasSuffix(ours, " -1") && strings.TrimSuffix(ours, "-1") == appendTime.ReplaceAllString(theirs, "")
		}},
	{kafkas, "CreateTopics", "any replication factor from 1 on, and any node in an assignment, is taken here: there is one node, and frameworks ask for 3",
		`create t\d wrongly: (three replicas|an assignment to one who is not)`,
		func(ours, theirs string) bool {
			return !strings.Contains(ours, "ErrorCode") && (strings.Contains(theirs, "ErrorCode:38") || strings.Contains(theirs, "ErrorCode:39"))
		}},
	{kafkas, "CreateTopics", "the log's own topics are nobody's to create, whether or not they are there", `create t\d wrongly: the offsets' own topic`,
		func(ours, theirs string) bool { return strings.Replace(ours, "17", "36", 1) == theirs }},
	{kafkas, "Fetch", "records in zstd are not sent to a client that asks in a version before 10, which cannot read them; Kafka sends them, unless the topic's compression.type is zstd", `fetch t\d/\d at \d+, version [4-9]$`,
		lessZstd},
	{kafkas, "Fetch", "in a session that names topics by ids, a topic that is gone, or made again, stays UNKNOWN_TOPIC_ID; Kafka remembers its name, and says UNKNOWN_TOPIC_OR_PARTITION or INCONSISTENT_TOPIC_ID", "session",
		func(ours, theirs string) bool {
			return strings.Contains(ours, "ErrorCode:100") && idErrors.ReplaceAllString(ours, "") == idErrors.ReplaceAllString(theirs, "")
		}},
	{kafkas, "IncrementalAlterConfigs", "an operation that is none is INVALID_REQUEST; Kafka says UNKNOWN_SERVER_ERROR", `change .* \S* 9 "`,
		func(ours, theirs string) bool {
			return strings.Contains(ours, "ErrorCode:4") && strings.Contains(theirs, "ErrorCode:-1")
		}},
	{kafkas, "DescribeConfigs", "a broker's configs are set by its own configuration, and so read-only", `configs of resource 4 `,
		func(ours, theirs string) bool {
			return strings.ReplaceAll(ours, " ReadOnly:true", "") == strings.ReplaceAll(theirs, " ReadOnly:true", "")
		}},
	{kafkas, "DescribeConfigs", "loggers, groups and clients' metrics have no configs", `configs of resource (8|16|32) `,
		func(ours, theirs string) bool {
			return !strings.Contains(ours, "ErrorCode") && ours == noConfigs.ReplaceAllString(theirs, "")
		}},
	{kafkas, "IncrementalAlterConfigs", "configs of anything but topics are not altered: INVALID_REQUEST", `change resource `,
		func(ours, theirs string) bool { return strings.Contains(ours, "ErrorCode:42") }},
	{kafkas, "OffsetDelete", "whether there is such a partition Kafka asks before it asks for the group: one error instead of another where both are", "delete the offset of",
		func(ours, theirs string) bool {
			return ours == "{ErrorCode:69}" && strings.Contains(theirs, "ErrorCode:3}")
		}},
	{kafkas, "OffsetDelete", "a group without members is none from when its last offset is deleted on; Kafka forgets it when it looks for offsets that are too old, every ten minutes", "delete the offset of",
		func(ours, theirs string) bool {
			return ours == "{ErrorCode:69}" && strings.HasPrefix(theirs, "{Topics:") && !strings.Contains(theirs, "ErrorCode")
		}},
	{kafkas, "ConsumerGroupHeartbeat", "where members subscribe to different topics their shares may be more even than Kafka's, which moves no partition to who has one less so that he can give up another", `together`,
		func(ours, theirs string) bool {
			return howMany.ReplaceAllString(ours, "") == howMany.ReplaceAllString(theirs, "") && squares(ours) < squares(theirs)
		}},
	{kafkas, "ConsumerGroupHeartbeat", "the first epoch of a group is 1; Kafka's is 2", `join of`,
		func(ours, theirs string) bool { return ours == "0 first epoch 1" && theirs == "0 first epoch 2" }},
	{kafkas, "DescribeTransactions", "groups' offsets are in one partition", "describe the transaction of",
		func(ours, theirs string) bool {
			return ours == offsetsPartition.ReplaceAllString(theirs, "__consumer_offsets Partitions:[0]")
		}},
	{kafkas, "DescribeProducers", "the last time is when the server had the last batch, and the coordinator's epoch is 0; Kafka says the greatest time in the batch, and -1 of a producer without transactions", "producers of",
		func(ours, theirs string) bool {
			return ofProducers.ReplaceAllString(ours, "") == ofProducers.ReplaceAllString(theirs, "")
		}},
	{kafkas, "Metadata", "a topic that is named neither by a name nor by an id is UNKNOWN_TOPIC_ID; Kafka fails the whole request with UNKNOWN_SERVER_ERROR", "metadata of  no id",
		func(ours, theirs string) bool {
			return strings.Contains(ours, "ErrorCode:100") && strings.Contains(theirs, "ErrorCode:-1")
		}},
	{kafkas, "CreatePartitions", "any node in an assignment is taken here: there is one", `grow .* assigned to 77`,
		func(ours, theirs string) bool {
			return !strings.Contains(ours, "ErrorCode") && strings.Contains(theirs, "ErrorCode:39")
		}},
	{kafkas, "CreateAcls", "what no ACL can mean here is INVALID_REQUEST: resources that are not there, operations that the resource does not have, principals and hosts of other forms, names that no topic has. Kafka keeps it, without effect",
		`create an odd ACL, (resource|operation on a topic|principal|name|host|cluster)`,
		func(ours, theirs string) bool {
			return ours == "{Results:[{ErrorCode:42}]}" && theirs == "{Results:[{}]}"
		}},
	{kafkas, "CreateAcls", "a pattern, an operation or a permission that only filters have is INVALID_REQUEST; Kafka says UNKNOWN_SERVER_ERROR", `create an odd ACL, (resource|pattern|operation|permission)`,
		func(ours, theirs string) bool {
			return ours == "{Results:[{ErrorCode:42}]}" && theirs == "{Results:[{ErrorCode:-1}]}"
		}},
	{kafkas, "CreateAcls", "no ACL gives the right to alter the cluster: POLICY_VIOLATION", `create an odd ACL, cluster`,
		func(ours, theirs string) bool {
			return ours == "{Results:[{ErrorCode:44}]}" && theirs == "{Results:[{}]}"
		}},
	{kafkas, "AlterUserScramCredentials", "a salt or a salted password that is none is UNACCEPTABLE_CREDENTIAL; Kafka keeps it, or says UNKNOWN_SERVER_ERROR", `alter credentials:.* set "odd"`,
		func(ours, theirs string) bool {
			return oddUser.ReplaceAllString(ours, "") == oddUser.ReplaceAllString(theirs, "") && strings.Contains(ours, "{User:odd ErrorCode:93}")
		}},
	{kfakes, "Fetch", "records in zstd are sent to clients of versions before 10 too", `fetch t\d/\d at \d+, version [4-9]$`, lessZstd},
	{kfakes, "Fetch", "sessions may be empty, and mix names and ids", "session,", nil},
	{kfakes, "CreateTopics", "what is wrong with a topic is not looked at as Kafka does", `create t\d wrongly`, nil},
	{kfakes, "Metadata", "ids are taken in versions 10 and 11 too, and a topic without a name and an id is left out", `metadata of  (no id|.* version 1[01]$)`, nil},
	{kfakes, "CreatePartitions", "a count that is not larger, and assignments, are not looked at as Kafka does", `grow `, nil},
	{kfakes, "InitProducerId", "a producer without transactions that names its id keeps it", `init producer .* again true`, nil},
	{kfakes, "DescribeAcls, DeleteAcls", "ACLs with a prefix are not found by the names that they match", `(describe|delete) ACLs: \d+ \S+ 2 `, nil},
	{kfakes, "DeleteTopics", "what is wrong with a request is not looked at as Kafka does", `delete wrongly`, nil},
	{kfakes, "OffsetDelete", "a group that is not is no error", `delete the offset of`, nil},
	{kfakes, "DescribeTopicPartitions", "a cursor may end the connection", `describe \[`, nil},
	{kfakes, "configs", "their values are not checked, and only those that are set are shown", `(create t\d with \[|change |replace |configs of )`, nil},
	{kfakes, "SCRAM credentials", "several changes of one user, salts and passwords are not checked as Kafka does", `(alter|describe) credentials`, nil},
	{kfakes, "CreateAcls", "what is wrong with an ACL is not looked at", "create an odd ACL", nil},
	{kfakes, "DescribeLogDirs", "a directory without any of the topics is left out", "directories", nil},
	{kfakes, "DescribeProducers", "idempotent producers are not told of", "producers of ", nil},
	{kfakes, "OffsetFetch", "a group that is not is an error", `(all )?offsets of `, nil},
	{kfakes, "Produce", "the first batch of a producer must begin at 0, and an epoch of a producer holds in all partitions at once", "producer . to .*: (the first, in the middle|of the next epoch|in the middle of)", nil},
	{kfakes, "transactions of version 2", "a commit without a transaction is taken and the state is Empty after it; epochs that are past are PRODUCER_FENCED; offsets alone leave a marker", `init, version`, nil},
	{kfakes, "ConsumerGroupHeartbeat", "members who subscribe to different topics may get none where there is one for each", `together`,
		func(ours, theirs string) bool {
			return howMany.ReplaceAllString(ours, "") == howMany.ReplaceAllString(theirs, "")
		}},
	{kfakes, "groups of the consumer protocol", "forms of a heartbeat are not looked at, commits and offsets are answered by another order of checks, and what is described has empty texts as null", `(heartbeat of|commit of|offsets for|describe the group|groups in|describe it as|classic heartbeat|delete the group)`, nil},
	{kfakes, "OffsetForLeaderEpoch", "version 2 ends the connection, and of no epoch the end is 0", `end of epoch (-1 .*|.* version 2)`, nil},
	{kfakes, "DeleteRecords", "an offset before the start is an error", `delete records of`, nil},
	{kfakes, "ListOffsets", "a partition that is named twice is answered twice", `offset of .* twice true`, nil},
}

var (
	idErrors         = regexp.MustCompile(`ErrorCode:(100|103|3)\b`)
	appendTime       = regexp.MustCompile(`10\d\d$`)
	howMany          = regexp.MustCompile(`\] \[[\d ]*\] \[`)
	offsetsPartition = regexp.MustCompile(`__consumer_offsets Partitions:\[\d+\]`)
	ofProducers      = regexp.MustCompile(` (LastTimestamp|CoordinatorEpoch):[-\d]+`)
	noConfigs        = regexp.MustCompile(` Configs:\[[^\]]*\]`)
	oddUser          = regexp.MustCompile(`\{User:odd[^}]*\}`)
)

// squares is the sum of those of what members have: the less, the more even.
func squares(sharing string) (sum int) {
	for n := range strings.FieldsSeq(strings.Trim(howMany.FindString(sharing), "[] ")) {
		i, _ := strconv.Atoi(n)
		sum += i * i
	}
	return sum
}

func (k *difference) String() string { return fmt.Sprintf("| %s | %s | %s |", k.from, k.where, k.what) }

func (d *differ) from() string {
	if d.real() {
		return kafkas
	}
	return kfakes
}

// isSkipped tells that the other side is known not to have what a step asks.
func (d *differ) isSkipped(step string) bool {
	step = strings.ReplaceAll(step, d.name, "")
	for i := range differences {
		if k := &differences[i]; k.from == d.from() && k.is == nil && k.begins(step) {
			d.seen[k.String()]++
			return true
		}
	}
	return false
}

func (k *difference) begins(step string) bool {
	ok, err := regexp.MatchString("^(?:"+k.step+")", step)
	if err != nil {
		panic(err)
	}
	return ok
}

// isKnown tells whether a difference is a known one.
func (d *differ) isKnown(step, ours, theirs string) bool {
	step = strings.ReplaceAll(step, d.name, "")
	for i := range differences {
		if k := &differences[i]; k.from == d.from() && k.is != nil && k.begins(step) && k.is(ours, theirs) {
			return true
		}
	}
	return false
}

// known is isKnown, and remembers that it was there.
func (d *differ) known(step, ours, theirs string) bool {
	step = strings.ReplaceAll(step, d.name, "")
	for i := range differences {
		if k := &differences[i]; k.from == d.from() && k.is != nil && k.begins(step) && k.is(ours, theirs) {
			d.seen[k.String()]++
			return true
		}
	}
	return false
}

// checkSeen tells of differences that are listed and were never there, once there were seeds enough to see them all.
func checkSeen(t *testing.T, from string, seen map[string]int) {
	t.Helper()
	for i := range differences {
		if k := &differences[i]; k.from == from && seen[k.String()] == 0 {
			if tier.Soak() {
				t.Errorf("this difference was never there: %s", k)
			} else {
				t.Logf("not seen by so few seeds: %s", k)
			}
		}
	}
}

// The table in the documentation is the table of the test.
func TestDocumentedDifferences(t *testing.T) {
	text, err := os.ReadFile("../docs/kafka-compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Compared with Apache Kafka\n")
	table, _, _ = strings.Cut(table, "\n## ")
	documented := regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(table, -1)
	if len(documented) < 2 {
		t.Fatal("there is no table")
	}
	var listed []string
	for i := range differences {
		if row := differences[i].String(); !slices.Contains(listed, row) {
			listed = append(listed, row)
		}
	}
	if documented = documented[2:]; !slices.Equal(documented, listed) {
		t.Errorf("docs/kafka-compatibility.md says\n%s\nthe test knows\n%s", strings.Join(documented, "\n"), strings.Join(listed, "\n"))
	}
}
