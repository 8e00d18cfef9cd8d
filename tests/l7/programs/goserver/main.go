// Go's net/http, as its documentation shows it: goserver [-mptcp=false] [-proxy URL] HOST:PORT LOG. What the handler was given
// is a JSON line a request. With -proxy it passes everything on to URL (httputil.ReverseProxy). goserver -ask BASE PATH… asks for each path
// by Go's client, and prints a JSON list of statuses; in place of one that did not come stands the error.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
)

type seen struct {
	Port   int    `json:"port"`
	Method string `json:"method"`
	Target string `json:"target"`
	Path   string `json:"path"`
	Host   string `json:"host"`
	Length int    `json:"length"`
	Body   string `json:"body"`
}

func latin1(bytes []byte) string {
	runes := make([]rune, len(bytes))
	for i, b := range bytes {
		runes[i] = rune(b)
	}
	return string(runes)
}

func main() {
	mptcp := flag.Bool("mptcp", true, "listen with MPTCP where the kernel has it, as Go does by itself")
	proxy := flag.String("proxy", "", "pass requests on")
	asks := flag.Bool("ask", false, "ask instead: -ask BASE PATH…")
	flag.Parse()
	if *asks {
		ask(flag.Arg(0), flag.Args()[1:])
		return
	}
	log, err := os.OpenFile(flag.Arg(1), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	var lock sync.Mutex
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		_, port, _ := net.SplitHostPort(r.RemoteAddr)
		number, _ := strconv.Atoi(port)
		line, _ := json.Marshal(seen{number, r.Method, r.RequestURI, r.URL.Path, r.Host, len(body), latin1(body[:min(len(body), 256)])})
		lock.Lock()
		log.Write(append(line, '\n'))
		lock.Unlock()
		fmt.Fprint(w, "served\n")
	})
	if *proxy != "" {
		target, err := url.Parse(*proxy)
		if err != nil {
			panic(err)
		}
		handler = httputil.NewSingleHostReverseProxy(target)
	}
	configuration := net.ListenConfig{}
	configuration.SetMultipathTCP(*mptcp)
	listener, err := configuration.Listen(context.Background(), "tcp", flag.Arg(0))
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	panic(http.Serve(listener, handler))
}

func ask(base string, paths []string) {
	found := []any{}
	client := http.Client{Timeout: 5_000_000_000}
	for _, path := range paths {
		answer, err := client.Get(base + path)
		if err != nil {
			words := strings.Split(err.Error(), ": ")
			found = append(found, words[len(words)-1])
			continue
		}
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		found = append(found, answer.StatusCode)
	}
	line, _ := json.Marshal(found)
	fmt.Println(string(line))
}
