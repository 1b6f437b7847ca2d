// Package arch holds ARCHITECTURE.md's package table against the code: its test fails when the two differ.
package arch
