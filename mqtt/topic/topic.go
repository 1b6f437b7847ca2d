// Package topic knows MQTT topic names and topic filters: which are legal, which filter matches which name, subscriptions in a
// tree (Tree) and values by name that are found by filter (Names).
//
// It is pure: no goroutines, no clock, nothing on disk. Nothing is normalised: two spellings are two topics. Names that begin
// with $ are not matched by filters that begin with a wildcard (MQTT 5.0, 4.7.2).
package topic

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// Limits on names and filters.
const (
	MaxBytes  = 65_535
	MaxLevels = 128
)

// Why a name or filter is refused.
var (
	ErrEmpty    = errors.New("topic: empty")
	ErrTooLong  = errors.New("topic: longer than 65,535 bytes")
	ErrTooDeep  = errors.New("topic: more than 128 levels")
	ErrText     = errors.New("topic: not UTF-8, or has a control character")
	ErrWildcard = errors.New("topic: wildcard in a topic name, or not a whole level, or # not at the end")
	ErrShare    = errors.New("topic: bad share name, or no topic filter after it")
)

// Kinds of bytes.
const (
	plain = iota
	slash
	wildcard
	control
	beyondASCII
)

var kinds = func() (k [256]uint8) {
	for c := range k {
		switch {
		case c < 0x20 || c == 0x7F:
			k[c] = control
		case c >= utf8.RuneSelf:
			k[c] = beyondASCII
		}
	}
	k['/'], k['+'], k['#'] = slash, wildcard, wildcard
	return k
}()

// ValidateName checks the topic of a PUBLISH: 1 to 65,535 bytes, at most 128 levels, UTF-8 without control characters (the
// standard says that those should not be there and may be refused), no wildcard.
func ValidateName(name []byte) error {
	wild, err := scan(name)
	if err == nil && wild {
		return ErrWildcard
	}
	return err
}

// ValidateFilter checks a topic filter: as a name, but + may stand for a level and # for all that follow (MQTT 5.0, 4.7.1).
// Filters that begin $share/ are ParseShared's.
func ValidateFilter(filter string) error {
	wild, err := scan(filter)
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(filter, sharePrefix):
		return ErrShare
	case wild && !wildcardsInPlace(filter):
		return ErrWildcard
	}
	return nil
}

// scan checks what names and filters have in common and tells whether there are wildcards.
func scan[T string | []byte](s T) (wild bool, err error) {
	if len(s) == 0 {
		return false, ErrEmpty
	}
	if len(s) > MaxBytes {
		return false, ErrTooLong
	}
	levels, ascii := 1, true
	for i := 0; i < len(s); i++ {
		switch kinds[s[i]] {
		case plain:
		case slash:
			levels++
		case wildcard:
			wild = true
		case control:
			return false, ErrText
		case beyondASCII:
			ascii = false
		}
	}
	if levels > MaxLevels {
		return false, ErrTooDeep
	}
	if !ascii && !goodUTF8(string(s)) {
		return false, ErrText
	}
	return wild, nil
}

// goodUTF8 tells whether s is UTF-8 without the control characters U+0080 to U+009F.
func goodUTF8(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for i := 0; i+1 < len(s); i++ {
		if s[i] == 0xC2 && s[i+1] < 0xA0 {
			return false
		}
	}
	return true
}

func wildcardsInPlace(filter string) bool {
	for i := 0; i < len(filter); i++ {
		if kinds[filter[i]] != wildcard {
			continue
		}
		last := i+1 == len(filter)
		if i > 0 && filter[i-1] != '/' || !last && (filter[i] == '#' || filter[i+1] != '/') {
			return false
		}
	}
	return true
}

const sharePrefix = "$share/"

// ParseShared takes the filter of a shared subscription, $share/<share name>/<filter>, apart. ok tells whether it is one; err
// whether it is a wrong one. A filter that is not shared is not checked.
func ParseShared(filter string) (share, rest string, ok bool, err error) {
	s, ok := strings.CutPrefix(filter, sharePrefix)
	if !ok {
		return "", "", false, nil
	}
	share, rest, found := strings.Cut(s, "/")
	if !found || share == "" || strings.ContainsAny(share, "+#") { // MQTT-4.8.2-1, -2
		return "", "", true, ErrShare
	}
	if _, err := scan(share); err != nil {
		return "", "", true, err
	}
	if err := ValidateFilter(rest); err != nil {
		return "", "", true, err
	}
	return share, rest, true, nil
}

// Match tells whether a valid filter matches a valid name.
func Match(filter, name string) bool {
	if hidden(name) && leadsWild(filter) {
		return false
	}
	i, j := 0, 0
	for i < len(filter) {
		switch {
		case filter[i] == '#':
			return true
		case filter[i] == '+':
			for j < len(name) && name[j] != '/' {
				j++
			}
			i++
		case j < len(name) && name[j] == filter[i]:
			i++
			j++
		default: // a/# matches a as well
			return j == len(name) && filter[i:] == "/#"
		}
	}
	return j == len(name)
}

// hidden names are not matched by filters that begin with a wildcard.
func hidden(name string) bool { return name != "" && name[0] == '$' }

func leadsWild(filter string) bool { return filter != "" && (filter[0] == '+' || filter[0] == '#') }

// cut takes the first level off s. more tells whether others follow.
func cut(s string) (level, rest string, more bool) {
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
