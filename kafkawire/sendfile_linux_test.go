package kafkawire

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// startOnDisk is startSending with the system's sendfile.
func startOnDisk(t *testing.T, records int) (n *node, dir string, topic eventlog.Topic) {
	t.Helper()
	return startSending(t, records, nil)
}

// startSending runs a node on the system's files, with a topic of records in segments: as many of a kilobyte as asked for, ten in a batch.
func startSending(t *testing.T, records int, send sendfile) (n *node, dir string, topic eventlog.Topic) {
	t.Helper()
	dir = t.TempDir()
	fs, err := vfs.OS(dir)
	if err != nil {
		t.Fatal(err)
	}
	n = startOn(t, Options{sendfile: send}, func(*vfs.Mem) vfs.FS { return fs })
	t.Cleanup(n.stop)
	topic = n.topic("a", 2, nil)
	c := n.dial()
	for i := range records / 10 {
		var values []string
		for j := range 10 {
			values = append(values, fmt.Sprintf("%08d%s", 10*i+j, bytes.Repeat([]byte{'x'}, 1000)))
		}
		c.produce("a", 0, values...)
	}
	n.restart() // everything is in segments, and nothing of it verified
	return n, dir, topic
}

// fetchAll reads a partition of a topic from an offset to its end.
func fetchAll(c *client, topic eventlog.Topic, version int16, from, end int64, isolation int8) (all []byte) {
	c.t.Helper()
	for from < end {
		req := fetchRequest(topic, 0, from, 1, 1000)
		req.IsolationLevel = isolation
		req.Topics[0].Partitions[0].PartitionMaxBytes = 100_000
		p := do[*kmsg.FetchResponse](c, version, req).Topics[0].Partitions[0]
		if p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
			c.t.Fatalf("fetch at %d: error %d, %d bytes", from, p.ErrorCode, len(p.RecordBatches))
		}
		all = append(all, p.RecordBatches...)
		for raw := p.RecordBatches; len(raw) > 0; {
			b, err := eventlog.CheckBatch(raw)
			if err != nil {
				c.t.Fatal(err)
			}
			from, raw = b.Next(), raw[len(b):]
		}
	}
	return all
}

// What comes from a file is what comes through memory, and only what was verified comes from a file.
func TestFetchFromFile(t *testing.T) {
	n, _, topic := startOnDisk(t, 2000)
	c := n.dial()
	verified := fetchAll(c, topic, 12, 0, 2000, 0)
	if got := n.srv.Stats().FromFiles; got != 0 {
		t.Errorf("%d bytes came from files that nobody has verified", got)
	}
	for _, version := range []int16{10, 12, 13} {
		for _, isolation := range []int8{0, 1} {
			before := n.srv.Stats().FromFiles
			if sent := fetchAll(c, topic, version, 0, 2000, isolation); !bytes.Equal(sent, verified) {
				t.Fatalf("version %d: %d bytes from files, %d verified, and not the same", version, len(sent), len(verified))
			}
			if got := n.srv.Stats().FromFiles - before; got < uint64(len(verified))*9/10 {
				t.Errorf("version %d: %d of %d bytes came from files", version, got, len(verified))
			}
		}
	}
	before := n.srv.Stats().FromFiles
	if old := fetchAll(c, topic, 4, 0, 2000, 0); !bytes.Equal(old, verified) || n.srv.Stats().FromFiles != before {
		t.Error("version 4, which looks for zstd, has other bytes, or has not looked")
	}
}

// Where a file system has no sendfile, the same bytes come through memory. One that stops in the middle of a span has failed.
func TestFetchFromFileWithoutSendfile(t *testing.T) {
	for _, refusal := range []syscall.Errno{syscall.EINVAL, syscall.ENOSYS, syscall.EOPNOTSUPP} {
		asked := 0
		n, _, topic := startSending(t, 500, func(int, int, *int64, int) (int, error) { asked++; return -1, refusal })
		c := n.dial()
		verified := fetchAll(c, topic, 12, 0, 500, 0)
		if asked != 0 {
			t.Fatal("files were sent that nobody has verified")
		}
		before := n.srv.Stats()
		if sent := fetchAll(c, topic, 12, 0, 500, 0); !bytes.Equal(sent, verified) {
			t.Fatalf("%v: %d bytes, %d verified, and not the same", refusal, len(sent), len(verified))
		}
		c.nc.Close()
		n.srv.Close() // the writer has ended
		if asked != 1 {
			t.Errorf("%v: asked for %d times on one connection", refusal, asked)
		}
		if now := n.srv.Stats(); now.FromFiles != before.FromFiles || now.BytesOut-before.BytesOut < uint64(len(verified)) {
			t.Errorf("%v: %d bytes went out, %d of them by sendfile", refusal, now.BytesOut-before.BytesOut, now.FromFiles)
		}
	}
	asked := 0
	n, _, topic := startSending(t, 500, func(out, in int, off *int64, size int) (int, error) {
		if asked++; asked > 1 {
			return -1, syscall.EINVAL
		}
		return syscall.Sendfile(out, in, off, min(size, 1000))
	})
	c := n.dial()
	fetchAll(c, topic, 12, 0, 500, 0)
	req := fetchRequest(topic, 0, 0, 1, 1000)
	req.SetVersion(12)
	if _, err := c.tryReceive(req, c.send(req)); err == nil {
		t.Error("a file system that stops in the middle was believed")
	}
}

