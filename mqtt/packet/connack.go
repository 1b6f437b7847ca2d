package packet

// Connack is CONNACK. In 3.1.1 Code is mapped to a return code when it is encoded.
type Connack struct {
	SessionPresent bool
	Code           Code
	Props          Properties
}

// Type is CONNACK.
func (c *Connack) Type() Type { return CONNACK }

func (d *Decoder) decodeConnack(r *reader) *Connack {
	c := &Connack{}
	flags, code := r.byte(), r.byte()
	if d.Version > V31 { // 3.1 has no session present; the byte is reserved
		if flags > 1 {
			r.fail(malformed("reserved connect acknowledge flags")) // MQTT-3.2.2-1
		}
		c.SessionPresent = flags == 1
	}
	if d.Version == V5 {
		c.Code = Code(code)
		r.properties(&c.Props, inConnack)
		checkAuth(r, &c.Props)
		if !codesOf[CONNACK].has(c.Code) {
			r.fail(protocolError("reason code that does not belong to CONNACK")) // MQTT-3.2.2-8
		}
	} else if int(code) < len(fromReturnCode) {
		c.Code = fromReturnCode[code]
	} else {
		r.fail(malformed("reserved return code"))
	}
	if c.SessionPresent && c.Code != Success {
		r.fail(protocolError("session present in a refusal")) // MQTT-3.2.2-6
	}
	return c
}

// Append encodes c. A refusal never says that a session is present.
func (c *Connack) Append(dst []byte, v Version) ([]byte, error) {
	block, inner, err := c.Props.block(v, inConnack)
	if err != nil {
		return dst, err
	}
	out, err := header(dst, CONNACK, 2+block)
	if err != nil {
		return dst, err
	}
	code := byte(c.Code)
	if v < V5 {
		code = c.Code.ReturnCode()
	}
	flags := byte(0)
	if c.SessionPresent && c.Code == Success && v > V31 {
		flags = 1
	}
	return c.Props.appendBlock(append(out, flags, code), v, inner), nil
}
