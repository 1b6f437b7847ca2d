package broker_test

import (
	"testing"

	"github.com/millrace-io/millrace/mqtt/broker"
)

func TestNodeWideCaps(t *testing.T) {
	run(t, func(o *broker.Options) {
		o.Session.MaxSessions = 2
		o.Session.MaxAllSubs = 2
		o.Session.MaxRetained = 1
	}, []flow{
		{"sessions", `
			a> CONNECT v5 id=a expiry=100
			a< CONNACK
			a> DISCONNECT
			a<!
			b> CONNECT v4 clean id=b
			b< CONNACK
			c> CONNECT v5 clean id=c
			c< CONNACK 0x97
			c<!
			d> CONNECT v4 clean id=d
			// 3.1.1 has one code for it: 3, server unavailable
			d< CONNACK 0x88
			d<!
			a> CONNECT v5 id=a expiry=100
			a< CONNACK present
			b> DISCONNECT
			b<!
			e> CONNECT v5 clean id=e
			e< CONNACK`},
		{"subscriptions", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> SUBSCRIBE #1 x/1:1 x/2:1 x/3:1
			a< SUBACK #1 0x01 0x01 0x97
			b> CONNECT v4 clean id=b
			b< CONNACK
			b> SUBSCRIBE #1 y:1
			b< SUBACK #1 0x80
			a> UNSUBSCRIBE #2 x/1
			a< UNSUBACK #2 0x00
			b> SUBSCRIBE #2 y:1
			b< SUBACK #2 0x01`},
		{"retained messages", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBLISH q1 #1 retain t=x "1"
			a< PUBACK #1
			// the answer comes after everything that was acked was matched
			a> SUBSCRIBE #2 none:0
			a< SUBACK #2 0x00
			a> PUBLISH q1 #3 retain t=y "2"
			a< PUBACK #3 0x97
			a> PUBLISH q2 #4 retain t=y "2"
			a< PUBREC #4 0x97
			a> PUBLISH q0 retain t=y "2"
			a> PUBLISH q1 #5 t=y "2"
			a< PUBACK #5
			a> PUBLISH q1 #6 retain t=x "3"
			a< PUBACK #6
			a> PUBLISH q1 #7 retain t=z
			a< PUBACK #7
			b> CONNECT v4 clean id=b
			b< CONNACK
			b> PUBLISH q1 #1 retain t=y "4"
			b<!
			a> PUBLISH q1 #8 retain t=x
			a< PUBACK #8
			a> SUBSCRIBE #9 none:0
			a< SUBACK #9 0x00
			a> PUBLISH q1 #10 retain t=y "5"
			a< PUBACK #10
			a> SUBSCRIBE #11 y:0
			a< SUBACK #11 0x00
			a< PUBLISH q0 retain t=y "5"`},
	})
}

func TestTopicAliasBytes(t *testing.T) {
	run(t, func(o *broker.Options) { o.Limits.AliasBytes = 10 }, []flow{
		{"together", `
			a> CONNECT v5 clean id=a
			a< CONNACK
			a> PUBLISH q0 alias=1 t=12345 "m"
			a> PUBLISH q0 alias=2 t=6789 "m"
			a> PUBLISH q0 alias=1 t=123456 "m"
			a> PUBLISH q1 #1 alias=2 t=1 "m"
			a< PUBACK #1
			a> PUBLISH q0 alias=3 t=1234 "m"
			a< DISCONNECT 0x97
			a<!`},
	})
}
