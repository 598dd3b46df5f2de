// Command gopeer holds the Go peers of the benchmark, each as plain as an experienced Go programmer
// would write it: an httputil.ReverseProxy in front of an origin, and the same proxy reaching its
// origin through an agent over hashicorp/yamux.
//
//	gopeer proxy  -listen HOST:PORT -origin HOST:PORT [-cert FILE -key FILE]
//	gopeer server -listen HOST:PORT -control HOST:PORT -cert FILE -key FILE [-plain]
//	gopeer agent  -server HOST:PORT -origin HOST:PORT -cert FILE [-plain]
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
)

type options struct {
	listen, control, server, origin string
	cert, key                       string
	plain                           bool
}

func main() {
	log.SetFlags(0)
	commands := map[string]func(options) error{
		"proxy": runProxy, "server": runServer, "agent": runAgent, "version": printVersion,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		log.Fatal("usage: gopeer proxy|server|agent|version [flags]")
	}
	var o options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.listen, "listen", "", "public address")
	flags.StringVar(&o.control, "control", "", "address that the agent dials")
	flags.StringVar(&o.server, "server", "", "control address of the server")
	flags.StringVar(&o.origin, "origin", "", "address of the origin")
	flags.StringVar(&o.cert, "cert", "", "certificate, PEM")
	flags.StringVar(&o.key, "key", "", "private key, PEM")
	flags.BoolVar(&o.plain, "plain", false, "no TLS between server and agent")
	if err := flags.Parse(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
	if err := commands[os.Args[1]](o); err != nil {
		log.Fatalf("gopeer %s: %v", os.Args[1], err)
	}
}

func printVersion(options) error {
	_, err := fmt.Println(runtime.Version())
	return err
}
