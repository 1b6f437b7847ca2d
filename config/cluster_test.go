package config

import (
	"strings"
	"testing"
)

func TestClusterLogin(t *testing.T) {
	for _, good := range []string{
		"kafka: [h1:9092]", "kafka: [h1:9093], tls: {ca: system}", "kafka: [h1:9093], tls: {ca: ca.pem, cert: c.pem, key: k.pem}",
		"kafka: [h1:9093], tls: {ca: ca.pem}, sasl: {mechanism: plain, username: m, password: \"env:SECRET\"}",
		"kafka: [h1:9092], sasl: {mechanism: scram-sha-512, username: m, password: \"file:secret\"}",
		"kafka: [127.0.0.1:9092], sasl: {mechanism: plain, username: m, password: \"file:secret\"}",
		"kafka: [h1:9093], tls: {insecure: true}, sasl: {mechanism: oauthbearer, token: \"file:token\"}",
		"kafka: [h1:9093], tls: {ca: system}, sasl: {mechanism: oauthbearer, token_url: \"https://id.example/token\", client_id: m, client_secret: \"file:secret\", scope: kafka, ca: ca.pem}",
	} {
		if _, err := Parse("log: {"+good+"}", "f"); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"tls: {ca: system}":                                                                                                                  "log.kafka",
		"kafka: [h1:9093], tls: {cert: c.pem}":                                                                                               "log.tls.cert",
		"kafka: [h1:9093], tls: {server_name: h}":                                                                                            "ca: system",
		"kafka: [h1:9093], sasl: {username: m, password: \"file:s\"}":                                                                        "log.sasl.mechanism",
		"kafka: [h1:9093], sasl: {mechanism: gssapi, username: m, password: \"file:s\"}":                                                     "log.sasl.mechanism",
		"kafka: [h1:9093], sasl: {mechanism: scram-sha-256, username: m}":                                                                    "username and a password",
		"kafka: [h1:9093], sasl: {mechanism: scram-sha-256, username: m, password: wonder}":                                                  "never written here",
		"kafka: [h1:9093], sasl: {mechanism: plain, username: m, password: \"file:s\"}":                                                      "in the clear",
		"kafka: [h1:9093], tls: {ca: system}, sasl: {mechanism: plain, username: m, password: \"file:s\", token: \"file:t\"}":                "oauthbearer",
		"kafka: [h1:9093], tls: {ca: system}, sasl: {mechanism: oauthbearer}":                                                                "either token or token_url",
		"kafka: [h1:9093], tls: {ca: system}, sasl: {mechanism: oauthbearer, token: \"file:t\", token_url: \"https://i\"}":                   "either token or token_url",
		"kafka: [h1:9093], tls: {ca: system}, sasl: {mechanism: oauthbearer, token_url: \"https://i\"}":                                      "client_id",
		"kafka: [h1:9093], tls: {ca: system}, sasl: {mechanism: oauthbearer, token_url: id.example, client_id: m, client_secret: \"env:S\"}": "not a URL",
		"kafka: [h1:9093], tls: {ca: system}, sasl: {mechanism: oauthbearer, token: \"file:t\", scope: x}":                                   "of a token_url",
	} {
		if _, err := Parse("log: {"+bad+"}", "f"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", bad, err, want)
		}
	}
}
