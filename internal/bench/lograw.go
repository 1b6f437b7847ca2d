package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka's protocol written by hand: for loads whose client must cost little on the two processors that it shares with the server.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Where fields are in a batch (format 2).
const (
	batchCRC      = 17
	batchCRCFrom  = 21
	batchProducer = 43 // id (8), epoch (2), first sequence (4)
	batchHeader   = 61
)

// rawBatch encodes records with the same value and a key each, of a producer without an id. The last of them ends where the value ends, but for one byte.
func rawBatch(keys [][]byte, value []byte, now time.Time) []byte {
	b := make([]byte, batchHeader, batchHeader+len(keys)*(len(value)+len(keys[0])+16))
	for i, key := range keys {
		var rec []byte
		rec = append(rec, 0)                   // attributes
		rec = kbin.AppendVarint(rec, 0)        // after the first timestamp
		rec = kbin.AppendVarint(rec, int32(i)) // after the first offset
		rec = kbin.AppendVarintBytes(rec, key)
		rec = kbin.AppendVarintBytes(rec, value)
		rec = kbin.AppendVarint(rec, 0) // headers
		b = kbin.AppendVarint(b, int32(len(rec)))
		b = append(b, rec...)
	}
	be := binary.BigEndian
	be.PutUint32(b[8:], uint32(len(b)-12))
	be.PutUint32(b[12:], 0xffffffff) // no leader epoch yet
	b[16] = 2
	be.PutUint32(b[23:], uint32(len(keys)-1))
	be.PutUint64(b[27:], uint64(now.UnixMilli()))
	be.PutUint64(b[35:], uint64(now.UnixMilli()))
	numbered(b, -1, -1, -1)
	be.PutUint32(b[57:], uint32(len(keys)))
	sealed(b)
	return b
}

// numbered sets who produces the batch; sealed must follow.
func numbered(b []byte, id int64, epoch int16, sequence int32) {
	binary.BigEndian.PutUint64(b[batchProducer:], uint64(id))
	binary.BigEndian.PutUint16(b[batchProducer+8:], uint16(epoch))
	binary.BigEndian.PutUint32(b[batchProducer+10:], uint32(sequence))
}

func sealed(b []byte) {
	binary.BigEndian.PutUint32(b[batchCRC:], crc32.Checksum(b[batchCRCFrom:], castagnoli))
}

