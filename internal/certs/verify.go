package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// RefusedError says why a client's certificate is not accepted.
type RefusedError struct {
	Reason  string // for counters
	Subject string
	Serial  string
	Text    string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("client certificate %s (serial %s): %s", e.Subject, e.Serial, e.Text)
}

func refuse(c *x509.Certificate, reason, text string) error {
	return &RefusedError{Reason: reason, Subject: c.Subject.String(), Serial: fmt.Sprintf("%x", c.SerialNumber), Text: text}
}

// Pass is the outcome of a check: who the client is, and for how long that stands.
type Pass struct {
	Name  string // "": the client showed no certificate and need not
	of    *generation
	until time.Time // zero: for ever
}

// Valid tells whether a check need not be made again: the files are the same, and no certificate has expired.
func (s *Source) Valid(p Pass) bool {
	g := s.cur.Load()
	return g == p.of && (p.until.IsZero() || g.now().Before(p.until))
}

// Verify checks a connection against the present files. It is for connections whose handshake is over: what the handshake checked
// may have changed since.
func (s *Source) Verify(cs tls.ConnectionState) (Pass, error) { return s.cur.Load().verify(cs, true) }

// verify checks what no resumption may skip. again: the chains of the handshake are not to be relied on.
func (g *generation) verify(cs tls.ConnectionState, again bool) (p Pass, err error) {
	p.of = g
	if g.roots == nil {
		return p, nil
	}
	if len(cs.PeerCertificates) == 0 {
		if g.optional {
			return p, nil
		}
		return p, &RefusedError{Reason: reasonMissing, Subject: "none", Serial: "none", Text: "a certificate is required"}
	}
	leaf, chains := cs.PeerCertificates[0], cs.VerifiedChains
	if again {
		o := x509.VerifyOptions{Roots: g.roots, Intermediates: x509.NewCertPool(), CurrentTime: g.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		for _, c := range cs.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		if chains, err = leaf.Verify(o); err != nil {
			return p, refuse(leaf, reasonOf(err), err.Error())
		}
	}
	chain := g.revoked.spare(chains)
	if chain == nil {
		return p, refuse(leaf, reasonRevoked, "it, or the authority that signed it, is revoked")
	}
	for _, c := range chain {
		if p.until.IsZero() || c.NotAfter.Before(p.until) {
			p.until = c.NotAfter
		}
	}
	if p.Name, err = identity(leaf, g.fromCN); err != nil {
		return p, refuse(leaf, reasonNameless, err.Error())
	}
	return p, nil
}

// identity is the name that a certificate gives its holder: of the subject alternative names a URI, else a DNS name, else an
// e-mail address; the common name only where that is asked for. Of spiffe://…/device/ID it is the ID.
func identity(c *x509.Certificate, fromCN bool) (name string, err error) {
	switch {
	case fromCN:
		name = c.Subject.CommonName
	case len(c.URIs) > 0:
		name, err = fromURI(c.URIs[0])
	case len(c.DNSNames) > 0:
		name = strings.ToLower(c.DNSNames[0])
	case len(c.EmailAddresses) > 0:
		name = c.EmailAddresses[0]
	default:
		err = errors.New("it has no subject alternative name; identity_from: cn takes its common name")
	}
	switch {
	case err != nil:
		return "", err
	case name == "":
		return "", errors.New("it names nobody")
	case name == "anonymous":
		return "", errors.New("the name anonymous is for those without a certificate")
	case len(name) > maxName:
		return "", fmt.Errorf("its name has %d bytes, at most %d are accepted", len(name), maxName)
	case !utf8.ValidString(name), strings.ContainsAny(name, "/+#"), strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) || r == utf8.RuneError }):
		return "", errors.New("its name has a character that no name may have")
	}
	return name, nil
}

