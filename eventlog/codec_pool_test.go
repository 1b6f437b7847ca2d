package eventlog

import (
	"bytes"
	"errors"
	"sync"
	"testing"
)

// TestDecompressAgain: decompressors are used again, after what they could not read and beside each other, and keep nothing of it.
func TestDecompressAgain(t *testing.T) {
	var wg sync.WaitGroup
	for c := Gzip; c <= Zstd; c++ {
		for i := range 4 {
			wg.Go(func() {
				want := bytes.Repeat([]byte{byte('a' + i)}, 1000*(i+1))
				packed, err := Compress(c, nil, want)
				if err != nil {
					t.Error(err)
					return
				}
				for range 20 {
					if _, err := Decompress(c, packed[:len(packed)/2], MaxDecompressed); !errors.Is(err, ErrCorrupt) {
						t.Errorf("%v: half of it: %v", c, err)
					}
					if _, err := Decompress(c, packed, len(want)-1); !errors.Is(err, ErrCorrupt) {
						t.Errorf("%v: more than the limit: %v", c, err)
					}
					if got, err := Decompress(c, packed, len(want)); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%v: %d bytes, %v", c, len(got), err)
					}
				}
			})
		}
	}
	wg.Wait()
}
