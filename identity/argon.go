package identity

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// argon is an argon2id hash of a password, with what it was made with.
type argon struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
	salt    []byte
	hash    []byte
}

const (
	saltBytes = 16
	hashBytes = 32
)

// defaultArgon is what new passwords are hashed with: OWASP's first choice of 2023, some 30 ms.
var defaultArgon = argon{memory: 19 << 10, time: 2, threads: 1}

// Bounds on what a file may ask for: less protects nobody, more would let a line of it take the machine.
const (
	minMemory, maxMemory   = 7 << 10, 256 << 10
	minTime, maxTime       = 1, 10
	minThreads, maxThreads = 1, 4
	minSalt, maxSalt       = 8, 64
	minHash, maxHash       = 16, 64
)

func newArgon(random io.Reader, password string) (*argon, error) {
	if random == nil {
		random = rand.Reader
	}
	a := defaultArgon
	a.salt = make([]byte, saltBytes)
	if _, err := io.ReadFull(random, a.salt); err != nil {
		return nil, fmt.Errorf("make a salt: %w", err)
	}
	a.hash = a.of(password, hashBytes)
	return &a, nil
}

func (a *argon) of(password string, n int) []byte {
	return argon2.IDKey([]byte(password), a.salt, a.time, a.memory, a.threads, uint32(n))
}

func (a *argon) matches(password string) bool {
	return subtle.ConstantTimeCompare(a.of(password, len(a.hash)), a.hash) == 1
}

// String is the usual notation: $argon2id$v=19$m=19456,t=2,p=1$salt$hash.
func (a *argon) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, a.memory, a.time, a.threads,
		base64Text.EncodeToString(a.salt), base64Text.EncodeToString(a.hash))
}

var errHash = errors.New("the hash is neither $argon2id$v=19$m=…,t=…,p=…$salt$hash nor " + tokenMark + "…, nor $6$… or $7$… of Mosquitto; make one with `millrace passwd`")

func parseArgon(s string) (*argon, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, errHash
	}
	costs := strings.Split(parts[3], ",")
	if len(costs) != 3 {
		return nil, errHash
	}
	var values [3]uint32
	for i, c := range []struct {
		name        string
		least, most uint64
	}{{"m=", minMemory, maxMemory}, {"t=", minTime, maxTime}, {"p=", minThreads, maxThreads}} {
		digits, ok := strings.CutPrefix(costs[i], c.name)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
			return nil, errHash
		}
		if n < c.least || n > c.most {
			return nil, fmt.Errorf("argon2id with %s%d: between %d and %d is possible", c.name, n, c.least, c.most)
		}
		values[i] = uint32(n)
	}
	a := &argon{memory: values[0], time: values[1], threads: uint8(values[2])}
	var err error
	if a.salt, err = base64Text.DecodeString(parts[4]); err != nil || len(a.salt) < minSalt || len(a.salt) > maxSalt {
		return nil, fmt.Errorf("the salt is not %d to %d bytes of base64", minSalt, maxSalt)
	}
	if a.hash, err = base64Text.DecodeString(parts[5]); err != nil || len(a.hash) < minHash || len(a.hash) > maxHash {
		return nil, fmt.Errorf("the hash is not %d to %d bytes of base64", minHash, maxHash)
	}
	return a, nil
}
