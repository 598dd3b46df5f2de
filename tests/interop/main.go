// Command gopeer is the other end of a p2pstream tunnel, on the real hashicorp/yamux: an agent for
// our server, or a server for our agent. It speaks the bootstrap and the opening frames as they are
// specified, and nothing of ours.
//
//	gopeer agent  -server URL -id ID -secret SECRET [-pin HEX | -skip-verify] [-race]
//	gopeer server -listen HOST:PORT [-cert FILE -key FILE -ca FILE] -id ID -secret SECRET
//	              -origin HOST:PORT -bytes N
//
// The agent runs until its tunnel ends; with -race it dials no origins, but closes each stream
// while it still writes to it. The server waits for one agent, moves N bytes each way
// through it against the test origin (see test_go_yamux.py), prints what it saw as one line of JSON,
// and ends. Its first line of output is the address it listens on.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	upgradeToken  = "p2pstream-yamux"
	maxOpening    = 16 * 1024
	dialTimeout   = 10 * time.Second
	verdictPeriod = 15 * time.Second
)

type openRequest struct {
	Version   int    `json:"version"`
	RequestID string `json:"request_id"`
	Network   string `json:"network"`
	Address   string `json:"address"`
}

type verdict struct {
	OK        bool   `json:"ok"`
	ErrorKind string `json:"error_kind,omitempty"`
	Error     string `json:"error,omitempty"`
}

type options struct {
	server, id, secret, pin       string
	listen, cert, key, ca, origin string
	skipVerify, race              bool
	bytes                         int64
}

func main() {
	log.SetFlags(0)
	log.SetOutput(os.Stderr)
	commands := map[string]func(options) error{"agent": runAgent, "server": runServer}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		log.Fatal("usage: gopeer agent|server [flags]")
	}
	var o options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.server, "server", "", "agent: URL of the server's management endpoint")
	flags.StringVar(&o.id, "id", "go-peer", "agent: its id")
	flags.StringVar(&o.secret, "secret", "", "secret of the agent")
	flags.StringVar(&o.pin, "pin", "", "agent: SHA-256 of the public key to expect in the chain, hex")
	flags.BoolVar(&o.skipVerify, "skip-verify", false, "agent: accept any certificate")
	flags.BoolVar(&o.race, "race", false, "agent: close each stream while another goroutine writes")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0", "server: where to wait for the agent")
	flags.StringVar(&o.cert, "cert", "", "server: certificate, PEM; none: plain TCP")
	flags.StringVar(&o.key, "key", "", "server: private key, PEM")
	flags.StringVar(&o.ca, "ca", "", "server: certificate of the CA, PEM, for agents that pin its key")
	flags.StringVar(&o.origin, "origin", "", "server: the test origin, HOST:PORT as the agent dials it")
	flags.Int64Var(&o.bytes, "bytes", 1<<20, "server: bytes to move each way")
	if err := flags.Parse(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
	if err := commands[os.Args[1]](o); err != nil {
		log.Fatalf("gopeer %s: %v", os.Args[1], err)
	}
}

// --- agent ---------------------------------------------------------------------------------------

func runAgent(o options) error {
	base, err := url.Parse(o.server)
	if err != nil {
		return err
	}
	conn, err := dialServer(base, o)
	if err != nil {
		return err
	}
	reader, err := askForTunnel(conn, base, o)
	if err != nil {
		return err
	}
	session, err := yamux.Client(&upgraded{conn, reader}, yamuxConfig())
	if err != nil {
		return err
	}
	serve := serveStream
	if o.race {
		serve = raceStream
	}
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			log.Printf("gopeer agent: tunnel ended: %v", err)
			return nil
		}
		go serve(stream)
	}
}

func dialServer(base *url.URL, o options) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", base.Host, dialTimeout)
	if err != nil || base.Scheme == "http" {
		return conn, err
	}
	// The pinned key is the identity, as in the agents' tokens; names say nothing here.
	config := &tls.Config{ServerName: base.Hostname(), InsecureSkipVerify: true}
	if !o.skipVerify {
		config.VerifyPeerCertificate = func(chain [][]byte, _ [][]*x509.Certificate) error {
			return checkPin(chain, o.pin)
		}
	}
	secured := tls.Client(conn, config)
	return secured, secured.Handshake()
}