// produceRequest encodes a Produce request (version 7, acks=all) of the same batch to several partitions; at is where the first of them begins.
func produceRequest(topic string, partitions []int32, batch []byte) (req []byte, at int) {
	b := []byte{0, 0, 0, 0}
	b = kbin.AppendInt16(b, 0) // Produce
	b = kbin.AppendInt16(b, 7)
	b = kbin.AppendInt32(b, 1) // answers come in order, numbers tell nothing
	b = kbin.AppendString(b, "bench")
	b = kbin.AppendNullableString(b, nil)
	b = kbin.AppendInt16(b, -1)
	b = kbin.AppendInt32(b, 60_000)
	b = kbin.AppendArrayLen(b, 1)
	b = kbin.AppendString(b, topic)
	b = kbin.AppendArrayLen(b, len(partitions))
	for _, p := range partitions {
		b = kbin.AppendInt32(b, p)
		b = kbin.AppendInt32(b, int32(len(batch)))
		if at == 0 {
			at = len(b)
		}
		b = append(b, batch...)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b, at
}

// rawConn is a connection, for one goroutine that writes and one that reads.
type rawConn struct {
	net.Conn
	in   *bufio.Reader
	body []byte
}

func rawDial(address string) (*rawConn, error) {
	c, err := net.DialTimeout("tcp", address, readTime)
	if err != nil {
		return nil, err
	}
	r := &rawConn{Conn: c, in: bufio.NewReaderSize(c, 32<<10)}
	if _, err := r.ask(kmsg.NewPtrApiVersionsRequest()); err != nil { // as every client begins
		c.Close()
		return nil, fmt.Errorf("versions: %w", err)
	}
	return r, nil
}

// answer reads the next response; the bytes are good until the next.
func (c *rawConn) answer() ([]byte, error) {
	var size [4]byte
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(c.in, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	if n < 4 || n > 64<<20 {
		return nil, fmt.Errorf("a response of %d bytes", n)
	}
	if cap(c.body) < n {
		c.body = make([]byte, n)
	}
	c.body = c.body[:n]
	_, err := io.ReadFull(c.in, c.body)
	return c.body[4:], err
}

// produceAnswer refuses a response of Produce with an error in it.
func produceAnswer(b []byte) error {
	r := kbin.Reader{Src: b}
	for range r.ArrayLen() {
		_ = r.String()
		for range r.ArrayLen() {
			p := r.Int32()
			if err := kerr.ErrorForCode(r.Int16()); err != nil {
				return fmt.Errorf("partition %d: %w", p, err)
			}
			r.Span(24)
		}
	}
	r.Int32()
	return r.Complete()
}

// ask sends a request of a version without tagged fields, and reads its response.
func (c *rawConn) ask(req kmsg.Request) (kmsg.Response, error) {
	if req.IsFlexible() {
		return nil, errors.New("a version with tagged fields")
	}
	if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)); err != nil {
		return nil, err
	}
	b, err := c.answer()
	if err != nil {
		return nil, err
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	return resp, resp.ReadFrom(b)
}

// producerIDs asks for as many.
func (s *logServer) producerIDs(n int) (all []*kmsg.InitProducerIDResponse, err error) {
	ctx, cancel := context.WithTimeout(interrupted, time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	for range n {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionTimeoutMillis = -1
		req.ProducerID, req.ProducerEpoch = -1, -1
		resp, err := req.RequestWith(ctx, cl)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err != nil {
			return nil, fmt.Errorf("a producer's id: %w", err)
		}
		all = append(all, resp)
	}
	return all, nil
}

// fill writes at least so many bytes of values of a size to all partitions of a topic, evenly, in batches as clients make them, and returns how many records
// were acknowledged.
func (s *logServer) fill(topic string, partitions, size int, bytes int64) (records int64, err error) {
	const conns, atOnce, underWay = 4, 64, 4 // partitions of a request, requests of a connection
	per := max(1, (batchBytes-batchHeader)/(size+25))
	batch := rawBatch(keys[:per], incompressible(size), time.Now())
	var requests [][]byte
	for from := 0; from < partitions; from += atOnce {
		var some []int32
		for p := from; p < min(from+atOnce, partitions); p++ {
			some = append(some, int32(p))
		}
		req, _ := produceRequest(topic, some, batch)
		requests = append(requests, req)
	}
	rounds := int((bytes + int64(per*size*partitions) - 1) / int64(per*size*partitions))
	work := make(chan []byte)
	errs := make(chan error, conns)
	for range conns {
		go func() { errs <- fillOne(s.kafka, work, underWay) }()
	}
	running := conns
	for i := 0; i < rounds*len(requests) && err == nil; i++ {
		select {
		case work <- requests[i%len(requests)]:
		case err = <-errs:
			running--
		}
	}
	close(work)
	for range running {
		err = cmp.Or(err, <-errs)
	}
	return int64(rounds) * int64(partitions) * int64(per), err
}

// fillOne sends what comes, with some requests unanswered.
func fillOne(address string, work <-chan []byte, underWay int) error {
	c, err := rawDial(address)
	if err != nil {
		return err
	}
	defer c.Close()
	room := make(chan struct{}, underWay)
	done := make(chan error, 1)
	sent := make(chan struct{}, underWay)
	go func() {
		for range sent {
			b, err := c.answer()
			if err == nil {
				err = produceAnswer(b)
			}
			if err != nil {
				done <- err
				return
			}
			<-room
		}
		done <- nil
	}()
	for req := range work {
		select {
		case room <- struct{}{}:
		case err := <-done:
			return err
		}
		if _, err := c.Write(req); err != nil {
			return err
		}
		sent <- struct{}{}
	}
	close(sent)
	return <-done
}
