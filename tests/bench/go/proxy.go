package main

import (
	"context"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"
)

// copyBuffers saves ReverseProxy an allocation of 32 KiB (its own size) for each response.
type copyBuffers struct{ pool sync.Pool }

func (b *copyBuffers) Get() []byte  { return *b.pool.Get().(*[]byte) }
func (b *copyBuffers) Put(p []byte) { b.pool.Put(&p) }

func newCopyBuffers() *copyBuffers {
	return &copyBuffers{sync.Pool{New: func() any { p := make([]byte, 32<<10); return &p }}}
}

// reverseProxy forwards everything to origin over connections that dial makes and a pool keeps.
func reverseProxy(
	origin string, dial func(context.Context, string, string) (net.Conn, error),
) http.Handler {
	// Not ReverseProxy{Rewrite: …}: Debian 12's Go 1.19 has no Rewrite yet.
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: origin})
	proxy.Transport = &http.Transport{
		DialContext: dial,
		// Go keeps 2 a host by default, and would then dial for nearly every request.
		MaxIdleConnsPerHost: 4096,
		IdleConnTimeout:     5 * time.Minute,
		DisableCompression:  true,
	}
	proxy.BufferPool = newCopyBuffers()
	proxy.ErrorLog = log.New(os.Stderr, "", 0)
	return proxy
}

func serve(o options, handler http.Handler) error {
	server := &http.Server{Addr: o.listen, Handler: handler, IdleTimeout: 5 * time.Minute}
	if o.cert != "" && o.control == "" {
		return server.ListenAndServeTLS(o.cert, o.key)
	}
	return server.ListenAndServe()
}

func runProxy(o options) error {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return serve(o, reverseProxy(o.origin, dialer.DialContext))
}
