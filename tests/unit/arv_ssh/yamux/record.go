// Records what two ends of hashicorp/yamux say to each other, as JSON lines {"from": "client"|"server", "hex": "…"}.
// Made stock.txt: go mod init record && go get github.com/hashicorp/yamux@v0.1.2 && go run record.go
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

var lock sync.Mutex

type recorded struct {
	net.Conn
	from string
}

func (r recorded) Write(b []byte) (int, error) {
	lock.Lock()
	json.NewEncoder(os.Stdout).Encode(map[string]string{"from": r.from, "hex": hex.EncodeToString(b)})
	lock.Unlock()
	return r.Conn.Write(b)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	near, far := net.Pipe()
	client, err := yamux.Client(recorded{near, "client"}, nil)
	must(err)
	server, err := yamux.Server(recorded{far, "server"}, nil)
	must(err)
	// The controller (server) opens; crunch-run (client) accepts, answers, and ends.
	stream, err := server.Open()
	must(err)
	inner, err := client.Accept()
	must(err)
	_, err = stream.Write([]byte("request"))
	must(err)
	buffer := make([]byte, 64)
	n, err := inner.Read(buffer)
	must(err)
	_, err = inner.Write(append([]byte("answer to "), buffer[:n]...))
	must(err)
	must(stream.Close())
	_, err = io.ReadAll(inner)
	must(err)
	_, err = inner.Write([]byte("after your end"))
	must(err)
	must(inner.Close())
	_, err = io.ReadAll(stream)
	must(err)
	// A stream the other way, with more than half a window, so that it is granted again.
	up, err := client.Open()
	must(err)
	down, err := server.Accept()
	must(err)
	go func() { up.Write(make([]byte, 160*1024)); up.Close() }()
	_, err = io.ReadAll(down)
	must(err)
	must(down.Close())
	_, err = client.Ping()
	must(err)
	_, err = server.Ping()
	must(err)
	must(client.GoAway())
	time.Sleep(100 * time.Millisecond)
	must(server.Close())
	client.Close()
}
