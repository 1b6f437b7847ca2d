//go:build !linux

package engine

// newAlarm has none to return, and no error: commits are not paced here.
func newAlarm() (Alarm, error) { return nil, nil }
