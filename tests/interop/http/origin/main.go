// An origin of Go's net/http, for p2pstream to stand in front of.
//
//	origin            listens on a free port of 127.0.0.1 and prints it
//
// Every request is kept under its X-Case field; GET /log?case=C tells them, in order of arrival.
//
//	/echo             what came: method, target, host, fields, body, trailers; as JSON
//	/hints            102, two 103s, then 200
//	/chunked          three flushed pieces, a trailer that was announced and one that was not
//	/close            no length, no chunks: the body ends with the connection (HTTP/1.0)
//	/early            413 at once, nothing of the body read, the connection closed
//	/duplex           sends back what comes, piece by piece, while it comes
//	/events?key=K     one server-sent event, and another after each GET /step?key=K; three in all
//	/reset            part of a body, then a reset
//	/nothing          204
//	/unchanged        304 with an ETag and a Content-Length
//	/upgrade?first=W  101 to "lines": W (client or origin) ends its direction first
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
)

// Seen is one request as net/http understood it.
type Seen struct {
	Method        string      `json:"method"`
	Target        string      `json:"target"`
	Host          string      `json:"host"`
	Proto         string      `json:"proto"`
	Fields        http.Header `json:"fields"`
	ContentLength int64       `json:"content_length"`
	Coding        []string    `json:"coding"`
	BodySize      int64       `json:"body_size"`
	BodySHA256    string      `json:"body_sha256"`
	Body          string      `json:"body"`
	BodyError     string      `json:"body_error"`
	Trailers      http.Header `json:"trailers"`
	Connection    string      `json:"connection"`
}

var (
	mutex sync.Mutex
	cases = map[string][]Seen{}
	steps = map[string]chan struct{}{}
)

func see(r *http.Request) Seen {
	sum := sha256.New()
	short := &limited{left: 4096}
	size, err := io.Copy(io.MultiWriter(sum, short), r.Body)
	seen := Seen{
		Method: r.Method, Target: r.RequestURI, Host: r.Host, Proto: r.Proto, Fields: r.Header,
		ContentLength: r.ContentLength, Coding: r.TransferEncoding, BodySize: size,
		BodySHA256: hex.EncodeToString(sum.Sum(nil)), Body: string(short.data),
		Trailers: r.Trailer, Connection: r.RemoteAddr,
	}
	if err != nil {
		seen.BodyError = err.Error()
	}
	return seen
}

// limited keeps the beginning of what is written to it.
type limited struct {
	data []byte
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	kept := p
	if len(kept) > l.left {
		kept = kept[:l.left]
	}
	l.data = append(l.data, kept...)
	l.left -= len(kept)
	return len(p), nil
}

func echo(w http.ResponseWriter, r *http.Request) {
	seen := see(r)
	mutex.Lock()
	key := r.Header.Get("X-Case")
	cases[key] = append(cases[key], seen)
	mutex.Unlock()
	tell(w, seen)
}

func tell(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	text, _ := json.Marshal(value)
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	w.Write(text)
}

func hints(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(102)
	w.Header().Add("Link", "</a.css>; rel=preload")
	w.WriteHeader(103)
	w.Header().Add("Link", "</b.js>; rel=preload")
	w.WriteHeader(103)
	io.WriteString(w, "at last")
}

func chunked(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "X-Announced")
	for _, piece := range []string{"one ", "two ", "three"} {
		io.WriteString(w, piece)
		w.(http.Flusher).Flush()
	}
	w.Header().Set("X-Announced", "yes")
	w.Header().Set(http.TrailerPrefix+"X-Unannounced", "too")
}

func early(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	w.WriteHeader(413)
	io.WriteString(w, "too much")
}

// By hand: net/http can do it since Go 1.21 only, and Debian has an older one.
func duplex(w http.ResponseWriter, r *http.Request) {
	conn, buffered := hijack(w)
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
	body, answer := io.LimitReader(buffered, r.ContentLength), httputil.NewChunkedWriter(conn)
	if r.ContentLength < 0 {
		body = httputil.NewChunkedReader(buffered)
	}
	buffer := make([]byte, 65536)
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			answer.Write(buffer[:n])
		}
		if err != nil {
			break
		}
	}
	answer.Close()
	io.WriteString(conn, "\r\n")
}

func stepsOf(key string) chan struct{} {
	mutex.Lock()
	defer mutex.Unlock()
	if steps[key] == nil {
		steps[key] = make(chan struct{}, 3)
	}
	return steps[key]
}

func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for number := 1; number <= 3; number++ {
		fmt.Fprintf(w, "data: %d\n\n", number)
		w.(http.Flusher).Flush()
		if number < 3 {
			select {
			case <-stepsOf(r.URL.Query().Get("key")):
			case <-r.Context().Done():
				return
			}
		}
	}
}

func hijack(w http.ResponseWriter) (*net.TCPConn, *bufio.ReadWriter) {
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	return conn.(*net.TCPConn), buffered
}

func untilClose(w http.ResponseWriter, r *http.Request) {
	conn, _ := hijack(w)
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.0 200 OK\r\nX-Framing: none\r\n\r\nuntil ")
	io.WriteString(conn, "the end")
}

func reset(w http.ResponseWriter, r *http.Request) {
	conn, _ := hijack(w)
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
	conn.SetLinger(0)
	conn.Close()
}

func upgrade(w http.ResponseWriter, r *http.Request) {
	conn, buffered := hijack(w)
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\n")
	if r.URL.Query().Get("first") == "origin" {
		io.WriteString(conn, "my part")
		conn.CloseWrite()
	}
	body, err := io.ReadAll(buffered)
	seen := Seen{Body: string(body)}
	if err != nil {
		seen.BodyError = err.Error()
	}
	mutex.Lock()
	key := r.Header.Get("X-Case")
	cases[key] = append(cases[key], seen)
	mutex.Unlock()
	if r.URL.Query().Get("first") != "origin" {
		fmt.Fprintf(conn, "got %d bytes", len(body))
	}
}

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/hints", hints)
	mux.HandleFunc("/chunked", chunked)
	mux.HandleFunc("/close", untilClose)
	mux.HandleFunc("/early", early)
	mux.HandleFunc("/duplex", duplex)
	mux.HandleFunc("/events", events)
	mux.HandleFunc("/reset", reset)
	mux.HandleFunc("/upgrade", upgrade)
	mux.HandleFunc("/step", func(w http.ResponseWriter, r *http.Request) {
		stepsOf(r.URL.Query().Get("key")) <- struct{}{}
	})
	mux.HandleFunc("/nothing", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	mux.HandleFunc("/unchanged", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Length", "7")
		w.WriteHeader(304)
	})
	mux.HandleFunc("/log", func(w http.ResponseWriter, r *http.Request) {
		mutex.Lock()
		defer mutex.Unlock()
		seen := cases[r.URL.Query().Get("case")]
		if seen == nil {
			seen = []Seen{}
		}
		tell(w, seen)
	})
	// Not the mux alone: it would redirect paths that are not clean, and lose what came.
	handler := func(w http.ResponseWriter, r *http.Request) {
		if found, pattern := mux.Handler(r); pattern != "" && found != nil {
			mux.ServeHTTP(w, r)
			return
		}
		echo(w, r)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(http.Serve(listener, http.HandlerFunc(handler)))
}
