package kafkawire

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/kafkawire/acl"
)

// seeds are requests to begin fuzzing with, of every API that is served at every version: one with something in each field, so that each branch
// of its decoder is taken, one with as little as there can be, and those of the table of rights, which name what is there.
func seeds(topic eventlog.Topic, visit func(a *api, version int16, req kmsg.Request)) {
	for _, a := range apis() {
		for v := a.min; v <= a.max; v++ {
			for _, full := range []bool{true, false} {
				req := kmsg.RequestForKey(a.key)
				if req.SetVersion(v); full {
					complete(reflect.ValueOf(req).Elem(), "")
				}
				if req.SetVersion(v); a.key == int16(kmsg.Fetch) {
					req.(*kmsg.FetchRequest).ReplicaState = kmsg.NewFetchRequestReplicaState() // a broker's: refused
				}
				visit(a, v, req)
			}
			for _, row := range apiRights[kmsg.Key(a.key)] {
				if g, ok := row.(guarded); ok {
					req := g.request(topic)
					req.SetVersion(v)
					visit(a, v, req)
				}
			}
		}
	}
}

// complete puts something into every field: two elements into every array, an unknown tag into every struct, and names that the tests' server
// knows.
func complete(v reflect.Value, field string) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint8:
		v.SetUint(1)
	case reflect.String:
		v.SetString(nameFor(field))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		complete(v.Elem(), field)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(batchOf(eventlog.None, "x"))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			complete(v.Index(i), field)
		}
	case reflect.Array:
		for i := range v.Len() {
			complete(v.Index(i), field)
		}
	case reflect.Struct:
		if tags, ok := v.Addr().Interface().(*kmsg.Tags); ok {
			tags.Set(1000, []byte("unknown"))
			return
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				complete(v.Field(i), f.Name)
			}
		}
	}
}

// nameFor is what the server of the tests knows for a field's kind.
func nameFor(field string) string {
	switch {
	case strings.Contains(field, "Transactional"):
		return "x"
	case strings.Contains(field, "Topic"):
		return "t"
	case strings.Contains(field, "Group"), strings.Contains(field, "Coordinator"):
		return "g"
	}
	return "m"
}

// decodes takes a request's body apart as a connection does, and says whether it is one. Its cost must be in proportion to its size.
func decodes(t *testing.T, a *api, version int16, body []byte) (req kmsg.Request, ok bool) {
	if a.shape.walk(body, version, version >= a.flexible) != nil {
		return nil, false
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	req = kmsg.RequestForKey(a.key)
	req.SetVersion(version)
	err := req.ReadFrom(body)
	runtime.ReadMemStats(&after)
	if n, limit := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+200*len(body)); n > limit {
		t.Errorf("%s version %d of %d bytes: %d bytes allocated (error %v)", a.name, version, len(body), n, err)
	}
	return req, err == nil
}

// Every decoder that a client reaches is reached by the seeds of FuzzRequest: each API at each version that is advertised, from what is committed
// here, and nothing of what a seed says is left unread.
func TestSeedsReachEveryDecoder(t *testing.T) {
	type decoder struct{ key, version int16 }
	reached := map[decoder]int{}
	seeds(eventlog.Topic{}, func(a *api, version int16, req kmsg.Request) {
		body := req.AppendTo(nil)
		got, ok := decodes(t, a, version, body)
		if !ok {
			t.Errorf("%s version %d: a seed is refused", a.name, version)
			return
		}
		if again := got.AppendTo(nil); !bytes.Equal(again, body) {
			t.Errorf("%s version %d: a seed of %d bytes was read and written as %d", a.name, version, len(body), len(again))
		}
		reached[decoder{a.key, version}]++
	})
	c := start(t, Options{}).dial()
	resp := do[*kmsg.ApiVersionsResponse](c, 3, kmsg.NewPtrApiVersionsRequest())
	for _, k := range resp.ApiKeys {
		for v := max(k.MinVersion, lookup(k.ApiKey).min); v <= k.MaxVersion; v++ { // below min only the range is told
			if reached[decoder{k.ApiKey, v}] < 2 {
				t.Errorf("%s version %d is advertised, and no seed reaches its decoder", kmsg.NameForKey(k.ApiKey), v)
			}
		}
	}
}