// Several partitions and pipelined requests: the pieces of files and of memory stand where they belong.
func TestFetchFromFileAndMemory(t *testing.T) {
	n, _, topic := startOnDisk(t, 500)
	c := n.dial()
	fetchAll(c, topic, 12, 0, 500, 0)
	small := c.produce("a", 1, "small")
	req := fetchRequest(topic, 0, 0, 1, 1000)
	part := req.Topics[0].Partitions[0]
	part.Partition, part.FetchOffset = 1, small
	req.Topics[0].Partitions = append(req.Topics[0].Partitions, part)
	req.SetVersion(12)
	var sent []int32
	for range 20 {
		sent = append(sent, c.send(req))
	}
	for _, correlation := range sent {
		resp := c.receive(req, correlation).(*kmsg.FetchResponse)
		parts := resp.Topics[0].Partitions
		if len(values(t, parts[0].RecordBatches, 0)) != 500 {
			t.Fatalf("%d bytes of the large partition", len(parts[0].RecordBatches))
		}
		if got := values(t, parts[1].RecordBatches, small); len(got) != 1 || got[0] != "small" {
			t.Fatalf("the small partition has %q", got)
		}
	}
	if n.srv.Stats().FromFiles == 0 {
		t.Error("nothing came from a file")
	}
}

// slowly asks for more than the sockets hold, and returns when the first of it is sent: one answer or another is on its way then.
func slowly(n *node, topic eventlog.Topic) (c *client, req *kmsg.FetchRequest, asked []int32) {
	n.t.Helper()
	c = n.dial()
	req = fetchRequest(topic, 0, 0, 1, 1000)
	req.MaxBytes, req.Topics[0].Partitions[0].PartitionMaxBytes = 16<<20, 16<<20
	req.SetVersion(12)
	for range 16 { // of 4 MB each
		asked = append(asked, c.send(req))
	}
	for deadline := time.Now().Add(20 * time.Second); n.srv.Stats().FromFiles == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatal("nothing came from a file")
		}
	}
	return c, req, asked
}

// A client that takes its time gets what it was promised, though the records are deleted meanwhile.
func TestFetchFromDeletedFile(t *testing.T) {
	n, _, topic := startOnDisk(t, 4000)
	want := fetchAll(n.dial(), topic, 12, 0, 4000, 0)
	c, req, asked := slowly(n, topic)
	if err := n.eng.DeleteTopic(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for i, correlation := range asked {
		p := c.receive(req, correlation).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if got := p.RecordBatches; !bytes.Equal(got, want[:len(got)]) || (p.ErrorCode == 0) != (len(got) > 2<<20) || i == 0 && len(got) == 0 {
			t.Fatalf("answer %d: error %d, %d bytes, or not those that were there", i, p.ErrorCode, len(got))
		}
	}
}

// A file that does not give what it had ends the connection, and the next reader is told what is damaged.
func TestFetchFromCutFile(t *testing.T) {
	const records = 8000 // more than the sockets hold
	n, dir, topic := startOnDisk(t, records)
	want := fetchAll(n.dial(), topic, 12, 0, records, 0)
	logs, err := filepath.Glob(filepath.Join(dir, "topics", "*", "0", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	c, req, asked := slowly(n, topic)
	for _, name := range logs { // the internal topics' are small
		if fi, err := os.Stat(name); err == nil && fi.Size() > 1<<20 {
			if err := os.Truncate(name, 100_000); err != nil {
				t.Fatal(err)
			}
		}
	}
	ended := false
	for _, correlation := range asked {
		resp, err := c.tryReceive(req, correlation)
		if ended = err != nil; ended {
			break
		}
		got := resp.(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches
		for at := 0; at < len(got); { // what is under way is in the file's pages, which a cut clears in part: that is for its checksum to tell
			n, _ := eventlog.BatchSize(want[at:])
			if _, err := eventlog.CheckBatch(got[at : at+n]); err == nil && !bytes.Equal(got[at:at+n], want[at:at+n]) {
				t.Fatalf("the batch at byte %d is not the one that was there", at)
			}
			at += n
		}
	}
	if !ended {
		t.Fatal("whole responses, where the file lacks what they promised")
	}
	p := do[*kmsg.FetchResponse](n.dial(), 12, fetchRequest(topic, 0, 400, 1, 1000)).Topics[0].Partitions[0]
	if p.ErrorCode == 0 || len(p.RecordBatches) > 0 {
		t.Errorf("the next reader has error %d and %d bytes", p.ErrorCode, len(p.RecordBatches))
	}
}
