// Command gonode is a node of a cluster as the Go package keeps it: the same keys, the same values, the
// same order of requests, etcd's own session and election underneath. It exists to stand beside our
// nodes in tests, and has that package's weaknesses on purpose: it leads because its id is in the oldest
// candidate key, it has no deadline of its own, and its candidate key is withdrawn and renewed once a
// second while it waits. Written from the layout and the behaviour seen from outside.
//
//	gonode -etcd http://127.0.0.1:2379 -cluster shop -id 5 -address host-5 -ttl 2s -tick 100ms
//
// It prints one JSON object per line, each with an "at" in RFC 3339 and an "event":
//
//	joined      lease
//	role        role: "Leader", "Follower", or "Unknown" when the session ends; said before anything of
//	            the old role is given up, and after all of the new one is written
//	tick        of a leader, each time it acts
//	left        after SIGTERM or SIGINT, all keys gone; the program exits with 0
//	failed      why: the session ended and is tried again
//	and the answers to the commands below
//
// Commands are read from standard input, one per line; values are base64:
//
//	put KEY VALUE      own state                       -> put
//	delete KEY         own state                       -> delete
//	get ID KEY         a node's state                  -> get: value, or null
//	look               leader and nodes as stored      -> look: leader, nodes
//	cluster KEY        all nodes' state under a key    -> cluster: values
//	watch KEY          state under a key, from now on  -> watching, then added, modified, deleted
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// lines serialises what is printed.
type lines struct {
	mutex sync.Mutex
	out   *os.File
}

type fields map[string]any

// say prints one event. The time is taken before the write, so that it is never later than the effect
// of what follows it.
func (l *lines) say(event string, more fields) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	line := fields{"at": time.Now().UTC().Format(time.RFC3339Nano), "event": event}
	for name, value := range more {
		line[name] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(l.out, "%s\n", text)
}

func main() {
	endpoints := flag.String("etcd", "http://127.0.0.1:2379", "endpoints, by comma")
	cluster := flag.String("cluster", "", "name of the cluster")
	id := flag.Int64("id", 0, "id of the node")
	address := flag.String("address", "", "address of the node")
	ttl := flag.Duration("ttl", 2*time.Second, "of the lease")
	tick := flag.Duration("tick", 50*time.Millisecond, "between two runs of a routine")
	flag.Parse()
	if *cluster == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   strings.Split(*endpoints, ","),
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "gonode:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	node := &node{
		client:  client,
		layout:  layout{cluster: *cluster},
		id:      *id,
		address: *address,
		ttl:     max(1, int64(*ttl/time.Second)),
		tick:    *tick,
		start:   time.Unix(0, 0),
		lines:   &lines{out: os.Stdout},
	}
	go node.obey(ctx, bufio.NewScanner(os.Stdin))
	node.run(ctx)
	node.lines.say("left", nil)
}
