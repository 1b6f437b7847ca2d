package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogCommands: a node's log is looked at while it runs, whole, and damaged.
func TestLogCommands(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	node, mqtt, _ := httpNode(t, data)
	expect(t, exitOK, "", "", "sim", "load", "--broker", mqtt, "--clients", "3", "--count", "50", "--watch")
	expect(t, exitUsage, "", "a node is running on it", "log", "check", "--data", data)
	expect(t, exitUsage, "", "a node is running on it", "log", "dump", "--data", data)
	node.cancel()
	if code := node.wait(); code != exitOK {
		t.Fatalf("the node: %d", code)
	}
	expect(t, exitOK, "nothing is damaged", "", "log", "check", "--data", data)
	expect(t, exitUsage, "", "is not there", "log", "check", "--data", data+"x")
	expect(t, exitUsage, "", "no log here", "log", "check", "--data", t.TempDir())
	expect(t, exitUsage, "", "one of checkpoint, wal, segments, indexes", "log", "dump", "--data", data, "everything")
	expect(t, exitOK, "cluster_id", "", "log", "dump", "--data", data, "checkpoint")
	expect(t, exitOK, `"what":"session"`, "", "log", "dump", "--data", data, "segments", "--topic", "__millrace_sessions", "--records")
	c := expect(t, exitOK, "", "", "log", "dump", "--data", data, "segments", "--topic", "mqtt", "--records", "-o", "json")
	records, file := 0, ""
	for line := range strings.Lines(c.out.String()) {
		var l struct {
			Kind, Topic, File string
			Size              int
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Topic != "mqtt" {
			t.Fatalf("%s: %v", line, err)
		}
		if l.Kind == "record" {
			records++
		} else if l.Kind == "batch" && file == "" {
			file = l.File
		}
	}
	if records != 150 {
		t.Errorf("%d records are told of", records)
	}

	p, err := os.ReadFile(filepath.Join(data, file))
	if err != nil {
		t.Fatal(err)
	}
	p[80] ^= 1
	if err := os.WriteFile(filepath.Join(data, file), p, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, exitFailed, "DAMAGED  topic mqtt, partition", "is damaged in 1 places", "log", "check", "--data", data)
	c = expect(t, exitFailed, "", "", "log", "check", "--data", data, "-o", "json")
	var report struct {
		Damage []struct {
			Topic, File string
			From, To    int64
		}
	}
	if err := json.Unmarshal([]byte(c.out.String()), &report); err != nil || len(report.Damage) != 1 || report.Damage[0].File != file || report.Damage[0].To <= report.Damage[0].From {
		t.Errorf("%+v, %v", report, err)
	}
	expect(t, exitOK, "damage  topic: mqtt", "", "log", "dump", "--data", data, "segments", "--topic", "mqtt")
}

// TestBackupCommands: the log of a stopped node is backed up, listed, verified and restored; of a running one only an administrator gets it.
func TestBackupCommands(t *testing.T) {
	dir := t.TempDir()
	data, to, back := filepath.Join(dir, "data"), filepath.Join(dir, "backup"), filepath.Join(dir, "back")
	node, mqtt, http := httpNode(t, data)
	expect(t, exitOK, "", "", "sim", "load", "--broker", mqtt, "--clients", "3", "--count", "50", "--watch")
	expect(t, exitFailed, "", "password_file", "backup", to, "--http", http)
	expect(t, exitFailed, "", "through --http", "backup", to, "--data", data)
	node.cancel()
	node.wait()
	expect(t, exitFailed, "", "is no backup", "restore", dir, "--check")
	expect(t, exitOK, "were copied", "", "backup", to, "--data", data)
	c := expect(t, exitOK, "", "", "backup", to, "--data", data, "-o", "json", "--keep", "1")
	var r struct{ Commit, Bytes, Copied int64 }
	if err := json.Unmarshal([]byte(c.out.String()), &r); err != nil || r.Bytes == 0 || r.Copied > r.Bytes {
		t.Errorf("%+v, %v", r, err)
	}
	expect(t, exitOK, "commit ", "", "backup", "list", to)
	expect(t, exitOK, "segments", "", "restore", to, "--check")
	expect(t, exitUsage, "", "--data, or only --check", "restore", to)
	expect(t, exitOK, "segments", "", "restore", to, "--data", back)
	expect(t, exitFailed, "", "not empty", "restore", to, "--data", back)
	expect(t, exitOK, "complete: 150 records", "", "verify", "--data", back)
}
