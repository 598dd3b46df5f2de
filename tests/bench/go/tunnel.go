package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"sync/atomic"

	"github.com/hashicorp/yamux"
)

// The agent is the Yamux client and dials the server, the server opens a stream for each upstream
// connection, the agent joins it to a connection of its own to the origin. Yamux stands at its
// defaults (256 KiB windows), as its users run it. Origin and agent are fixed, so a stream needs no
// opening message: one round trip less than a tunnel that can reach several origins.

func runServer(o options) error {
	listener, err := controlListener(o)
	if err != nil {
		return err
	}
	var session atomic.Pointer[yamux.Session]
	go acceptAgents(listener, &session)
	dial := func(context.Context, string, string) (net.Conn, error) {
		if s := session.Load(); s != nil {
			return s.Open()
		}
		return nil, errors.New("no agent is connected")
	}
	// The name is only a Host header here: what the stream reaches is the agent's choice.
	return serve(o, reverseProxy("origin.internal", dial))
}

func controlListener(o options) (net.Listener, error) {
	if o.plain {
		return net.Listen("tcp", o.control)
	}
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", o.control, &tls.Config{Certificates: []tls.Certificate{pair}})
}

func acceptAgents(listener net.Listener, session *atomic.Pointer[yamux.Session]) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatalf("control listener: %v", err)
		}
		s, err := yamux.Server(conn, nil)
		if err != nil {
			log.Fatalf("yamux: %v", err)
		}
		session.Store(s)
	}
}

func runAgent(o options) error {
	conn, err := dialServer(o)
	if err != nil {
		return err
	}
	session, err := yamux.Client(conn, nil)
	if err != nil {
		return err
	}
	for {
		stream, err := session.Accept()
		if err != nil {
			return err
		}
		go join(stream, o.origin)
	}
}

func dialServer(o options) (net.Conn, error) {
	if o.plain {
		return net.Dial("tcp", o.server)
	}
	pem, err := os.ReadFile(o.cert)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + o.cert)
	}
	return tls.Dial("tcp", o.server, &tls.Config{RootCAs: roots})
}

// join pipes both directions; the end of either closes that half, and both ended closes all.
func join(stream net.Conn, origin string) {
	defer stream.Close()
	conn, err := net.Dial("tcp", origin)
	if err != nil {
		log.Print(err)
		return
	}
	upstream := conn.(*net.TCPConn)
	defer upstream.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(upstream, stream)
		_ = upstream.CloseWrite()
	}()
	_, _ = io.Copy(stream, upstream)
	_ = stream.Close() // of a Yamux stream this closes only the writing half
	<-done
}
