package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// DeleteTopics: key 20, versions 1–6; by id too from 6. The offsets that groups committed in a topic go with it.
func init() {
	register(1, 6, "*s:0-5 [:6+ ns uuid ] i32", deleteTopics)
}

func deleteTopics(c *conn, req *kmsg.DeleteTopicsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteTopicsResponse()
	for _, name := range req.TopicNames {
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	type named struct {
		name string
		id   [16]byte
	}
	times := map[named]int{}
	name := func(t *kmsg.DeleteTopicsRequestTopic) named {
		if t.Topic == nil {
			return named{id: t.TopicID}
		}
		return named{*t.Topic, t.TopicID}
	}
	for i := range req.Topics {
		times[name(&req.Topics[i])]++
	}
	for _, t := range req.Topics {
		rt := kmsg.NewDeleteTopicsResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		var topic eventlog.Topic
		var refusal *refusal
		switch n := times[name(&t)]; {
		case n == 0:
			continue // it had its answer
		case n > 1:
			times[name(&t)] = 0
			refusal = refuse(kerr.InvalidRequest, "the topic is in the request more than once")
		default:
			topic, refusal = c.toDelete(&t)
		}
		if refusal == nil {
			rt.Topic, rt.TopicID = kmsg.StringPtr(topic.Name), topic.ID
			refusal = refused(c.s.Engine.DeleteTopic(c.ctx, topic.Name))
		}
		refusal.set(&rt.ErrorCode, &rt.ErrorMessage)
		resp.Topics = append(resp.Topics, rt)
	}
	c.s.groups.forgetDeleted(c.ctx)
	return resp
}

func (c *conn) toDelete(t *kmsg.DeleteTopicsRequestTopic) (eventlog.Topic, *refusal) {
	byID := t.TopicID != [16]byte{}
	switch {
	case byID && t.Topic != nil, !byID && t.Topic == nil:
		return eventlog.Topic{}, refuse(kerr.InvalidRequest, "a topic is named by its name or by its id")
	case byID:
		topic, ok := c.s.topicByID(t.TopicID)
		if !ok {
			return topic, refuse(kerr.UnknownTopicID, "no topic with this id")
		}
		return topic, c.deletable(topic.Name)
	}
	topic, _ := c.s.Engine.TopicByName(*t.Topic)
	return topic, c.deletable(*t.Topic)
}

func (c *conn) deletable(name string) *refusal {
	if !c.mayTopic(kmsg.ACLOperationDelete, name) {
		return refuse(kerr.TopicAuthorizationFailed, "the account may not delete the topic")
	}
	return c.s.alterable(name)
}
