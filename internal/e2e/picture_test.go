package e2e

import (
	"bytes"
	"cmp"
	"image"
	"image/color" //nolint:misspell // the package's name
	"image/png"
	"maps"
	"slices"
	"testing"
)

// small encodes a picture with 256 colours, its most common ones: a page has few, and a README's reader little patience.
func small(t *testing.T, picture []byte) []byte {
	t.Helper()
	img, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		t.Fatal(err)
	}
	bounds := img.Bounds()
	type sum struct{ n, r, g, b uint32 }
	shades := map[uint16]*sum{}
	at := func(x, y int) (uint16, uint32, uint32, uint32) {
		r, g, b, _ := img.At(x, y).RGBA()
		r, g, b = r>>8, g>>8, b>>8
		return uint16(r>>3<<10 | g>>3<<5 | b>>3), r, g, b
	}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			shade, r, g, b := at(x, y)
			s := shades[shade]
			if s == nil {
				s = &sum{}
				shades[shade] = s
			}
			s.n, s.r, s.g, s.b = s.n+1, s.r+r, s.g+g, s.b+b
		}
	}
	common := slices.SortedFunc(maps.Values(shades), func(a, b *sum) int { return cmp.Compare(b.n, a.n) })
	var p color.Palette //nolint:misspell // as above
	for _, s := range common[:min(256, len(common))] {
		p = append(p, color.RGBA{uint8(s.r / s.n), uint8(s.g / s.n), uint8(s.b / s.n), 255}) //nolint:misspell // as above
	}
	out, nearest := image.NewPaletted(bounds, p), map[uint16]uint8{}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			shade, _, _, _ := at(x, y)
			i, ok := nearest[shade]
			if !ok {
				i = uint8(p.Index(img.At(x, y)))
				nearest[shade] = i
			}
			out.SetColorIndex(x, y, i)
		}
	}
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, out); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
