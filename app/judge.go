package app

import (
	"fmt"
	"strings"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
	"github.com/millrace-io/millrace/policy"
)

// Judgement is what a policy says to somebody who wants something, and why.
type Judgement struct {
	Account string      `json:"account"`
	Client  string      `json:"client"`
	Groups  []string    `json:"groups"` // of the account
	Action  string      `json:"action"`
	Topic   string      `json:"topic"` // or filter
	Allowed bool        `json:"allowed"`
	Why     string      `json:"why"`
	Rule    *JudgedRule `json:"rule,omitempty"` // that decided
	// Withheld are the rules that deny a part of a filter that may be subscribed to.
	Withheld []JudgedRule `json:"withheld,omitempty"`
}

// JudgedRule is a rule, with the one of its topics that matters.
type JudgedRule struct {
	Where  string `json:"where"` // it is written
	Who    string `json:"who"`
	Effect string `json:"effect"` // allow | deny
	Action string `json:"action"` // publish | subscribe | read | write | manage | all
	Of     string `json:"of"`     // topics, log_topics, consumer_groups, transactional_ids or cluster
	Topic  string `json:"topic"`  // or name
}

func (r *JudgedRule) String() string {
	return fmt.Sprintf("%s: {who: %s, %s: %s, %s: %s}", r.Where, r.Who, r.Effect, r.Action, r.Of, r.Topic)
}

func judged(v policy.Verdict) *JudgedRule {
	if v.Rule == nil {
		return nil
	}
	effect := "allow"
	if v.Rule.Deny {
		effect = "deny"
	}
	return &JudgedRule{Where: v.Rule.Where, Who: v.Rule.Who, Effect: effect, Action: v.Rule.Rights.String(), Of: "topics", Topic: v.Filter}
}

// Judge says what a node with this configuration would decide: whether account, through a client, may publish to a topic, subscribe to a
// filter, or receive on a topic.
func Judge(c *config.Config, account, client, action, topicOrFilter string) (*Judgement, error) {
	j := &Judgement{Account: account, Client: client, Groups: []string{}, Action: action, Topic: topicOrFilter}
	right, what := policy.Subscribe, topicOrFilter
	switch action {
	case "publish":
		right = policy.Publish
	case "subscribe":
		what = plainFilter(topicOrFilter)
	case "receive":
	default:
		return nil, fmt.Errorf("%q is none of publish, subscribe, receive (MQTT), read, write, manage (Kafka)", action)
	}
	err := topic.ValidateName([]byte(what))
	if action == "subscribe" {
		err = topic.ValidateFilter(what)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", action, topicOrFilter, err)
	}
	p, err := Policy(c)
	switch {
	case err != nil:
		return nil, err
	case action == "publish" && strings.HasPrefix(what, "$"):
		j.Why = "clients may not publish to topics that begin with $"
		return j, nil
	case p == nil:
		j.Allowed, j.Why = true, "there is no policy: everything is allowed"
		return j, nil
	}
	s := policy.Subject{Account: account, Client: client}
	j.Groups = append(j.Groups, p.GroupsOf(account)...)
	v := p.Decide(s, right, what)
	j.Allowed, j.Rule = v.Allowed, judged(v)
	switch {
	case j.Rule != nil:
		j.Why = j.Rule.String()
	case v.Unusable:
		j.Why = "no rule allows it: where one might, the account or client stands for a variable, and its name is not one plain level"
	default:
		j.Why = "no rule allows it"
	}
	if j.Allowed && action == "subscribe" {
		for _, w := range p.Withheld(s, what) {
			j.Withheld = append(j.Withheld, *judged(w))
		}
	}
	return j, nil
}

// plainFilter is what of a filter is decided on.
func plainFilter(filter string) string {
	filter, _, _ = session.PlainFilter(filter)
	if _, rest, shared, err := topic.ParseShared(filter); shared && err == nil {
		return rest
	}
	return filter
}
