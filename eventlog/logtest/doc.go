// Package logtest holds what every log must pass and what everybody above a log is tested with: Run, the conformance suite of
// eventlog.Driver; Ledger, which remembers what was appended and says whether what is read adds up; and Memory, a driver
// that misbehaves in every way the contract allows, reproducibly.
//
// A Memory has one goroutine of its own (none in manual mode), which Close ends. The package touches no files, and nothing
// outside of tests and simulators imports it.
package logtest
