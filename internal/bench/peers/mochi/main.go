// Command mochi runs the MQTT broker of the same name for internal/bench: its defaults, but for the limits that would make it drop.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

func main() {
	addr := flag.String("listen", "127.0.0.1:1883", "address")
	cert := flag.String("cert", "", "PEM file of the certificate; with it, TLS that demands a client's")
	key := flag.String("key", "", "PEM file of its key")
	ca := flag.String("client-ca", "", "PEM file of the clients' authority")
	flag.Parse()

	limits := mqtt.NewDefaultServerCapabilities()
	limits.MaximumClientWritesPending = 16 << 10
	limits.MaximumInflight = 65535
	limits.ReceiveMaximum = 65535
	server := mqtt.New(&mqtt.Options{Capabilities: limits, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))})
	check(server.AddHook(new(auth.AllowHook), nil))
	var secure *tls.Config
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		check(err)
		pem, err := os.ReadFile(*ca)
		check(err)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		secure = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	}
	check(server.AddListener(listeners.NewTCP(listeners.Config{ID: "tcp", Address: *addr, TLSConfig: secure})))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	check(server.Serve())
	<-stop
	_ = server.Close()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
