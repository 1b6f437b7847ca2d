package main

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What is written by hand is what the library reads.
func TestRawProduce(t *testing.T) {
	value := incompressible(100)
	req, at := produceRequest("t", []int32{3, 4}, rawBatch(keys[:5], value, time.UnixMilli(1700000000000)))
	numbered(req[at:], 7, 1, 9) // of the first partition's, with its checksum
	first := req[at : at+(len(req)-at-8)/2]
	sealed(first)
	r := kmsg.ProduceRequest{Version: 7}
	if err := r.ReadFrom(req[4+2+2+4+2+len("bench"):]); err != nil {
		t.Fatal(err)
	}
	if r.Acks != -1 || len(r.Topics) != 1 || r.Topics[0].Topic != "t" || len(r.Topics[0].Partitions) != 2 || r.Topics[0].Partitions[1].Partition != 4 {
		t.Fatalf("%+v", r)
	}
	for i, wants := range []int64{7, -1} {
		var b kmsg.RecordBatch
		if err := b.ReadFrom(r.Topics[0].Partitions[i].Records); err != nil {
			t.Fatal(err)
		}
		if b.ProducerID != wants || b.NumRecords != 5 || b.LastOffsetDelta != 4 || b.Magic != 2 || b.FirstTimestamp != 1700000000000 {
			t.Errorf("%+v", b)
		}
		rest := b.Records
		for n := range 5 {
			var rec kmsg.Record
			size, used := kmsgVarint(rest)
			if err := rec.ReadFrom(rest[:used+size]); err != nil {
				t.Fatal(err)
			}
			rest = rest[used+size:]
			if rec.OffsetDelta != int32(n) || string(rec.Key) != string(keys[n]) || string(rec.Value) != string(value) {
				t.Errorf("record %d: %+v", n, rec)
			}
		}
		if len(rest) != 0 {
			t.Errorf("%d bytes more", len(rest))
		}
	}
}

func kmsgVarint(b []byte) (v, used int) {
	var u uint32
	for shift := 0; ; shift += 7 {
		u |= uint32(b[used]&0x7f) << shift
		used++
		if b[used-1] < 0x80 {
			return int(u>>1) ^ -int(u&1), used
		}
	}
}
