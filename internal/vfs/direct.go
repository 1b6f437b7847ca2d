package vfs

import (
	"io/fs"
	"unsafe"
)

// DirectBlock is what the offsets, lengths and memory of WriteDirect are multiples of.
const DirectBlock = 4096

// Aligned returns n bytes of memory for WriteDirect.
func Aligned(n int) []byte {
	b := make([]byte, n+DirectBlock-1)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) % DirectBlock)
	return b[skip : skip+n : skip+n]
}

// checkDirect says whether p may be handed to WriteDirect.
func checkDirect(name string, p []byte, off int64) error {
	if (uintptr(unsafe.Pointer(unsafe.SliceData(p)))|uintptr(len(p))|uintptr(off))%DirectBlock != 0 {
		return &fs.PathError{Op: "write direct", Path: name, Err: fs.ErrInvalid}
	}
	return nil
}
