package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// obey answers commands until the input or ctx ends.
func (n *node) obey(ctx context.Context, input *bufio.Scanner) {
	for input.Scan() && ctx.Err() == nil {
		words := strings.Fields(input.Text())
		if len(words) == 0 {
			continue
		}
		if err := n.command(ctx, words[0], words[1:]); err != nil {
			n.lines.say("refused", fields{"command": input.Text(), "why": err.Error()})
		}
	}
}

func (n *node) command(ctx context.Context, name string, args []string) error {
	switch {
	case name == "put" && len(args) == 2:
		value, err := base64.StdEncoding.DecodeString(args[1])
		if err != nil {
			return err
		}
		if err := n.put(ctx, n.layout.value(args[0], n.id), string(value)); err != nil {
			return err
		}
		n.lines.say("put", fields{"key": args[0]})
		return nil
	case name == "delete" && len(args) == 1:
		if _, err := n.client.Delete(ctx, n.layout.value(args[0], n.id)); err != nil {
			return err
		}
		n.lines.say("delete", fields{"key": args[0]})
		return nil
	case name == "get" && len(args) == 2:
		return n.get(ctx, args[0], args[1])
	case name == "look" && len(args) == 0:
		return n.look(ctx)
	case name == "cluster" && len(args) == 1:
		values, err := n.values(ctx, args[0])
		if err != nil {
			return err
		}
		// Bytes are encoded as base64.
		n.lines.say("cluster", fields{"key": args[0], "values": values})
		return nil
	case name == "watch" && len(args) == 1:
		return n.watch(ctx, args[0])
	default:
		return errors.New("no such command")
	}
}

func (n *node) get(ctx context.Context, id, key string) error {
	whose, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return err
	}
	found, err := n.client.Get(ctx, n.layout.value(key, whose))
	if err != nil {
		return err
	}
	said := fields{"node": whose, "key": key, "value": nil}
	for _, kv := range found.Kvs {
		said["value"] = kv.Value
	}
	n.lines.say("get", said)
	return nil
}

// look reads who is there and who leads, as that package does: the oldest candidate key names the
// leader, and a node key that cannot be decoded fails all of it.
func (n *node) look(ctx context.Context) error {
	oldest, err := n.client.Get(ctx, n.layout.election()+"/", clientv3.WithFirstCreate()...)
	if err != nil {
		return err
	}
	leader := int64(-1)
	for _, kv := range oldest.Kvs {
		if leader, err = strconv.ParseInt(string(kv.Value), 10, 64); err != nil {
			return err
		}
	}
	found, err := n.client.Get(ctx, n.layout.nodes(), clientv3.WithPrefix())
	if err != nil {
		return err
	}
	nodes := []metadata{}
	for _, kv := range found.Kvs {
		var one metadata
		if err := json.Unmarshal(kv.Value, &one); err != nil {
			return fmt.Errorf("%s: %w", kv.Key, err)
		}
		nodes = append(nodes, one)
	}
	n.lines.say("look", fields{"leader": leader, "nodes": nodes})
	return nil
}

// watch tells of each change under a user's key, with the value before it.
func (n *node) watch(ctx context.Context, key string) error {
	changes := n.client.Watch(ctx, n.layout.values(key),
		clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	created, ok := <-changes
	if !ok || created.Err() != nil {
		return fmt.Errorf("the watch was not created: %w", created.Err())
	}
	n.lines.say("watching", fields{"key": key})
	go func() {
		for change := range changes {
			for _, event := range change.Events {
				n.tell(event)
			}
		}
	}()
	return nil
}

func (n *node) tell(event *clientv3.Event) {
	said := fields{"key": string(event.Kv.Key), "value": nil, "old": nil}
	if id, ok := owner(string(event.Kv.Key)); ok {
		said["node"] = id
	}
	if event.PrevKv != nil {
		said["old"] = event.PrevKv.Value
	}
	kind := "deleted"
	if event.Type == clientv3.EventTypePut {
		said["value"] = event.Kv.Value
		kind = "modified"
		if event.PrevKv == nil {
			kind = "added"
		}
	}
	n.lines.say(kind, said)
}