// checkPin wants the pinned key in the leaf, or in a certificate that signed the leaf.
func checkPin(chain [][]byte, pin string) error {
	var leaf *x509.Certificate
	for i, der := range chain {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if i == 0 {
			leaf = certificate
		}
		sum := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
		if subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(pin)) == 1 {
			if i == 0 {
				return nil
			}
			return leaf.CheckSignatureFrom(certificate)
		}
	}
	return errors.New("the pinned key is not in the server's chain")
}

func askForTunnel(conn net.Conn, base *url.URL, o options) (*bufio.Reader, error) {
	target := strings.TrimSuffix(base.Path, "/") + "/agent/tunnel"
	request, err := http.NewRequest("GET", base.Scheme+"://"+base.Host+target, nil)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"Authorization":                             "Bearer " + o.secret,
		"X-P2PStream-Agent-ID":                      o.id,
		"X-P2PStream-Agent-Name":                    "go peer",
		"Connection":                                "Upgrade",
		"Upgrade":                                   upgradeToken,
		"X-P2PStream-Tunnel-Version":                "1",
		"X-P2PStream-Agent-Version":                 "gopeer",
		"X-P2PStream-Tunnel-Max-Concurrent-Streams": "128",
		"X-P2PStream-Tunnel-Capacity-Mode":          "fixed",
	} {
		request.Header.Set(name, value)
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return nil, fmt.Errorf("refused: %s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	for name, value := range map[string]string{
		"Upgrade": upgradeToken, "X-P2PStream-Tunnel-Version": "1",
		"X-P2PStream-Tunnel-Max-Concurrent-Streams": "128", "X-P2PStream-Tunnel-Capacity-Mode": "fixed",
	} {
		if got := response.Header.Get(name); got != value {
			return nil, fmt.Errorf("101 with %s: %q", name, got)
		}
	}
	return reader, nil
}

func serveStream(stream *yamux.Stream) {
	defer stream.Close()
	var request openRequest
	if err := readOpening(stream, &request); err != nil {
		writeOpening(stream, verdict{ErrorKind: "invalid_open_request", Error: err.Error()})
		return
	}
	if request.Version != 1 {
		writeOpening(stream, verdict{ErrorKind: "unsupported_version"})
		return
	}
	origin, err := net.DialTimeout(request.Network, request.Address, dialTimeout)
	if err != nil {
		writeOpening(stream, verdict{ErrorKind: "dial_failed", Error: err.Error()})
		return
	}
	defer origin.Close()
	if err := writeOpening(stream, verdict{OK: true}); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		io.Copy(origin, stream)
		origin.(*net.TCPConn).CloseWrite()
	}()
	go func() {
		defer both.Done()
		io.Copy(stream, origin)
		stream.Close() // yamux: ends our direction only
	}()
	both.Wait()
}

// raceStream agrees, then writes in one goroutine and closes in another, as io.Copy both ways may:
// Write looks at the state and then queues its frame, so data may follow the FIN.
func raceStream(stream *yamux.Stream) {
	var request openRequest
	if readOpening(stream, &request) != nil || writeOpening(stream, verdict{OK: true}) != nil {
		return
	}
	go func() {
		piece := make([]byte, 300)
		for {
			if _, err := stream.Write(piece); err != nil {
				return
			}
		}
	}()
	time.Sleep(time.Duration(stream.StreamID()%7) * 100 * time.Microsecond)
	stream.Close()
}

// --- server --------------------------------------------------------------------------------------

func runServer(o options) error {
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	if o.cert != "" {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		if err != nil {
			return err
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}})
	}
	fmt.Println(listener.Addr())
	conn, err := acceptAgent(listener, o)
	if err != nil {
		return err
	}
	session, err := yamux.Server(conn, yamuxConfig())
	if err != nil {
		return err
	}
	report, err := exercise(session, o)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		return err
	}
	return session.Close()
}

