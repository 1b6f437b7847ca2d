package session

import "slices"

// saved is what the records of one session key say.
type saved struct {
	session *sessionValue
	subs    map[string]subValue
	queue   *queueValue
	in      map[uint16]inValue
	out     map[uint16]outValue
	will    *willValue
}

// visitSession takes in one record of a sessions partition. It is false if the value is no state record.
func (c *Core) visitSession(sh *shard) func(offset int64, k stateKey, value []byte) bool {
	return func(offset int64, k stateKey, value []byte) bool {
		switch k.kind {
		case kindBegin:
			return value == nil || sh.replayed.begun.decode(value) == nil
		case kindDone:
			return value == nil || sh.replayed.done.decode(value) == nil
		case kindRetained, kindFrontier:
			return false
		}
		of := c.restoring
		if k.kind == kindGroup {
			of = c.refilling
		}
		sv := of[k.key]
		if sv == nil {
			sv = &saved{}
			of[k.key] = sv
		}
		return sv.visit(offset, k, value) == nil
	}
}

func (sv *saved) visit(offset int64, k stateKey, value []byte) error {
	switch k.kind {
	case kindSession:
		return visitOne(&sv.session, value)
	case kindQueue, kindGroup:
		return visitOne(&sv.queue, value)
	case kindWill:
		err := visitOne(&sv.will, value)
		if sv.will != nil {
			sv.will.msg.own()
		}
		return err
	case kindSub:
		return visitMany(&sv.subs, k.rest, value)
	case kindIn:
		return visitMany(&sv.in, k.id, value)
	case kindOut:
		err := visitMany(&sv.out, k.id, value)
		if v, ok := sv.out[k.id]; ok && err == nil {
			v.at = offset
			sv.out[k.id] = v
		}
		return err
	}
	return errState
}

// own makes a message independent of the bytes it was decoded from.
func (m *Message) own() {
	m.Payload = slices.Clone(m.Payload)
	if m.Props != nil {
		m.Props.Correlation = slices.Clone(m.Props.Correlation)
	}
}

type decoder[T any] interface {
	*T
	decode([]byte) error
}

func visitOne[T any, P decoder[T]](at **T, value []byte) error {
	*at = nil
	if value == nil {
		return nil
	}
	v := new(T)
	if err := P(v).decode(value); err != nil {
		return err
	}
	*at = v
	return nil
}

func visitMany[K comparable, T any, P decoder[T]](at *map[K]T, k K, value []byte) error {
	if value == nil {
		delete(*at, k)
		return nil
	}
	var v T
	if err := P(&v).decode(value); err != nil {
		return err
	}
	if *at == nil {
		*at = map[K]T{}
	}
	(*at)[k] = v
	return nil
}

func (c *Core) visitRetained(st *retainedStore) func(offset int64, k stateKey, value []byte) bool {
	return func(offset int64, k stateKey, value []byte) bool {
		switch {
		case k.kind == kindFrontier:
			var v checkpointValue
			if value == nil || v.decode(value) != nil {
				return value == nil
			}
			st.restored = v.at
			return true
		case k.kind != kindRetained:
			return false
		case value == nil:
			c.retained.delete(k.rest)
			return true
		}
		var v retainedValue
		if v.decode(value) != nil {
			return false
		}
		r := &retained{
			topic: k.rest, store: st, time: v.msg.Time, place: c.place(v.source.Part), offset: v.source.Offset,
			qos: v.msg.QoS, at: offset, stored: true,
		}
		if p := v.msg.Props; p != nil && p.HasExpiry {
			r.expires = v.msg.Time + int64(p.Expiry)*1000
		}
		c.retained.put(r, retainedSize(r.topic, len(v.msg.Payload)), v.msg.Clear)
		if r.cleared {
			st.cleared = append(st.cleared, r)
		}
		return true
	}
}
