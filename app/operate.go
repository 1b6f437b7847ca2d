package app

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/netip"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// operator is the broker in the API's words.
type operator struct {
	n *Node
	b *broker.Broker
}

// brokerError is an error of the broker as the API's client hears it.
func brokerError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, session.ErrNoSession):
		return console.NewProblem(http.StatusNotFound, "there is no such session; /api/v1/mqtt/clients lists them")
	case errors.Is(err, session.ErrBusy):
		return console.NewProblem(http.StatusConflict, err.Error())
	case errors.Is(err, broker.ErrNobodyBanned), errors.Is(err, broker.ErrMappedNetwork):
		return console.NewProblem(http.StatusBadRequest, err.Error())
	case errors.Is(err, broker.ErrTraces), errors.Is(err, broker.ErrTooManyBans), errors.Is(err, broker.ErrEvacuating):
		return console.NewProblem(http.StatusConflict, err.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return console.NewProblem(http.StatusServiceUnavailable, "the broker does not answer in time; what was asked for may still be done")
	}
	return err
}

// when is a time in the API; null if there is none.
func when(t time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	return new(millis(t))
}

// whenMillis is the same of milliseconds.
func whenMillis(ms int64) *float64 {
	if ms == 0 {
		return nil
	}
	return new(float64(ms))
}

func (o operator) Clients(ctx context.Context, want func(id, principal string, connected bool) bool, visit func(*console.Client)) error {
	return brokerError(o.b.Clients(ctx, func(k session.Key, connected bool) bool { return want(k.ClientID, k.Principal, connected) }, func(c *broker.Client) {
		body := o.client(c)
		visit(&body)
	}))
}

func (o operator) client(c *broker.Client) console.Client {
	body := console.Client{
		ID: c.ClientID, Principal: c.Principal, Connected: c.Connected, Since: when(c.Since), LastSeen: when(c.Seen), Address: c.Address, Listener: c.Listener,
		Transport: c.Transport, KeepAlive: int(c.KeepAlive), CleanStart: c.CleanStart, SessionExpiry: int64(c.Expiry), Expires: whenMillis(c.Ends),
		Subscriptions: c.Subscriptions, Queued: c.Queued, QueuedAtMost: c.Merged, Inflight: c.Inflight, Behind: c.Behind, Waiting: c.Waiting, Full: c.Slow,
		BytesIn: c.BytesIn, BytesOut: c.BytesOut, MessagesIn: c.MessagesIn, MessagesOut: c.MessagesOut, Paused: c.PausedReason,
	}
	if c.Connected {
		body.Protocol = c.Version.String()
	}
	if c.Oldest > 0 {
		body.Lag = new(float64(max(0, o.now()-c.Oldest)))
	}
	return body
}

// now is the clock that messages are stamped with.
func (o operator) now() int64 {
	if o.n.o.Now != nil {
		return o.n.o.Now().UnixMilli()
	}
	return time.Now().UnixMilli()
}

func (o operator) Named(ctx context.Context, id string) (principals []string, err error) {
	keys, err := o.b.Find(ctx, id)
	for _, k := range keys {
		principals = append(principals, k.Principal)
	}
	return principals, brokerError(err)
}

// maxListed is how many subscriptions of a client, or members of a group, are told.
const (
	maxListed  = 1000
	maxMembers = 100
)

func (o operator) Client(ctx context.Context, id, principal string) (body console.ClientDetail, err error) {
	c, subs, past, ok, err := o.b.Client(ctx, session.Key{Principal: principal, ClientID: id})
	if err != nil {
		return body, brokerError(err)
	}
	if !ok && len(past) == 0 {
		return body, brokerError(session.ErrNoSession)
	}
	body.Client, body.Exists, body.Will = o.client(&c), ok, c.Will
	body.ID, body.Principal = id, principal
	for _, b := range subs[:min(len(subs), maxListed)] {
		body.List = append(body.List, console.Subscription{Filter: b.Filter, QoS: int(b.QoS), NoLocal: b.NoLocal, RetainAsPublished: b.RetainAsPublished, ID: b.ID, Pending: b.Pending})
	}
	for _, e := range past {
		body.Events = append(body.Events, console.Event{At: millis(e.At), Kind: e.Kind, Detail: e.Detail, Count: e.Count})
	}
	return body, nil
}