// fromURI is the name in a URI: the device's of a SPIFFE ID, and any other as it stands, if it can be a name. What SPIFFE does not allow is not
// guessed at: two ways to write one name would be two devices.
func fromURI(u *url.URL) (string, error) {
	if u.Scheme != "spiffe" {
		return u.String(), nil
	}
	id, ok := strings.CutPrefix(u.EscapedPath(), "/device/")
	if !ok || id == "" || strings.ContainsAny(id, "/%") || u.Host == "" || u.Port() != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("its SPIFFE ID is not spiffe://TRUST-DOMAIN/device/ID")
	}
	return id, nil
}

const maxName = 256

// Reasons for which a handshake fails, for counters.
const (
	reasonMissing  = "client_certificate_missing"
	reasonRevoked  = "client_certificate_revoked"
	reasonNameless = "client_certificate_name"
	reasonUnknown  = "client_certificate_unknown_authority"
	reasonExpired  = "client_certificate_expired"
	reasonInvalid  = "client_certificate_invalid"
	reasonNotTLS   = "not_tls"
	reasonClient   = "tls_refused_by_client"
	reasonGone     = "connection_closed_by_client"
	reasonOther    = "tls_handshake_failed"
)

// Refused makes of a failed handshake's error one that names the certificate, and the reason for counters.
func Refused(err error) (reason string, named error) {
	var mine *RefusedError
	var verification *tls.CertificateVerificationError
	var op *net.OpError
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &mine):
		return mine.Reason, err
	case errors.As(err, &verification) && len(verification.UnverifiedCertificates) > 0:
		reason := reasonOf(verification.Err)
		return reason, refuse(verification.UnverifiedCertificates[0], reason, verification.Err.Error())
	case strings.Contains(err.Error(), "client didn't provide a certificate"): // it has no type
		return reasonMissing, err
	case errors.As(err, &header):
		return reasonNotTLS, err
	case errors.As(err, &op) && op.Op == "remote error":
		return reasonClient, err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return reasonGone, err
	}
	return reasonOther, err
}

func reasonOf(err error) string {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return reasonUnknown
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return reasonExpired
	}
	return reasonInvalid
}

// revoked are the certificates of revocation lists, by issuer and serial number.
type revoked struct {
	serials map[string]struct{}
	next    time.Time // when the first of the lists is to be replaced
}

func revokedKey(issuer []byte, serial string) string { return string(issuer) + "\x00" + serial }

// parseRevoked reads every list of a file; there must be one, and each must be signed by one of the authorities.
func parseRevoked(b []byte, authorities []*x509.Certificate) (*revoked, error) {
	r := &revoked{serials: map[string]struct{}{}}
	lists := 0
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			continue
		}
		lists++
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("revocation list %d of the file: %w", lists, err)
		}
		if !signed(list, authorities) {
			return nil, fmt.Errorf("revocation list %d of the file, of %s, is signed by none of the client authorities", lists, list.Issuer)
		}
		for _, e := range list.RevokedCertificateEntries {
			r.serials[revokedKey(list.RawIssuer, e.SerialNumber.String())] = struct{}{}
		}
		if !list.NextUpdate.IsZero() && (r.next.IsZero() || list.NextUpdate.Before(r.next)) {
			r.next = list.NextUpdate
		}
	}
	switch {
	case lists == 0:
		return nil, errors.New("there is no revocation list in PEM in it")
	case bytes.Contains(b, []byte("-----BEGIN")):
		return nil, fmt.Errorf("what follows revocation list %d of the file is cut off, or not PEM", lists)
	}
	return r, nil
}

func signed(list *x509.RevocationList, authorities []*x509.Certificate) bool {
	for _, a := range authorities {
		if string(a.RawSubject) == string(list.RawIssuer) && list.CheckSignatureFrom(a) == nil {
			return true
		}
	}
	return false
}

// spare returns a chain that has no revoked certificate; nil: there is none.
func (r *revoked) spare(chains [][]*x509.Certificate) []*x509.Certificate {
	for _, chain := range chains {
		if r == nil || !r.any(chain) {
			return chain
		}
	}
	return nil
}

func (r *revoked) any(chain []*x509.Certificate) bool {
	for _, c := range chain {
		if _, there := r.serials[revokedKey(c.RawIssuer, c.SerialNumber.String())]; there {
			return true
		}
	}
	return false
}
