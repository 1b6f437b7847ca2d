package packet

// Ping is PINGREQ or PINGRESP.
type Ping struct{ Kind Type }

// Type is the kind.
func (p *Ping) Type() Type { return p.Kind }

// Append encodes p.
func (p *Ping) Append(dst []byte, _ Version) ([]byte, error) {
	if p.Kind != PINGREQ && p.Kind != PINGRESP {
		return dst, ErrInvalid
	}
	return header(dst, p.Kind, 0)
}
