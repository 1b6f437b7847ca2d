// Package conformance checks an MQTT server against the specifications, statement by statement, over a socket.
//
// It knows nothing of the server: packets are built byte by byte, and answers are read by a decoder of its own, which refuses
// whatever the standards do not allow a server to send. So it runs against any broker:
//
//	go test ./mqtt/conformance -broker 192.0.2.7:1883 -ws 192.0.2.7:8083/mqtt
//
// Without -broker a node is started in the test, and judged more strictly: where the standards leave a choice, it must have
// made the one that docs/mqtt-conformance.md claims. Every normative statement has a row in that document; every row names the
// subtest that shows it, or says why there is none. A test holds the two in step.
//
// That nothing comes is never shown by waiting: something is asked for that comes after it. Only what the standards measure in
// seconds takes seconds. The package holds tests only, and writes nothing but the data of the node that it starts.
package conformance
