package packet

// Disconnect is DISCONNECT; 3.1.1 has no code or properties.
type Disconnect struct {
	Code  Code
	Props Properties
}

// Type is DISCONNECT.
func (p *Disconnect) Type() Type { return DISCONNECT }

func (d *Decoder) decodeDisconnect(r *reader) *Disconnect {
	p := &Disconnect{}
	if d.Version < V5 || len(r.b) == 0 {
		return p
	}
	p.Code = Code(r.byte())
	if !codesOf[DISCONNECT].has(p.Code) {
		r.fail(protocolError("reason code that does not belong to DISCONNECT")) // MQTT-3.14.2-1
	}
	if len(r.b) > 0 {
		in := inDisconnect | inServerDisconnect
		if d.Server {
			in = inDisconnect | inClientDisconnect
		}
		r.properties(&p.Props, in)
	}
	return p
}

// Append encodes p, in its short form if it can be.
func (p *Disconnect) Append(dst []byte, v Version) ([]byte, error) {
	if v < V5 || p.Code == Success && p.Props.empty() {
		return header(dst, DISCONNECT, 0)
	}
	if p.Props.empty() {
		out, err := header(dst, DISCONNECT, 1)
		return append(out, byte(p.Code)), err
	}
	block, inner, err := p.Props.block(v, inDisconnect|inClientDisconnect|inServerDisconnect)
	if err != nil {
		return dst, err
	}
	out, err := header(dst, DISCONNECT, 1+block)
	if err != nil {
		return dst, err
	}
	return p.Props.append(append(out, byte(p.Code)), inner), nil
}
