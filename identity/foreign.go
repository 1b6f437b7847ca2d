package identity

import (
	"crypto/pbkdf2"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// foreign is a password's hash of a Mosquitto password file: $6$salt$hash is SHA-512 of password and salt, $7$iterations$salt$hash is
// PBKDF2 with HMAC-SHA-512. Both are cheap to guess at, so a login that passes one is the occasion to make it argon2id.
type foreign struct {
	iterations int // 0: $6$
	salt, hash []byte
}

// maxIterations bounds what a line of the file may cost: half a second.
const maxIterations = 500_000

var (
	errForeign     = errors.New("a Mosquitto hash is $6$salt$hash or $7$iterations$salt$hash, with salt and hash in base64")
	foreignBase64  = base64.StdEncoding.Strict()
	foreignMarkers = []string{"$6$", "$7$"}
)

func isForeign(hash string) bool {
	for _, m := range foreignMarkers {
		if strings.HasPrefix(hash, m) {
			return true
		}
	}
	return false
}

func parseForeign(s string) (*foreign, error) {
	parts := strings.Split(s, "$")
	f := &foreign{}
	switch {
	case len(parts) == 4 && parts[1] == "6":
	case len(parts) == 5 && parts[1] == "7":
		n, err := strconv.Atoi(parts[2])
		if err != nil || n < 1 || n > maxIterations || strconv.Itoa(n) != parts[2] {
			return nil, fmt.Errorf("a hash of PBKDF2 with other than 1 to %d iterations", maxIterations)
		}
		f.iterations = n
	default:
		return nil, errForeign
	}
	var err error
	if f.salt, err = foreignBase64.DecodeString(parts[len(parts)-2]); err != nil || len(f.salt) == 0 || len(f.salt) > maxSalt {
		return nil, errForeign
	}
	if f.hash, err = foreignBase64.DecodeString(parts[len(parts)-1]); err != nil || len(f.hash) != sha512.Size {
		return nil, errForeign
	}
	return f, nil
}

func (f *foreign) matches(password string) bool {
	if strings.ContainsRune(password, 0) { // HMAC takes a short key for the same with zeros behind it
		return false
	}
	var sum []byte
	if f.iterations == 0 {
		h := sha512.New()
		h.Write([]byte(password))
		h.Write(f.salt)
		sum = h.Sum(nil)
	} else {
		var err error
		if sum, err = pbkdf2.Key(sha512.New, password, f.salt, f.iterations, sha512.Size); err != nil {
			return false
		}
	}
	return subtle.ConstantTimeCompare(sum, f.hash) == 1
}