// kickCodes are what a client whose connection is ended may be told.
var kickCodes = map[string]packet.Code{
	"administrative_action": packet.AdministrativeAction, "not_authorized": packet.NotAuthorized, "server_busy": packet.ServerBusy,
	"quota_exceeded": packet.QuotaExceeded, "use_another_server": packet.UseAnotherServer, "server_moved": packet.ServerMoved,
}

func (o operator) Kick(_ context.Context, id, principal, reason string) error {
	code, known := kickCodes[reason]
	if !known {
		return console.NewProblem(http.StatusBadRequest, "the reason is none of administrative_action, not_authorized, server_busy, quota_exceeded, use_another_server and server_moved")
	}
	if !o.b.Kick(session.Key{Principal: principal, ClientID: id}, code) {
		return console.NewProblem(http.StatusNotFound, "the client is not connected")
	}
	return nil
}

func (o operator) EndSession(ctx context.Context, id, principal string) (int64, error) {
	n, err := o.b.EndSession(ctx, session.Key{Principal: principal, ClientID: id})
	return n, brokerError(err)
}

func (operator) ValidFilter(filter string) bool { return topic.ValidateFilter(filter) == nil }

func (operator) Match(filter, name string) bool { return topic.Match(filter, name) }

func (o operator) Subscribers(ctx context.Context, name string, n int) (body console.Subscribers, err error) {
	if topic.ValidateName([]byte(name)) != nil {
		return body, console.NewProblem(http.StatusBadRequest, "the parameter topic is not the name of a topic")
	}
	list, total, err := o.b.Receivers(ctx, name, n)
	body = console.Subscribers{Topic: name, Total: total}
	for _, r := range list {
		body.Subscribers = append(body.Subscribers, console.Subscriber{ID: r.ClientID, Principal: r.Principal, Group: r.Group, Connected: r.Connected, QoS: int(r.QoS), Filters: r.Filters, Denied: r.Denied})
	}
	return body, brokerError(err)
}

func (o operator) Topics(ctx context.Context, visit func(*console.TopicCount)) (others console.TopicCount, since float64, err error) {
	count := func(t *session.TopicCount) console.TopicCount {
		return console.TopicCount{Topic: t.Topic, Messages: t.Messages, Bytes: t.Bytes, Last: float64(t.Last)}
	}
	rest, began, err := o.b.Topics(ctx, func(t *session.TopicCount) {
		body := count(t)
		visit(&body)
	})
	return count(&rest), millis(began), brokerError(err)
}

func (o operator) Retained(ctx context.Context, filter, after string, n int) (body []console.RetainedMessage, last string, more bool, err error) {
	if topic.ValidateFilter(filter) != nil {
		return nil, "", false, console.NewProblem(http.StatusBadRequest, "the parameter filter is not an MQTT filter")
	}
	list, last, more, err := o.b.Retained(ctx, filter, after, n)
	for _, r := range list {
		body = append(body, console.RetainedMessage{Topic: r.Topic, Bytes: r.Bytes, QoS: int(r.QoS), Time: float64(r.Time), Expires: whenMillis(r.Expires)})
	}
	return body, last, more, brokerError(err)
}

func (o operator) Groups(ctx context.Context, n int) (body console.SharedGroups, err error) {
	list, err := o.b.Groups(ctx)
	body.Total = len(list)
	for _, g := range list[:min(n, len(list))] {
		group := console.SharedGroup{Name: g.Name, Filter: g.Filter, Queued: g.Queued, Inflight: g.Leased, Size: len(g.Members), Members: []console.GroupMember{}}
		for _, m := range g.Members[:min(len(g.Members), maxMembers)] {
			group.Members = append(group.Members, console.GroupMember{ID: m.Key.ClientID, Principal: m.Key.Principal, Connected: m.Connected, QoS: int(m.QoS), Inflight: m.Leased})
		}
		body.Groups = append(body.Groups, group)
	}
	return body, brokerError(err)
}

func (o operator) Bans() (list []console.Ban) {
	for _, b := range o.b.Bans() {
		body := console.Ban{Client: b.Client, Principal: b.Principal, Since: millis(b.Since), Until: when(b.Until), Reason: b.Reason, By: b.By}
		if b.Network.IsValid() {
			body.Network = b.Network.String()
		}
		list = append(list, body)
	}
	return list
}

