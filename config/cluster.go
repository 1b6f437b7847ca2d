package config

import (
	"fmt"
	"strings"
	"time"
)

// ClusterTLS is what connections to the brokers of log.kafka are made with. The zero one is none.
type ClusterTLS struct {
	CA         File   `yaml:"ca"` // the authorities that are trusted; SystemCA: the system's
	Cert       File   `yaml:"cert"`
	Key        File   `yaml:"key"`
	ServerName string `yaml:"server_name"` // in the brokers' certificates; empty: each one's host
	Insecure   bool   `yaml:"insecure"`    // whoever answers is believed
}

// SystemCA says that the system's authorities are trusted.
const SystemCA = File("system")

// ClusterSASL is how the brokers of log.kafka are told who we are. The zero one is not at all.
type ClusterSASL struct {
	Mechanism    string   `yaml:"mechanism"` // plain | scram-sha-256 | scram-sha-512 | oauthbearer
	Username     string   `yaml:"username"`
	Password     Secret   `yaml:"password"`
	Token        Secret   `yaml:"token"`     // oauthbearer: a token that somebody else keeps fresh
	TokenURL     Location `yaml:"token_url"` // oauthbearer: who gives tokens, by the client credentials grant
	ClientID     string   `yaml:"client_id"`
	ClientSecret Secret   `yaml:"client_secret"`
	Scope        string   `yaml:"scope"`
	CA           File     `yaml:"ca"` // that the token_url is trusted by; empty: the system's
}

// Spill bounds what waits on the local disk for the cluster.
type Spill struct {
	MaxBytes Size     `yaml:"max_bytes"` // of all routes together
	MaxAge   Duration `yaml:"max_age"`   // 0: none
	WhenFull string   `yaml:"when_full"` // reject | overwrite
}

func (ck *checker) spill() {
	s := &ck.c.Log.Spill
	ck.oneOf("log.spill.when_full", s.WhenFull, "reject", "overwrite")
	if s.MaxBytes < 1<<20 {
		ck.problem("log.spill.max_bytes", "less than 1MiB", "give what waits some room")
	}
	if s.MaxAge < 0 || s.MaxAge > 0 && s.MaxAge < Duration(time.Second) {
		ck.problem("log.spill.max_age", "less than a second", "write a time span such as 1d, or 0 for none")
	}
}

// cluster checks how log.kafka is reached.
func (ck *checker) cluster() {
	l := &ck.c.Log
	if len(l.Kafka) == 0 {
		if l.TLS != (ClusterTLS{}) || l.SASL != (ClusterSASL{}) {
			ck.problem("log", "tls and sasl are of a cluster, and there is none", "name its brokers in log.kafka, or remove log.tls and log.sasl")
		}
		return
	}
	ck.pair("log.tls", l.TLS.Cert, l.TLS.Key)
	if l.TLS.ServerName != "" && l.TLS == (ClusterTLS{ServerName: l.TLS.ServerName}) {
		ck.problem("log.tls", "nothing says which authorities are trusted", "write ca: file:/path/of/the.pem, or ca: system")
	}
	s := &l.SASL
	switch {
	case *s == ClusterSASL{}:
		return
	case s.Mechanism == "oauthbearer":
		ck.oauth(s)
	case s.Mechanism == "":
		ck.problem("log.sasl.mechanism", "missing", "write plain, scram-sha-256, scram-sha-512 or oauthbearer")
		return
	default:
		ck.oneOf("log.sasl.mechanism", s.Mechanism, "plain", "scram-sha-256", "scram-sha-512", "oauthbearer")
		if s.Username == "" || s.Password == "" {
			ck.problem("log.sasl", "it takes a username and a password", "write username: NAME, password: file:/path/of/the/secret")
		}
		if s.Token != "" || s.TokenURL != "" || s.ClientID != "" || s.ClientSecret != "" || s.Scope != "" {
			ck.problem("log.sasl", "tokens are of the mechanism oauthbearer", "remove token, token_url, client_id, client_secret and scope, or write mechanism: oauthbearer")
		}
	}
	if l.TLS == (ClusterTLS{}) && (s.Mechanism == "plain" || s.Mechanism == "oauthbearer") && !ck.c.InsecureAllowAnonymous {
		for i, h := range l.Kafka {
			if !Address(h).Loopback() {
				ck.problem(fmt.Sprintf("log.kafka[%d]", i), "the secret of log.sasl would cross the network in the clear", "write log.tls: {ca: …}, or a mechanism that does not show it (scram-sha-512)")
				return
			}
		}
	}
}

func (ck *checker) oauth(s *ClusterSASL) {
	if s.Username != "" || s.Password != "" {
		ck.problem("log.sasl", "oauthbearer takes tokens", "write token, or token_url with client_id and client_secret")
	}
	switch {
	case (s.Token == "") == (s.TokenURL == ""):
		ck.problem("log.sasl", "oauthbearer takes either token or token_url", "write token: file:/path/of/a/token, or token_url: https://… with client_id and client_secret")
	case s.TokenURL != "" && !s.TokenURL.Remote():
		ck.problem("log.sasl.token_url", fmt.Sprintf("%q is not a URL", clip(string(s.TokenURL))), "write one such as https://id.example/oauth/token")
	case s.TokenURL != "" && (s.ClientID == "" || s.ClientSecret == ""):
		ck.problem("log.sasl", "token_url wants to know who asks", "write client_id and client_secret")
	case s.Token != "" && (s.ClientID != "" || s.ClientSecret != "" || s.Scope != "" || s.CA != ""):
		ck.problem("log.sasl", "client_id, client_secret, scope and ca are of a token_url", "remove them")
	case s.CA != "" && !strings.HasPrefix(string(s.TokenURL), "https://"):
		ck.problem("log.sasl.ca", "tokens are not fetched over TLS", "remove it")
	}
}
