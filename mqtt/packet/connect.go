package packet

import "encoding/binary"

// Connect is CONNECT.
type Connect struct {
	Version    Version
	Bridge     bool // 3.1 and 3.1.1: the client says that it is another broker's bridge, by the high bit of the level, as Mosquitto's do
	CleanStart bool // Clean Session in 3.1.1
	KeepAlive  uint16
	ClientID   string
	Props      Properties
	Will       *Will
	HasUser    bool
	Username   string
	HasPass    bool
	Password   []byte
}

// Will is the will of a CONNECT.
type Will struct {
	QoS     byte
	Retain  bool
	Topic   string
	Payload []byte
	Props   Properties
}

// The connect flags (MQTT 5.0, 3.1.2.3).
const (
	connectReserved   = 0x01
	connectClean      = 0x02
	connectWill       = 0x04
	connectWillQoS    = 0x18
	connectWillRetain = 0x20
	connectPassword   = 0x40
	connectUsername   = 0x80
)

// Type is CONNECT.
func (c *Connect) Type() Type { return CONNECT }

// levelBridge marks the level of a bridge's CONNECT. MQTT does not know it; Mosquitto and what came from it do.
const levelBridge = 0x80

func protocol(name string, level byte) (v Version, bridge bool) {
	plain := level &^ levelBridge
	switch {
	case name == "MQTT" && level == byte(V5):
		return V5, false
	case name == "MQTT" && plain == byte(V311):
		return V311, level != plain
	case name == "MQIsdp" && plain == byte(V31):
		return V31, level != plain
	}
	return 0, false
}

func (d *Decoder) decodeConnect(r *reader, header byte) *Connect {
	name := string(r.take(int(r.uint16())))
	version, bridge := protocol(name, r.byte())
	if r.err != nil {
		return nil
	}
	if version == 0 {
		r.fail(&Error{UnsupportedProtocolVersion, "protocol name or level not supported"}) // MQTT-3.1.2-2
		return nil
	}
	d.Version = version
	if header != 0 && version > V31 {
		r.fail(malformed("reserved flag bits"))
	}
	flags := r.byte()
	checkConnectFlags(r, flags, version)
	c := &Connect{Version: version, Bridge: bridge, CleanStart: flags&connectClean != 0, KeepAlive: r.uint16()}
	if version == V5 {
		r.properties(&c.Props, inConnect)
		checkAuth(r, &c.Props)
	}
	c.ClientID = r.string()
	if c.ClientID == "" && (version == V31 || version == V311 && !c.CleanStart) {
		r.fail(&Error{ClientIDNotValid, "empty client identifier"}) // MQTT-3.1.3-8 of 3.1.1
	}
	if flags&connectWill != 0 {
		c.Will = decodeWill(r, flags, version)
	}
	// 3.1 lets the Remaining Length take precedence over the flags: what is not there was not sent.
	if present := version > V31 || len(r.b) > 0; flags&connectUsername != 0 && present {
		c.HasUser, c.Username = true, r.string()
	}
	if present := version > V31 || len(r.b) > 0; flags&connectPassword != 0 && present {
		c.HasPass, c.Password = true, r.binary()
	}
	return c
}

func checkConnectFlags(r *reader, flags byte, v Version) {
	will := flags&connectWill != 0
	switch {
	case flags&connectReserved != 0 && v > V31:
		r.fail(malformed("reserved connect flag")) // MQTT-3.1.2-3
	case !will && flags&(connectWillQoS|connectWillRetain) != 0:
		r.fail(malformed("will QoS or will retain without a will")) // MQTT-3.1.2-11, -13
	case flags&connectWillQoS == connectWillQoS:
		r.fail(malformed("will QoS of 3")) // MQTT-3.1.2-12
	case v < V5 && flags&connectPassword != 0 && flags&connectUsername == 0:
		r.fail(malformed("password without a user name")) // MQTT-3.1.2-22 of 3.1.1
	}
}

// checkAuth refuses authentication data without a method.
func checkAuth(r *reader, p *Properties) {
	if p.Has&PAuthData != 0 && p.Has&PAuthMethod == 0 {
		r.fail(protocolError("Authentication Data without Authentication Method"))
	}
}

func decodeWill(r *reader, flags byte, v Version) *Will {
	w := &Will{QoS: flags & connectWillQoS >> 3, Retain: flags&connectWillRetain != 0}
	if v == V5 {
		r.properties(&w.Props, inWill)
	}
	w.Topic = r.string()
	if w.Topic == "" {
		r.fail(malformed("empty will topic")) // MQTT-4.7.3-1
	}
	w.Payload = r.binary()
	return w
}

// Append encodes c. The version is c's own, if it has one.
func (c *Connect) Append(dst []byte, v Version) ([]byte, error) {
	if c.Version != 0 {
		v = c.Version
	}
	name := "MQTT"
	switch {
	case v == V31:
		name = "MQIsdp"
	case v != V311 && v != V5:
		return dst, ErrInvalid
	}
	flags, ok := c.flags(v)
	if !ok {
		return dst, ErrInvalid
	}
	block, inner, err := c.Props.block(v, inConnect)
	if err != nil {
		return dst, err
	}
	size := text(len(name), &err) + 4 + block + text(len(c.ClientID), &err)
	willInner := 0
	if w := c.Will; w != nil {
		block, inner, willErr := w.Props.block(v, inWill)
		if willErr != nil {
			return dst, willErr
		}
		size += block + text(len(w.Topic), &err) + text(len(w.Payload), &err)
		willInner = inner
	}
	if c.HasUser {
		size += text(len(c.Username), &err)
	}
	if c.HasPass {
		size += text(len(c.Password), &err)
	}
	if err != nil {
		return dst, err
	}
	out, err := header(dst, CONNECT, size)
	if err != nil {
		return dst, err
	}
	level := byte(v)
	if c.Bridge && v < V5 {
		level |= levelBridge
	}
	out = append(appendString(out, name), level, flags)
	out = binary.BigEndian.AppendUint16(out, c.KeepAlive)
	out = c.Props.appendBlock(out, v, inner)
	out = appendString(out, c.ClientID)
	if w := c.Will; w != nil {
		out = w.Props.appendBlock(out, v, willInner)
		out = appendString(out, w.Topic)
		out = appendBinary(out, w.Payload)
	}
	if c.HasUser {
		out = appendString(out, c.Username)
	}
	if c.HasPass {
		out = appendBinary(out, c.Password)
	}
	return out, nil
}

func (c *Connect) flags(v Version) (flags byte, ok bool) {
	if c.CleanStart {
		flags |= connectClean
	}
	if w := c.Will; w != nil {
		if w.QoS > 2 {
			return 0, false
		}
		flags |= connectWill | w.QoS<<3
		if w.Retain {
			flags |= connectWillRetain
		}
	}
	if c.HasUser {
		flags |= connectUsername
	}
	if c.HasPass {
		flags |= connectPassword
	}
	return flags, v == V5 || c.HasUser || !c.HasPass
}