func ban(body console.Ban) (broker.Ban, error) {
	b := broker.Ban{Client: body.Client, Principal: body.Principal, Reason: body.Reason, By: body.By, Since: time.UnixMilli(int64(body.Since))}
	if body.Until != nil {
		b.Until = time.UnixMilli(int64(*body.Until))
	}
	if body.Network != "" {
		var err error
		if b.Network, err = netip.ParsePrefix(body.Network); err != nil {
			return b, console.NewProblem(http.StatusBadRequest, "the network is not one")
		}
	}
	return b, nil
}

func (o operator) Ban(body console.Ban) error {
	b, err := ban(body)
	if err != nil {
		return err
	}
	if err := o.b.Ban(b); err != nil {
		return brokerError(err)
	}
	if o.n.kafka != nil {
		o.n.kafka.Recheck()
	}
	return nil
}

func (o operator) Unban(body console.Ban) error {
	b, err := ban(body)
	if err != nil {
		return err
	}
	if !o.b.Unban(b) {
		return console.NewProblem(http.StatusNotFound, "there is no such ban; /api/v1/mqtt/bans lists them")
	}
	return nil
}

// Drain begins to send clients away, and does not wait until they are gone.
func (o operator) Drain(server string, rate int) error {
	before := o.b.Evacuation()
	if before.Running {
		return brokerError(broker.ErrEvacuating)
	}
	ended := make(chan struct{})
	o.n.running.Go(func() {
		defer close(ended)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			select {
			case <-o.n.quit:
				cancel()
			case <-ctx.Done():
			}
		}()
		switch err := o.b.Evacuate(ctx, server, rate); {
		case errors.Is(err, broker.ErrEvacuating), err == nil:
		case o.n.stopping():
		default:
			o.n.o.Logger.Error("not all clients were sent away", "err", err)
		}
	})
	for { // until it has begun, so that who asks how far it is hears of it
		if now := o.b.Evacuation(); now.Active && (!before.Active || now.Since != before.Since) {
			return nil
		}
		select {
		case <-ended:
			return nil
		case <-time.After(time.Millisecond):
		}
	}
}

func (o operator) Drained() console.Drain {
	e := o.b.Evacuation()
	return console.Drain{Active: e.Active, Running: e.Running, Server: e.Reference, Since: when(e.Since), Total: e.Total, Told: e.Told, Cut: e.Cut, Left: e.Left}
}

func (o operator) Admit() error {
	if !o.b.Admit() {
		return console.NewProblem(http.StatusConflict, "clients are let in already")
	}
	return nil
}

// Between two beats of a trace that nothing comes on, and the events that go out at once at most.
const (
	traceBeat = 5 * time.Second
	traceRun  = 256
)

func (o operator) Trace(ctx context.Context, q console.TraceQuery, emit func([]console.TraceEvent) error) error {
	t, err := o.b.Trace(broker.TraceOptions{Client: q.Client, Filter: q.Filter, Payload: q.Payload})
	if errors.Is(err, broker.ErrTraces) {
		return brokerError(err)
	} else if err != nil {
		return console.NewProblem(http.StatusBadRequest, err.Error())
	}
	defer t.Close()
	beat := time.NewTicker(traceBeat)
	defer beat.Stop()
	var run []console.TraceEvent
	for {
		if n := t.Dropped(); n > 0 {
			run = append(run, console.TraceEvent{At: float64(o.now()), Dropped: n})
		}
		if err := emit(run); err != nil {
			return err
		}
		run = run[:0]
		select {
		case <-t.Ready():
			events := t.Take(traceRun)
			for i := range events {
				run = append(run, traceBody(&events[i]))
			}
		case <-beat.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func traceBody(e *broker.TraceEvent) console.TraceEvent {
	body := console.TraceEvent{
		At: millis(e.At), Client: e.Client, Principal: e.Principal, Direction: "in", Packet: e.Packet, Topic: e.Topic, Filters: e.Filters, QoS: int(e.QoS),
		Retain: e.Retain, Dup: e.Dup, ID: int(e.ID), Size: e.Size, Reason: e.Reason,
	}
	if e.Out {
		body.Direction = "out"
	}
	switch whole := e.Payload; {
	case len(whole) == 0:
	default:
		for cut := 0; len(e.Payload) < e.Size && cut < utf8.UTFMax-1 && !utf8.Valid(whole); cut++ { // within a character
			whole = whole[:len(whole)-1]
		}
		if utf8.Valid(whole) {
			body.Payload = new(string(whole))
		} else {
			body.Base64 = new(base64.StdEncoding.EncodeToString(e.Payload))
		}
	}
	return body
}