// FuzzRequest: whatever comes in as a request is refused or decodes, at a cost in proportion to its size.
func FuzzRequest(f *testing.F) {
	seeds(eventlog.Topic{}, func(a *api, version int16, req kmsg.Request) { f.Add(a.key, version, req.AppendTo(nil)) })
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		a := lookup(key)
		if a == nil || version < a.min || version > a.max {
			return
		}
		if req, ok := decodes(t, a, version, body); ok {
			req.AppendTo(nil)
		}
	})
}

// everything is a policy that allows it.
type everything struct{}

func (everything) Epoch() uint64 { return 0 }
func (everything) Decide(string, kmsg.ACLOperation, kmsg.ACLResourceType, string) acl.Verdict {
	return acl.Allow
}
func (everything) Anywhere(string, kmsg.ACLOperation, kmsg.ACLResourceType) bool { return true }
func (everything) Publishing(string, string) (bool, func([]byte) bool) {
	return false, func(key []byte) bool { return len(key) < 10 } // so that batches are unpacked
}

// pipes is a listener whose connections are in memory.
type pipes struct {
	next chan net.Conn
	shut chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.next:
		return nc, nil
	case <-p.shut:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// victim is a small server that is asked anything. What was asked before has changed it: every so often there is another one.
type victim struct {
	eng   *engine.Engine
	srv   *Server
	at    *pipes
	asked int
	logs  bytes.Buffer
}

func newVictim() (v *victim, err error) {
	v = &victim{at: &pipes{make(chan net.Conn), make(chan struct{})}}
	if v.eng, err = engine.Open(engine.Options{FS: vfs.NewMem(), WALFileBytes: 2 << 20, WALFiles: 2, SegmentBytes: 1 << 20, DefaultPartitions: 1, MaintainEvery: -1}); err != nil {
		return nil, err
	}
	v.srv, err = New(Options{Engine: v.eng, Rights: everything{}, AutoCreate: true, Logger: slog.New(slog.NewTextHandler(&v.logs, &slog.HandlerOptions{Level: slog.LevelError})),
		MaxPartitions: 50, MaxGroups: 50, MaxTransactionalIDs: 50, MaxGroupMembers: 10, MinSession: time.Millisecond, MaxSession: 20 * time.Millisecond,
		MaxFetchWait: time.Millisecond, MaxRequestBytes: 1 << 20, MaxFetchBytes: 1 << 20})
	if err != nil {
		v.eng.Close()
		return nil, err
	}
	go v.srv.Serve(v.at)
	if _, err := v.eng.CreateTopic(context.Background(), eventlog.TopicSpec{Name: "t", Partitions: 2}); err != nil {
		v.close()
		return nil, err
	}
	for _, req := range []kmsg.Request{initX(), produceRequest("t", 0, -1, batchOf(eventlog.None, "a", "b")), commitT(eventlog.Topic{})} {
		req.SetVersion(min(lookup(req.Key()).max, 9))
		if _, err := v.ask(frameOf(req, 1)); err != nil {
			v.close()
			return nil, fmt.Errorf("%T: %w", req, err)
		}
	}
	return v, nil
}

func initX() kmsg.Request {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID, req.TransactionTimeoutMillis = kmsg.StringPtr("x"), 10_000
	return req
}

func (v *victim) close() {
	close(v.at.shut)
	v.srv.Close()
	v.eng.Close()
}

// ask sends one frame and nothing more, and returns the response: none if the connection ends, or if there is nothing to say for now.
func (v *victim) ask(frame []byte) ([]byte, error) {
	here, there := net.Pipe()
	defer here.Close()
	v.at.next <- there
	v.asked++
	here.SetDeadline(time.Now().Add(200 * time.Millisecond)) // who joins a group waits for others
	if _, err := here.Write(frame); err != nil {
		return nil, nil
	}
	var size [4]byte
	if _, err := io.ReadFull(here, size[:]); err != nil {
		return nil, nil
	}
	b := make([]byte, min(binary.BigEndian.Uint32(size[:]), 64<<20))
	if _, err := io.ReadFull(here, b); err != nil {
		return nil, fmt.Errorf("a response of %d bytes is cut off: %w", len(b), err)
	}
	return b, nil
}

// checkResponse wants what a client can read, and no more than its request is worth.
func checkResponse(key, version int16, request, b []byte) error {
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	switch {
	case len(b) > 2<<20+100*len(request):
		return fmt.Errorf("%d bytes are answered to %d", len(b), len(request))
	case len(b) < 4 || !bytes.Equal(b[:4], request[8:12]):
		return fmt.Errorf("%x is answered to the correlation id %x", b[:min(len(b), 4)], request[8:12])
	}
	b = b[4:]
	if key == int16(kmsg.ApiVersions) && (version < lookup(key).min || version > lookup(key).max) {
		version = 0
	} else if req.IsFlexible() && key != int16(kmsg.ApiVersions) {
		if len(b) == 0 || b[0] != 0 {
			return fmt.Errorf("tags in the response's header")
		}
		b = b[1:]
	}
	resp := req.ResponseKind()
	resp.SetVersion(version)
	if err := resp.ReadFrom(b); err != nil {
		return err
	}
	if again := resp.AppendTo(nil); len(again) != len(b) && key != int16(kmsg.Fetch) {
		return fmt.Errorf("%d bytes, its fields take %d", len(b), len(again))
	}
	return nil
}

// FuzzServer: whatever a client sends, header and all, costs at most its connection, and what it is answered it can read.
func FuzzServer(f *testing.F) {
	var v *victim
	f.Cleanup(func() {
		if v != nil {
			v.close()
		}
	})
	seeds(eventlog.Topic{Name: "t", ID: eventlog.TopicID{1}}, func(_ *api, _ int16, req kmsg.Request) { f.Add(frameOf(req, 1)[4:]) })
	f.Fuzz(func(t *testing.T, request []byte) {
		if v != nil && v.asked > 1000 {
			v.close()
			v = nil
		}
		if v == nil {
			var err error
			if v, err = newVictim(); err != nil {
				t.Fatal(err)
			}
		}
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)
		b, err := v.ask(frame)
		if err == nil && b != nil {
			err = checkResponse(int16(binary.BigEndian.Uint16(request)), int16(binary.BigEndian.Uint16(request[2:])), frame, b)
		}
		if err != nil {
			t.Error(err)
		}
		if s := v.srv.Stats(); s.Panics > 0 {
			t.Errorf("a panic: %s", &v.logs)
			v.close()
			v = nil
		}
	})
}

