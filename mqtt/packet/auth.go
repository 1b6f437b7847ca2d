package packet

// Auth is AUTH.
type Auth struct {
	Code  Code
	Props Properties
}

// Type is AUTH.
func (a *Auth) Type() Type { return AUTH }

func (d *Decoder) decodeAuth(r *reader) *Auth {
	a := &Auth{}
	if len(r.b) == 0 { // success without properties
		return a
	}
	a.Code = Code(r.byte())
	if !codesOf[AUTH].has(a.Code) {
		r.fail(protocolError("reason code that does not belong to AUTH")) // MQTT-3.15.2-1
	}
	r.properties(&a.Props, inAuth)
	if a.Props.Has&PAuthMethod == 0 {
		r.fail(protocolError("AUTH without Authentication Method"))
	}
	return a
}

// Append encodes a. There is no AUTH before 5.0.
func (a *Auth) Append(dst []byte, v Version) ([]byte, error) {
	if v < V5 {
		return dst, ErrInvalid
	}
	if a.Code == Success && a.Props.empty() {
		return header(dst, AUTH, 0)
	}
	block, inner, err := a.Props.block(v, inAuth)
	if err != nil {
		return dst, err
	}
	out, err := header(dst, AUTH, 1+block)
	if err != nil {
		return dst, err
	}
	return a.Props.append(append(out, byte(a.Code)), inner), nil
}
