package eventlog

import "fmt"

// MaxTopicName is the longest name of a topic, in bytes.
const MaxTopicName = 249

// CheckTopicName says whether Kafka takes a name for a topic: 1 to 249 of a–z, A–Z, 0–9, '.', '_', '-', but not "." or "..".
// What passes is safe as a file's name too.
func CheckTopicName(name string) error {
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: topic name %q", ErrInvalid, name)
	}
	if len(name) > MaxTopicName {
		return fmt.Errorf("%w: topic name of %d bytes, at most %d", ErrInvalid, len(name), MaxTopicName)
	}
	for _, c := range []byte(name) {
		if !isTopicByte(c) {
			return fmt.Errorf("%w: topic name %q: only letters, digits, '.', '_' and '-'", ErrInvalid, name)
		}
	}
	return nil
}

func isTopicByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}