// Every API has an answer, whatever was asked of the server before, to one of the seeds of its latest version.
func TestEveryAPIAnswers(t *testing.T) {
	v, err := newVictim()
	if err != nil {
		t.Fatal(err)
	}
	defer v.close()
	topic, _ := v.eng.TopicByName("t")
	var frames [][]byte
	seeds(topic, func(a *api, version int16, req kmsg.Request) {
		if version == a.max {
			frames = append(frames, frameOf(req, 1))
		}
	})
	answered := map[int16]bool{}
	for i := range frames {
		frame := frames[(i*7919+int(tier.Seed()))%len(frames)]
		key, version := int16(binary.BigEndian.Uint16(frame[4:])), int16(binary.BigEndian.Uint16(frame[6:]))
		b, err := v.ask(frame)
		if err == nil && b != nil {
			answered[key] = true
			err = checkResponse(key, version, frame, b)
		}
		if err != nil {
			t.Errorf("%s version %d: %v", kmsg.NameForKey(key), version, err)
		}
	}
	if s := v.srv.Stats(); s.Panics > 0 {
		t.Errorf("%d panics: %s", s.Panics, &v.logs)
	}
	var silent []string
	for _, a := range apis() {
		if !answered[a.key] {
			silent = append(silent, a.name)
		}
	}
	if slices.Sort(silent); len(silent) > 0 {
		t.Errorf("no answer to any of %v", silent)
	}
}
