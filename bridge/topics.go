package bridge

import (
	"fmt"
	"strings"

	"github.com/millrace-io/millrace/mqtt/topic"
)

// Topic is a part of the topic tree that both sides share. As with Mosquitto's bridges, the filter stands behind a prefix on each side:
// what is LOCAL+filter here is REMOTE+filter there. With an empty filter the prefixes are one topic each.
type Topic struct {
	Filter string
	Local  string // prefix here
	Remote string // prefix there
	QoS    byte   // at most
	Retain bool   // out: the retain flag goes along
}

// LocalFilter is what is shared, as it is called here.
func (t *Topic) LocalFilter() string { return t.Local + t.Filter }

// RemoteFilter is what is shared, as it is called there.
func (t *Topic) RemoteFilter() string { return t.Remote + t.Filter }

// Check says what is wrong with it.
func (t *Topic) Check() error {
	for _, prefix := range []string{t.Local, t.Remote} {
		if strings.ContainsAny(prefix, "+#") && t.Filter != "" {
			return fmt.Errorf("the prefix %q has a wildcard", prefix)
		}
	}
	if t.Filter == "" && (t.Local == "" || t.Remote == "") {
		return fmt.Errorf("an empty filter needs the topic of either side as local_prefix and remote_prefix")
	}
	for _, f := range []string{t.LocalFilter(), t.RemoteFilter()} {
		if _, _, shared, _ := topic.ParseShared(f); shared {
			return fmt.Errorf("%q is a shared subscription", f)
		}
		if err := topic.ValidateFilter(f); err != nil {
			return fmt.Errorf("%q is not a filter: %w", f, err)
		}
		if t.Filter == "" && strings.ContainsAny(f, "+#") {
			return fmt.Errorf("%q is not one topic", f)
		}
	}
	return nil
}

// renamed moves a topic from one side to the other; ok: it belongs to what is shared.
func renamed(name, filter, from, to string) (other string, ok bool) {
	if !topic.Match(from+filter, name) {
		return "", false
	}
	rest, ok := strings.CutPrefix(name, from)
	return to + rest, ok
}

// outTopic finds what a topic of here belongs to, and its name there.
func outTopic(list []Topic, name string) (t *Topic, remote string) {
	for i := range list {
		t := &list[i]
		if remote, ok := renamed(name, t.Filter, t.Local, t.Remote); ok && remote != "" {
			return t, remote
		}
	}
	return nil, ""
}

// inTopic finds what a topic of there belongs to, and its name here.
func inTopic(list []Topic, name string) (t *Topic, local string) {
	for i := range list {
		t := &list[i]
		if local, ok := renamed(name, t.Filter, t.Remote, t.Local); ok && local != "" {
			return t, local
		}
	}
	return nil, ""
}