// acceptAgent answers whatever comes before the agent's upgrade (the CA's certificate may be asked
// for first) with 404.
func acceptAgent(listener net.Listener, o options) (net.Conn, error) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil, err
		}
		reader := bufio.NewReader(conn)
		request, err := http.ReadRequest(reader)
		if err != nil {
			log.Printf("gopeer server: %v", err)
			conn.Close()
			continue
		}
		if !strings.HasSuffix(request.URL.Path, "/agent/tunnel") {
			answerOther(conn, request, o)
			continue
		}
		if err := checkRequest(request, o); err != nil {
			return nil, err
		}
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"+
			"Upgrade: "+upgradeToken+"\r\nX-P2PStream-Tunnel-Version: 1\r\n\r\n")
		return &upgraded{conn, reader}, err
	}
}

// answerOther serves the certificate that agents with a pin ask for.
func answerOther(conn net.Conn, request *http.Request, o options) {
	defer conn.Close()
	body, status := []byte("not found\n"), "404 Not Found"
	if strings.HasSuffix(request.URL.Path, "/agent/ca.pem") && o.ca != "" {
		if ca, err := os.ReadFile(o.ca); err == nil {
			body, status = ca, "200 OK"
		}
	}
	fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, len(body), body)
}

func checkRequest(request *http.Request, o options) error {
	for name, value := range map[string]string{
		"Authorization": "Bearer " + o.secret, "Connection": "Upgrade", "Upgrade": upgradeToken,
		"X-P2PStream-Tunnel-Version": "1", "X-P2PStream-Agent-ID": o.id,
	} {
		if got := request.Header.Get(name); !strings.EqualFold(got, value) {
			return fmt.Errorf("agent sent %s: %q", name, got)
		}
	}
	if request.Method != "GET" {
		return fmt.Errorf("agent sent %s", request.Method)
	}
	return nil
}

type report struct {
	Uploaded, Downloaded, Echoed int64
	EchoedAfterGoAway            int64
	UploadSeconds                float64
	DownloadSeconds              float64
	Refused                      string
	HalfClose                    bool
	RoundTripMicros              int64
}

// exercise moves the bytes both ways at once, with small echoes beside them.
func exercise(session *yamux.Session, o options) (report, error) {
	var r report
	if rtt, err := session.Ping(); err == nil {
		r.RoundTripMicros = rtt.Microseconds()
	} else {
		return r, err
	}
	jobs := []func() error{
		func() (err error) { r.Uploaded, r.UploadSeconds, err = upload(session, o); return },
		func() (err error) { r.Downloaded, r.DownloadSeconds, err = download(session, o); return },
		func() (err error) { r.Echoed, err = echo(session, o); return },
	}
	failures := make(chan error, len(jobs))
	for _, job := range jobs {
		go func(job func() error) { failures <- job() }(job)
	}
	for range jobs {
		if err := <-failures; err != nil {
			return r, err
		}
	}
	if _, err := openStream(session, "127.0.0.1:1"); err == nil {
		return r, errors.New("port 1 was dialled")
	} else {
		r.Refused = err.Error()
	}
	var err error
	if r.HalfClose, err = halfClose(session, o); err != nil {
		return r, err
	}
	// A GoAway from the server forbids the agent to open, not to go on.
	if err := session.GoAway(); err != nil {
		return r, err
	}
	r.EchoedAfterGoAway, err = echo(session, o)
	return r, err
}

// upload: "UP n", n bytes; the origin answers their SHA-256.
func upload(session *yamux.Session, o options) (int64, float64, error) {
	stream, err := openStream(session, o.origin)
	if err != nil {
		return 0, 0, err
	}
	defer stream.Close()
	start := time.Now()
	fmt.Fprintf(stream, "UP %d\n", o.bytes)
	sum := sha256.New()
	if err := writeNoise(io.MultiWriter(stream, sum), o.bytes); err != nil {
		return 0, 0, err
	}
	answer := make([]byte, 2*sha256.Size)
	if _, err := io.ReadFull(stream, answer); err != nil {
		return 0, 0, fmt.Errorf("upload: %w", err)
	}
	if string(answer) != hexOf(sum) {
		return 0, 0, errors.New("upload: the origin saw other bytes")
	}
	return o.bytes, time.Since(start).Seconds(), nil
}

