package app

import (
	"fmt"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/policy"
	"github.com/millrace-io/millrace/route"
)

// LogKinds are the words for what Kafka clients use, as JudgeLog takes them.
var LogKinds = []string{"topic", "group", "transactional-id", "cluster"}

var logKinds = map[string]policy.Kind{"topic": policy.LogTopic, "group": policy.ConsumerGroup, "transactional-id": policy.TransactionalID, "cluster": policy.Cluster}

// logFields are the keys of rules.
var logFields = map[policy.Kind]string{policy.LogTopic: "log_topics", policy.ConsumerGroup: "consumer_groups", policy.TransactionalID: "transactional_ids", policy.Cluster: "cluster"}

var logActions = map[string]policy.Right{"read": policy.Read, "write": policy.Write, "manage": policy.Manage}

// LogAction tells whether an action is one on what Kafka clients use.
func LogAction(action string) bool { _, is := logActions[action]; return is }

// JudgeLog says what the policy of a node with this configuration says to a Kafka client's account: whether it may read, write or manage a log
// topic, or what else there is. ACLs are the running node's, and may allow and deny more.
func JudgeLog(c *config.Config, account, action, kind, name string) (*Judgement, error) {
	j := &Judgement{Account: account, Client: account, Groups: []string{}, Action: action, Topic: name}
	right, known := logActions[action]
	of, kindKnown := logKinds[kind]
	switch {
	case !known:
		return nil, fmt.Errorf("%q is none of read, write, manage", action)
	case !kindKnown:
		return nil, fmt.Errorf("%q is none of %v", kind, LogKinds)
	case of == policy.Cluster:
		name = ""
	}
	p, err := Policy(c)
	if err != nil {
		return nil, err
	}
	if p == nil {
		j.Allowed, j.Why = true, "there is no policy: everything is allowed"
		return j, nil
	}
	table, err := route.Compile(Routes(c))
	if err != nil {
		return nil, err
	}
	s := policy.Subject{Account: account}
	j.Groups = append(j.Groups, p.GroupsOf(account)...)
	v := p.DecideOn(s, right, of, name)
	j.Allowed, j.Rule = v.Allowed, judged(v)
	if j.Rule == nil {
		j.Why = "no rule allows it"
	} else {
		if j.Rule.Of = logFields[of]; of == policy.Cluster {
			j.Rule.Topic = "true"
		}
		j.Why = j.Rule.String()
	}
	if !j.Allowed || of != policy.LogTopic {
		return j, nil
	}
	switch filter, _, reversible := table.Reverse(name); {
	case right == policy.Read:
		j.withheldBySources(p, s, table.Sources(name))
	case right == policy.Write && reversible && !(p.Decide(s, policy.Publish, filter).Allowed && len(p.Overlapping(s, policy.Publish, filter)) == 0):
		j.Why += fmt.Sprintf("; its records go on to MQTT, and so only those may be written whose key leads to where %s may publish", account)
	}
	return j, nil
}

// withheldBySources denies to read a log topic with messages that the account is denied to receive.
func (j *Judgement) withheldBySources(p *policy.Policy, s policy.Subject, sources []string) {
	for _, filter := range sources {
		for _, w := range p.Withheld(s, filter) {
			j.Allowed, j.Rule = false, judged(w)
			j.Why = fmt.Sprintf("%s, and MQTT's %s is in the topic", j.Rule, filter)
			return
		}
	}
}