// download: "DOWN n"; n bytes come, and their SHA-256, and the end.
func download(session *yamux.Session, o options) (int64, float64, error) {
	stream, err := openStream(session, o.origin)
	if err != nil {
		return 0, 0, err
	}
	defer stream.Close()
	start := time.Now()
	fmt.Fprintf(stream, "DOWN %d\n", o.bytes)
	sum := sha256.New()
	count, err := io.CopyN(sum, stream, o.bytes)
	if err != nil {
		return count, 0, fmt.Errorf("download: %w", err)
	}
	rest, err := io.ReadAll(stream)
	if err != nil {
		return count, 0, fmt.Errorf("download: %w", err)
	}
	if string(rest) != hexOf(sum) {
		return count, 0, errors.New("download: other bytes than the origin sent")
	}
	return count, time.Since(start).Seconds(), nil
}

// echo: a hundred small messages, each back before the next.
func echo(session *yamux.Session, o options) (int64, error) {
	stream, err := openStream(session, o.origin)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	io.WriteString(stream, "ECHO\n")
	var total int64
	message, answer := make([]byte, 1000), make([]byte, 1000)
	for i := 0; i < 100; i++ {
		rand.Read(message)
		stream.Write(message)
		if _, err := io.ReadFull(stream, answer); err != nil {
			return total, fmt.Errorf("echo: %w", err)
		}
		if !bytes.Equal(message, answer) {
			return total, errors.New("echo: other bytes")
		}
		total += int64(len(message))
	}
	return total, nil
}

// halfClose: "HASH", bytes, our end; the answer comes after it. Versions of yamux before 0.1.1 stop
// to read when they end their own direction; with those this says false.
func halfClose(session *yamux.Session, o options) (bool, error) {
	stream, err := openStream(session, o.origin)
	if err != nil {
		return false, err
	}
	io.WriteString(stream, "HASH\n")
	sum := sha256.New()
	if err := writeNoise(io.MultiWriter(stream, sum), 1_000_000); err != nil {
		return false, err
	}
	if err := stream.Close(); err != nil {
		return false, err
	}
	answer, _ := io.ReadAll(stream)
	if len(answer) == 0 {
		return false, nil
	}
	if string(answer) != hexOf(sum) {
		return false, errors.New("half-close: the origin saw other bytes")
	}
	return true, nil
}

func openStream(session *yamux.Session, address string) (*yamux.Stream, error) {
	stream, err := session.OpenStream()
	if err != nil {
		return nil, err
	}
	if err := writeOpening(stream, openRequest{1, "go-1", "tcp", address}); err != nil {
		return nil, err
	}
	stream.SetReadDeadline(time.Now().Add(verdictPeriod))
	var answer verdict
	if err := readOpening(stream, &answer); err != nil {
		return nil, err
	}
	stream.SetReadDeadline(time.Time{})
	if !answer.OK {
		stream.Close()
		return nil, errors.New(answer.ErrorKind)
	}
	return stream, nil
}

// --- both ----------------------------------------------------------------------------------------

// upgraded reads what the HTTP reader has taken too early first.
type upgraded struct {
	net.Conn
	reader *bufio.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.reader.Read(p) }

func yamuxConfig() *yamux.Config {
	config := yamux.DefaultConfig()
	config.KeepAliveInterval = 2 * time.Second // so that a short test sees some
	return config
}

func readOpening(r io.Reader, message interface{}) error {
	var header [4]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(header[:])
	if length == 0 || length > maxOpening {
		return fmt.Errorf("an opening of %d bytes", length)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return err
	}
	return json.Unmarshal(payload, message)
}

func writeOpening(w io.Writer, message interface{}) error {
	payload, err := json.Marshal(message)
	if err != nil {
		return err
	}
	frame := make([]byte, 4, 4+len(payload))
	binary.BigEndian.PutUint32(frame, uint32(len(payload)))
	_, err = w.Write(append(frame, payload...))
	return err
}

func writeNoise(w io.Writer, count int64) error {
	block := make([]byte, 256*1024)
	if _, err := rand.Read(block); err != nil {
		return err
	}
	for number := uint64(0); count > 0; number++ {
		binary.BigEndian.PutUint64(block, number) // no two blocks alike: order matters to the hash
		piece := block
		if count < int64(len(piece)) {
			piece = piece[:count]
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
		count -= int64(len(piece))
	}
	return nil
}

func hexOf(sum hash.Hash) string { return hex.EncodeToString(sum.Sum(nil)) }
